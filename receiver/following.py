"""What follows the configuration while the service runs: the targets, their fan-out, and what is told of them.

Ingress and ingest are never stopped for it. When targets or disks change, the fan-out is ended as at a
stop of the service (what is under way may finish) and begun anew; it starts from the catalog, so nothing is
lost with it. A target whose entry is unchanged keeps what it knows.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection

from receiver.catalog import Catalog
from receiver.checking import CatalogStopped
from receiver.errands import acting
from receiver.fanout import Fanout, LaneView, Pace
from receiver.model import Committer
from receiver.policy import rules_of, wheres
from receiver.reload import Change
from receiver.report_policy import lacks_of, survey
from receiver.report_targets import REMOTE
from receiver.requests import Requests
from receiver.resync_requests import committing, take_requests
from receiver.settings import ReceiverSettings, TargetSettings
from receiver.targets.contract import Target
from receiver.targets.hands import Hands
from receiver.targets.opening import open_targets
from receiver.verify import take_notes
from tape.clock import Clock
from tape.durable import Disk
from tape.errors import DiskError, DiskFull, HometapeError, SyncFailed
from tape.log import get_logger

log = get_logger(__name__)

NOTES_EVERY = 2.0
REQUESTS_EVERY = 0.5
LOOK_EVERY = 60.0
FREE_EVERY = 600.0


class Following:
    """Runs the fan-out over the targets as they are configured now. `changed`, `busy`: as `Fanout` takes them."""

    def __init__(
        self,
        settings: ReceiverSettings,
        catalog: Catalog,
        ingest: Committer,
        *,
        clock: Clock,
        disk: Disk,
        changed: Callable[[Collection[tuple[str, str]]], None],
        busy: Callable[[], bool],
    ) -> None:
        self.settings = settings
        self._catalog = catalog
        self._ingest = ingest
        self._clock = clock
        self._disk = disk
        self._changed = changed
        self._busy = busy
        self._swap = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._targets = open_targets(settings, disk=disk, clock=clock)
        self.free: dict[str, int] = {}  # bytes, of remotes that tell
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
            work = [
                self._fanout.run(),
                self._take_notes(self._targets, self._fanout),
                self._take_requests(self._targets),
                self._look(),
                *(self._ask_free(target) for target in self._targets if target.place.kind == REMOTE),
                self._swap.wait(),
            ]
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
        disks = self.settings.disks
        return Fanout(
            self._catalog,
            self._targets,
            clock=self._clock,
            changed=self._changed,
            pace=Pace(plugged=disks.every, sample=disks.sample),
            busy=self._busy,
            seen=self._seen,
        )

    def _seen(self, target: str, instance: str) -> None:
        """A target was found, in a lane's thread. A replaced one has no copies any more, and receipts change."""
        if not self._catalog.know_target(target, instance, self._clock.now_ns()):
            return
        log.error("a target was replaced: its copies don't count any more and are made again", target=target)
        self._fanout.rescan()
        streams = {(one.agent, one.stream) for one in self._catalog.streams()}
        with contextlib.suppress(RuntimeError):  # the loop is closed: the service has ended
            self._loop.call_soon_threadsafe(self._changed, streams)

    def _opened(self, settings: ReceiverSettings) -> list[Target]:
        """The targets of new settings; those whose entry is the old one stay as they are."""
        known: dict[str, TargetSettings] = {entry.id: entry for entry in self.settings.target}
        same = {entry.id for entry in settings.target if entry == known.get(entry.id)}
        if settings.disks != self.settings.disks:
            same -= {entry.id for entry in settings.target if entry.kind == "removable"}
        kept = {target.id: target for target in self._targets if target.id in same}
        return [kept.get(target.id, target) for target in open_targets(settings, disk=self._disk, clock=self._clock)]

    async def _take_notes(self, targets: list[Target], fanout: Fanout) -> None:
        """Act on what `verify` and `resync` commands find while this service holds the catalog."""
        hands = Hands("notes", 1)  # a share that hangs in it must not hold up the end of the service
        state, catalog, clock, disk = self.settings.state, self._catalog, self._clock, self._disk
        commit = committing(self._ingest, asyncio.get_running_loop())

        def call() -> None:
            take_notes(state, catalog, targets, clock=clock, disk=disk, changed=fanout.rescan)
            take_requests(state, catalog, targets, commit, clock=clock, disk=disk, changed=fanout.rescan)

        try:
            while True:
                try:
                    await hands.run(call)
                except SyncFailed:
                    raise
                except DiskError as error:
                    log.warning("what a command found can't be taken in now", error=str(error), hint=error.hint)
                await self._clock.sleep(NOTES_EVERY)
        finally:
            hands.close()

    async def _take_requests(self, targets: list[Target]) -> None:
        """Do what commands ask for: let a disk go, forget a target. One that hangs holds up no note."""
        hands = Hands("requests", 1)
        requests = Requests(self.settings.state, clock=self._clock, disk=self._disk)
        act = acting(self._catalog, targets)
        try:
            while True:
                try:
                    await hands.run(lambda: requests.take(act))
                except CatalogStopped as stopped:
                    raise stopped.error from stopped
                except DiskError as error:
                    log.warning("requests can't be taken now", error=str(error), hint=error.hint)
                await self._clock.sleep(REQUESTS_EVERY)
        finally:
            hands.close()

    async def _look(self) -> None:
        """Date what lacks, again and again, so that `status` can tell since when it does."""
        hands = Hands("standing", 1)
        try:
            while True:
                await hands.run(self._look_once)
                await self._clock.sleep(LOOK_EVERY)
        finally:
            hands.close()

    def _look_once(self) -> None:
        rules, places = rules_of(self.settings), wheres(self.settings)
        found = self._catalog.ask(lambda base: survey(base, rules, places))
        try:
            self._catalog.look(lacks_of(found, rules, places))
        except DiskFull as error:
            log.warning("since when what lacks can't be kept", error=str(error), hint=error.hint)

    async def _ask_free(self, target: Target) -> None:
        """Ask a remote for its free space now and then: too slow a question for `status`."""
        hands = Hands(f"free-{target.id}", 1)
        try:
            while True:
                try:
                    free = await hands.run(target.free)
                except HometapeError:  # its lane says what is wrong with it
                    free = None
                except Exception:  # whatever a target does, the service goes on
                    log.exception("a target failed in an unforeseen way", target=target.id)
                    free = None
                if free is not None:
                    self.free[target.id] = free
                await self._clock.sleep(FREE_EVERY)
        finally:
            hands.close()
