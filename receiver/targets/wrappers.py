"""Wrappers around a target: trying again, and how many calls at a time. See `opening` for how they are put together."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from receiver.placement import backoff
from receiver.targets.contract import Entry, Parcel, Proof, Target
from receiver.targets.wrapping import Wrapper
from tape.clock import SYSTEM, Clock
from tape.errors import (
    AlreadyThere,
    DiskFull,
    HometapeError,
    StoreLocked,
    TargetAbsent,
    TargetReadOnly,
)
from tape.log import get_logger

T = TypeVar("T")
log = get_logger(__name__)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_LASTING = (DiskFull, TargetReadOnly, StoreLocked)  # may end by themselves, but not within seconds


class Retrying(Wrapper):
    """Makes a step again, at most `tries` times, after what may pass within seconds: a rate limit, a broken connection.

    absences: whether being absent may pass so quickly too, as for a remote; a disk that is gone stays gone for a while.
    Pauses grow, and are never the same for two. What is asked for the state of things (state, instance,
    free, stat) is not tried again: who asks wants to know how it is now. A put is not repeated blindly: a name that is
    there after a failed try of our own counts as stored only if its bytes are the promised ones.
    """

    def __init__(self, inner: Target, tries: int, *, absences: bool = False, clock: Clock = SYSTEM) -> None:
        super().__init__(inner)
        self._tries = tries
        self._absences = absences
        self._clock = clock

    def put(self, path: str, data: Iterable[bytes], size: int, digest: str) -> None:
        """See the contract. Bytes that can be read only once are sent only once."""
        if isinstance(data, Iterator):
            self.inner.put(path, data, size, digest)
        else:
            super().put(path, data, size, digest)

    def put_many(self, parcels: Sequence[Parcel]) -> list[HometapeError | None]:
        """See the contract."""
        answers = self._put(parcels)
        for tried in range(1, self._tries + 1):
            left = [number for number, answer in enumerate(answers) if answer is not None and self._passing(answer)]
            if not left:
                break
            self._pause(tried, answers[left[0]])
            failed = [parcels[number] for number in left]
            for number, answer in zip(left, self._ours(failed, self._put(failed)), strict=True):
                answers[number] = answer
        return answers

    def _put(self, parcels: Sequence[Parcel]) -> list[HometapeError | None]:
        try:
            return self.inner.put_many(parcels)
        except HometapeError as error:
            if not self._passing(error):
                raise
            return [error] * len(parcels)

    def _ours(self, parcels: Sequence[Parcel], answers: list[HometapeError | None]) -> list[HometapeError | None]:
        """What is there after all is looked at: the earlier try may have stored it although it failed."""
        there = [number for number, answer in enumerate(answers) if isinstance(answer, AlreadyThere)]
        if there:
            proofs = self.verify_many([parcels[number] for number in there])
            for number, proof in zip(there, proofs, strict=True):
                if isinstance(proof, Proof) and proof.digest == parcels[number].digest:
                    answers[number] = None
        return answers

    def read(self, path: str) -> Iterator[bytes]:
        """See the contract. Only the opening is tried again."""
        return self._again(lambda: self.inner.read(path))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See the contract. Only the opening is tried again."""
        return self._again(lambda: self.inner.list(prefix))

    def verify(self, path: str) -> Proof:
        """See the contract."""
        return self._again(lambda: self.inner.verify(path))

    def verify_many(self, parcels: Sequence[Parcel]) -> Sequence[Proof | HometapeError]:
        """See the contract."""
        return self._again(lambda: self.inner.verify_many(parcels))

    def fetch_many(self, paths: Sequence[str], folder: Path) -> Sequence[Path | HometapeError]:
        """See the contract."""
        return self._again(lambda: self.inner.fetch_many(paths, folder))

    def set_aside(self, path: str, why: str) -> str:
        """See the contract."""
        return self._again(lambda: self.inner.set_aside(path, why))

    def note_sums(self, sums: Sequence[tuple[str, str]]) -> None:
        """See the contract."""
        self._again(lambda: self.inner.note_sums(sums))

    def mend_sums(self, folder: str, right: Mapping[str, str]) -> None:
        """See the contract."""
        self._again(lambda: self.inner.mend_sums(folder, right))

    def settle(self) -> None:
        """See the contract."""
        self._again(self.inner.settle)

    def recover(self) -> None:
        """See the contract."""
        self._again(self.inner.recover)

    def _again(self, call: Callable[[], T]) -> T:
        tried = 0
        while True:
            try:
                return call()
            except HometapeError as error:
                tried += 1
                if tried > self._tries or not self._passing(error):
                    raise
                self._pause(tried, error)

    def _passing(self, error: HometapeError) -> bool:
        if isinstance(error, TargetAbsent):
            return self._absences and error.retryable
        return error.retryable and not isinstance(error, _LASTING)

    def _pause(self, tried: int, error: HometapeError | None) -> None:
        pause = backoff(tried, first=_FIRST_PAUSE, most=_LONGEST_PAUSE)
        pause = self._clock.jitter(0.5 * pause, 1.5 * pause)
        log.info("a step at a target is tried again", target=self.id, error=str(error), seconds=round(pause, 1))
        self._clock.wait(pause)


class Narrow(Wrapper):
    """Lets at most `most` calls that move bytes through at a time; the others wait. Reading counts while it reads,
    not while what it read is used: nobody who holds a place here waits for a place elsewhere.
    """

    def __init__(self, inner: Target, most: int) -> None:
        super().__init__(inner)
        self._places = threading.BoundedSemaphore(most)

    def put_many(self, parcels: Sequence[Parcel]) -> list[HometapeError | None]:
        """See the contract."""
        with self._places:
            return self.inner.put_many(parcels)

    def read(self, path: str) -> Iterator[bytes]:
        """See the contract."""
        with self._places:
            blocks = self.inner.read(path)
        return self._each(blocks)

    def _each(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        while True:
            with self._places:
                block = next(blocks, None)
            if block is None:
                return
            yield block

    def verify(self, path: str) -> Proof:
        """See the contract."""
        with self._places:
            return self.inner.verify(path)

    def verify_many(self, parcels: Sequence[Parcel]) -> Sequence[Proof | HometapeError]:
        """See the contract."""
        with self._places:
            return self.inner.verify_many(parcels)

    def fetch_many(self, paths: Sequence[str], folder: Path) -> Sequence[Path | HometapeError]:
        """See the contract."""
        with self._places:
            return self.inner.fetch_many(paths, folder)

    def note_sums(self, sums: Sequence[tuple[str, str]]) -> None:
        """See the contract."""
        with self._places:
            self.inner.note_sums(sums)

    def mend_sums(self, folder: str, right: Mapping[str, str]) -> None:
        """See the contract."""
        with self._places:
            self.inner.mend_sums(folder, right)

    def settle(self) -> None:
        """See the contract."""
        with self._places:
            self.inner.settle()
