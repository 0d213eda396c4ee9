"""A time-out around a target: a step that does not move for too long is given up, whatever it hangs in.

A call that hangs in the kernel can't be ended, only left behind: each runs in a daemon thread, and while
one hangs, further calls fail at once, so that there are never more of them than ran when it began to hang.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from receiver.targets import pulse
from receiver.targets.contract import Condition, Entry, Parcel, Proof, State, Target
from receiver.targets.hands import Hands
from receiver.targets.wrapping import Wrapper
from tape.clock import SYSTEM, Clock
from tape.errors import HometapeError, TargetAbsent
from tape.log import get_logger

T = TypeVar("T")
log = get_logger(__name__)
_THREADS = 64
_RELAY = 0.5  # seconds between looks whether a step has moved
_BLOCKS, _ENTRIES = 4, 1000  # what is read, and listed, in one step


class Silent(TargetAbsent):
    """The target does not answer; a call there hangs on."""

    retryable = False


class Timed(Wrapper):
    """Gives up a step that shows no sign of life for `timeout` seconds: TargetAbsent, it "has not answered".

    A sign of life is a block taken or given, an entry listed, and what the target says by `pulse.moved`. The time
    that a parcel's own source takes is not held against the target.
    """

    def __init__(self, inner: Target, timeout: float, *, clock: Clock = SYSTEM) -> None:
        super().__init__(inner)
        self._timeout = timeout
        self._clock = clock
        self._hands = Hands(f"step-{inner.id}", _THREADS)
        self._lock = threading.Lock()
        self._stuck: list[_Step] = []

    def put_many(self, parcels: Sequence[Parcel]) -> list[HometapeError | None]:
        """See the contract."""
        return self._step(lambda step: self.inner.put_many([step.watched(parcel) for parcel in parcels]))

    def verify_many(self, parcels: Sequence[Parcel]) -> Sequence[Proof | HometapeError]:
        """See the contract."""
        return self._step(lambda step: self.inner.verify_many([step.watched(parcel) for parcel in parcels]))

    def read(self, path: str) -> Iterator[bytes]:
        """See the contract."""
        return self._pieces(lambda: self.inner.read(path), _BLOCKS)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See the contract."""
        return self._pieces(lambda: self.inner.list(prefix), _ENTRIES)

    def _pieces(self, begin: Callable[[], Iterator[T]], many: int) -> Iterator[T]:
        """What an iterator gives, so many at a step, the first ones at once."""

        def first(step: "_Step") -> tuple[Iterator[T], list[T]]:
            items = begin()
            return items, step.pull(items, many)

        items, piece = self._step(first)

        def rest(piece: list[T]) -> Iterator[T]:
            while True:
                yield from piece
                if len(piece) < many:
                    return
                piece = self._step(lambda step: step.pull(items, many))

        return rest(piece)

    def stat(self, path: str) -> int | None:
        """See the contract."""
        return self._step(lambda _: self.inner.stat(path))

    def verify(self, path: str) -> Proof:
        """See the contract."""
        return self._step(lambda _: self.inner.verify(path))

    def fetch_many(self, paths: Sequence[str], folder: Path) -> Sequence[Path | HometapeError]:
        """See the contract."""
        return self._step(lambda _: self.inner.fetch_many(paths, folder))

    def set_aside(self, path: str, why: str) -> str:
        """See the contract."""
        return self._step(lambda _: self.inner.set_aside(path, why))

    def note_sums(self, sums: Sequence[tuple[str, str]]) -> None:
        """See the contract."""
        self._step(lambda _: self.inner.note_sums(sums))

    def sums(self, folder: str) -> dict[str, str]:
        """See the contract."""
        return self._step(lambda _: self.inner.sums(folder))

    def mend_sums(self, folder: str, right: Mapping[str, str]) -> None:
        """See the contract."""
        self._step(lambda _: self.inner.mend_sums(folder, right))

    def free(self) -> int | None:
        """See the contract."""
        return self._step(lambda _: self.inner.free())

    def state(self) -> State:
        """See the contract: absent while it does not answer."""
        try:
            return self._step(lambda _: self.inner.state())
        except Silent as silent:
            return State(Condition.ABSENT, str(silent), silent.hint)

    def instance(self) -> str:
        """See the contract."""
        return self._step(lambda _: self.inner.instance())

    def settle(self) -> None:
        """See the contract."""
        self._step(lambda _: self.inner.settle())

    def recover(self) -> None:
        """See the contract."""
        self._step(lambda _: self.inner.recover())

    # ------------------------------------------------------------------------------------------ the step

    def _step(self, call: Callable[["_Step"], T]) -> T:
        with self._lock:
            if self._stuck:
                raise self._silent(self._stuck[0])
        step = _Step(self.id, self._clock)
        answer = self._hands.start(lambda: step.run(call))
        signs = 0
        while not futures.wait([answer], min(_RELAY, self._timeout / 4)).done:
            if step.signs != signs:
                signs = step.signs
                pulse.moved()
            if step.still() >= self._timeout:
                self._leave(step, answer)
        return answer.result()

    def _leave(self, step: "_Step", answer: "futures.Future[T]") -> None:
        """Nobody waits for it any more; it counts as stuck until it comes back."""

        def back(_: "futures.Future[T]") -> None:
            with self._lock:
                self._stuck.remove(step)
            log.info("a step that hung has come back", target=self.id)

        with self._lock:
            step.left = True
            self._stuck.append(step)
        error = self._silent(step)
        answer.add_done_callback(back)
        log.warning("a step hangs", target=self.id, error=str(error))
        raise error

    def _silent(self, step: "_Step") -> Silent:
        return Silent(
            f"target {self.id} has not answered for {step.still():.0f} s",
            hint="look whether the disk, share or network is stuck; the target catches up by itself once it answers",
        )


class _Step:
    """One call in its thread: when it last moved, and whether anybody still waits for it."""

    def __init__(self, target: str, clock: Clock) -> None:
        self.left = False
        self.signs = 0
        self._target = target
        self._clock = clock
        self._lock = threading.Lock()
        self._sources = 0
        self._moved: float | None = None  # None: its thread has not begun yet

    def run(self, call: Callable[["_Step"], T]) -> T:
        self.moved()
        with pulse.heard_by(self.moved):
            return call(self)

    def moved(self) -> None:
        self._moved = self._clock.monotonic()
        self.signs += 1

    def still(self) -> float:
        """Seconds without a sign of life, as far as they are the target's."""
        with self._lock:
            if self._moved is None or self._sources:
                return 0.0
            return self._clock.monotonic() - self._moved

    def pull(self, items: Iterator[T], many: int) -> list[T]:
        """The next of an iterator, at most so many."""
        found: list[T] = []
        for item in items:
            self.moved()
            found.append(item)
            if len(found) == many:
                break
        return found

    def watched(self, parcel: Parcel) -> Parcel:
        """A parcel that tells when its bytes are taken."""
        return replace(parcel, read=lambda: self._blocks(parcel))

    def _blocks(self, parcel: Parcel) -> Iterator[bytes]:
        blocks: Iterator[bytes] | None = None
        while True:
            with self._lock:
                self._sources += 1
            try:
                if blocks is None:
                    blocks = iter(parcel.read())
                block = next(blocks, None)
            finally:
                with self._lock:
                    self._sources -= 1
                    self._moved = self._clock.monotonic()
                self.signs += 1
            if block is None:
                return
            if self.left:
                raise Silent(f"nobody waits any more for what is put to target {self._target}")
            yield block
