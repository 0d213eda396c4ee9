"""`tape-receiver status`: what is held, where its copies are, and whether that is as it should be."""

from typing import TYPE_CHECKING, Annotated

import typer

from receiver.cli.options import ConfigOption, JsonOption, settings_from
from receiver.settings import ReceiverSettings
from tape.clock import SYSTEM
from tape.console import UNKNOWN, err, out

if TYPE_CHECKING:
    from receiver.report import StatusReport

HELP = "Show recovery points, copies and what is wrong; exit 0 fine, 1 warning, 2 critical, 3 nothing known yet."


def status(
    config: ConfigOption = None,
    json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="show it again every 2 seconds until Ctrl-C")] = False,
) -> None:
    """Show recovery points, copies and what is wrong."""
    from rich.live import Live

    from receiver.report_view import render

    settings = settings_from(config)
    if not (settings.state / "catalog.db").exists():
        err.print(f"nothing is known yet: {settings.state} holds no catalog", markup=False)
        err.print("hint: tape-receiver run", markup=False)
        raise typer.Exit(UNKNOWN)
    report = _report(settings)
    if json:
        typer.echo(report.to_json())
    elif not watch:
        out.print(render(report))
    else:
        with Live(render(report), console=out, auto_refresh=False) as live:
            while True:
                SYSTEM.wait(2)
                report = _report(settings)
                live.update(render(report), refresh=True)
    raise typer.Exit(report.exit_code)


def _report(settings: ReceiverSettings) -> "StatusReport":
    from receiver.catalog import Catalog
    from receiver.live import read_live
    from receiver.report import status as compute
    from receiver.targets.opening import open_targets

    with Catalog.open(settings.state, clock=SYSTEM, read_only=True) as catalog:
        live = read_live(settings.state, clock=SYSTEM)
        return compute(settings, catalog, open_targets(settings), clock=SYSTEM, live=live)
