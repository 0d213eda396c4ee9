"""`tape-receiver check`: configuration, keys, disks and targets; prints what agents must pin."""

import typer

from receiver.cli.options import ConfigOption, JsonOption, settings_from
from tape.checks import report
from tape.log import configure

HELP = "Check configuration, keys, disks and targets; exit 0 fine, 1 warning, 2 critical."


def check(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Check everything this side depends on."""
    from receiver.checkup import examine

    settings = settings_from(config)
    configure(level="error")
    raise typer.Exit(report(examine(settings), json=json))
