"""What every target can do, so that the flows know one contract and no kinds.

A target stores segments under the same relative path everywhere, never replaces one, and answers
`put` only when the bytes would survive a power cut. It declares what it is (medium, site), what it
can (capabilities) and what it takes at a time (limits); nothing is guessed. It does not retry, limit
its rate or keep time: that is the business of the wrappers around it. All methods are synchronous and may
be called from several threads at once; callers on an event loop run them in threads.
"""

import builtins
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

from tape.durable import named
from tape.errors import HometapeError, NameRefused, NotFound, TargetError
from tape.names import SegmentPath

SUMS = "SHA256SUMS"
README = "README.txt"
MARKER = ".hometape-target"
READ_BACK = "read-back xxh3+sha256"
READ_BACK_FRESH = "read-back xxh3"
_PATHS = 8192  # looked at lately: each is asked for several times, at each target


class Condition(StrEnum):
    """What a target is good for at the moment."""

    READY = "ready"
    ABSENT = "absent"
    READ_ONLY = "read-only"
    FULL = "full"
    REFUSED = "refused"  # it is there, but does not let us in


@dataclass(frozen=True, slots=True)
class State:
    """A condition with its reason and what to do about it; both empty when ready."""

    condition: Condition
    reason: str = ""
    hint: str = ""

    @property
    def readable(self) -> bool:
        """Whether copies there can be read."""
        return self.condition not in (Condition.ABSENT, Condition.REFUSED)

    @property
    def writable(self) -> bool:
        """Whether new copies can be made there."""
        return self.condition is Condition.READY


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a kind of target can do. `proof`: how `verify` proves a copy; it is recorded with the copy.

    local: `local` gives a path that a Parquet reader can open. sums: keeps SHA256SUMS beside the
    segments. free: knows its free space. aside: can put a bad copy out of the way. paces: keeps to a
    timetable of rates by itself, so that nobody has to slow down what it reads.
    """

    proof: str = READ_BACK
    local: bool = False
    sums: bool = True
    free: bool = True
    aside: bool = True
    paces: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """What one `put_many` should carry at most, and the largest file the place can hold (None: no limit)."""

    batch_files: int = 256
    batch_bytes: int = 128 * 2**20
    max_file: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """What a target declares of itself. `max_age`: seconds its recovery point may lag before it is a warning.

    kind: `directory`, `removable`, `remote` or `memory`. batch_wait: seconds to gather segments before copying.
    """

    id: str
    kind: str = "directory"
    medium: str = "disk"
    site: str = "home"
    home: bool = False
    concurrency: int = 2
    max_age: float = 26 * 3600
    batch_wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Parcel:
    """A segment on its way to a target, or to be proven there. `read` opens known good bytes of it anew.

    size in bytes, digest XXH3-128 hex, sha256 hex or "" where it is not attested yet. local: a file of this
    machine with the same bytes, whose path ends in `path`, where there is one. fresh: it was put just now, so that
    the digest of what is read back shows whether these are its bytes, and `sha256`, where known, is theirs.
    """

    path: str
    size: int
    digest: str
    read: Callable[[], Iterable[bytes]]
    sha256: str = ""
    local: Path | None = None
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A file at a target: path relative to its root with `/`, size in bytes."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Proof:
    """What the bytes at a target are: size, XXH3-128, SHA-256, and how that was found (its `method`).

    A target that can't read bytes back cheaply may give the digests that were promised, if what it did see
    (a checksum of its own, a size and a sample) agrees with the promised bytes; the method says so.
    """

    size: int
    digest: str
    sha256: str
    method: str = READ_BACK


class Target(ABC):
    """A place copies live. Raises TargetError and its children, DiskFull, DiskError, NotFound, NameRefused."""

    capabilities = Capabilities()
    limits = Limits()

    def __init__(self, place: Place) -> None:
        self.place = place

    @property
    def id(self) -> str:
        """Its short name."""
        return self.place.id

    def put(self, path: str, data: Iterable[bytes], size: int, digest: str) -> None:
        """Store one segment durably; raises AlreadyThere, DigestMismatch and what the class says."""
        fault = self.put_many([Parcel(path, size, digest, lambda: data)])[0]
        if fault is not None:
            raise fault

    @abstractmethod
    def put_many(self, parcels: Sequence[Parcel]) -> list[HometapeError | None]:
        """Store segments, all made durable together; one answer a parcel, None where it is durable now.

        AlreadyThere: a file of that name exists (its bytes were not looked at). DigestMismatch: the
        parcel gave other bytes than it promised. DiskFull, TargetAbsent and the like also come as
        answers, so that what fitted before is not lost. Nothing half-written is ever visible.
        """

    @abstractmethod
    def read(self, path: str) -> Iterator[bytes]:
        """The bytes of a file in blocks; raises NotFound at once if it is not there."""

    @abstractmethod
    def stat(self, path: str) -> int | None:
        """The size of a file in bytes; None if it is not there."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every stored file below a folder, in the order of names, without the target's own files."""

    @abstractmethod
    def verify(self, path: str) -> Proof:
        """Digests of a file, its bytes read from the medium again; raises NotFound."""

    def verify_many(self, parcels: Sequence[Parcel]) -> Sequence[Proof | HometapeError]:
        """As `verify` for several; one answer each: its proof, or why there is none (NotFound, DigestMismatch ...).

        Raises what concerns the whole target: TargetAbsent, TargetRefused and the like.
        """
        found: builtins.list[Proof | HometapeError] = []
        for parcel in parcels:
            try:
                found.append(self._prove(parcel))
            except TargetError:
                raise
            except HometapeError as error:
                found.append(error)
        return found

    def _prove(self, parcel: Parcel) -> Proof:
        return self.verify(parcel.path)

    def fetch_many(self, paths: Sequence[str], folder: Path) -> Sequence[Path | HometapeError]:
        """Files of this machine with the bytes of these: themselves where they are local, else copies in `folder`."""
        found: builtins.list[Path | HometapeError] = []
        for path in paths:
            try:
                found.append(self._fetch(path, folder))
            except TargetError:
                raise
            except HometapeError as error:
                found.append(error)
        return found

    def _fetch(self, path: str, folder: Path) -> Path:
        local = self.local(path)
        if local is not None:
            if self.stat(path) is None:
                raise NotFound(f"target {self.id} has no {path}")
            return local
        blocks = self.read(path)
        copy = folder / path
        with named(copy, "writing"):
            copy.parent.mkdir(parents=True, exist_ok=True)
            with copy.open("wb") as file:
                for block in blocks:
                    file.write(block)
        return copy

    @abstractmethod
    def set_aside(self, path: str, why: str) -> str:
        """Move a bad copy where nobody counts it and return where (relative); raises NotFound."""

    @abstractmethod
    def note_sums(self, sums: Sequence[tuple[str, str]]) -> None:
        """Write (path, SHA-256) into the SHA256SUMS of each folder, durably; noting twice does no harm."""

    @abstractmethod
    def sums(self, folder: str) -> dict[str, str]:
        """File name -> SHA-256 as noted for a folder."""

    def mend_sums(self, folder: str, right: Mapping[str, str]) -> None:
        """Put right what SHA256SUMS of a folder says of these files, durably: file name -> SHA-256."""
        self.note_sums([(f"{folder}/{name}", sha256) for name, sha256 in right.items()])

    @abstractmethod
    def free(self) -> int | None:
        """Free bytes; None where that can't be known."""

    @abstractmethod
    def state(self) -> State:
        """What it is good for now; never raises."""

    @abstractmethod
    def instance(self) -> str:
        """Which very place this is: random, made with its marker. Another one under the same id: all copies are gone.

        "" where the marker is older than instances. Raises TargetAbsent and its like.
        """

    def settle(self) -> None:  # noqa: B027 - most targets put nothing off
        """Do what was put off for a better moment (sums of the day); called when nothing is left to copy."""

    @abstractmethod
    def recover(self) -> None:
        """Clear what an interrupted `put` left; only for the one process that writes there."""

    def local(self, path: str) -> Path | None:  # noqa: ARG002 - what has no local files has no use for the name
        """A path in this machine's file system to read the file from, where there is one."""
        return None


@functools.lru_cache(_PATHS)
def check_relative(path: str) -> str:
    """The path itself, if it stays below a root on every system; raises NameRefused."""
    parts = path.split("/")
    bad = not path or "\\" in path or ":" in path or "\0" in path or any(p in ("", ".", "..") for p in parts)
    if bad:
        raise NameRefused(f"{path[:300]!r} is not a path inside a target")
    return path


@functools.lru_cache(_PATHS)
def check_segment(path: str) -> SegmentPath:
    """The path of a segment as its parts; raises NameRefused."""
    return SegmentPath.parse(path)


def is_own(path: str) -> bool:
    """Whether a relative path is one of a target's own files (marker, readme, sums, temporary, set aside)."""
    parts = PurePosixPath(path).parts
    return any(p.startswith(".") for p in parts) or parts[-1] == SUMS or path == README
