"""The command `tape-receiver`: one module a subcommand; only this floor speaks to a terminal."""

import typer

from receiver.cli import check, disk, export, init, remote, resync, run, status, verify, version
from receiver.settings import ReceiverSettings
from tape.annotate import epilogue
from tape.console import run_app

app = typer.Typer(
    name="tape-receiver",
    help="The home side of Hometape: takes segments in, proves them, copies them, gives them back.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("init", help=init.HELP)(init.init)
app.command("check", help=check.HELP)(check.check)
app.command("run", help=run.HELP, epilog=epilogue(ReceiverSettings))(run.run)
app.command("status", help=status.HELP)(status.status)
app.command("verify", help=verify.HELP)(verify.verify)
app.command("resync", help=resync.HELP)(resync.resync)
app.add_typer(disk.app, name="disk")
app.add_typer(remote.app, name="remote")
app.command("export", help=export.HELP)(export.export)
app.command("version", help=version.HELP)(version.version)


def main() -> None:
    """Entry point of `tape-receiver`."""
    run_app(app, "tape-receiver")
