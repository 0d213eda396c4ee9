"""Structured logging: one line an event, JSON under a service manager, readable on a terminal.

A log that can't be written (a closed pipe, a full disk behind it) never stops whoever writes to it.
"""

import contextlib
import logging
import sys
from typing import Any, TextIO, cast

import structlog


def get_logger(name: str) -> Any:
    """A structlog logger bound to the module's name."""
    return structlog.get_logger(name)


class _Steady:
    """Standard error as it is at each write, or a stream; what can't be written is dropped."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        stream = self._stream or sys.stderr
        with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
            if stream is not None:
                stream.write(text)
        return len(text)

    def flush(self) -> None:
        stream = self._stream or sys.stderr
        with contextlib.suppress(OSError, ValueError):
            if stream is not None:
                stream.flush()


def configure(*, level: str = "info", json: bool | None = None, stream: TextIO | None = None) -> None:
    """Set up logging for this process. `json=None`: JSON unless the stream is a terminal."""
    shown = stream or sys.stderr
    terminal = shown is not None and shown.isatty()
    as_json = not terminal if json is None else json
    out = cast("TextIO", _Steady(stream))
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer: Any = (
        structlog.processors.JSONRenderer(sort_keys=False)
        if as_json
        else structlog.dev.ConsoleRenderer(colors=terminal)
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
