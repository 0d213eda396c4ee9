"""Writes events durably, many in one transaction; a full disk delays them, it does not lose them."""

import asyncio
from collections.abc import Callable

from agent.model import Event
from agent.outbox import Outbox
from tape.clock import Clock
from tape.errors import DiskFull, HometapeError
from tape.log import get_logger

RETRY = 5.0
MOST_WAITING = 100_000  # events recorded and not sealed yet; above it whoever reports one waits

log = get_logger(__name__)


class EventLog:
    """The events on their way into the outbox. For one event loop."""

    def __init__(self, outbox: Outbox, clock: Clock, failed: Callable[[HometapeError], None]) -> None:
        self._outbox = outbox
        self._clock = clock
        self._failed = failed
        self._new: list[tuple[Event, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def record(self, event: Event) -> None:
        """Returns once the event is durable; raises StoreError, SyncFailed."""
        await self.note(event)

    def note(self, event: Event) -> asyncio.Future[None]:
        """Start to record an event; the future is done once it is durable."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieved)
        self._new.append((event, future))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        return future

    async def settle(self) -> None:
        """Wait until everything noted so far is durable, or can't be for now."""
        if self._writer is not None:
            await asyncio.wait([self._writer])

    async def close(self) -> None:
        """Give up what can't be written."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)

    async def _write(self) -> None:
        while self._new:
            if self._outbox.events_waiting() >= MOST_WAITING:
                await self._clock.sleep(RETRY)
                continue
            batch, self._new = self._new, []
            try:
                await asyncio.to_thread(self._outbox.add_events, [event for event, _ in batch])
            except DiskFull as error:
                self._new = batch + self._new
                log.warning("events wait for the disk", events=len(self._new), error=str(error))
                await self._clock.sleep(RETRY)
            except HometapeError as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                self._failed(error)
            else:
                for _, future in batch:
                    if not future.done():
                        future.set_result(None)


def _retrieved(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()
