"""`tape-receiver disk`: removable disks, from the shop to the drawer and out of service."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from receiver.cli.disk_init import HELP as INIT_HELP
from receiver.cli.disk_init import init
from receiver.cli.disk_retire import HELP as RETIRE_HELP
from receiver.cli.disk_retire import retire
from receiver.cli.options import ConfigOption, JsonOption, settings_from
from receiver.settings import ReceiverSettings
from tape.bars import counting
from tape.clock import SYSTEM
from tape.console import WARNING, out, print_json
from tape.errors import NotFound, UsageError
from tape.log import configure

if TYPE_CHECKING:
    from receiver.targets.removable import RemovableTarget
    from receiver.targets.unmounting import Unmounted

HELP = "Removable disks: prepare, list, let go, take out of service."
LIST_HELP = "Show where each disk is, or since when it is away. What it lacks, too; exit 1 if one is overdue."
EJECT_HELP = "Write everything out and unmount, so that it may be unplugged."
_PATIENCE = 330.0
_LOOK = 0.5

app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
app.command("init", help=INIT_HELP)(init)
app.command("retire", help=RETIRE_HELP)(retire)


@app.command("list", help=LIST_HELP)
def list_disks(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show the removable disks."""
    configure(level="error")
    found = _disks(settings_from(config))
    if json:
        print_json(found)
    else:
        _show(found)
    raise typer.Exit(WARNING if any(one["overdue"] for one in found) else 0)


@app.command("eject", help=EJECT_HELP)
def eject(
    target: Annotated[str, typer.Argument(metavar="ID", help="the disk's id")],
    config: ConfigOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="first wait until nothing is missing there")] = False,
) -> None:
    """Let a disk go."""
    configure(level="error")
    settings = settings_from(config)
    disk = _removable(settings, target)
    if wait:
        _wait_level(settings, disk)
    done = _eject_or_unmount(settings, disk)
    if done.done:
        out.print(f"{target} is unmounted from {done.where}: safe to unplug", markup=False)
        return
    out.print(f"{target} holds all that was written, but is still mounted at {done.where}: {done.why}", markup=False)
    if done.hint:
        out.print(f"hint: {done.hint}", markup=False)
    raise typer.Exit(WARNING)


# ------------------------------------------------------------------------------------------------ list


def _disks(settings: ReceiverSettings) -> list[dict[str, Any]]:
    from receiver.catalog import Catalog
    from receiver.errands import removable
    from receiver.live import read_live
    from receiver.report import status
    from receiver.targets.opening import open_targets

    here = [one for one in settings.target if one.kind != "remote"]  # nobody waits for a cloud to see disks
    local = settings.model_copy(update={"target": here})
    opened = open_targets(local)
    found = {one.id: _unknown(one.id, disk.root) for one in opened if (disk := removable(one)) is not None}
    if found and (settings.state / "catalog.db").exists():
        with Catalog.open(settings.state, clock=SYSTEM, read_only=True) as catalog:
            live = read_live(settings.state, clock=SYSTEM)
            known = {one.name: one.instance for one in catalog.targets()}
            for report in status(local, catalog, opened, clock=SYSTEM, live=live).targets:
                if report.id in found:
                    facts = {key: getattr(report, key) for key in found[report.id] if hasattr(report, key)}
                    found[report.id] |= {**facts, "instance": known.get(report.id, "")}
    return list(found.values())


def _unknown(target: str, root: object) -> dict[str, Any]:
    """What can be said of a disk while there is no catalog."""
    return {
        "id": target,
        "where": None if root is None else str(root),
        "condition": "absent" if root is None else "ready",
        "reason": "",
        "hint": "",
        "note": "",
        "medium": "",
        "site": "",
        "segments": None,
        "bytes": None,
        "behind_segments": None,
        "behind_bytes": None,
        "seen_ns": None,
        "seen_age_s": None,
        "max_age_s": None,
        "overdue": False,
        "last_verified_ns": None,
        "free_bytes": None,
        "instance": "",
    }


