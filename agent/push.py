"""Delivery: takes segments from the outbox, oldest first, and sends many at a time until each is held at home.

A segment is held once the receiver has said OK to its final name, alone or in a bundle; a plain server's OK is noted as
what it is, and home's receipts have the word. One that is refused is
set aside with the reason while the others go on; one that could not be delivered comes again, later and later.
Receipts are fetched for the streams that wait for one; only a receipt signed by the pinned key is believed.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.body import Body, SpoolFile
from agent.jobs import Job, Queue
from agent.lines import Lines, end_all
from agent.model import Spooled
from agent.settings import ReceiverSettings
from agent.sftp import Connection
from agent.throttle import Share
from tape.bundle import Bundle, Item
from tape.clock import Clock
from tape.errors import BundleError, DiskFull, HometapeError, LinkError, ReceiptError, Refused, Resend, SegmentError
from tape.log import get_logger
from tape.names import upload_path
from tape.receipt import Receipt, open_receipt

T = TypeVar("T")
log = get_logger(__name__)

RECEIPT_LIMIT = 16 * 2**20
_RECEIPTS_AT_ONCE = 8
_JOBS_PER_CONNECTION = 48
_BEHIND_PER_CONNECTION = 2


class Outgoing(Protocol):
    """What push needs of the outbox (`agent.outbox.Outbox` is one). All methods are thread-safe."""

    @property
    def spool(self) -> Path:
        """Folder that `Spooled.path` is relative to."""

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Have `wake` called, from any thread, after segments became ready to be sent."""

    def unsent(self, limit: int, *, excluding: Collection[int] = (), again: bool = False) -> list[Spooled]:
        """Segments that are not held at home, oldest first: the new ones, or those that home held once."""

    def mark_held(self, ids: Sequence[int]) -> None:
        """Home acknowledged these."""

    def mark_delivered(self, ids: Sequence[int]) -> None:
        """A plain server has these; receipts will tell whether home does."""

    def mark_refused(self, id: int, reason: str) -> None:  # noqa: A002 - the outbox's own word
        """Home will not take this one."""

    def mark_missing(self, id: int, reason: str) -> None:  # noqa: A002 - the outbox's own word
        """The spool file is gone or changed."""

    def apply_receipt(self, receipt: Receipt) -> int:
        """Act on a verified receipt; the number of segments released by it."""

    def no_receipt(self, stream: str) -> None:
        """Home has left no receipt of a stream that waits for one."""

    def streams_waiting(self) -> list[str]:
        """Streams to ask receipts for."""

    def last_receipt_ns(self, stream: str) -> int:
        """When the newest receipt known of a stream was issued."""


@dataclass
class Progress:
    """What delivery is doing, for status. Times in ns since 1970 (0: never), rates in bytes a second."""

    connections: int = 0
    server: str = ""
    rate: float = 0.0
    sending: int = 0
    sending_bytes: int = 0
    held: int = 0
    held_bytes: int = 0
    bundles: int = 0
    refused: int = 0
    released: int = 0
    last_ok_ns: int = 0
    last_error: str = ""
    last_error_ns: int = 0
    last_receipt_ns: int = 0
    again_bytes: int = 0
    receipt_errors: dict[str, str] = field(default_factory=dict)


