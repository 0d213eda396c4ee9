"""The command `tape-agent`: one module a subcommand; only this floor speaks to a terminal."""

import typer

from agent.cli import check, init, resync, run, status, version
from agent.settings import AgentSettings
from tape.annotate import epilogue
from tape.console import run_app

app = typer.Typer(
    name="tape-agent",
    help="The server side of Hometape: reads ticks, seals segments, brings them home.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("init", help=init.HELP)(init.init)
app.command("check", help=check.HELP)(check.check)
app.command("run", help=run.HELP, epilog=epilogue(AgentSettings))(run.run)
app.command("status", help=status.HELP)(status.status)
app.command("resync", help=resync.HELP)(resync.resync)
app.command("version", help=version.HELP)(version.version)


def main() -> None:
    """Entry point of `tape-agent`."""
    run_app(app, "tape-agent")
