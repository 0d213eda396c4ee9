"""Collects chunks into segments: the `Intake` of all sources, and what decides when each segment is sealed.

One lane per origin with text in memory; threads encode and seal, one segment of a lane while the next one
is filled. Memory is bounded by `seal.buffer` (text held) and the number of open writers: then `take` waits,
the only back-pressure. A full spool or disk pauses sealing, and `take` with it; work resumes by itself.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from agent.budget import PIECE, Relief, relieve
from agent.clock_state import ClockSteps
from agent.due import Dues
from agent.event_log import EventLog
from agent.lane import Lane
from agent.model import Chunk, Event, EventKind, Origin
from agent.outbox import Outbox
from agent.sealer import OpenSegment, Place, Sealer, Shaped, cursor_of
from agent.settings import SealSettings, SpoolSettings
from agent.space import Collecting, Space
from agent.workshop import Slots, Workshop, schema_change
from tape import __version__
from tape.clock import Clock
from tape.durable import DISK, Disk
from tape.errors import DiskError, HometapeError, SourceError, StoreError
from tape.log import get_logger
from tape.names import EVENTS_STREAM

STUCK_RETRY = 60.0  # seconds until an origin that can't be sealed is tried again
IDLE_LANES = 512  # lanes without text that stay in memory
EVENTS_AT_ONCE = 1000
LOOK = 1.0  # seconds between two looks at space and clock

log = get_logger(__name__)


class Collector:
    """The Intake of one agent; made, used and stopped on one event loop. `run` must run while it is used."""

    def __init__(
        self, outbox: Outbox, seal: SealSettings, spool: SpoolSettings, *, clock: Clock, disk: Disk = DISK
    ) -> None:
        self._outbox = outbox
        self._seal = seal
        self._clock = clock
        self._workshop = Workshop(Sealer(outbox, level=seal.level, clock=clock, disk=disk), seal.workers)
        self._slots = Slots(seal.workers + 1, 2 * seal.workers + 1, self._kick)
        self._lanes: dict[str, Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._dues = Dues()
        self._load = 0
        self._room = asyncio.Event()
        self._space = Space(outbox, spool)
        self._failure: HometapeError | None = None
        self._events = EventLog(outbox, clock, self._fail)
        stored = outbox.file(outbox.events_origin.file_id)
        self._events_taken = stored.known.offset if stored else 0
        self._steps = ClockSteps(clock)

    # ---- the Intake

    async def take(self, chunk: Chunk, *, path: str, device: int, inode: int) -> None:
        """Accept bytes; waits while too much is held. What was taken before is skipped.

        Raises SourceError for a hole, and what made the collector fail.
        """
        await self._room_for(self._lanes.get(chunk.origin.file_id))
        place = Place(path, device, inode)
        lane = await self._lane(chunk.origin, place)
        lane.place = place
        skip = lane.buffer.end - chunk.start
        if skip < 0:
            raise SourceError(f"{path}: bytes {lane.buffer.end} to {chunk.start} of the content are missing")
        if skip < len(chunk.data):
            lane.take(chunk.data[skip:] if skip else chunk.data, chunk.recv_ns, self._clock.monotonic())
            self._touched(lane)

    async def finish(self, origin: Origin) -> None:
        """Nothing follows for this origin: its last segment is sealed soon, an unfinished line included."""
        self._check()
        if origin.file_id not in self._lanes:
            await asyncio.to_thread(self._outbox.finish, origin.file_id)
            return
        lane = self._lanes[origin.file_id]
        lane.finishing = True
        lane.want(self._clock.monotonic(), cut=True)
        self._kick(lane)

    async def event(self, event: Event) -> None:
        """Returns once the event is durable in the outbox."""
        self._check()
        await self._events.record(event)

    # ---- running

    async def run(self) -> None:
        """Watch ages, space and the clock until cancelled.

        Raises SyncFailed or StoreError when nothing can be trusted any more: restart, and recover.
        """
        self._note(EventKind.STARTED, "", {"version": __version__, "epoch": self._outbox.epoch})
        tick = max(0.02, min(0.25, self._seal.max_age / 20))
        next_look = 0.0
        while True:
            self._check()
            now = self._clock.monotonic()
            if now >= next_look:
                next_look = now + LOOK
                await self._look_at_space(now)
                if (step := self._steps.seen()) is not None:
                    self._note(EventKind.CLOCK, "", {"step_ms": step})
            await self._feed_events()
            self._attend(now)
            if self._load >= self._seal.buffer:
                self._relieve()
            await self._clock.sleep(tick)

    async def flush(self, *, within: float = 60.0) -> bool:
        """Seal all whole lines taken so far; whether that was done within so many seconds."""
        deadline = self._clock.monotonic() + within
        await self._events.settle()
        await self._feed_events()
        for lane in list(self._lanes.values()):
            if lane.want(self._clock.monotonic()):
                self._kick(lane)
        while self._tasks and self._clock.monotonic() < deadline and self._failure is None:
            await asyncio.wait(self._tasks, timeout=max(0.0, deadline - self._clock.monotonic()))
        return not self._tasks and not any(lane.wish for lane in self._lanes.values())

    async def stop(self, *, within: float = 20.0, reason: str = "asked to stop") -> None:
        """Seal what can be sealed within so many seconds, record the stop, give up the rest (it is read again)."""
        try:
            if self._failure is None:
                await self.flush(within=within)
                self._note(EventKind.STOPPED, "", {"reason": reason})
                await self.flush(within=within)
        finally:
            self._fail(StoreError("the collector is stopped"))
            await self._events.close()
            if self._tasks:
                await asyncio.wait(self._tasks)
            for lane in self._lanes.values():
                await self._workshop.abort(lane.rewind(0.0))
            self._workshop.close()

    async def drop(self, source: str) -> None:
        """Forget all text of a source that is not sealed: to be called before the source is started again."""
        for key, lane in list(self._lanes.items()):
            if lane.origin.source != source:
                continue
            while (lane.working or lane.seal_running) and self._tasks:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            await self._workshop.abort(lane.rewind(0.0))
            self._slots.forget(lane)
            self._forget(key)

    def snapshot(self) -> Collecting:
        """What is going on, for status."""
        now = self._clock.monotonic()
        lanes = self._lanes.values()
        return Collecting(
            pause=self._space.pause,
            held_bytes=self._load,
            origins=sum(lane.origin.stream != EVENTS_STREAM for lane in lanes),
            open_segments=sum(lane.segment is not None for lane in lanes),
            waiting_s=max((now - lane.first_at for lane in lanes if lane.first_at is not None), default=0.0),
            stuck=tuple(f"{lane.origin.name}: {lane.stuck}" for lane in lanes if lane.stuck),
        )

    # ---- lanes

    async def _room_for(self, lane: Lane | None) -> None:
        """Wait until there is memory for more text, in all and for a lane that is being worked on anyway."""
        self._check()
        while self._load >= self._seal.buffer or (lane is not None and lane.crowded):
            self._room.clear()
            if self._load >= self._seal.buffer:
                self._relieve()
            await self._room.wait()
            self._check()

    async def _lane(self, origin: Origin, place: Place | None) -> Lane:
        lane = self._lanes.get(origin.file_id)
        if lane is None:
            stored, texts = await asyncio.to_thread(self._stored, origin)
            if place is None:
                place = Place(stored.known.path, 0, 0) if stored else Place(origin.name, 0, 0)
            fresh = Lane(origin, place, cursor_of(stored), Shaped.load(*texts))
            lane = self._lanes.setdefault(origin.file_id, fresh)
            if len(self._lanes) > 2 * IDLE_LANES:
                for key in [k for k, lane in self._lanes.items() if lane.idle and lane is not fresh][IDLE_LANES:]:
                    self._forget(key)
        return lane

    def _stored(self, origin: Origin) -> Any:
        stored = self._outbox.file(origin.file_id)
        texts = (stored.layout, stored.plan) if stored else self._outbox.last_form(origin.stream)
        return stored, texts

    def _forget(self, key: str) -> None:
        lane = self._lanes.pop(key)
        self._load -= lane.counted
        lane.counted = 0
        self._make_room()

    def _account(self, lane: Lane) -> None:
        """After anything about a lane changed: count its memory, watch its time."""
        if self._lanes.get(lane.origin.file_id) is not lane:
            return
        load = lane.load
        self._load += load - lane.counted
        lane.counted = load
        self._make_room()
        self._dues.watch(lane, lane.due(self._seal))

    def _touched(self, lane: Lane) -> None:
        self._account(lane)
        if lane.buffer.whole - lane.buffer.start >= PIECE or lane.buffer.partial >= PIECE:
            self._kick(lane)

    def _make_room(self) -> None:
        if self._load < self._seal.buffer:
            self._room.set()

    def _kick(self, lane: Lane) -> None:
        if not lane.working and self._failure is None:
            lane.working = True
            self._spawn(self._work(lane))

    def _spawn(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, HometapeError):
            self._fail(error)
        elif error:
            log.error("collecting failed", exc_info=error)
            self._fail(StoreError(f"collecting failed: {error!r}", hint="restart the agent; nothing sealed is lost"))

    async def _work(self, lane: Lane) -> None:
        try:
            while self._failure is None and await self._step(lane):
                self._account(lane)
        finally:
            lane.working = False
            self._slots.release(lane)
            self._account(lane)

    async def _step(self, lane: Lane) -> bool:
        """One thing that is due for a lane; False if there is none now (whatever changes that kicks the lane)."""
        if lane.broken is not None:
            if lane.seal_running:
                return False
            await self._recover(lane, lane.broken)
            return True
        now = self._clock.monotonic()
        if now < lane.retry_at or self._space.refusing(now):
            return False
        paused = self._space.paused()
        if lane.must_seal(self._seal) or (paused and lane.wish is not None and lane.segment is not None):
            if not lane.seal_running:
                self._start_sealing(lane, now)
            return not lane.seal_running or lane.segment is None
        if paused:
            return False
        held = self._slots.hold(lane)
        if lane.wish is not None and not held:
            return False
        if lane.next_piece(self._seal, may_stream=held) is not None:
            await self._workshop.append(lane)
            return True
        if lane.roll:
            return True
        return await self._rest(lane)

    async def _rest(self, lane: Lane) -> bool:
        """Nothing is left to append: a wish without rows is fulfilled, a finished origin is closed."""
        if lane.seal_running or lane.segment is not None:
            return False
        lane.wish = None
        if lane.finishing and not len(lane.buffer):
            if not lane.ended:
                await asyncio.to_thread(self._outbox.finish, lane.origin.file_id)
            if self._lanes.get(lane.origin.file_id) is lane:
                self._forget(lane.origin.file_id)
        return False

    def _start_sealing(self, lane: Lane, now: float) -> None:
        before = lane.shaped.layout
        segment, final = lane.start_sealing(now)
        change = schema_change(before, segment)
        if change is not None:
            self._note(EventKind.SCHEMA, lane.origin.stream, change, lane.origin)
        lane.seal_running = True
        self._spawn(self._seal_segment(lane, segment, final=final))

    async def _seal_segment(self, lane: Lane, segment: OpenSegment, *, final: bool) -> None:
        try:
            if self._failure is None:
                await self._workshop.seal(lane, segment, final=final)
        finally:
            lane.seal_running = False
            self._slots.release(lane)
            self._account(lane)
        self._kick(lane)

    async def _recover(self, lane: Lane, error: Exception) -> None:
        """A segment could not be made: everything that is not committed comes again, later or in plainer form."""
        now = self._clock.monotonic()
        facts = {"file": lane.origin.name, "stream": lane.origin.stream, "error": str(error)}
        await self._workshop.abort(lane.rewind(now))
        if isinstance(error, DiskError):
            self._space.refused(error, now)
            log.warning("a segment waits for the disk", **facts)
            return
        lane.failures += 1
        if lane.failures == 1:
            log.error("typing failed; the same text is kept as plain lines", **facts, exc_info=error)
        else:
            lane.stuck, lane.retry_at = str(error), now + STUCK_RETRY
            log.error("an origin can't be sealed; it is tried again", **facts, exc_info=error)

    # ---- watching

    def _attend(self, now: float) -> None:
        for lane in self._dues.ready(now):
            if self._lanes.get(lane.origin.file_id) is not lane:
                continue
            if lane.attend(now, self._seal) or lane.wish is not None:
                self._kick(lane)
            else:
                self._account(lane)

    def _relieve(self) -> None:
        """Seal the largest early, as far as what is being worked on does not free enough anyway."""
        if self._space.paused():
            return
        excess = self._load - self._seal.buffer * 3 // 4
        now = self._clock.monotonic()
        waiting = []
        for lane in self._lanes.values():
            if lane.wish is not None:
                if lane.retry_at <= now:  # what is stuck frees nothing soon
                    excess -= lane.load
            else:
                if lane.working or lane.seal_running:
                    excess -= lane.draining
                waiting.append(lane.as_load())
        for key, relief in relieve(waiting, excess):
            lane = self._lanes[key]
            if lane.want(now, cut=relief is Relief.CUT, only_open=True):
                self._kick(lane)

    async def _look_at_space(self, now: float) -> None:
        resumed = self._space.look(now, await asyncio.to_thread(self._space.free))
        for lane in list(self._lanes.values()):
            retried = 0.0 < lane.retry_at <= now
            if retried:
                lane.retry_at = 0.0
            if retried or (resumed and not lane.idle):
                self._kick(lane)

    # ---- events

    def _note(
        self, kind: EventKind, stream: str, detail: dict[str, str | int | None], origin: Origin | None = None
    ) -> None:
        source, file = (origin.source, origin.name) if origin else ("", "")
        self._events.note(Event(kind, source, stream, file, self._clock.now_ns(), detail))

    async def _feed_events(self) -> None:
        """Hand recorded events to their own lane; they come from the outbox, so none is lost by a crash."""
        if self._events_taken >= self._outbox.events_end() or self._load >= self._seal.buffer or self._space.pause:
            return
        lines = await asyncio.to_thread(self._outbox.events_from, self._events_taken, EVENTS_AT_ONCE)
        lane = await self._lane(self._outbox.events_origin, None)
        for start, line in lines:
            if start >= lane.buffer.end:
                lane.take(line, int(line.partition(b" ")[0]), self._clock.monotonic())
        self._events_taken = max(self._events_taken, lane.buffer.end)
        self._touched(lane)

    # ---- failing

    def _fail(self, error: HometapeError) -> None:
        self._failure = self._failure or error
        self._room.set()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
