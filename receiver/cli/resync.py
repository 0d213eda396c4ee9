"""`tape-receiver resync`: compare every target with the catalog, show the plan, and bring all of them level."""

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from receiver.cli.options import ConfigOption, JsonOption, settings_from
from receiver.settings import ReceiverSettings
from receiver.timetable import Timetable
from tape.bars import counting
from tape.clock import SYSTEM
from tape.console import err, out, print_json
from tape.errors import NotFound, StoreLocked, UsageError
from tape.log import configure
from tape.sayings import plural

if TYPE_CHECKING:
    from rich.table import Table

    from receiver.catalog import Catalog
    from receiver.resync import Ending, Resync
    from receiver.resync_compare import Kind
    from receiver.resync_plan import Findings, Plan

HELP = (
    "Bring every target level with what is held. Shows the plan first, then repairs. Exit 0 level, 1 not yet, 2 gone."
)


def resync(
    target: Annotated[list[str] | None, typer.Argument(help="only these targets; empty: all")] = None,
    config: ConfigOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan, change nothing")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="also read the bytes of every copy again")] = False,
    no_adopt: Annotated[
        bool, typer.Option("--no-adopt", help="leave segments that the catalog does not know where they are")
    ] = False,
    bandwidth: Annotated[
        str | None, typer.Option("--bandwidth", help="most bytes a second toward each target, e.g. '2 MiB'")
    ] = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="mark the folders of the named targets anew: they were wiped or replaced")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="repair without asking")] = False,
    json: JsonOption = False,
) -> None:
    """Compare, plan, repair."""
    configure(level="error")
    settings = _limited(settings_from(config), bandwidth)
    only = _known(settings, target or [])
    if prepare:
        _prepare(settings, only, dry_run=dry_run)
    with _opened(settings, dry_run=dry_run) as (catalog, alone), tempfile.TemporaryDirectory() as folder:
        if bandwidth is not None and not alone and not dry_run:
            raise UsageError(
                "the service runs and makes the copies by its own limits",
                hint="set `bandwidth` of the target in receiver.toml: the service takes it up at once",
            )
        job, findings, plan = _look(settings, catalog, alone=alone, only=only, adopt=not no_adopt, folder=Path(folder),
                                    verify=verify)  # fmt: skip
        if not json:
            show(plan)
        ending = None
        if not dry_run and not plan.level:
            if not (yes or json) and sys.stdin.isatty() and not typer.confirm("repair?", err=True):
                raise typer.Exit(plan.exit_code)
            with counting("repairing", unit="B") as told:
                ending = job.repair(plan, findings.path, moved=told)
            if not json:
                _show_ending(ending)
    code = plan.exit_code if ending is None else ending.exit_code
    if json:
        print_json(
            {"exit_code": code, "plan": plan.to_plain(), "repair": None if ending is None else ending.to_plain()}
        )
    raise typer.Exit(code)


def _limited(settings: ReceiverSettings, bandwidth: str | None) -> ReceiverSettings:
    """The settings with one rate for all targets beside the home archive."""
    if bandwidth is None:
        return settings
    try:
        Timetable.parse(bandwidth)
    except ValueError as error:
        raise UsageError(f"--bandwidth: {error}", hint="a rate such as '2 MiB', or '08:00 1 MiB, 23:00 off'") from None
    targets = [entry if entry.home else entry.model_copy(update={"bandwidth": bandwidth}) for entry in settings.target]
    return settings.model_copy(update={"target": targets})


def _known(settings: ReceiverSettings, names: list[str]) -> list[str]:
    known = [entry.id for entry in settings.target]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise NotFound(f"there is no target {unknown[0]}", hint=f"targets are {', '.join(known)}")
    return names


def _prepare(settings: ReceiverSettings, names: list[str], *, dry_run: bool) -> None:
    from receiver.targets.opening import prepare_target

    if not names:
        raise UsageError("--prepare marks folders anew", hint="name the targets that were wiped or replaced")
    chosen = [entry for entry in settings.target if entry.id in names]
    for entry in chosen:
        if entry.kind == "removable":
            raise UsageError(f"{entry.id} is a removable disk", hint=f"tape-receiver disk init {entry.id}")
    for entry in chosen:
        place = entry.remote or entry.folder
        if dry_run:
            err.print(f"{place} would be marked as target {entry.id} anew, unless it is", markup=False)
        elif prepare_target(entry, settings.state):
            err.print(f"{place} is marked as target {entry.id} anew", markup=False)


@contextlib.contextmanager
def _opened(settings: ReceiverSettings, *, dry_run: bool) -> "Iterator[tuple[Catalog, bool]]":
    """The catalog, and whether it is ours to write. A lost one is made anew from the home archive first."""
    from receiver.catalog import Catalog

    lost = not (settings.state / "catalog.db").exists()
    if lost and dry_run:
        raise NotFound(
            f"{settings.state} holds no catalog", hint="without --dry-run, resync makes one from the home archive"
        )
    try:
        catalog, alone = Catalog.open(settings.state, clock=SYSTEM), True
    except StoreLocked:
        catalog, alone = Catalog.open(settings.state, clock=SYSTEM, read_only=True), False
    with catalog:
        if lost and alone:
            _rebuild(settings, catalog)
        yield catalog, alone


