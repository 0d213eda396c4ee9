"""A target in memory: the contract with nothing around it. For trying things out and for tests."""

import secrets
import threading
from collections.abc import Iterator, Sequence

from receiver.targets.contract import (
    Condition,
    Entry,
    Parcel,
    Place,
    Proof,
    State,
    Target,
    check_relative,
    check_segment,
)
from tape.digest import BothDigests
from tape.errors import AlreadyThere, DigestMismatch, DiskFull, HometapeError, NotFound, TargetAbsent, TargetReadOnly


class MemoryTarget(Target):
    """Keeps files in a dictionary. `room`: bytes it holds at most (None: no limit)."""

    def __init__(self, place: Place, *, room: int | None = None) -> None:
        super().__init__(place)
        self.files: dict[str, bytes] = {}
        self.aside: dict[str, bytes] = {}
        self.room = room
        self.condition = Condition.READY
        self.marked = secrets.token_hex(8)
        self._sums: dict[str, dict[str, str]] = {}
        self._lock = threading.RLock()

    def put_many(self, parcels: Sequence[Parcel]) -> list[HometapeError | None]:
        """Store segments; see the contract."""
        for parcel in parcels:
            check_segment(parcel.path)
        return [self._put(parcel) for parcel in parcels]

    def _put(self, parcel: Parcel) -> HometapeError | None:
        both = BothDigests()
        held = bytearray()
        try:
            for block in parcel.read():
                both.update(block)
                held += block
        except HometapeError as error:
            return error
        with self._lock:
            if self.condition is Condition.ABSENT:
                return TargetAbsent(f"target {self.id} is not there")
            if self.condition is Condition.READ_ONLY:
                return TargetReadOnly(f"target {self.id} takes no writes")
            if parcel.path in self.files:
                return AlreadyThere(f"target {self.id}: {parcel.path} exists already and is never replaced")
            if (both.size, both.digest) != (parcel.size, parcel.digest):
                return DigestMismatch(f"{parcel.path}: got {both.size} bytes with digest {both.digest}")
            free = self.free()
            if free is not None and free < both.size:
                return DiskFull(f"target {self.id} is full: {free} bytes left")
            self.files[parcel.path] = bytes(held)
        return None

    def read(self, path: str) -> Iterator[bytes]:
        """The bytes of a file in one block."""
        return iter([self._get(path)])

    def stat(self, path: str) -> int | None:
        """The size of a file."""
        self._present()
        found = self.files.get(check_relative(path))
        return None if found is None else len(found)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Files below a folder, by name, folder by folder as everywhere."""
        self._present()
        start = f"{check_relative(prefix)}/" if prefix else ""
        with self._lock:
            files = sorted(self.files.items(), key=lambda item: item[0].split("/"))
            found = [Entry(path, len(data)) for path, data in files if path.startswith(start)]
        return iter(found)

    def verify(self, path: str) -> Proof:
        """Digests of a file."""
        both = BothDigests()
        both.update(self._get(path))
        return Proof(both.size, both.digest, both.sha256, self.capabilities.proof)

    def set_aside(self, path: str, why: str) -> str:  # noqa: ARG002 - the reason is recorded by the caller
        """Take a bad copy out of what counts."""
        self._writable()
        with self._lock:
            data = self._get(path)
            where = f"aside/{path}.{len(self.aside)}"
            self.aside[where] = data
            del self.files[path]
            folder, _, name = path.rpartition("/")
            self._sums.get(folder, {}).pop(name, None)
        return where

    def note_sums(self, sums: Sequence[tuple[str, str]]) -> None:
        """Remember SHA-256 by folder and name."""
        self._writable()
        with self._lock:
            for path, sha256 in sums:
                folder, _, name = check_relative(path).rpartition("/")
                self._sums.setdefault(folder, {})[name] = sha256

    def sums(self, folder: str) -> dict[str, str]:
        """What was noted for a folder."""
        return dict(self._sums.get(folder, {}))

    def free(self) -> int | None:
        """What is left of the room."""
        return None if self.room is None else self.room - sum(len(data) for data in self.files.values())

    def state(self) -> State:
        """As it was set; full when nothing is left of the room."""
        if self.condition is Condition.READY and self.free() is not None and (self.free() or 0) <= 0:
            return State(Condition.FULL, f"target {self.id} is full", DiskFull.default_hint)
        if self.condition is Condition.READY:
            return State(Condition.READY)
        kind = TargetReadOnly if self.condition is Condition.READ_ONLY else TargetAbsent
        return State(self.condition, f"target {self.id} is {self.condition}", kind.default_hint)

    def instance(self) -> str:
        """As it was made or set."""
        self._present()
        return self.marked

    def recover(self) -> None:
        """Nothing is ever left half-written."""

    def _get(self, path: str) -> bytes:
        self._present()
        found = self.files.get(check_relative(path))
        if found is None:
            raise NotFound(f"target {self.id} has no {path}")
        return found

    def _present(self) -> None:
        if self.condition is Condition.ABSENT:
            raise TargetAbsent(f"target {self.id} is not there")

    def _writable(self) -> None:
        self._present()
        if self.condition is Condition.READ_ONLY:
            raise TargetReadOnly(f"target {self.id} takes no writes")
