"""`tape-receiver disk retire`: take a target out of service, once it is clear what is lost with it."""

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from receiver.cli.options import NAME, ConfigOption
from receiver.settings import ReceiverSettings
from tape.clock import SYSTEM
from tape.console import default_config, err, out
from tape.errors import NotFound, StoreLocked, TargetError, UsageError
from tape.log import configure
from tape.settings import load

if TYPE_CHECKING:
    from receiver.retiring import Losses

HELP = "Take a disk (or another target) out of service. Shows what is lost with it, then forgets it; deletes nothing."
_PATIENCE, _LOOK = 30.0, 0.3


def retire(
    target: Annotated[str, typer.Argument(metavar="ID", help="the target's id")],
    config: ConfigOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only show what would be lost")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do it without asking")] = False,
    force: Annotated[bool, typer.Option("--force", help="even if the policy can't be satisfied without it")] = False,
) -> None:
    """Take a target out of service."""
    from receiver.config_edit import remove_target

    configure(level="error")
    file = config or default_config(NAME)
    settings = load(ReceiverSettings, file)
    if settings.home.id == target:
        raise UsageError(f"{target} is the home archive, which everything else is copied from")
    configured = any(one.id == target for one in settings.target)
    if not configured and target not in _known(settings):
        names = ", ".join(one.id for one in settings.target if not one.home) or "none"
        raise NotFound(f"there is no target {target}", hint=f"targets that can be retired are {names}")
    if configured:
        _judge(target, _lost(settings, remove_target(file, target, dry_run=True)), force=force)
    else:
        out.print(f"{target} is not configured any more; what the catalog knows of it is forgotten", markup=False)
    if dry_run:
        out.print("nothing was changed")
        return
    _confirm(target, yes=yes)
    if configured:
        remove_target(file, target)
    _forget(settings, target)
    out.print(f"{target} is out of service; what is on it stays as it is", markup=False)


def _known(settings: ReceiverSettings) -> set[str]:
    from receiver.catalog import Catalog

    if not (settings.state / "catalog.db").exists():
        return set()
    with Catalog.open(settings.state, clock=SYSTEM, read_only=True) as catalog:
        return {one.name for one in catalog.targets()}


def _lost(settings: ReceiverSettings, remaining: ReceiverSettings) -> "Losses":
    from receiver.catalog import Catalog
    from receiver.retiring import losses

    if not (settings.state / "catalog.db").exists():
        return losses(settings, remaining, None)
    with Catalog.open(settings.state, clock=SYSTEM, read_only=True) as catalog:
        return losses(settings, remaining, catalog)


def _judge(target: str, lost: "Losses", *, force: bool) -> None:
    """Say what is lost; raises TargetError if that must not be."""
    from tape.sayings import plural, size

    count = plural(lost.copies.segments, "segment")
    out.print(f"{count} ({size(lost.copies.bytes)}) would lose their copy at {target}", markup=False)
    if lost.breaking.segments:
        text = f"{plural(lost.breaking.segments, 'segment')} ({size(lost.breaking.bytes)})"
        out.print(f"{text} would no longer satisfy the policy until another target has them", markup=False)
    elif lost.copies.segments and not lost.impossible:
        out.print("no segment that satisfies the policy now would break it")
    if lost.last.segments:
        last = f"{plural(lost.last.segments, 'segment')} ({size(lost.last.bytes)})"
        raise TargetError(
            f"{target} holds the last verified copy of {last}",
            hint="plug it in and let the service, or `tape-receiver resync`, copy them first",
        )
    if lost.impossible:
        if not force:
            raise TargetError(
                f"without {target}: {lost.impossible}",
                hint="first add what takes its place (`disk init`), or lower `policy`; --force does it anyway",
            )
        err.print(f"warning: without {target}: {lost.impossible}", markup=False)
        err.print("hint: until that is put right, commands refuse the file and a running service keeps to the old one")


def _confirm(target: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked here", hint="add --yes once the plan is right, or --dry-run to see it")
    if not typer.confirm(f"take {target} out of service?", err=True):
        raise typer.Exit(1)


def _forget(settings: ReceiverSettings, target: str) -> None:
    """In the catalog: by this process, or by the service as soon as it has read the changed file."""
    from receiver.catalog import Catalog
    from receiver.errands import RETIRE
    from receiver.requests import Requests

    if not (settings.state / "catalog.db").exists():
        return
    with contextlib.suppress(StoreLocked), Catalog.open(settings.state, clock=SYSTEM) as catalog:
        catalog.retire_target(target)
        return
    requests = Requests(settings.state, clock=SYSTEM)
    name = requests.ask(RETIRE, target=target)
    until = SYSTEM.monotonic() + _PATIENCE
    while requests.answer(name) is None:
        if SYSTEM.monotonic() > until:
            requests.withdraw(name)
            err.print("warning: the service has not taken up the changed configuration yet; see its log")
            err.print(f"hint: run `tape-receiver disk retire {target}` again when it has", markup=False)
            return
        SYSTEM.wait(_LOOK)
