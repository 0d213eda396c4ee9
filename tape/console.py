"""The shell of both commands: how errors, exit codes, JSON and default paths look on a terminal."""

import gc
import io
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console
from typer.exceptions import Abort, Exit, TyperException

from tape.errors import HometapeError, UsageError

OK, WARNING, CRITICAL, UNKNOWN = 0, 1, 2, 3
INTERRUPTED = 130
MEANINGS: Mapping[int, str] = {
    OK: "fine",
    WARNING: "a warning: something needs attention soon",
    CRITICAL: "critical: something is wrong now, or the command failed",
    UNKNOWN: "the state can't be told (the service never ran here, nothing is known yet)",
    64: "the command line is wrong",
    65: "data is damaged, foreign or refused",
    66: "what was asked for does not exist or can't be read",
    69: "the other side or a target can't be reached",
    73: "a file can't be created: it exists, or the disk is full",
    74: "the disk or a database failed",
    75: "busy or temporary: the same command may work later",
    77: "a key was refused",
    78: "the configuration is wrong",
    INTERRUPTED: "stopped by Ctrl-C",
}
out = Console(highlight=False, soft_wrap=True, emoji=False)  # `rclone:cloud:tape` is no picture of a cloud
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def default_config(name: str) -> Path:
    r"""Where `name` (agent.toml, receiver.toml) is looked for without --config.

    The folder in HOMETAPE_CONFIG_DIR; else /etc/hometape for root, %PROGRAMDATA%\Hometape on Windows,
    ~/.config/hometape for anybody else.
    """
    chosen = os.environ.get("HOMETAPE_CONFIG_DIR")
    if chosen:
        return Path(chosen) / name
    if sys.platform == "win32":
        return Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData")) / "Hometape" / name
    if os.geteuid() == 0:
        return Path("/etc/hometape") / name
    return Path.home() / ".config" / "hometape" / name


def complain(error: HometapeError) -> None:
    """Show an error: the fact, then the hint, on standard error."""
    for line in error.lines():
        err.print(line, markup=False)


def print_json(value: Any) -> None:
    """One JSON document on standard output, keys sorted."""
    sys.stdout.write(json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, default=str) + "\n")


def nothing_known(text: str, hint: str, *, as_json: bool) -> NoReturn:
    """Leave a `status` that has nothing to tell yet, with exit code 3; as JSON with the document that says so."""
    if as_json:
        print_json({"exit_code": UNKNOWN, "reasons": [{"level": UNKNOWN, "text": text, "hint": hint}]})
    else:
        complain(HometapeError(text, hint=hint))
    raise Exit(UNKNOWN)


def run_app(app: typer.Typer, name: str) -> NoReturn:
    """Run a typer application and leave with the exit code of docs/exit-codes.md."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    spare_the_collector()
    sys.exit(_outcome(lambda: app(prog_name=name, standalone_mode=False)))


def spare_the_collector() -> None:
    """Have what was imported never looked at again in search of garbage, and the rest less often."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _outcome(call: Callable[[], Any]) -> int:
    try:
        code = call()
    except TyperException as error:
        message = error.format_message().strip()
        if not message or "Usage:" in message:  # a bare command: its help was shown
            err.print(message, markup=False)
            return UsageError.exit_code
        complain(UsageError(message[:1].lower() + message[1:].rstrip(".")))
        return UsageError.exit_code
    except HometapeError as error:
        complain(error)
        return error.exit_code
    except (Abort, KeyboardInterrupt):
        err.print("stopped")
        return INTERRUPTED
    except Exit as leaving:
        return int(leaving.exit_code)
    return code if isinstance(code, int) else OK
