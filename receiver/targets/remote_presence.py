"""Whether a remote is there, is the right one, and takes writes. Asked rarely: each question is a run of rclone."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from receiver.targets.contract import Condition, State
from receiver.targets.remote_store import RemoteStore
from tape.clock import Clock
from tape.durable import Disk, named
from tape.errors import (
    DiskError,
    DiskFull,
    HometapeError,
    NotFound,
    TargetAbsent,
    TargetBusy,
    TargetError,
    TargetReadOnly,
    TargetRefused,
)

_FRESH = 60.0  # seconds a marker that was read counts
_SPACE_FRESH, _SPACE_AGAIN = 600.0, 20.0
_BLOCKED = 300.0  # seconds after which a place that was full or read-only is tried again
_RESERVE = 64 * 2**20


class Presence:
    """What is known of the place. Thread-safe. `replaced`: called when it is another place under the same name."""

    def __init__(
        self, store: RemoteStore, state: Path, replaced: Callable[[], None], *, clock: Clock, disk: Disk
    ) -> None:
        self._store = store
        self._state = state
        self._replaced = replaced
        self._clock = clock
        self._disk = disk
        self._lock = threading.Lock()
        store.when_in_doubt = self.doubt
        self._instance = ""
        self._seen: float | None = None
        self._space: tuple[float, int | None] | None = None
        self._blocked: tuple[float, HometapeError, int] | None = None

    def check(self) -> str:
        """The instance of the place; raises TargetAbsent and its like unless the marker is there and right."""
        with self._lock:
            now = self._clock.monotonic()
            if self._seen is None or now - self._seen >= _FRESH:
                self._seen = None
                self._look()
                self._seen = now
            return self._instance

    def _look(self) -> None:
        store = self._store
        try:
            marker = store.marker()
        except (DiskError, NotFound) as error:
            raise TargetAbsent(f"target {store.id}: its marker can't be read: {error}") from error
        if marker["id"] != store.id:
            raise TargetAbsent(
                f"{store.at()} is marked as target {marker['id']!r}, not {store.id!r}",
                hint="the configuration names the wrong remote or folder",
            )
        instance = str(marker.get("instance", ""))
        note = self._state / "instance"
        with named(note, "reading"):
            before = note.read_text(encoding="utf-8").strip() if note.exists() else None
        if before != instance:
            if before is not None:
                self._replaced()
            self._disk.make_dirs(self._state)
            self._disk.replace(note, f"{instance}\n".encode())
        self._instance = instance

    def doubt(self) -> None:
        """Something failed: look again before the next step."""
        self._seen = None

    def confirm(self) -> None:
        """Something is missing there: is the place itself? Raises TargetAbsent and its like."""
        self.doubt()
        self.check()

    def stored(self) -> None:
        """Something could be stored: it is neither full nor read-only."""
        self._blocked = None

    def explain(self, fault: HometapeError | None, size: int) -> HometapeError | None:
        """A fault of a put of so many bytes by its real name: many a store says "internal error" when it is full."""
        if not isinstance(fault, TargetError) or isinstance(fault, TargetRefused | TargetBusy):
            return fault
        free = None
        with contextlib.suppress(HometapeError):
            free = self.free(_SPACE_AGAIN)
        if free is None or free > size:
            return fault
        return DiskFull(f"target {self._store.id} is full, {free} bytes left: {fault}")

    def blame(self, fault: HometapeError | None, size: int) -> bool:
        """Draw from a failed put of so many bytes what it says of the whole place; whether it is blocked by that."""
        if isinstance(fault, TargetError | DiskFull):
            self.doubt()
        if not isinstance(fault, DiskFull | TargetReadOnly):
            return False
        self._blocked = self._clock.monotonic(), fault, size
        self._space = None
        return True

    def state(self) -> State:
        """Ready, absent, refused, read-only or full, with reason and hint; never raises."""
        try:
            self.check()
            blocked = self._still_blocked()
        except TargetRefused as error:
            return State(Condition.REFUSED, str(error), error.hint)
        except HometapeError as error:
            return State(Condition.ABSENT, str(error), error.hint)
        if blocked is None:
            return State(Condition.READY)
        condition = Condition.FULL if isinstance(blocked, DiskFull) else Condition.READ_ONLY
        return State(condition, str(blocked), blocked.hint)

    def _still_blocked(self) -> HometapeError | None:
        """Why nothing could be stored lately; None once there is room again, or after a while, so that it is tried."""
        blocked = self._blocked
        if blocked is None:
            return None
        since, fault, size = blocked
        free = None
        if isinstance(fault, DiskFull):
            with contextlib.suppress(HometapeError):
                free = self.free(_SPACE_AGAIN)
        enough = free is not None and free > size + _RESERVE
        if enough or self._clock.monotonic() - since > _BLOCKED:
            self._blocked = None
            return None
        return fault

    def free(self, age: float = _SPACE_FRESH) -> int | None:
        """Free bytes as the store tells them, at most so many seconds old; None where it tells nothing."""
        now = self._clock.monotonic()
        space = self._space
        if space is None or now - space[0] > age:
            space = self._space = now, self._store.space()
        return space[1]