def _show(found: list[dict[str, Any]]) -> None:
    from rich.console import Group
    from rich.table import Table

    from receiver.report_words import age
    from tape.fitting import Fitting
    from tape.sayings import duration, plural, size

    if not found:
        out.print("there is no removable disk yet\nhint: tape-receiver disk init ID MOUNT_POINT", markup=False)
        return
    wide, narrow = (Table(box=None, pad_edge=False) for _ in range(2))
    columns = ("disk", "where", "holds", "lacks", "verified", "free", "instance")
    for column in columns:
        wide.add_column(column)
    for column in columns[:-1]:
        narrow.add_column(column, overflow="fold")
    now = SYSTEM.now_ns()
    below = []
    for one in found:
        away = "never seen" if one["seen_age_s"] is None else f"away for {duration(one['seen_age_s'])}"
        here = one["where"] and one["condition"] not in ("absent", "refused")
        lacks = one["behind_segments"]
        checked = age(now, one["last_verified_ns"])
        late = ", OVERDUE" if one["overdue"] else ""
        figures = (
            "unknown" if one["segments"] is None else plural(one["segments"], "segment"),
            "unknown" if lacks is None else f"{lacks:,}, {size(one['behind_bytes'])}" if lacks else "nothing",
            "never" if checked is None else f"{duration(checked)} ago",
            "" if one["free_bytes"] is None else size(one["free_bytes"]),
        )
        wide.add_row(one["id"], f"{one['where'] if here else away}{late}", *figures, one["instance"])
        narrow.add_row(one["id"], f"{'here' if here else away}{late}", *figures)
        below.append(f"{one['id']}: instance {one['instance'] or 'unknown'}{', ' + one['where'] if here else ''}")
    out.print(Fitting(wide, Group(narrow, *below)))
    for one in found:
        note = one["note"] if one["condition"] == "ready" else ""  # what was said of it when it was here
        said = note or (one["reason"] if one["condition"] != "absent" or one["where"] else "")
        if said:
            out.print(f"{one['id']}: {said}", markup=False)


# ----------------------------------------------------------------------------------------------- eject


def _removable(settings: ReceiverSettings, target: str) -> "RemovableTarget":
    from receiver.errands import removable
    from receiver.targets.opening import open_target

    entry = next((one for one in settings.target if one.id == target), None)
    disks = ", ".join(one.id for one in settings.target if one.kind == "removable") or "none"
    if entry is None:
        raise NotFound(f"there is no target {target}", hint=f"removable disks are {disks}")
    found = removable(open_target(entry, settings.state, disks=settings.disks))
    if found is None:
        raise UsageError(f"target {target} is no removable disk", hint=f"removable disks are {disks}")
    return found


def _eject_or_unmount(settings: ReceiverSettings, disk: "RemovableTarget") -> "Unmounted":
    """Let go; a disk that was let go before and is still mounted, since something held it, is only unmounted now."""
    from receiver.targets.unmounting import unmount
    from tape.errors import TargetAbsent

    try:
        return _eject(settings, disk)
    except TargetAbsent as error:
        left = disk.root
        if left is not None and (again := unmount(left)).done:
            return again
        raise TargetAbsent(f"{disk.id}: {error}", hint=error.hint) from None


def _eject(settings: ReceiverSettings, disk: "RemovableTarget") -> "Unmounted":
    """By the service, which may be writing there, or by this process; what the service may not do is tried here."""
    from receiver.catalog import Catalog
    from receiver.errands import EJECT
    from receiver.requests import Requests
    from receiver.targets.unmounting import Unmounted, unmount
    from tape.errors import StoreLocked, TargetAbsent

    if not (settings.state / "catalog.db").exists():  # nothing was ever written there, and none is made for this
        return disk.eject()
    try:
        with Catalog.open(settings.state, clock=SYSTEM):  # nobody else may begin to write there now
            return disk.eject()
    except StoreLocked:
        pass
    requests = Requests(settings.state, clock=SYSTEM)
    name = requests.ask(EJECT, target=disk.id)
    until = SYSTEM.monotonic() + _PATIENCE
    while (answer := requests.answer(name)) is None:
        if SYSTEM.monotonic() > until:
            requests.withdraw(name)
            raise TargetAbsent("the service has not answered", hint="do not unplug it; see the service's log")
        SYSTEM.wait(_LOOK)
    from pathlib import Path

    where = Path(answer["where"])
    if answer["done"] or disk.root is None:
        return Unmounted(where, done=True)
    mine = unmount(disk.root)
    return mine if mine.done else Unmounted(where, done=False, why=answer["why"], hint=answer["hint"])


def _wait_level(settings: ReceiverSettings, disk: "RemovableTarget") -> None:
    """Until the running service says that nothing is missing there."""
    from receiver.live import read_live
    from tape.errors import TargetAbsent

    with counting("bringing it level", unit="segments") as told:
        first: int | None = None
        while True:
            live = read_live(settings.state, clock=SYSTEM)
            if not live:
                raise TargetAbsent(
                    "no service runs that could bring it level", hint="start it, or run `tape-receiver resync`"
                )
            lane: dict[str, Any] = next((one for one in live.get("lanes", ()) if one["target"] == disk.id), {})
            if lane.get("condition") in ("absent", "refused"):
                raise TargetAbsent(f"{disk.id}: {lane.get('reason', 'away')}", hint="plug it in")
            if lane.get("level"):
                return
            left = _behind(settings, disk.id)
            first = left if first is None else max(first, left)
            told(first - left, first)
            SYSTEM.wait(_LOOK)


def _behind(settings: ReceiverSettings, target: str) -> int:
    from receiver.catalog import Catalog, TargetTotals

    with Catalog.open(settings.state, clock=SYSTEM, read_only=True) as catalog:
        return sum(one.segments - one.targets.get(target, TargetTotals()).segments for one in catalog.streams())