def _rebuild(settings: ReceiverSettings, catalog: "Catalog") -> None:
    from receiver.rebuild import rebuild

    home = settings.home
    if not home.folder.is_dir():
        return
    err.print(f"{settings.state} held no catalog: it is made anew from {home.folder}", markup=False)
    with counting("rebuilding", unit="segments") as told:
        done = rebuild(home.folder, home.id, catalog, limits=settings.limits, clock=SYSTEM,
                       progress=lambda files, _: told(files, None))  # fmt: skip
    for path, why in done.problems:
        err.print(f"left out: {path}: {why}", markup=False)


def _look(
    settings: ReceiverSettings,
    catalog: "Catalog",
    *,
    alone: bool,
    only: list[str],
    adopt: bool,
    folder: Path,
    verify: bool,
) -> "tuple[Resync, Findings, Plan]":
    from receiver.resync import Resync
    from receiver.resync_plan import Findings
    from receiver.resync_rates import expected
    from receiver.targets.opening import open_targets

    job = Resync(settings, catalog, open_targets(settings), alone=alone, clock=SYSTEM, only=only, adopt=adopt)
    began = SYSTEM.now_ns()
    findings = Findings(folder / "findings", began)
    listed: dict[str, int] = {}
    with counting("looking", unit="files") as told, counting("reading", unit="B", quiet=not verify) as read:

        def progress(name: str, files: int) -> None:
            listed[name] = files
            told(sum(listed.values()), None)

        plan = job.look(findings, began, progress=progress, verify=verify, reading=read)
    rates = expected(settings, clock=SYSTEM)
    for one in plan.targets:
        one.rate = rates.get(one.target)
    return job, findings, plan


def show(plan: "Plan") -> None:
    """The plan as a table, with examples of everything but what is only on its way."""
    from receiver.resync_compare import Kind
    from tape.fitting import Fitting

    found = [kind for kind in Kind if any(one.found[kind].segments for one in plan.targets)]
    out.print(Fitting(_table(plan, list(Kind)), _table(plan, found)))  # narrow: a column only for what there is
    for one in plan.targets:
        if one.error:
            out.print(f"{one.target}: could not be looked at: {one.error}", markup=False)
            if one.hint:
                out.print(f"  hint: {one.hint}", markup=False)
        if one.replaced:
            out.print(f"{one.target}: another disk or folder than before; nothing there counts yet", markup=False)
        for kind in Kind:
            if kind not in (Kind.LACKING, Kind.UNPROVEN):
                _examples(f"{one.target}: {kind.value}", one.found[kind].named, one.found[kind].segments)
    _examples("gone everywhere", plan.gone.named, plan.gone.segments)
    if plan.gone.segments:
        out.print("  hint: the server is asked to send them again; `tape-agent resync` there tells whether it can")
    out.print("everything is level" if plan.level else "not level", markup=False)


def _table(plan: "Plan", kinds: Sequence["Kind"]) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("target", "files", *(kind.value for kind in kinds), "to move", "time"):
        table.add_column(column, justify="left" if column == "target" else "right")
    for one in plan.targets:
        counts = [f"{one.found[kind].segments:,}" if one.found[kind].segments else "-" for kind in kinds]
        size = f"{one.bytes / 1e6:,.1f} MB" if one.bytes else "-"
        files = "?" if one.error else f"{one.files:,}"
        table.add_row(one.target, files, *counts, size, _time(one.seconds) if one.bytes else "-")
    return table


def _examples(what: str, named: list[str], count: int) -> None:
    for path in named:
        out.print(f"{what}: {path}", markup=False)
    if count > len(named):
        out.print(f"{what}: and {count - len(named):,} more", markup=False)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    for size, word in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {word}"
    return f"{seconds:.0f} s"


def _show_ending(ending: "Ending") -> None:
    done = ending.repaired
    counts = (
        (done.dropped, "no longer counted"),
        (done.aside, "set aside"),
        (done.sums, "sums put right"),
        (done.adopted, "adopted"),
    )
    parts = [f"{count:,} {what}" for count, what in counts if count]
    out.print(", ".join([*parts, f"{ending.bytes:,} B copied in {ending.seconds:.0f} s"]), markup=False)
    for target, path, why in done.refused:
        out.print(f"refused: {path} at {target}: {why}", markup=False)
    for target, path, why in done.failed:
        out.print(f"not done: {path} at {target}: {why}", markup=False)
    for left in ending.left:
        lacks = f"{left.target} still lacks {plural(left.segments, 'segment')}"
        out.print(f"{lacks}: {left.why or 'still under way'}", markup=False)
    again = "not level yet: when what is told above is put right, run resync again"
    out.print(again if ending.exit_code else "everything is level", markup=False)
