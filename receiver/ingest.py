"""Ingest: from a finished upload to a durable commit, many at a time, and the receipts that answer for it.

Uploads that arrive while a batch is being committed form the next batch: the more arrive, the more share
one fsync. The event loop only collects and answers; the work is done in one thread. A failed fsync ends
it: nothing more is answered OK, `failed` says why, and the service must end and recover at its next start.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from receiver.catalog import Catalog
from receiver.ingest_batch import Batches
from receiver.inspect import Inspector
from receiver.model import Answer, Outcome, Upload
from receiver.orphans import Action
from receiver.policy import rules_of, wheres
from receiver.settings import ReceiverSettings
from tape.clock import Clock
from tape.durable import DISK, Disk
from tape.errors import HometapeError, StoreError, SyncFailed
from tape.inventory import Page
from tape.log import get_logger
from tape.names import EVENTS_STREAM, SegmentName
from tape.receipt import Receipt

_MOST_UPLOADS = 512  # in one batch
_MOST_BYTES = 512 * 2**20
_MANY, _MUCH = 64, 2**20  # uploads or bytes of a batch that takes more than a moment
_MOST_RECEIPTS = 10_000  # cached
log = get_logger(__name__)


@dataclass(slots=True)
class _Waiting:
    upload: Upload
    answer: asyncio.Future[Outcome]


class Ingest:
    """A `Committer` over the home archive and the catalog: `await start()`, then commit and receipt, then `stop()`.

    `failed` is set, once, to the error that ended it; `wait_failed` returns it.
    """

    def __init__(
        self,
        settings: ReceiverSettings,
        catalog: Catalog,
        key: Ed25519PrivateKey,
        *,
        clock: Clock,
        disk: Disk = DISK,
        inspector: Inspector | None = None,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._key = key
        self._lent = inspector is not None  # then it is closed by whoever lent it
        self._inspector = inspector or Inspector(settings.limits, clock=clock)
        self._batches = Batches(settings, catalog, self._inspector, clock=clock, disk=disk)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ingest")
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._large = False  # the batch under way
        self._receipts: dict[tuple[str, str], tuple[tuple[int, int], bytes]] = {}
        self._policies = 0  # how often another one came into force
        self._pages = asyncio.Semaphore(1)
        self._ended = asyncio.Event()
        self._stopped = False
        self.failed: HometapeError | None = None

    @property
    def behind(self) -> bool:
        """Whether a batch is under way that takes more than a moment, or uploads wait for it: a burst arrives."""
        return bool(self._waiting) or self._large

    async def start(self) -> dict[Action, int]:
        """Start the inspecting process, clear what a crash left, and begin; returns what recovery did.

        Raises TargetAbsent where the home archive is not there, StoreError, DiskError.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._inspector.start)
        done = await loop.run_in_executor(self._thread, self._batches.recover)
        self._worker = asyncio.create_task(self._work(), name="ingest")
        return done

    async def stop(self) -> None:
        """Finish the batch under way, put off what still waits, and end; may be called twice."""
        if self._stopped:
            return
        self._stopped = True
        if self._worker is not None:
            worker, self._worker = self._worker, None
            self._arrived.set()
            await worker
        if self.failed is None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._batches.close)
        self._thread.shutdown()
        if not self._lent:
            self._inspector.close()
        for waiting in self._take(everything=True):
            _answer(waiting, Outcome(Answer.RESEND, "the receiver is stopping"))

    async def commit(self, upload: Upload) -> Outcome:
        """See `Committer`. Raises SyncFailed or StoreError once a commit could not be made durable."""
        if self.failed is not None:
            raise self.failed
        if self._worker is None:
            return Outcome(Answer.RESEND, "the receiver is not taking uploads now")
        waiting = _Waiting(upload, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        return await asyncio.shield(waiting.answer)

    async def wait_failed(self) -> HometapeError:
        """Returns when it ended by an error: what was told OK is durable, but nothing more can be promised."""
        await self._ended.wait()
        assert self.failed is not None
        return self.failed

    async def ask_again(self, agent: str, segments: Sequence[tuple[str, SegmentName]], why: str) -> None:
        """See `Committer`. Raises StoreError, DiskFull."""
        await asyncio.to_thread(self._catalog.ask_again, agent, segments, why)

    async def receipt(self, agent: str, stream: str, *, anew: bool = False) -> bytes | None:
        """See `Committer`. Raises StoreError, DiskFull."""
        settings, revision = self._settings, (self._policies, self._catalog.revision(agent, stream))
        cached = self._receipts.get((agent, stream))
        if cached is not None and cached[0] == revision and not anew:
            return cached[1]
        data = await asyncio.to_thread(self._make_receipt, settings, agent, stream)
        if data is not None:
            if len(self._receipts) >= _MOST_RECEIPTS:
                self._receipts.clear()
            self._receipts[agent, stream] = (revision, data)
        return data

    async def inventory(self, agent: str, page: Page) -> bytes | None:
        """See `Committer`. One page at a time: making them must not crowd out commits. Raises StoreError."""
        async with self._pages:
            return await asyncio.to_thread(self._catalog.inventory, agent, page)

    def use(self, settings: ReceiverSettings) -> None:
        """Answer by other targets and another policy from now on; the home archive must be the same."""
        self._settings = settings
        self._policies += 1

    def _make_receipt(self, settings: ReceiverSettings, agent: str, stream: str) -> bytes | None:
        issued = self._catalog.next_issued_ns()  # before reading: a later receipt never knows less
        rule = rules_of(settings).release(agent, stream)
        epochs = self._catalog.held_and_safe(agent, stream, rule=rule, places=wheres(settings))
        if not epochs and stream != EVENTS_STREAM:  # that one every agent has: it hears that nothing came of it
            return None
        return Receipt(agent, stream, issued, epochs).sign(self._key)

    # ------------------------------------------------------------------------------------------- batches

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._worker is not None and self.failed is None:
            await self._arrived.wait()
            batch = self._take()
            if not batch:
                continue
            uploads = [waiting.upload for waiting in batch]
            self._large = len(uploads) >= _MANY or sum(upload.size for upload in uploads) >= _MUCH
            try:
                outcomes = await loop.run_in_executor(self._thread, self._batches.run, uploads)
            except (SyncFailed, StoreError) as error:
                self._end(error, batch)
                return
            except Exception as error:
                log.exception("a batch failed in an unforeseen way; it is put off", uploads=len(uploads))
                outcomes = [Outcome(Answer.RESEND, f"the receiver failed: {error}")] * len(uploads)
            self._large = False
            for waiting, outcome in zip(batch, outcomes, strict=True):
                _answer(waiting, outcome)

    def _take(self, *, everything: bool = False) -> list[_Waiting]:
        """The next batch, oldest first, within its limits."""
        count = size = 0
        for waiting in self._waiting:
            size += waiting.upload.size
            if not everything and count and (count >= _MOST_UPLOADS or size > _MOST_BYTES):
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        if not self._waiting and self._worker is not None:
            self._arrived.clear()
        return batch

    def _end(self, error: HometapeError, batch: list[_Waiting]) -> None:
        log.critical("a commit could not be made durable; nothing more is taken", error=str(error), hint=error.hint)
        self.failed = error
        for waiting in (*batch, *self._take(everything=True)):
            if not waiting.answer.done():
                waiting.answer.set_exception(error)
                waiting.answer.exception()  # seen: whoever gave up waiting need not read it
        self._ended.set()


def _answer(waiting: _Waiting, outcome: Outcome) -> None:
    if not waiting.answer.done():
        waiting.answer.set_result(outcome)
