"""The threads that encode and seal: jobs of lanes, one at a time per lane, in order of commit per stream."""

import asyncio
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from agent.lane import Lane
from agent.sealer import Misfit, OpenSegment, Sealer
from tape.errors import StoreError, SyncFailed
from tape.layout import LINES, Layout
from tape.log import get_logger

_MOST_CHANGES = 8  # layouts tried for the first piece of a segment before it is taken as plain lines

T = TypeVar("T")
log = get_logger(__name__)

FATAL = (SyncFailed, StoreError)


class Slots:
    """How many lanes may have writers open: a few that stream, some more whose segment is wanted now.

    A lane that would only stream never waits. One whose segment is wanted gets a slot in the order of asking, and has
    it for that segment only: then it streams on if one of those slots is free, else it asks again behind the others.
    """

    def __init__(self, streaming: int, most: int, kick: Callable[[Lane], None]) -> None:
        self._most_streaming = streaming
        self._most = most
        self._kick = kick
        self._streaming: set[Lane] = set()
        self._sealing: set[Lane] = set()
        self._waiting: dict[Lane, None] = {}

    def hold(self, lane: Lane) -> bool:
        """Whether the lane may open a writer now; if it waits for one it is kicked when its turn comes."""
        if lane in self._streaming:
            return True
        sealing = lane in self._sealing
        room = sealing or len(self._streaming) + len(self._sealing) < self._most
        if room and len(self._streaming) < self._most_streaming:
            self._sealing.discard(lane)
            self._streaming.add(lane)
            return True
        if lane.wish is None or (sealing and lane.sealing):
            return False
        if room:
            self._sealing.add(lane)
        else:
            self._waiting[lane] = None
        return room

    def release(self, lane: Lane) -> None:
        """The lane may have nothing open any more; then its slot is that of the next one that waits."""
        if (lane.segment or lane.flying or lane.sealing) or not (lane in self._streaming or lane in self._sealing):
            return
        self._streaming.discard(lane)
        self._sealing.discard(lane)
        if self._waiting:
            following = next(iter(self._waiting))
            del self._waiting[following]
            self._sealing.add(following)
            self._kick(following)

    def forget(self, lane: Lane) -> None:
        """The lane, which has nothing open, is no more."""
        self._waiting.pop(lane, None)
        self.release(lane)


class Workshop:
    """Runs the sealer for lanes. Errors that end everything are raised; all others are left in `lane.broken`."""

    def __init__(self, sealer: Sealer, workers: int) -> None:
        self._sealer = sealer
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="seal")
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def close(self) -> None:
        """Wait for running jobs and end the threads."""
        self._pool.shutdown()

    async def append(self, lane: Lane) -> None:
        """Give the flying piece to the lane's open segment, or to a new one."""
        try:
            segment, taken, wanted = await self._run(self._append, lane)
        except FATAL:
            raise
        except Exception as error:  # noqa: BLE001 - whatever typing trips over, the bytes must survive
            lane.broken = error
            return
        lane.segment = segment
        if taken < len(lane.flying.data if lane.flying else b""):
            lane.roll, lane.wanted = True, wanted
        lane.hand_back(taken)

    async def seal(self, lane: Lane, segment: OpenSegment, *, final: bool) -> bool:
        """Close and commit a segment, after those of its stream that were sealed before; whether it was committed."""
        lock = self._locks.setdefault(lane.origin.stream, asyncio.Lock())
        async with lock:
            if lane.broken is not None:
                return False
            try:
                await self._run(lambda: self._sealer.seal(segment, lane.place, final=final))
            except FATAL:
                raise
            except Exception as error:  # noqa: BLE001 - the same: the text is still there and is sealed again
                lane.broken = error
                return False
        lane.sealed(segment, final=final)
        return True

    async def abort(self, segments: list[OpenSegment]) -> None:
        """Delete the temporary files of segments that will not be sealed."""
        if segments:
            await self._run(_abort, segments)

    async def _run(self, job: Callable[..., T], *values: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, job, *values)

    def _append(self, lane: Lane) -> tuple[OpenSegment, int, Layout | None]:
        """In a thread. The layout is the one the rest of the piece wants, if that is why it was not taken."""
        piece = lane.flying
        assert piece is not None
        segment = lane.segment
        if segment is None:
            segment = self._sealer.open(lane.origin, lane.cursor, piece.data, lane.shaped, plain=lane.plain)
        try:
            for attempt in range(_MOST_CHANGES + 1):
                try:
                    return segment, self._sealer.append(segment, piece), None
                except Misfit as other:
                    if segment.rows:
                        return segment, 0, other.layout
                    layout = other.layout if attempt < _MOST_CHANGES - 1 else LINES
                    segment = self._sealer.reopen(segment, layout)
            raise AssertionError("plain lines are never a misfit")
        except BaseException:
            segment.writer.abort()
            raise


def _abort(segments: list[OpenSegment]) -> None:
    for segment in segments:
        segment.writer.abort()


def schema_change(before: Layout | None, segment: OpenSegment) -> dict[str, str | int | None] | None:
    """The facts of a schema change, if a segment's columns are not those of the one before it in its stream."""
    now = segment.writer.layout
    if before is None or replace(before, strays=False) == replace(now, strays=False):
        return None
    return {
        "was": before.fingerprint,
        "now": now.fingerprint,
        "offset": segment.start,
        "columns": len(now.columns),
    }
