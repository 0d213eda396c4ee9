"""A limit of bytes a second around a target, by the time of the local day."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from receiver.targets import pulse
from receiver.targets.contract import Parcel, Target
from receiver.targets.wrapping import Wrapper
from receiver.timetable import Timetable
from tape.clock import SYSTEM, Clock
from tape.errors import HometapeError

_SMOOTH = 4  # pieces a second, so that a slow rate is a trickle and no row of bursts
_LONGEST_NAP = 1.0


class Bucket:
    """Shared by all that keep one limit: `take` lets so many bytes pass when it is their turn."""

    def __init__(self, table: Timetable, *, clock: Clock = SYSTEM) -> None:
        self._table = table
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = 0.0

    def rate(self) -> int | None:
        """Bytes a second at this minute of the local day; None: no limit."""
        local = datetime.fromtimestamp(self._clock.now_ns() / 1e9, UTC).astimezone()
        return self._table.at(local.hour * 60 + local.minute)

    def take(self, count: int) -> None:
        """Wait until so many bytes may pass."""
        rate = self.rate()
        if rate is None:
            return
        with self._lock:
            now = self._clock.monotonic()
            begin = max(self._free_at, now)
            self._free_at = begin + count / rate
        while (left := begin - self._clock.monotonic()) > 0:
            self._clock.wait(min(left, _LONGEST_NAP))
            pulse.moved()  # to wait for its turn is no silence

    def flow(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """The same bytes, at the rate that is allowed."""
        for block in blocks:
            rate = self.rate()
            if rate is None:
                yield block
                continue
            size = max(1, rate // _SMOOTH)
            view = memoryview(block)
            for start in range(0, max(len(block), 1), size):
                piece = block if size >= len(block) else bytes(view[start : start + size])
                self.take(len(piece))
                yield piece


class Paced(Wrapper):
    """Keeps what is put there, and what is read from there, to a rate. Not for targets that pace themselves.

    What a target reads back to prove a copy is not limited: it does not leave the machine that does it.
    """

    def __init__(self, inner: Target, table: Timetable, *, clock: Clock = SYSTEM) -> None:
        super().__init__(inner)
        self._bucket = Bucket(table, clock=clock)

    def put_many(self, parcels: Sequence[Parcel]) -> list[HometapeError | None]:
        """See the contract. The way around `read` is closed: a local file would not be paced."""
        return self.inner.put_many([replace(parcel, read=self._slowly(parcel), local=None) for parcel in parcels])

    def _slowly(self, parcel: Parcel) -> "_Slow":
        return _Slow(parcel, self._bucket)

    def read(self, path: str) -> Iterator[bytes]:
        """See the contract."""
        return self._bucket.flow(self.inner.read(path))


class _Slow:
    """A parcel's `read`, paced."""

    def __init__(self, parcel: Parcel, bucket: Bucket) -> None:
        self._parcel = parcel
        self._bucket = bucket

    def __call__(self) -> Iterable[bytes]:
        return self._bucket.flow(self._parcel.read())
