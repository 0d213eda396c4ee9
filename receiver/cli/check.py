"""`tape-receiver check`: configuration, keys, disks and targets; prints what agents must pin."""

from typing import Annotated

import typer

from receiver.cli.options import ConfigOption, JsonOption, settings_from
from receiver.settings import ReceiverSettings
from tape.bars import counting
from tape.checks import report
from tape.clock import SYSTEM
from tape.console import err
from tape.log import configure

HELP = "Check configuration, keys, disks and targets. Exit 0 fine, 1 warning, 2 critical."


def check(
    config: ConfigOption = None,
    json: JsonOption = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="first add to the catalog what the home archive holds and it does not")
    ] = False,
) -> None:
    """Check everything this side depends on."""
    from receiver.checkup import examine

    settings = settings_from(config)
    configure(level="error")
    if rebuild:
        _rebuild(settings)
    raise typer.Exit(report(examine(settings), json=json))


def _rebuild(settings: ReceiverSettings) -> None:
    """Read every segment of the home archive into the catalog; the service must not run meanwhile."""
    from receiver.catalog import Catalog
    from receiver.rebuild import rebuild

    home = settings.home
    with Catalog.open(settings.state, clock=SYSTEM) as catalog, counting("rebuilding", unit="segments") as told:
        done = rebuild(
            home.folder,
            home.id,
            catalog,
            limits=settings.limits,
            clock=SYSTEM,
            progress=lambda files, _: told(files, None),
        )
    err.print(f"rebuilt: {done.added:,} segments added, {done.known:,} were known, {done.rows:,} rows", markup=False)
    for path, why in done.problems:
        err.print(f"left out: {path}: {why}", markup=False)
