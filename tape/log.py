"""Structured logging: one line an event, JSON under a service manager, readable on a terminal."""

import logging
import sys
from typing import Any, TextIO

import structlog


def get_logger(name: str) -> Any:
    """A structlog logger bound to the module's name."""
    return structlog.get_logger(name)


def configure(*, level: str = "info", json: bool | None = None, stream: TextIO | None = None) -> None:
    """Set up logging for this process. `json=None`: JSON unless the stream is a terminal."""
    out = stream if stream is not None else sys.stderr
    as_json = (not out.isatty()) if json is None else json
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer: Any = (
        structlog.processors.JSONRenderer(sort_keys=False)
        if as_json
        else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        stream=out,
        level=max(number, logging.WARNING),
        format="%(name)s %(levelname)s %(message)s",
        force=True,
    )
