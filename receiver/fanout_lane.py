"""One lane of the fan-out: one target's worker, with its own cursor, threads, pauses and throughput."""

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TypeVar

from receiver.catalog import Catalog
from receiver.copying import CatalogStopped, Copier, Work, cataloguing
from receiver.model import Held
from receiver.placement import backoff, batches
from receiver.targets.contract import Condition, State, Target
from receiver.targets.hands import Hands
from tape.clock import Clock
from tape.errors import HometapeError
from tape.log import get_logger

T = TypeVar("T")
log = get_logger(__name__)
_METER_SPAN, _METER_STEP = 10.0, 0.25


@dataclass(frozen=True, slots=True)
class Pace:
    """How often lanes look up by themselves, in seconds, and the longest pause after failures.

    rescan: everything again, from the beginning; absent: whether an absent target is back; grace: for
    what is under way when the service stops; give_way: to a burst of uploads, at the most.
    """

    rescan: float = 30.0
    absent: float = 5.0
    longest: float = 300.0
    grace: float = 10.0
    give_way: float = 5.0


@dataclass(frozen=True, slots=True)
class LaneView:
    """What a lane is doing. Rates over the last 10 s; `silent`: seconds without a sign of life while it should work.

    `copied` and `failed` count from the start of the service; `retry_in`: seconds until the next try.
    """

    target: str
    state: State
    under_way: int
    segments_per_second: float
    bytes_per_second: float
    copied: int
    failed: int
    error: str
    retry_in: float
    silent: float


@dataclass(frozen=True, slots=True)
class Setup:
    """What all lanes share."""

    catalog: Catalog
    copier: Copier
    clock: Clock
    changed: Callable[[Collection[tuple[str, str]]], None]
    pace: Pace
    busy: Callable[[], bool] = lambda: False


@dataclass(slots=True)
class _Meter:
    """Segments and bytes of the last seconds, in steps, so that its size is bounded."""

    steps: deque[tuple[float, int, int]] = field(default_factory=deque)

    def add(self, now: float, segments: int, size: int) -> None:
        if self.steps and now - self.steps[-1][0] < _METER_STEP:
            at, so_far, bytes_so_far = self.steps.pop()
            self.steps.append((at, so_far + segments, bytes_so_far + size))
        else:
            self.steps.append((now, segments, size))
        self._forget(now)

    def rates(self, now: float) -> tuple[float, float]:
        self._forget(now)
        if not self.steps:
            return 0.0, 0.0
        span = max(1.0, now - self.steps[0][0])
        return sum(step[1] for step in self.steps) / span, sum(step[2] for step in self.steps) / span

    def _forget(self, now: float) -> None:
        while self.steps and now - self.steps[0][0] > _METER_SPAN:
            self.steps.popleft()


