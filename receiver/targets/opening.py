"""From settings to targets: the one place that knows every kind."""

from receiver.settings import ReceiverSettings, TargetSettings
from receiver.targets.contract import Place, Target
from receiver.targets.directory import DirectoryTarget
from receiver.targets.marker import prepare
from tape.clock import SYSTEM, Clock
from tape.durable import DISK, Disk
from tape.errors import ConfigError


def open_target(entry: TargetSettings, *, disk: Disk = DISK) -> Target:
    """A target as configured. It need not be there: its state says so."""
    if entry.kind != "directory":
        raise ConfigError(f"target {entry.id}: kind {entry.kind} is not known to this version", hint="update hometape")
    place = Place(
        id=entry.id,
        kind=entry.kind,
        medium=entry.medium,
        site=entry.site,
        home=entry.home,
        concurrency=entry.concurrency,
        max_age=entry.max_age,
        batch_wait=entry.batch_wait,
    )
    return DirectoryTarget(place, entry.folder, disk=disk)


def open_targets(settings: ReceiverSettings, *, disk: Disk = DISK) -> list[Target]:
    """All configured targets, the home archive first."""
    return [open_target(entry, disk=disk) for entry in sorted(settings.target, key=lambda entry: not entry.home)]


def prepare_target(entry: TargetSettings, *, clock: Clock = SYSTEM, disk: Disk = DISK) -> bool:
    """Make the folder of a target ready, once, on a person's word; whether it is new. Raises TargetError, DiskError."""
    return prepare(entry.folder, entry.id, clock=clock, disk=disk)
