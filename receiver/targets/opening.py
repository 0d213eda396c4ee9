"""From settings to targets: the one place that knows every kind, and what is put around each.

Around a target, from the outside in:

    Retrying   a step that failed for a passing reason is made again; each try is paced and timed as the first was
    Narrow     waiting for a place is nobody's silence, so it lies outside of the time-out, and a step that was given
               up frees its place although its thread hangs on
    Paced      slows the bytes down before they reach the clock of the time-out: a slow rate is no silence either
    Timed      innermost: what it times is the target and nothing else

The home archive goes without: the ingest writes to the same folder directly, and where it hangs, home hangs.
A target that ends its own steps when nothing moves (`remote`) is not timed, one that paces itself not paced.
"""

from pathlib import Path

from receiver.settings import DiskSettings, ReceiverSettings, TargetSettings
from receiver.targets.contract import Place, Target
from receiver.targets.directory import DirectoryTarget
from receiver.targets.marker import prepare
from receiver.targets.remote import RemoteTarget
from receiver.targets.remote_setup import prepare_remote
from receiver.targets.removable import RemovableTarget, Search
from receiver.targets.wrappers import Narrow, Retrying
from receiver.targets.wrappers_paced import Paced
from receiver.targets.wrappers_timed import Timed
from receiver.timetable import Timetable
from tape.clock import SYSTEM, Clock
from tape.durable import DISK, Disk

_BESIDE = 2  # calls at a time beside the copies: somebody verifies or exports


def open_target(
    entry: TargetSettings,
    state: Path,
    *,
    disks: DiskSettings | None = None,
    disk: Disk = DISK,
    clock: Clock = SYSTEM,
) -> Target:
    """A target as configured, with its wrappers. It need not be there: its state says so. `state`: the state folder."""
    if entry.kind == "removable":
        search = search_of(entry, disks or DiskSettings())
        found: Target = RemovableTarget(place_of(entry), search, unmount_level=entry.unmount, clock=clock, disk=disk)
    elif entry.kind == "remote":
        found = RemoteTarget(place_of(entry), entry, scratch_of(entry, state), clock=clock, disk=disk)
    else:
        found = DirectoryTarget(place_of(entry), entry.folder, mounted=bool(entry.mounted), disk=disk)
    return wrapped(found, entry, clock=clock)


def scratch_of(entry: TargetSettings, state: Path) -> Path:
    """The folder in the state folder where a target keeps what it needs beside its place."""
    return state / "targets" / entry.id


def search_of(entry: TargetSettings, disks: DiskSettings) -> Search:
    """Where a removable disk is looked for."""
    return Search(entry.folder, tuple(disks.look_in), disks.every, mounted=entry.mounted is not False)


def place_of(entry: TargetSettings) -> Place:
    """What a target declares of itself."""
    return Place(
        id=entry.id,
        kind=entry.kind,
        medium=entry.medium,
        site=entry.site,
        home=entry.home,
        concurrency=entry.concurrency,
        max_age=entry.max_age,
        batch_wait=entry.batch_wait,
    )


def wrapped(target: Target, entry: TargetSettings, *, clock: Clock = SYSTEM) -> Target:
    """A target with what its settings ask for around it; the order is argued above."""
    if entry.home:
        return target
    remote = entry.kind == "remote"
    if not remote:
        target = Timed(target, entry.timeout, clock=clock)
    if entry.bandwidth and not target.capabilities.paces:
        target = Paced(target, Timetable.parse(entry.bandwidth), clock=clock)
    target = Narrow(target, entry.concurrency + _BESIDE)
    return Retrying(target, entry.retries, absences=remote, clock=clock) if entry.retries else target


def open_targets(settings: ReceiverSettings, *, disk: Disk = DISK, clock: Clock = SYSTEM) -> list[Target]:
    """All configured targets, the home archive first."""
    entries = sorted(settings.target, key=lambda entry: not entry.home)
    return [open_target(entry, settings.state, disks=settings.disks, disk=disk, clock=clock) for entry in entries]


def prepare_target(
    entry: TargetSettings, state: Path | None = None, *, clock: Clock = SYSTEM, disk: Disk = DISK
) -> bool:
    """Make the place of a target ready, once, on a person's word; whether it is new. Raises TargetError, DiskError.

    state: the state folder; only a remote needs it.
    """
    if entry.kind == "remote":
        assert state is not None
        return prepare_remote(entry, scratch_of(entry, state), clock=clock)
    return prepare(entry.folder, entry.id, clock=clock, disk=disk)