class Lane:
    """One target's worker."""

    def __init__(self, target: Target, setup: Setup) -> None:
        self.target = target
        self.state = State(Condition.READY)
        self._woken = asyncio.Event()
        self._setup = setup
        self._clock = setup.clock
        self._hands = Hands(f"target-{target.id}", target.place.concurrency + 1)
        self._meter = _Meter()
        self._calls = 0
        self._sign_of_life = 0.0
        self._cursor = 0
        self._recovered = False
        self._faults = 0  # times in a row that the target itself had to wait
        self._fault_until: float | None = None
        self._misses = 0  # passes in a row in which some segment failed
        self._missed = False
        self._again = False  # asked to look at everything
        self._rescan_at = self._clock.monotonic() + setup.pace.rescan
        self._copied = self._failed = self._under_way = 0
        self._error = ""

    # ---------------------------------------------------------------------------------------- the loop

    async def run(self) -> None:
        """Until cancelled; raises CatalogStopped."""
        while True:
            self._woken.clear()
            if self._again or self._clock.monotonic() >= self._rescan_at:
                self._cursor, self._again = 0, False
            await self._turn()
            now = self._clock.monotonic()
            if self._fault_until is not None:
                await self._clock.sleep(max(0.0, self._fault_until - now))
            elif not self._usable():
                await self._clock.sleep(self._setup.pace.absent)
            else:
                await self._wait(self._rescan_at - now)

    def wake(self, *, again: bool) -> None:
        """Look at once: at what is new, or at everything `again`."""
        self._again |= again
        self._woken.set()

    async def once(self) -> None:
        """One pass from the beginning."""
        self._cursor, self._faults = 0, 0
        await self._turn()

    def close(self) -> None:
        """Let go of the threads."""
        self._hands.close()

    def view(self) -> LaneView:
        """What it is doing."""
        now = self._clock.monotonic()
        segments, size = self._meter.rates(now)
        until = self._fault_until if self._fault_until is not None else self._rescan_at if self._misses else now
        return LaneView(
            target=self.target.id,
            state=self.state,
            under_way=self._under_way,
            segments_per_second=segments,
            bytes_per_second=size,
            copied=self._copied,
            failed=self._failed,
            error=self._error,
            retry_in=max(0.0, until - now),
            silent=self.silent(),
        )

    def silent(self) -> float:
        """Seconds without a sign of life from calls that are under way."""
        return self._clock.monotonic() - self._sign_of_life if self._calls else 0.0

    async def _turn(self) -> None:
        self._fault_until = None
        try:
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
        if not self.state.readable:
            self._recovered = False
        elif not self._recovered and self.state.writable:
            await self._call(self.target.recover)
            self._recovered = True

    def _usable(self) -> bool:
        """A full or read-only home archive can still be read back."""
        return self.state.writable or (self.target.place.home and self.state.readable)

    async def _sweep(self) -> None:
        """Work through everything after the cursor, until nothing is left or the target has to wait."""
        whole = self._cursor == 0
        self._missed = False
        limits, width = self.target.limits, self.target.place.concurrency
        running: set[asyncio.Task[Work]] = set()
        try:
            while not self._halted():
                await self._give_way()
                page = await self._page(1 if self._faults else limits.batch_files * width)
                if not page:
                    break
                for batch in batches(page, files=limits.batch_files, size=limits.batch_bytes):
                    await self._room(running, width if not self._faults else 1)
                    if self._halted():
                        return
                    self._cursor = batch[-1].id
                    self._under_way += len(batch)
                    running.add(asyncio.create_task(self._batch(batch)))
                if self._faults:  # one segment probes whether the target works again
                    await self._room(running, 1)
        finally:
            await self._settle(running)
        self._after_sweep(whole=whole)

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

    async def _page(self, limit: int) -> list[Held]:
        catalog, target, after = self._setup.catalog, self.target.id, self._cursor

        def ask() -> list[Held]:
            with cataloguing():
                return catalog.behind(target, after=after, limit=limit)

        return await self._call(ask)

    async def _batch(self, batch: list[Held]) -> Work:
        try:
            work = await self._call(lambda: self._setup.copier.run(self.target, batch, beat=self._beat))
        finally:
            self._under_way -= len(batch)
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
        self._cursor = 0
        self._rescan_at = self._clock.monotonic()
        if self._fault_until is None:
            self._faults += 1
            pause = backoff(self._faults, most=self._setup.pace.longest)
            pause = self._clock.jitter(0.8 * pause, 1.2 * pause)
            self._fault_until = self._clock.monotonic() + pause
            log.warning("a target has to wait", target=self.target.id, error=self._error, seconds=round(pause, 1))

    # ------------------------------------------------------------------------------------------ waiting

    async def _wait(self, seconds: float) -> None:
        """Wait so long, or until woken."""
        sleeper = asyncio.ensure_future(self._clock.sleep(max(0.0, seconds)))
        waiter = asyncio.ensure_future(self._woken.wait())
        try:
            await asyncio.wait({sleeper, waiter}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeper.cancel()
            waiter.cancel()

    def _beat(self) -> None:
        self._sign_of_life = self._clock.monotonic()

    async def _call(self, call: Callable[[], T]) -> T:
        """Run a blocking call in the lane's own threads."""
        if not self._calls:
            self._beat()
        self._calls += 1
        try:
            return await self._hands.run(call)
        finally:
            self._calls -= 1
            self._beat()
