"""Home bytes for several targets from one read, as far as a bounded memory goes.

Fan-out lanes that are near each other want the same segments within moments. The first to need a block
reads it; the others take it from here. What nobody is left to want goes first, then the oldest. A
lane that works alone (far behind, or the only one) reads for itself and pushes nothing out.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from receiver.targets.contract import Target
from tape.clock import SYSTEM, Clock
from tape.errors import HometapeError

MOST = 64 * 2**20
_WHILE = 5.0


@dataclass(slots=True, eq=False)
class _Shared:
    """One file that is read for several. `read`: blocks so far; `wanted`: readers that have not had all of it."""

    path: str
    source: Iterator[bytes]
    wanted: int
    readers: int = 0
    read: int = 0
    reading: bool = False
    ended: bool = False
    error: HometapeError | None = None
    kept: set[int] = field(default_factory=set)


class HomeBytes:
    """Reads of the home archive, shared. Thread-safe; `most`: bytes held at a time."""

    def __init__(self, home: Target, *, most: int = MOST, clock: Clock = SYSTEM) -> None:
        self.most = most
        self.held = 0
        """Bytes held now."""
        self._home = home
        self._clock = clock
        self._touched = 0.0
        self._lock = threading.Condition()
        self._open: dict[str, _Shared] = {}
        self._blocks: OrderedDict[tuple[_Shared, int], bytes] = OrderedDict()

    def read(self, path: str, *, others: int) -> Iterator[bytes]:
        """The bytes of a home file in blocks; `others`: lanes beside this one that will want them soon.

        Raises what the home archive's `read` raises, at the first block.
        """
        shared = self._join(path, others)
        if shared is None:
            yield from self._home.read(path)
            return
        number = given = 0
        try:
            while (block := self._block(shared, number)) is not None:
                yield block
                number, given = number + 1, given + len(block)
        except _PushedOut:
            yield from self._from(path, given)
        finally:
            self._leave(shared)

    def let_go(self) -> None:
        """Drop what nobody came for in a while: some that were expected took the bytes from the files themselves."""
        with self._lock:
            if self._clock.monotonic() - self._touched < _WHILE:
                return
            for shared, number in [key for key in self._blocks if not key[0].readers]:
                shared.kept.discard(number)
                self.held -= len(self._blocks.pop((shared, number)))
                self._close(shared)

    def _join(self, path: str, others: int) -> _Shared | None:
        with self._lock:
            shared = self._open.get(path)
            if shared is None:
                if others <= 0:
                    return None
                shared = self._open[path] = _Shared(path, self._source(path), 1 + others)
            shared.readers += 1
            return shared

    def _source(self, path: str) -> Iterator[bytes]:
        yield from self._home.read(path)  # opened at the first block: not under the lock

    def _from(self, path: str, start: int) -> Iterator[bytes]:
        """The rest of a file, read by the one that wants it."""
        for block in self._home.read(path):
            if start < len(block):
                yield block[start:]
            start = max(0, start - len(block))

    def _block(self, shared: _Shared, number: int) -> bytes | None:
        """A block: one that is held, or the next one, read here for all; None at the end."""
        with self._lock:
            self._touched = self._clock.monotonic()
            while number == shared.read and shared.reading:
                self._lock.wait()
            if number < shared.read:
                if number not in shared.kept:
                    raise _PushedOut
                return self._blocks[shared, number]
            if shared.error is not None:
                raise shared.error
            if shared.ended:
                return None
            shared.reading = True
        block: bytes | None = None
        try:
            block = next(shared.source, None)
        except HometapeError as error:
            shared.error = error
            raise
        finally:
            with self._lock:
                shared.reading = False
                shared.ended = block is None
                if block is not None:
                    self._keep(shared, block)
                self._lock.notify_all()
        return block

    def _keep(self, shared: _Shared, block: bytes) -> None:
        self._blocks[shared, shared.read] = block
        shared.kept.add(shared.read)
        shared.read += 1
        self.held += len(block)
        while self.held > self.most and len(self._blocks) > 1:
            (oldest, number), old = self._blocks.popitem(last=False)
            oldest.kept.discard(number)
            self.held -= len(old)
            self._close(oldest)

    def _leave(self, shared: _Shared) -> None:
        with self._lock:
            shared.readers -= 1
            shared.wanted -= 1
            if shared.readers == 0 and (shared.wanted <= 0 or shared.error is not None):
                for number in shared.kept:
                    self.held -= len(self._blocks.pop((shared, number)))
                shared.kept.clear()
            self._close(shared)

    def _close(self, shared: _Shared) -> None:
        if shared.readers == 0 and not shared.kept and self._open.get(shared.path) is shared:
            del self._open[shared.path]


class _PushedOut(Exception):
    """The block was held, and is no longer: this reader is too far behind the others."""
