"""What follows the configuration while the service runs: the targets, their fan-out, and what is told of them.

Ingress and ingest are never stopped for it. When targets or disks change, the fan-out is ended as at a
stop of the service (what is under way may finish) and begun anew; it starts from the catalog, so nothing is
lost with it. A target whose entry is unchanged keeps what it knows.
"""

import asyncio
from collections.abc import Callable, Collection
from functools import partial

from receiver.catalog import Catalog
from receiver.fanout import Fanout, LaneView
from receiver.reload import Change
from receiver.settings import ReceiverSettings, TargetSettings
from receiver.targets.contract import Target
from receiver.targets.hands import Hands
from receiver.targets.opening import open_targets
from receiver.verify import take_notes
from tape.clock import Clock
from tape.durable import Disk
from tape.errors import DiskError, SyncFailed
from tape.log import get_logger

log = get_logger(__name__)

NOTES_EVERY = 2.0


class Following:
    """Runs the fan-out over the targets as they are configured now. `changed`, `busy`: as `Fanout` takes them."""

    def __init__(
        self,
        settings: ReceiverSettings,
        catalog: Catalog,
        *,
        clock: Clock,
        disk: Disk,
        changed: Callable[[Collection[tuple[str, str]]], None],
        busy: Callable[[], bool],
    ) -> None:
        self.settings = settings
        self._catalog = catalog
        self._clock = clock
        self._disk = disk
        self._changed = changed
        self._busy = busy
        self._swap = asyncio.Event()
        self._targets = open_targets(settings, disk=disk)
        self._fanout = self._make()
        catalog.subscribe(self.wake)

    def wake(self) -> None:
        """Segments were committed. May be called from any thread."""
        self._fanout.wake()

    def views(self) -> list[LaneView]:
        """What each lane is doing, home first."""
        return self._fanout.views()

    def use(self, change: Change) -> None:
        """Go on with other targets, disks or policy. Raises ConfigError if a target can't be; then nothing changes."""
        if {"target", "disks"} & set(change.followed):
            self._targets = self._opened(change.settings)
            self._swap.set()
        self.settings = change.settings

    async def run(self) -> None:
        """Until cancelled. Raises StoreError or SyncFailed when the catalog can't be written any more."""
        while True:
            self._swap.clear()
            work = [self._fanout.run(), self._take_notes(self._targets, self._fanout), self._swap.wait()]
            tasks = [asyncio.ensure_future(one) for one in work]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            self._fanout = self._make()
            log.info("the fan-out goes on with", targets=[target.id for target in self._targets])

    def _make(self) -> Fanout:
        return Fanout(self._catalog, self._targets, clock=self._clock, changed=self._changed, busy=self._busy)

    def _opened(self, settings: ReceiverSettings) -> list[Target]:
        """The targets of new settings; those whose entry is the old one stay as they are."""
        known: dict[str, TargetSettings] = {entry.id: entry for entry in self.settings.target}
        same = {entry.id for entry in settings.target if entry == known.get(entry.id)}
        if settings.disks != self.settings.disks:
            same -= {entry.id for entry in settings.target if entry.kind == "removable"}
        kept = {target.id: target for target in self._targets if target.id in same}
        return [kept.get(target.id, target) for target in open_targets(settings, disk=self._disk)]

    async def _take_notes(self, targets: list[Target], fanout: Fanout) -> None:
        """Record what `verify` commands find while this service holds the catalog."""
        hands = Hands("notes", 1)  # a share that hangs in it must not hold up the end of the service
        call = partial(
            take_notes,
            self.settings.state,
            self._catalog,
            targets,
            clock=self._clock,
            disk=self._disk,
            changed=fanout.rescan,
        )
        try:
            while True:
                try:
                    await hands.run(call)
                except SyncFailed:
                    raise
                except DiskError as error:
                    log.warning("what `verify` found can't be taken in now", error=str(error), hint=error.hint)
                await self._clock.sleep(NOTES_EVERY)
        finally:
            hands.close()
