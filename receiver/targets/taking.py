"""Taking a parcel: what it can't be taken for, and its own faults apart from those of the place it goes to."""

from collections.abc import Iterator

from receiver.targets.contract import Parcel, Target
from tape.errors import DiskError, HometapeError


class SourceFault(Exception):
    """What the parcel's own bytes raised, apart from what the target's disk raises."""

    def __init__(self, error: HometapeError) -> None:
        super().__init__(str(error))
        self.error = error


def from_source(parcel: Parcel) -> Iterator[bytes]:
    """Its bytes; raises SourceFault."""
    try:
        yield from parcel.read()
    except HometapeError as error:
        raise SourceFault(error) from error


def too_large(target: Target, parcel: Parcel) -> HometapeError | None:
    """Why a segment can't be stored on that file system; None if it can."""
    most = target.limits.max_file
    if most is None or parcel.size <= most:
        return None
    return DiskError(
        f"target {target.id}: its file system holds no file above {most} bytes, {parcel.path} has {parcel.size}",
        hint="format it with a file system that does (exFAT, NTFS, ext4), or seal smaller segments",
    )
