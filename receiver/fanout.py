"""Fan-out: every target gets every segment, each at its own pace; a dead, slow or full one delays nobody else.

One lane a target, with its own cursors into the catalog and its own threads. What a target lacks is asked
from the catalog a page at a time, so a backlog of a million segments costs no memory; new segments go before
it. Lanes that are near each other share one read of the home bytes. The home archive has a lane like any
other: its step is the read-back. Lanes are woken when segments are committed and by a timer; what failed is
tried again after a growing pause, one segment first.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Sequence

from receiver.catalog import Catalog
from receiver.copying import CatalogStopped, Copier
from receiver.fanout_facts import LaneView, Pace, Setup
from receiver.fanout_lane import Lane
from receiver.model import Held
from receiver.targets.contract import Target
from tape.clock import Clock

__all__ = ["Fanout", "LaneView", "Pace"]

PATIENCE = 60.0


class Fanout:
    """Runs the lanes. `changed` is called (on the loop) with the (agent, stream) whose copies changed.

    `busy` says that a burst of uploads arrives: lanes then wait up to `pace.give_way` before each look.
    `seen` is told (in a lane's thread) each target's id and instance whenever it was found, before anything
    is copied there: who keeps the catalog drops the copies of a replaced one.
    To go on with other targets, cancel `run` and make another: what a hanging thread of the old one finds
    later is not recorded any more.
    """

    def __init__(
        self,
        catalog: Catalog,
        targets: Sequence[Target],
        *,
        clock: Clock,
        changed: Callable[[Collection[tuple[str, str]]], None] | None = None,
        pace: Pace | None = None,
        busy: Callable[[], bool] = lambda: False,
        seen: Callable[[str, str], None] | None = None,
    ) -> None:
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self.copier = Copier(catalog, targets, clock=clock, readable=self.readable, company=self._company)
        setup = Setup(catalog, self.copier, clock, changed or _nobody, pace or Pace(), busy, seen or _unseen)
        self._lanes = [Lane(target, setup) for target in targets]

    async def run(self) -> None:
        """Work until cancelled. Raises StoreError or SyncFailed when the catalog can't be written any more."""
        self._loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(lane.run(), name=f"fan-out to {lane.target.id}") for lane in self._lanes]
        try:
            await asyncio.gather(*tasks)
        except CatalogStopped as stopped:
            raise stopped.error from stopped
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.copier.close()
            for lane in self._lanes:
                lane.close()

    async def drain(self) -> list[LaneView]:
        """Bring every target as far as it can be brought now, trying each segment once; how the lanes stand then."""
        try:
            await asyncio.gather(*(lane.once() for lane in self._lanes))
        except CatalogStopped as stopped:
            raise stopped.error from stopped
        finally:
            for lane in self._lanes:
                lane.close()
        return self.views()

    def wake(self) -> None:
        """Segments were committed: look at what is new. May be called from any thread."""
        self._tell_lanes(again=False)

    def rescan(self) -> None:
        """Copies were dropped, or a person asks: look at everything again, at once. May be called from any thread."""
        self._tell_lanes(again=True)

    def _tell_lanes(self, *, again: bool) -> None:
        def tell() -> None:
            for lane in self._lanes:
                lane.wake(again=again)

        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the service has ended
                self._loop.call_soon_threadsafe(tell)

    def views(self) -> list[LaneView]:
        """What each lane is doing, home first as configured."""
        return [lane.view() for lane in self._lanes]

    def readable(self) -> set[str]:
        """Targets that were there when last looked at, and are not hanging."""
        return {lane.target.id for lane in self._lanes if lane.state.readable and lane.silent() < PATIENCE}

    def _company(self, target: Target, held: Held) -> int:
        """How many other lanes will soon want the home bytes of a segment."""
        near, company = self.copier.bytes.most, 0
        for lane in self._lanes:
            if lane.target is target:
                lane.has(held)
            elif not lane.target.place.home:
                company += lane.wants(held, near)
        return company


def _nobody(_: Collection[tuple[str, str]]) -> None:
    """Nobody asked to be told."""


def _unseen(_: str, __: str) -> None:
    """Nobody asked to be told."""
