"""The agent as a service: sources, collector and push as tasks of one event loop, and its state for `status`."""

import asyncio
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent import status
from agent.collect import Collector
from agent.outbox import Outbox
from agent.push import Push
from agent.resync_desk import Desk
from agent.resync_turn import Turn
from agent.settings import AgentSettings, SourceSettings
from agent.sources.files import FileSource
from tape.clock import Clock
from tape.durable import DISK, Disk
from tape.errors import ConfigError, HometapeError, SourceError, StoreError, SyncFailed
from tape.log import get_logger
from tape.notify import Notifier
from tape.receipt import load_public
from tape.supervise import Heartbeat, Stop

log = get_logger(__name__)

REPORT_EVERY = 1.0
SOURCE_PAUSE = 5.0
STOP_WITHIN = 20.0


class Service:
    """One life of the agent. `drain`: read what is there now, then end; `send=False`: leave it in the spool."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        clock: Clock,
        notifier: Notifier,
        drain: bool = False,
        send: bool = True,
        disk: Disk = DISK,
    ) -> None:
        self.notifier = notifier
        self._settings = settings
        self._clock = clock
        self._disk = disk
        self._drain = drain
        self._send = send
        self.heartbeat = Heartbeat(clock)
        self._sources: dict[str, FileSource] = {}

    async def run(self, stop: Stop) -> None:
        """Run until stopped. Raises StoreError, SyncFailed, DiskError: restart and recover; ConfigError."""
        key = self._settings.key_path
        if self._send and not key.exists():
            raise ConfigError(f"{key}: the agent has no key", hint="run `tape-agent init`")
        outbox = await asyncio.to_thread(
            Outbox.open, self._settings.state, self._settings.agent, clock=self._clock, disk=self._disk
        )
        try:
            await self._with(outbox, key, stop)
        finally:
            outbox.close()

    async def _with(self, outbox: Outbox, key: Path, stop: Stop) -> None:
        collector = Collector(outbox, self._settings.seal, self._settings.spool, clock=self._clock, disk=self._disk)
        push = self._push(outbox, key) if self._send else None
        work = [collector.run(), self._report(outbox, collector, push), stop.wait()]
        if push is not None:
            work.append(self._turn(outbox, push).serve())
        if self._drain:
            work.append(self._drained(outbox, collector, stop))
        else:
            work += [self._keep(source, collector, outbox) for source in self._settings.source]
        tasks = {asyncio.ensure_future(one) for one in work}
        delivery = {asyncio.ensure_future(push.run())} if push is not None else set()
        log.info("running", agent=self._settings.agent, epoch=outbox.epoch, sources=len(self._settings.source))
        self.notifier.send("READY=1")
        try:
            done, _ = await asyncio.wait(tasks | delivery, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await self._end(tasks, collector, push)
            await asyncio.gather(*delivery, return_exceptions=True)
        facts = await asyncio.to_thread(status.collect, self._settings, outbox, clock=self._clock)
        status.write(self._settings.state, facts, disk=self._disk)

    def _push(self, outbox: Outbox, key: Path) -> Push:
        return Push(
            outbox,
            self._settings.receiver,
            agent=self._settings.agent,
            key=key,
            receipt_key=self._receipt_key(),
            clock=self._clock,
        )

    def _turn(self, outbox: Outbox, push: Push) -> Turn:
        desk = Desk(self._settings.state, clock=self._clock, disk=self._disk)
        return Turn(desk, outbox, push, receipt_key=self._receipt_key(), clock=self._clock)

    def _receipt_key(self) -> Ed25519PublicKey | None:
        text = self._settings.receiver.receipt_key
        return load_public(text) if text else None

    async def _end(self, tasks: set[asyncio.Task[None]], collector: Collector, push: Push | None) -> None:
        """Sources first, then what they fed, so that as much as possible is sealed and sent."""
        self.heartbeat.line = "stopping"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await collector.stop(within=STOP_WITHIN)
        finally:
            if push is not None:
                await push.stop()

    async def _keep(self, source: SourceSettings, collector: Collector, outbox: Outbox) -> None:
        """Run one source for ever: if it fails it starts again from what is sealed, and no other source notices."""
        while True:
            try:
                self._sources[source.name] = FileSource(source, clock=self._clock)
                await self._sources[source.name].run(collector, outbox)
            except (StoreError, SyncFailed):
                raise
            except (HometapeError, OSError) as error:
                hint = error.hint if isinstance(error, SourceError) else ""
                log.error("a source failed and starts again", source=source.name, error=str(error), hint=hint)
            await collector.drop(source.name)
            await self._clock.sleep(SOURCE_PAUSE)

    async def _drained(self, outbox: Outbox, collector: Collector, stop: Stop) -> None:
        for source in self._settings.source:
            self._sources[source.name] = FileSource(source, clock=self._clock)
            await self._sources[source.name].drain(collector, outbox)
        while not stop.asked:
            await collector.flush()
            if not collector.snapshot().held_bytes and not (self._send and outbox.waiting()[0]):
                break
            await self._clock.sleep(0.05)
        waiting = outbox.waiting()
        log.info("drained", segments_waiting=waiting[0], bytes_waiting=waiting[1])

    async def _report(self, outbox: Outbox, collector: Collector, push: Push | None) -> None:
        """Leave the facts for `tape-agent status` again and again."""
        while True:
            snapshot = collector.snapshot()
            progress = push.progress if push is not None else None
            facts = await asyncio.to_thread(
                status.collect,
                self._settings,
                outbox,
                clock=self._clock,
                progress=progress,
                collecting=snapshot,
                sources=[source.standing() for source in self._sources.values()],
            )
            try:
                await asyncio.to_thread(status.write, self._settings.state, facts, disk=self._disk)
            except HometapeError as error:  # a full disk must not end the service
                log.warning("the state for `status` can't be written", error=str(error))
            waiting = facts["waiting_segments"]
            self.heartbeat.beat(f"{snapshot.origins} files, {waiting} segments to send")
            await self._clock.sleep(REPORT_EVERY)
