"""A target on a disk that comes and goes: found by its marker at whatever mount point or drive letter it gets.

While it is away everything raises TargetAbsent. While it is there it is a target in a folder, with all that
one promises; what was being written when it was pulled does not count and is cleared when it is back. Two
disks that carry the same id are refused both: one is a clone, and copies that lie partly on the one and partly
on the other are no copy.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from receiver.targets.contract import (
    Capabilities,
    Condition,
    Entry,
    Limits,
    Parcel,
    Place,
    Proof,
    State,
    Target,
)
from receiver.targets.directory import DirectoryTarget
from receiver.targets.marker import identity, read_marker
from receiver.targets.mounts import disks
from receiver.targets.unmounting import Unmounted, unmount
from tape.clock import SYSTEM, Clock
from tape.durable import DISK, WINDOWS, Disk
from tape.errors import DiskError, HometapeError, TargetAbsent, TargetError, TargetRefused
from tape.log import get_logger

T = TypeVar("T")
AWAY = "plug it in; it is noticed within seconds and catches up by itself"
CLONE = "unplug all but one of them, and give a clone an id of its own: `tape-receiver disk init`"
_PATIENCE = 300.0
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Search:
    """Where and how often a disk is looked for. `folder`: its root on the disk; `mounted`: only mount points count."""

    folder: Path = Path("hometape")
    look_in: tuple[str, ...] = ()
    every: float = 2.0
    mounted: bool = True

    def roots(self, target: str) -> list[Path]:
        """Every folder that carries the marker of this target now, a disk that is mounted twice once.

        What can't be read is no candidate: a disk that was pulled may still be in the table of mounts.
        """
        found: dict[object, Path] = {}
        for place in disks(self.look_in, mounted=self.mounted):
            root = place / self.folder
            if _carries(root, target):
                found.setdefault(_which(root), root)
        return list(found.values())


@dataclass(slots=True)
class _Found:
    """What the last look found. `ejected`: still mounted there, but left alone until it was gone.

    unmounted: it was let go and has not been seen since.
    """

    at: float | None = None
    inner: DirectoryTarget | None = None
    fault: TargetError | None = None
    ejected: set[Path] = field(default_factory=set)
    unmounted: bool = False


class RemovableTarget(Target):
    """A disk known by the id in its marker. Thread-safe. `unmount_level`: unmount it as soon as it is level."""

    capabilities = Capabilities(local=True)
    limits = Limits()

    def __init__(
        self,
        place: Place,
        search: Search | None = None,
        *,
        unmount_level: bool = False,
        clock: Clock = SYSTEM,
        disk: Disk = DISK,
    ) -> None:
        super().__init__(place)
        self.search = search or Search()
        self._unmount_level = unmount_level
        self._clock = clock
        self._disk = disk
        self._found = _Found()
        self._looking = threading.Lock()
        self._idle = threading.Condition()
        self._busy = 0
        self._closing = False

    # ------------------------------------------------------------------------------------- where it is

    @property
    def root(self) -> Path | None:
        """Its root where it is mounted now; None while it is away or must not be touched."""
        with contextlib.suppress(TargetError):
            return self._there().root
        return None

    def _there(self) -> DirectoryTarget:
        """The target in the folder where it is now. Raises TargetAbsent, TargetRefused."""
        with self._looking:
            now = self._clock.monotonic()
            if self._found.at is None or not 0 <= now - self._found.at < self.search.every:
                self._look()
                self._found.at = now
            if self._found.fault is not None:
                raise type(self._found.fault)(str(self._found.fault), hint=self._found.fault.hint)
            assert self._found.inner is not None
            return self._found.inner

    def _look(self) -> None:
        found, known = self._found, self._found.inner
        roots = self.search.roots(self.id)
        found.ejected &= set(roots)  # what was unplugged may come back
        found.inner, found.fault = None, None
        if len(roots) > 1:
            text = f"disks with the same id {self.id!r} are plugged in: {', '.join(map(str, roots))}; none is used"
            found.fault = TargetRefused(text, hint=CLONE)
        elif found.ejected:
            where = ", ".join(str(root) for root in sorted(found.ejected))
            text = f"let go with all that was written: unmount {where}, then it is safe to unplug"
            again = f"`tape-receiver disk eject {self.id}` tries that again; plugged in anew, it is used again"
            found.fault = TargetAbsent(text, hint=again)
        elif not roots:
            text = "away: unmounted, safe to unplug" if found.unmounted else "away: not plugged in"
            found.fault = TargetAbsent(text, hint=AWAY)
        elif known is not None and known.root == roots[0]:
            found.inner = known
        else:
            found.unmounted = False
            found.inner = DirectoryTarget(self.place, roots[0], mounted=self.search.mounted, disk=self._disk)

    def _gone(self) -> None:
        """It answered that it is not there: look again at once next time."""
        with self._looking:
            self._found.at = None

    @contextlib.contextmanager
    def _using(self) -> Iterator[DirectoryTarget]:
        """The disk, kept from being ejected meanwhile. Raises TargetAbsent, TargetRefused."""
        with self._idle:
            if self._closing:
                raise TargetAbsent("it is being ejected", hint=AWAY)
            self._busy += 1
        try:
            inner = self._there()
            try:
                yield inner
            except TargetAbsent:
                self._gone()
                raise
        finally:
            with self._idle:
                self._busy -= 1
                self._idle.notify_all()

    def _ask(self, call: Callable[[DirectoryTarget], T]) -> T:
        with self._using() as inner:
            return call(inner)

    # -------------------------------------------------------------------------------- the contract

    def put_many(self, parcels: Sequence[Parcel]) -> list[HometapeError | None]:
        """See the contract."""
        with self._using() as inner:
            answers = inner.put_many(parcels)
            if any(isinstance(answer, TargetAbsent) for answer in answers):
                self._gone()
            return answers

    def read(self, path: str) -> Iterator[bytes]:
        """See the contract."""
        return self._ask(lambda inner: inner.read(path))

    def stat(self, path: str) -> int | None:
        """See the contract."""
        return self._ask(lambda inner: inner.stat(path))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See the contract."""
        return self._ask(lambda inner: inner.list(prefix))

    def verify(self, path: str) -> Proof:
        """See the contract."""
        return self._ask(lambda inner: inner.verify(path))

    def verify_many(self, parcels: Sequence[Parcel]) -> Sequence[Proof | HometapeError]:
        """See the contract."""
        return self._ask(lambda inner: inner.verify_many(parcels))

    def fetch_many(self, paths: Sequence[str], folder: Path) -> Sequence[Path | HometapeError]:
        """See the contract."""
        return self._ask(lambda inner: inner.fetch_many(paths, folder))

    def set_aside(self, path: str, why: str) -> str:
        """See the contract."""
        return self._ask(lambda inner: inner.set_aside(path, why))

    def note_sums(self, sums: Sequence[tuple[str, str]]) -> None:
        """See the contract."""
        self._ask(lambda inner: inner.note_sums(sums))

    def sums(self, folder: str) -> dict[str, str]:
        """See the contract."""
        return self._ask(lambda inner: inner.sums(folder))

    def mend_sums(self, folder: str, right: Mapping[str, str]) -> None:
        """See the contract."""
        self._ask(lambda inner: inner.mend_sums(folder, right))

    def free(self) -> int | None:
        """See the contract."""
        return self._ask(lambda inner: inner.free())

    def instance(self) -> str:
        """See the contract."""
        return self._ask(lambda inner: inner.instance())

    def recover(self) -> None:
        """Clear what it held half-written when it was pulled."""
        self._ask(lambda inner: inner.recover())

    def local(self, path: str) -> Path | None:
        """Where the file lies while the disk is there."""
        try:
            return self._ask(lambda inner: inner.local(path))
        except TargetError:
            return None

    def state(self) -> State:
        """As of a folder while it is there; absent while it is away, refused while a clone is plugged in as well."""
        state = self._state()
        if state.condition is Condition.ABSENT and self._found.inner is not None:  # it went since the last look
            self._gone()
            state = self._state()
        return state

    def _state(self) -> State:
        try:
            return self._ask(lambda inner: inner.state())
        except TargetRefused as error:
            return State(Condition.REFUSED, str(error), error.hint)
        except HometapeError as error:
            return State(Condition.ABSENT, str(error), error.hint)

    def settle(self) -> None:
        """What was put off; then, where that is configured, the disk is let go."""
        self._ask(lambda inner: inner.settle())
        if self._unmount_level:
            done = self.eject()
            log.info("ejected", target=self.id, unmounted=done.done, where=str(done.where), reason=done.why)

    # --------------------------------------------------------------------------------------- ejecting

    def eject(self, *, detach: bool = True) -> Unmounted:
        """Finish what is under way, write everything out, let go of the disk and unmount it (if `detach`).

        Afterwards it is not used again before it was unplugged, unmounted or not. Raises TargetAbsent,
        TargetError if something there does not end, SyncFailed.
        """
        inner = self._there()
        with self._idle:
            if self._closing:
                raise TargetError(f"target {self.id} is being ejected already", hint="wait for the other command")
            self._closing = True
            ended = self._idle.wait_for(lambda: not self._busy, timeout=_PATIENCE)
        try:
            if not ended:
                raise TargetError(
                    f"target {self.id} can't be let go: something there has not ended for {_PATIENCE:.0f} s",
                    hint="do not unplug it; try again, or stop the service first",
                )
            inner.settle()
            inner.flush()
            done = (
                unmount(inner.root, clock=self._clock)
                if detach
                else Unmounted(inner.root, done=False, why="not asked to")
            )
            with self._looking:
                if not done.done:
                    self._found.ejected.add(inner.root)
                self._found.unmounted, self._found.inner = done.done, None
                self._found.at = None
            return done
        finally:
            with self._idle:
                self._closing = False


def _which(root: Path) -> object:
    """The same for the same disk. On Windows a clone has the numbers of its original."""
    try:
        return root if WINDOWS else identity(root)[:2]
    except DiskError:
        return root


def _carries(root: Path, target: str) -> bool:
    try:
        return read_marker(root)["id"] == target
    except (HometapeError, OSError):
        return False
