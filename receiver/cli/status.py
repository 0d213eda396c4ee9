"""`tape-receiver status`: what is held, where its copies are, and whether that is as it should be."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from receiver.cli.options import ConfigOption, JsonOption, settings_from
from receiver.settings import ReceiverSettings
from tape.clock import SYSTEM
from tape.console import nothing_known, out
from tape.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from receiver.report import StatusReport

HELP = "Show 3-2-1: recovery points, copies, what is wrong. Exit 0 fine, 1 warning, 2 critical, 3 nothing known yet."
EVERY = 2.0


def status(
    seconds: Annotated[
        float | None, typer.Argument(metavar="[SECONDS]", help="with --watch: the pause between", min=0.2)
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
    watch: Annotated[
        bool, typer.Option("--watch", help=f"show it again every SECONDS ({EVERY:g}) until Ctrl-C")
    ] = False,
) -> None:
    """Show recovery points, copies and what is wrong."""
    if seconds is not None and not watch:
        raise UsageError("SECONDS goes with --watch", hint="tape-receiver status --watch 5")
    settings = settings_from(config)
    if not (settings.state / "catalog.db").exists():
        nothing_known(
            f"nothing is known yet: {settings.state} holds no catalog", hint="tape-receiver run", as_json=json
        )
    if watch:
        _watch(_reports(config, settings, seconds or EVERY), json=json)
        return
    report = _report(settings)
    if json:
        typer.echo(report.to_json())
    else:
        from receiver.report_view import render

        out.print(render(report))
    raise typer.Exit(report.exit_code)


def _reports(config: ConfigOption, settings: ReceiverSettings, seconds: float) -> Iterator["StatusReport"]:
    """One report after another, for ever; a changed configuration is followed, as the service does."""
    while True:
        yield _report(settings)
        SYSTEM.wait(seconds)
        with contextlib.suppress(ConfigError):  # it is being edited: the service tells what is wrong with it
            settings = settings_from(config)


def _watch(reports: Iterator["StatusReport"], *, json: bool) -> None:
    """Redraw on a terminal; elsewhere one page after another, as JSON one document a line."""
    from rich.live import Live

    from receiver.report_view import render

    if json:
        for report in reports:
            typer.echo(report.to_json(indent=None))
    elif not out.is_terminal:
        for report in reports:
            out.print(render(report))
    else:
        with Live(render(next(reports)), console=out, auto_refresh=False) as live:
            for report in reports:
                live.update(render(report), refresh=True)


def _report(settings: ReceiverSettings) -> "StatusReport":
    from receiver.catalog import Catalog
    from receiver.live import read_live
    from receiver.report import status as compute
    from receiver.targets.opening import open_targets

    with Catalog.open(settings.state, clock=SYSTEM, read_only=True) as catalog:
        live = read_live(settings.state, clock=SYSTEM)
        return compute(settings, catalog, open_targets(settings), clock=SYSTEM, live=live)
