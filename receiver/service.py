"""The receiver as a service: catalog, ingest, ingress or drop boxes, and fan-out on one event loop."""

import asyncio
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from receiver.catalog import Catalog
from receiver.dropbox import DropBox
from receiver.dropbox_troubles import About
from receiver.fanout import LaneView
from receiver.following import Following
from receiver.ingest import Ingest
from receiver.ingress.server import Ingress
from receiver.live import clear_live, write_live
from receiver.rebuild import tell_if_lost
from receiver.reload import Change, ConfigWatch
from receiver.settings import AgentEntry, ReceiverSettings
from receiver.targets.hands import Hands
from tape.clock import Clock
from tape.durable import DISK, Disk
from tape.errors import ConfigError, HometapeError
from tape.keys import HOST_KEY, RECEIPT_KEY, load_receipt_key, load_ssh_key
from tape.log import get_logger
from tape.notify import Notifier
from tape.supervise import Heartbeat, Stop

log = get_logger(__name__)

REPORT_EVERY = 1.0
BOX_PAUSE = 15.0
CONFIG_EVERY = 2.0


class Service:
    """One life of the receiver. `config`: the file its settings came from, looked at again and again; None: never."""

    def __init__(
        self,
        settings: ReceiverSettings,
        *,
        clock: Clock,
        notifier: Notifier,
        disk: Disk = DISK,
        config: Path | None = None,
    ) -> None:
        self.notifier = notifier
        self._settings = settings
        self._config = config
        self._told: dict[str, Any] = {"error": "", "restart": []}  # of the configuration file, for `status`
        self._clock = clock
        self._disk = disk
        self.heartbeat = Heartbeat(clock)
        self._boxes: dict[str, DropBox] = {}

    async def run(self, stop: Stop) -> None:
        """Run until stopped. Raises StoreError, SyncFailed, DiskError: restart and recover; ConfigError."""
        state = self._settings.state
        if not state.is_dir():
            raise ConfigError(f"{state}: the state folder is not there", hint="run `tape-receiver init`")
        with await asyncio.to_thread(Catalog.open, state, clock=self._clock) as catalog:
            if await asyncio.to_thread(tell_if_lost, catalog, self._settings.home.folder):
                log.error("the catalog is lost: run `tape-receiver resync`", home=str(self._settings.home.folder))
            key = load_receipt_key(state / RECEIPT_KEY)
            ingest = Ingest(self._settings, catalog, key, clock=self._clock, disk=self._disk)
            recovered = await ingest.start()
            if any(recovered.values()):
                log.info("recovered", **{action.value: count for action, count in recovered.items()})
            try:
                await self._serve(catalog, ingest, stop)
            finally:
                await ingest.stop()

    async def _serve(self, catalog: Catalog, ingest: Ingest, stop: Stop) -> None:
        ingress = self._ingress(catalog, ingest) if self._settings.listen.enabled else None
        following = Following(
            self._settings,
            catalog,
            ingest,
            clock=self._clock,
            disk=self._disk,
            changed=self._copies_changed,
            busy=lambda: ingest.behind or (ingress is not None and ingress.traffic.busy()),
        )
        if ingress is not None:
            await ingress.start()
        boxes = [self._box(entry, catalog, ingest) for entry in self._settings.agent if entry.dropbox]
        work = [
            following.run(),
            self._watch(ingest),
            self._watch_config(following, ingest),
            self._report(ingress, following),
            stop.wait(),
        ]
        tasks = [asyncio.ensure_future(one) for one in [*work, *boxes]]
        port = ingress.port if ingress is not None else None
        log.info("listening", host=self._settings.listen.host, port=port, drop_boxes=len(boxes))
        self.notifier.send("READY=1")
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self.heartbeat.line = "stopping"
            if ingress is not None:
                await ingress.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            clear_live(self._settings.state, disk=self._disk)

    def _ingress(self, catalog: Catalog, ingest: Ingest) -> Ingress:
        return Ingress(
            self._settings,
            load_ssh_key(self._settings.state / HOST_KEY),
            ingest,
            clock=self._clock,
            disk=self._disk,
            stored=catalog.agent_bytes,
        )

    async def _box(self, entry: AgentEntry, catalog: Catalog, ingest: Ingest) -> None:
        """Watch one drop box for ever; a folder that is not there stops nothing else."""

        def streams() -> list[str]:
            return [one.stream for one in catalog.streams() if one.agent == entry.name]

        box = DropBox(entry, self._settings.state, ingest, streams=streams, clock=self._clock, disk=self._disk)
        self._boxes[entry.name] = box
        while True:
            try:
                await asyncio.to_thread(box.start)
                await box.run()
            except ConfigError as error:
                box.troubles.tell(About.BOX, "", str(error), error.hint)
            await self._clock.sleep(BOX_PAUSE)

    def _copies_changed(self, streams: Collection[tuple[str, str]]) -> None:
        """Copies were proven: the receipts in the drop boxes of these agents are stale."""
        for agent in {agent for agent, _ in streams} & self._boxes.keys():
            self._boxes[agent].changed()

    async def _watch_config(self, following: Following, ingest: Ingest) -> None:
        """Follow the configuration file: what can be changed under way is, the rest is told. Never ends anything."""
        if self._config is None:
            await asyncio.Event().wait()
            return
        watch, hands = ConfigWatch(self._config, self._settings), Hands("config", 1)
        while True:
            try:
                change = await hands.run(watch.look)
                if change is not None:
                    self._follow(change, following, ingest)
                    watch.running = change.settings
            except HometapeError as error:
                self._told = {"error": str(error), "restart": []}
                log.error("the changed configuration can't be used; the old one stays", error=str(error))
            await self._clock.sleep(CONFIG_EVERY)

    def _follow(self, change: Change, following: Following, ingest: Ingest) -> None:
        """Go on by the changed settings. Raises ConfigError if a target can't be; then nothing changes."""
        following.use(change)
        if change.followed:
            ingest.use(change.settings)
            for box in self._boxes.values():
                box.changed()
            log.info("the changed configuration is followed", changed=list(change.followed))
        if change.restart and list(change.restart) != self._told["restart"]:
            log.warning("changed in the configuration: restart to use it", changed=list(change.restart))
        self._told = {"error": "", "restart": list(change.restart)}

    async def _watch(self, ingest: Ingest) -> None:
        raise await ingest.wait_failed()

    async def _report(self, ingress: Ingress | None, following: Following) -> None:
        """Leave what only this process knows for `tape-receiver status`, again and again."""
        while True:
            lanes = following.views()
            facts = {
                "pid": os.getpid(),
                "port": ingress.port if ingress is not None else None,
                "connected": dict(ingress.connected) if ingress is not None else {},
                "lanes": [_lane(lane, following.free.get(lane.target)) for lane in lanes],
                "boxes": [box.troubles.facts() for box in self._boxes.values()],
                "config": self._told,
            }
            try:
                await asyncio.to_thread(write_live, self._settings.state, facts, clock=self._clock, disk=self._disk)
            except HometapeError as error:  # a full disk must not end the service
                log.warning("the state for `status` can't be written", error=str(error))
            self.heartbeat.beat(", ".join(f"{lane.target} {lane.state.condition.value}" for lane in lanes))
            await self._clock.sleep(REPORT_EVERY)


def _lane(lane: LaneView, free: int | None) -> dict[str, Any]:
    return {
        "target": lane.target,
        "condition": lane.state.condition.value,
        "reason": lane.state.reason,
        "hint": lane.state.hint,
        "under_way": lane.under_way,
        "segments_s": round(lane.segments_per_second, 1),
        "bytes_s": round(lane.bytes_per_second),
        "error": lane.error,
        "retry_in_s": round(lane.retry_in, 1),
        "silent_s": round(lane.silent, 1),
        "level": lane.level,
        "note": lane.note,
        "free_bytes": free,
    }