class Push:
    """Sends what the outbox holds. `key`: the agent's private key file. `receipt_key`: None releases nothing."""

    def __init__(
        self,
        outbox: Outgoing,
        settings: ReceiverSettings,
        *,
        agent: str,
        key: Path,
        receipt_key: Ed25519PublicKey | None,
        clock: Clock,
    ) -> None:
        self._outbox = outbox
        self._settings = settings
        self._agent = agent
        self._receipt_key = receipt_key
        self._clock = clock
        self._progress = Progress()
        self._wake = asyncio.Event()
        self._lines = Lines(settings, agent=agent, key=key, clock=clock, changed=self._wake.set)
        self._queue = Queue(settings, clock=clock)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="push-outbox")
        self._jobs: set[asyncio.Task[None]] = set()
        self._held: list[tuple[Job, bool]] = []  # and whether a receiver of ours has it
        self._news = asyncio.Event()
        self._stale = self._stale_behind = True
        self._behind = 0
        self._stopping = False
        self._runner: asyncio.Task[Any] | None = None

    @property
    def progress(self) -> Progress:
        """A fresh view; the same object every time."""
        found = self._progress
        found.connections = len(self._lines.up)
        found.server = self._lines.server
        found.rate = self._lines.throttle.rate
        found.sending = len(self._jobs)
        found.sending_bytes = self._lines.throttle.used
        if self._lines.error is not None and self._lines.error_ns >= found.last_error_ns:
            found.last_error, found.last_error_ns = str(self._lines.error), self._lines.error_ns
        return found

    @property
    def lines(self) -> Lines:
        """The connections it keeps up, for whoever has something to read there."""
        return self._lines

    async def run(self) -> None:
        """Deliver until `stop` or cancelled. Raises StoreError or DiskError when the outbox can't go on."""
        self._runner = asyncio.current_task()
        loop = asyncio.get_running_loop()
        self._outbox.subscribe(lambda: self._on_sealed(loop))
        lines = asyncio.ensure_future(self._lines.run())
        record = asyncio.ensure_future(self._record())
        work = [asyncio.ensure_future(self._dispatch()), asyncio.ensure_future(self._fetch_receipts())]
        try:
            done, _ = await asyncio.wait([lines, record, *work], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            ending = asyncio.ensure_future(self._wind_up(work, record, lines))
            while not ending.done():  # a second cancel must not leave anything running
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.shield(ending)
            ending.result()

    async def _wind_up(
        self, work: "list[asyncio.Task[None]]", record: "asyncio.Task[None]", lines: "asyncio.Task[None]"
    ) -> None:
        """End everything, uploads before connections, and write down what is held."""
        await end_all([*work, *self._jobs])
        await end_all([record])
        await end_all([lines])
        try:
            if self._held:
                await self._call(self._mark, list(self._held))
        finally:
            self._thread.shutdown(wait=False)

    async def stop(self, grace: float = 5.0) -> None:
        """Start nothing new, wait `grace` seconds for what is under way, then end."""
        self._stopping = True
        self._wake.set()
        if self._runner is None or self._runner.done():
            return
        await asyncio.wait([self._runner], timeout=grace)
        self._runner.cancel()
        await asyncio.wait([self._runner])

    # ---- sending

    def _on_sealed(self, loop: asyncio.AbstractEventLoop) -> None:
        def note() -> None:
            self._stale = self._stale_behind = True
            self._wake.set()

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody sends any more
            loop.call_soon_threadsafe(note)

    async def _dispatch(self) -> None:
        while not (self._stopping and not self._jobs):
            self._wake.clear()
            started = False
            able = bool(self._lines.up) and not self._stopping and self._has_room()
            if able:
                await self._refill()
                behind = self._behind < _BEHIND_PER_CONNECTION * self._settings.connections
                line, job = self._lines.best(), self._queue.next(behind=behind)
                if job is not None and line is not None:
                    self._begin(job, line)
                    started = True
                elif job is not None:  # the last line went while the outbox was asked
                    self._queue.again(job)
                    self._stale = self._stale_behind = True
            if not started:
                await self._sleep_until_woken(self._queue.wait() if able or self._queue.pausing else None)

    def _has_room(self) -> bool:
        """Whether one more job may start: few while nothing succeeds, else as many as fill the link."""
        if self._queue.troubled:
            return not self._jobs and not self._queue.pausing
        if len(self._jobs) >= _JOBS_PER_CONNECTION * self._settings.connections:
            return False
        return not self._lines.throttle.satisfied or any(line.lane.writing == 0 for line in self._lines.up)

    async def _refill(self) -> None:
        """Ask the outbox for what is new, and for what travels behind, where there is none left and may be more."""
        if self._queue.empty and (self._stale or self._queue.due()):
            self._stale, self._stale_behind = False, True
            self._stale = await self._fetch_jobs(again=False) or self._stale  # it may have been set meanwhile
        if self._queue.none_behind and self._stale_behind:
            self._stale_behind = False
            self._stale_behind = await self._fetch_jobs(again=True) or self._stale_behind

    async def _fetch_jobs(self, *, again: bool) -> bool:
        excluding = self._queue.excluded()
        found = await self._call(lambda: self._outbox.unsent(self._queue.LIMIT, excluding=excluding, again=again))
        self._queue.add(found)
        return len(found) == self._queue.LIMIT

    def _begin(self, job: Job, line: Connection) -> None:
        share = line.announce(job.size, behind=job.behind)
        self._behind += job.behind
        task = asyncio.ensure_future(self._send(job, line, share))
        task.add_done_callback(lambda _: self._ended(job, share))
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)
        task.add_done_callback(lambda _: self._wake.set())

    def _ended(self, job: Job, share: Share) -> None:
        share.close()
        self._behind -= job.behind

    async def _send(self, job: Job, line: Connection, share: Share) -> None:
        try:
            await self._upload(line, job, share)
        except asyncio.CancelledError:
            raise
        except LinkError as error:
            self._queue.link_lost(job)
            self._stale = self._stale_behind = True
            self._fault(error)
        except (Refused, SegmentError, BundleError, OSError) as error:
            await self._spoiled(job, error)
        except HometapeError as error:
            self._queue.failed(job)
            self._fault(error, job)
            log.warning("a delivery failed and is tried again", what=str(job), error=str(error), hint=error.hint)
        else:
            self._queue.worked()
            self._held.append((job, line.ours))
            self._news.set()
            self._progress.bundles += len(job.items) > 1

    async def _upload(self, line: Connection, job: Job, share: Share) -> None:
        first = job.items[0]
        if len(job.items) == 1:
            body: Body = SpoolFile(self._outbox.spool / first.path, first.size, first.name.digest)
            await line.upload(upload_path(first.stream, first.name), body, share)
            return
        bundle = Bundle([(Item(s.stream, s.name, s.size), self._outbox.spool / s.path) for s in job.items])
        await line.upload(f"/.bundles/{bundle.name}", bundle, share)

    async def _spoiled(self, job: Job, error: HometapeError | OSError) -> None:
        """Something is wrong with a segment itself: find out which of a bundle, then set it aside."""
        if len(job.items) > 1:
            log.warning("a bundle did not go through; its segments go one by one", what=str(job), error=str(error))
            self._queue.one_by_one(job)
            self._stale = self._stale_behind = True
            return
        self._fault(error)
        one = job.items[0]
        if isinstance(error, Refused):
            self._progress.refused += 1
            await self._settle(job, lambda: self._outbox.mark_refused(one.id, str(error)))
        elif isinstance(error, SegmentError | FileNotFoundError):
            await self._settle(job, lambda: self._outbox.mark_missing(one.id, str(error)))
        else:
            self._queue.failed(job)
            log.error("a segment can't be read and is tried again", what=str(job), error=str(error))

    async def _settle(self, job: Job, mark: Callable[[], None]) -> None:
        try:
            await self._call(mark)
        except DiskFull as error:
            self._queue.failed(job)
            self._fault(error)
        else:
            self._queue.done(job)

    async def _record(self) -> None:
        """Write down what is held, as many as came together in one transaction."""
        while True:
            await self._news.wait()
            self._news.clear()
            jobs = list(self._held)
            try:
                await asyncio.shield(self._call(self._mark, jobs))
            except DiskFull as error:
                self._fault(error)
                log.error("the outbox can't record what is held: the disk is full", hint=error.hint)
                await self._clock.sleep(self._settings.retry_min)
                self._news.set()
                continue
            del self._held[: len(jobs)]
            for job, _ in jobs:
                self._queue.done(job)
                self._progress.held += len(job.items)
                self._progress.held_bytes += job.size
                self._progress.again_bytes += job.size if job.behind else 0
            self._progress.last_ok_ns = self._clock.now_ns()
            self._wake.set()

    def _mark(self, done: Sequence[tuple[Job, bool]]) -> None:
        """In the outbox's thread; the same again changes nothing."""
        for ours, mark in ((True, self._outbox.mark_held), (False, self._outbox.mark_delivered)):
            if ids := [item.id for job, our in done if our is ours for item in job.items]:
                mark(ids)

    # ---- receipts

    async def _fetch_receipts(self) -> None:
        if self._receipt_key is None:
            log.warning("no receipt key: nothing is ever released", hint="set receiver.receipt_key in agent.toml")
        turns = asyncio.Semaphore(_RECEIPTS_AT_ONCE)
        while True:
            await self._clock.sleep(self._settings.receipts_every)
            key = self._receipt_key
            if key is None or not self._lines.up or self._stopping:
                continue
            streams = await self._call(self._outbox.streams_waiting)
            tasks = [asyncio.ensure_future(self._fetch(stream, key, turns)) for stream in streams]
            try:
                await asyncio.gather(*tasks)
            finally:
                await end_all(tasks)

    async def _fetch(self, stream: str, key: Ed25519PublicKey, turns: asyncio.Semaphore) -> None:
        async with turns:
            line = self._lines.calmest()
            if line is None:
                return
            try:
                data = await line.read(f"/.receipts/{stream}.json", RECEIPT_LIMIT)
                if data is None:
                    await self._call(lambda: self._outbox.no_receipt(stream))
                    return
                last = await self._call(lambda: self._outbox.last_receipt_ns(stream))
                receipt = open_receipt(data, key, agent=self._agent, stream=stream, newer_than_ns=last)
                self._progress.released += await self._call(lambda: self._outbox.apply_receipt(receipt))
            except (ReceiptError, Resend) as error:
                if self._progress.receipt_errors.get(stream) != str(error):
                    log.error("a receipt is ignored", stream=stream, error=str(error), hint=error.hint)
                self._progress.receipt_errors[stream] = str(error)
            except (LinkError, DiskFull) as error:
                self._fault(error)
            else:
                self._progress.receipt_errors.pop(stream, None)
                self._progress.last_receipt_ns = self._clock.now_ns()

    # ---- small things

    def _fault(self, error: HometapeError | OSError, job: Job | None = None) -> None:
        text = f"delivering {job}: {error}" if job is not None else str(error)
        self._progress.last_error, self._progress.last_error_ns = text, self._clock.now_ns()

    async def _sleep_until_woken(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _call(self, work: Callable[..., T], *args: Any) -> T:
        """Run a method of the outbox in its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)
