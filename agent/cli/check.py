"""`tape-agent check`: configuration, keys, disk, sources, and a canary the whole way home."""

from typing import Annotated

import typer

from agent.cli.options import ConfigOption, JsonOption, settings_from
from tape.checks import report
from tape.log import configure

HELP = "Check configuration, keys, disk, sources. Sends a canary home, too; exit 0 fine, 1 warning, 2 critical."


def check(
    config: ConfigOption = None,
    json: JsonOption = False,
    wait: Annotated[float, typer.Option(help="seconds to wait for the canary's receipt")] = 30.0,
    offline: Annotated[bool, typer.Option("--offline", help="leave the receiver alone: no canary")] = False,
) -> None:
    """Check everything this side depends on."""
    from agent.checkup import examine

    settings = settings_from(config)
    configure(level="error")
    raise typer.Exit(report(examine(settings, wait_s=wait, offline=offline), json=json))
