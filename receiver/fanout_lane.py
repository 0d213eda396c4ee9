"""One lane of the fan-out: one target's worker, with its own cursors, threads, pauses and throughput."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from receiver import catalog_queries as queries
from receiver.copying import CatalogStopped, Work, cataloguing
from receiver.fanout_facts import LaneView, Meter, Setup
from receiver.fanout_level import Level
from receiver.fanout_queue import Queue
from receiver.model import Held
from receiver.placement import backoff
from receiver.targets import pulse
from receiver.targets.contract import Condition, State, Target
from receiver.targets.hands import Hands
from tape.errors import HometapeError
from tape.log import get_logger

T = TypeVar("T")
log = get_logger(__name__)
_SLOWEST_LOOK = 60.0  # seconds between looks at an absent remote
_NEAR_SILENCE = 5.0


@dataclass(slots=True)
class _Span:
    """A batch under way: ids from `first` to `last`; `had`: those whose home bytes it has taken."""

    first: int
    last: int
    count: int
    had: set[int] = field(default_factory=set)


class Lane:
    """One target's worker."""

    def __init__(self, target: Target, setup: Setup) -> None:
        self.target = target
        self.state = State(Condition.READY)
        self._woken = asyncio.Event()  # something was committed
        self._urged = asyncio.Event()  # asked to look at everything
        self._setup = setup
        self._clock = setup.clock
        self._hands = Hands(f"target-{target.id}", target.place.concurrency + 1)
        self._queue = Queue(target, self._behind, self._newest, self._taken)
        self._level = Level(target, setup)
        self._meter = Meter()
        self._calls = 0
        self._sign_of_life = 0.0
        self._under_way: dict[int, _Span] = {}  # by the first id of the batch; lanes look at each other's
        self._recovered = False
        self._instance: str | None = None
        self._seen_at = 0.0
        self._looks = 0  # in a row that found it unusable
        self._faults = 0  # times in a row that the target itself had to wait
        self._fault_until: float | None = None
        self._misses = 0  # passes in a row in which some segment failed
        self._missed = False
        self._anew = False  # begin a pass over everything at the next turn
        self._at_once = False  # no gathering: bring everything now
        self._gather_until = 0.0
        self._until = 0.0  # the end of the pause under way
        self._rescan_at = self._clock.monotonic() + setup.pace.rescan
        self._copied = self._failed = 0
        self._error = ""

    # ---------------------------------------------------------------------------------------- the loop

    async def run(self) -> None:
        """Until cancelled; raises CatalogStopped."""
        while True:
            self._woken.clear()
            if self._anew or self._urged.is_set() or self._clock.monotonic() >= self._rescan_at:
                self._urged.clear()
                self._anew = False
                self._queue.restart()
            await self._turn()
            await self._pause()

    def wake(self, *, again: bool) -> None:
        """Look at once: at what is new, or at everything `again`."""
        self._woken.set()
        if again:
            self._urged.set()

    async def once(self) -> None:
        """One pass from the beginning."""
        self._queue.restart()
        self._faults, self._at_once = 0, True
        await self._turn()

    def close(self) -> None:
        """Let go of the threads."""
        self._hands.close()

    def view(self) -> LaneView:
        """What it is doing."""
        now = self._clock.monotonic()
        segments, size = self._meter.rates(now)
        waits = self._fault_until is not None or not self._usable() or self._misses > 0
        return LaneView(
            target=self.target.id,
            state=self.state,
            under_way=sum(span.count for span in self._under_way.values()),
            segments_per_second=segments,
            bytes_per_second=size,
            copied=self._copied,
            failed=self._failed,
            error=self._error,
            retry_in=max(0.0, self._until - now) if waits else 0.0,
            silent=self.silent(),
            level=self._level.level,
            note=self._level.note,
        )

    def silent(self) -> float:
        """Seconds without a sign of life from calls that are under way."""
        return self._clock.monotonic() - self._sign_of_life if self._calls else 0.0

    def wants(self, held: Held, near: int) -> bool:
        """Whether it will soon copy this segment: it is under way, or less than `near` bytes before it."""
        if not self._usable() or self._halted() or self.silent() > _NEAR_SILENCE:
            return False
        spans = list(self._under_way.values())
        if any(span.first <= held.id <= span.last and held.id not in span.had for span in spans):
            return True
        return any(after < held.id and (held.id - after) * held.size <= near for after in self._queue.positions)

    def has(self, held: Held) -> None:
        """It is getting the home bytes of this segment."""
        for span in list(self._under_way.values()):
            if span.first <= held.id <= span.last:
                span.had.add(held.id)

    async def _turn(self) -> None:
        self._fault_until = None
        try:
            if not self._queue.fresh and await self._gathering():
                return
            await self._look()
            if self._usable():
                await self._sweep()
        except (CatalogStopped, asyncio.CancelledError):
            raise
        except HometapeError as error:
            self._fault(error)
        except Exception as error:  # whatever a target does, the other lanes go on
            log.exception("a target failed in an unforeseen way", target=self.target.id)
            self._fault(error)

    async def _look(self) -> None:
        before = self.state.condition
        self.state = await self._call(self.target.state)
        if self.state.condition is not before:
            log.info("target is now", target=self.target.id, state=self.state.condition, reason=self.state.reason)
        self._level.looked(self.state)
        self._looks = 0 if self._usable() else self._looks + 1
        if not self.state.readable:
            self._recovered = False
            self._instance = None
            return
        await self._recognise()
        if not self._recovered and self.state.writable:
            await self._call(lambda: self._setup.copier.recover(self.target))
            self._recovered = True

    async def _recognise(self) -> None:
        """Say which very place this is, before anything is copied there: a replaced one has lost its copies."""
        found = await self._call(self.target.instance)
        now = self._clock.monotonic()
        if found == self._instance and now - self._seen_at < self._setup.pace.seen:
            return

        def tell() -> None:
            with cataloguing():
                self._setup.seen(self.target.id, found)

        await self._call(tell)
        if found != self._instance:
            self._queue.restart()
        self._instance, self._seen_at = found, now

    def _usable(self) -> bool:
        """A full or read-only home archive can still be read back."""
        return self.state.writable or (self.target.place.home and self.state.readable)

    async def _sweep(self) -> None:
        """Work through what lies before the lane, until nothing is left or the target has to wait."""
        whole, empty, taken = self._queue.fresh, False, 0
        self._missed = False
        width = self.target.place.concurrency
        running: set[asyncio.Task[Work]] = set()
        self._under_way.clear()
        try:
            while not self._halted():
                if taken % width == 0:
                    await self._give_way()
                await self._room(running, 1 if self._faults else width)  # after a fault, one segment probes
                if self._halted() or await self._gathering():
                    break
                batch = await self._call(lambda: self._queue.next(1 if self._faults else 1 << 30))
                if not batch:
                    empty = True
                    break
                taken += 1
                self._level.copying()
                running.add(asyncio.create_task(self._batch(batch)))
        finally:
            await self._settle(running)
        self._after_sweep(whole=whole)
        if empty and not self._misses and not self._halted():
            await self._arrive()

    async def _arrive(self) -> None:
        """Nothing is left to bring."""
        self._setup.copier.bytes.let_go()
        if await self._call(self._level.arrive):
            self.wake(again=True)

    async def _gathering(self) -> bool:
        """Whether to wait for a fuller batch, and until when."""
        patience = self.target.place.batch_wait
        if self._at_once or patience <= 0:
            return False
        seconds = await self._call(lambda: self._queue.wait(patience, self._clock.now_ns()))
        self._gather_until = self._clock.monotonic() + seconds
        return seconds > 0

    async def _give_way(self) -> None:
        """While a burst of uploads arrives, wait a little: it is what the server waits for."""
        until = self._clock.monotonic() + self._setup.pace.give_way
        while self._setup.busy() and self._clock.monotonic() < until:
            await self._clock.sleep(0.05)

    def _halted(self) -> bool:
        return self._fault_until is not None

    def _after_sweep(self, *, whole: bool) -> None:
        now = self._clock.monotonic()
        if self._missed:
            self._misses += 1
            pause = backoff(self._misses, most=min(self._setup.pace.longest, 2 * self._setup.pace.rescan))
            self._rescan_at = min(self._rescan_at, now + pause) if not whole else now + pause
        elif whole:
            self._misses = 0
            self._error = "" if self._fault_until is None else self._error
            self._rescan_at = now + self._setup.pace.rescan

    def _behind(self, after: int, limit: int) -> list[Held]:
        with cataloguing():
            return self._setup.catalog.behind(self.target.id, after=after, limit=limit)

    def _newest(self) -> int:
        with cataloguing():
            return int(self._setup.catalog.ask(lambda base: queries.one(base, "SELECT max(id) FROM segment", ())) or 0)

    def _taken(self, batch: list[Held]) -> None:
        self._under_way[batch[0].id] = _Span(batch[0].id, batch[-1].id, len(batch))

    async def _batch(self, batch: list[Held]) -> Work:
        try:
            work = await self._call(lambda: self._setup.copier.run(self.target, batch))
        finally:
            self._under_way.pop(batch[0].id, None)
        self._account(work)
        return work

    async def _room(self, running: set[asyncio.Task[Work]], width: int) -> None:
        """Wait until fewer than so many batches run. Raises what a batch raised."""
        while len(running) >= width:
            done, rest = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            running.intersection_update(rest)
            for task in done:
                task.result()

    async def _settle(self, running: set[asyncio.Task[Work]]) -> None:
        """Wait for what is under way: all of it, or, when cancelled, as long as is decent."""
        if not running:
            return
        current = asyncio.current_task()
        patience = self._setup.pace.grace if current is not None and current.cancelling() else None
        done, _ = await asyncio.wait(running, timeout=patience)
        for task in done:
            task.result()

    def _account(self, work: Work) -> None:
        self._copied += work.copied
        self._failed += work.failed
        self._meter.add(self._clock.monotonic(), work.copied, work.bytes)
        if work.streams:
            self._setup.changed(work.streams)
        if work.failed:
            self._missed = True
            self._error = work.error
        if work.fault is not None:
            self._fault(work.fault)
        elif work.copied:
            self._faults = 0

    def _fault(self, error: BaseException) -> None:
        """The target itself has to wait: a pause that grows with each time in a row, then everything again."""
        self._error = str(error) or type(error).__name__
        self._anew = True
        self._level.copying()
        self._rescan_at = self._clock.monotonic()
        if self._fault_until is None:
            self._faults += 1
            pause = backoff(self._faults, most=self._setup.pace.longest)
            pause = self._clock.jitter(0.8 * pause, 1.2 * pause)
            self._fault_until = self._clock.monotonic() + pause
            log.warning("a target has to wait", target=self.target.id, error=self._error, seconds=round(pause, 1))

    # ------------------------------------------------------------------------------------------ waiting

    async def _pause(self) -> None:
        """Wait for the time of the next look. What was committed ends it only where it can be copied."""
        now = self._clock.monotonic()
        event = self._urged
        if self._fault_until is not None:
            self._until = self._fault_until
        elif not self._usable():
            self._until = now + self._absence()
        else:
            event = self._woken
            self._until = min(self._rescan_at, self._gather_until) if self._gather_until > now else self._rescan_at
            if self.target.place.kind == "removable":  # whether it was pulled is seen as soon as that it is back
                self._until = min(self._until, now + self._absence())
        await self._wait(event, self._until - now)

    def _absence(self) -> float:
        """Seconds until it is looked at again: ever longer where a look costs a connection, or a person must act."""
        pace, place = self._setup.pace, self.target.place
        if place.kind == "removable":
            return min(pace.absent, pace.plugged)
        if self.state.condition is Condition.REFUSED:
            return backoff(self._looks, first=pace.refused, most=pace.longest)
        if place.kind == "remote":
            return backoff(self._looks, first=pace.absent, most=min(_SLOWEST_LOOK, max(pace.absent, pace.longest)))
        return pace.absent

    async def _wait(self, event: asyncio.Event, seconds: float) -> None:
        """Wait so long, or for the event."""
        sleeper = asyncio.ensure_future(self._clock.sleep(max(0.0, seconds)))
        waiter = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({sleeper, waiter}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeper.cancel()
            waiter.cancel()

    def _beat(self) -> None:
        self._sign_of_life = self._clock.monotonic()

    async def _call(self, call: Callable[[], T]) -> T:
        """Run a blocking call in the lane's own threads; whatever moves in it is a sign of life."""
        if not self._calls:
            self._beat()
        self._calls += 1

        def heard() -> T:
            with pulse.heard_by(self._beat):
                return call()

        try:
            return await self._hands.run(heard)
        finally:
            self._calls -= 1
            self._beat()
