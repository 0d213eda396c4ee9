"""Files that grow, rotate, are copied away, compressed, deleted: read so that no byte is lost or sent twice.

`FileSource` runs one [[source]]. File events (and every `poll` seconds the clock) make it look at the
folders its patterns reach; a scan is set against the lives it follows (`reconcile`), files that grew
are read (`follow`), finished archives are unpacked one after the other beside that (`unpack`), and what
waits for time to pass is looked at four times a second. Which file is which decides `agent.identity`.
"""

import asyncio

from agent.identity import Content, Place, Sight, fate, fault_of, missing_bytes
from agent.model import EventKind
from agent.settings import SourceSettings
from agent.sources.contract import Intake, Positions, Standing
from agent.sources.desk import Desk
from agent.sources.follow import follow
from agent.sources.lives import Life
from agent.sources.reconcile import Reconciler
from agent.sources.restart import recall
from agent.sources.scan import Patterns, Scan
from agent.sources.unpack import Unpacker
from agent.sources.watch import Watcher
from tape.clock import SYSTEM, Clock
from tape.log import get_logger

_log = get_logger(__name__)
_TICK = 0.25
_REST = 10.0  # scans asked for by events may take a tenth of the time
_REST_MAX = 2.0
_UNWATCHED_POLL = 0.5
_ROUNDS = 16


class FileSource:
    """The files of one [[source]]. `run` until cancelled, or `drain` once; not both at the same time.

    `scans` counts how often the folders were looked at.
    """

    def __init__(self, settings: SourceSettings, *, clock: Clock = SYSTEM) -> None:
        self._settings = settings
        self._clock = clock
        self._patterns = Patterns(settings.paths, settings.exclude)
        self._desk: Desk | None = None
        self._rec: Reconciler
        self._packs: Unpacker
        self._wake = asyncio.Event()
        self._changed: set[str] = set()
        self._scan_wanted = True
        self._scan_after = 0.0
        self._poll_at = 0.0
        self._tick_at = 0.0
        self.scans = 0
        self._tick_every = max(0.02, min(_TICK, settings.copy_settle / 3, settings.archive_settle / 3))

    @property
    def unreadable(self) -> dict[str, str]:
        """Files that can't be read at the moment, with the reason."""
        return dict(self._desk.unreadable) if self._desk is not None else {}

    @property
    def busy(self) -> bool:
        """Whether something is left to read or to decide at the moment."""
        return self._desk is None or bool(self._rec.dirty or self._rec.held or self._packs.pending)

    @property
    def lives(self) -> int:
        """How many lives are known."""
        return len(self._desk.roll) if self._desk is not None else 0

    def standing(self) -> Standing:
        """What is to be told of it in status."""
        if self._desk is None:
            return Standing()
        return Standing(self._packs.unread(), self._desk.rewrites.often(self._clock.monotonic()))

    async def run(self, intake: Intake, positions: Positions) -> None:
        """Read until cancelled. Errors of the intake are raised; those of files are events."""
        desk = await self._begin(intake, positions)
        watcher = Watcher(self._clock, self._reported, self._want_scan)
        watching = asyncio.create_task(watcher.run(), name=f"watch {self._settings.name}")
        unpacking = asyncio.create_task(self._packs.run(), name=f"unpack {self._settings.name}")
        for task in (watching, unpacking):
            task.add_done_callback(lambda _: self._wake.set())
        try:
            while True:
                for task in (watching, unpacking):
                    if task.done():
                        task.result()
                await self._turn(desk, watcher)
        finally:
            for task in (watching, unpacking):
                task.cancel()
            await asyncio.gather(watching, unpacking, return_exceptions=True)
            desk.shut()

    async def drain(self, intake: Intake, positions: Positions) -> None:
        """Read all there is now: archives count as finished, and nothing waits to see what follows."""
        desk = await self._begin(intake, positions)
        desk.draining = True
        try:
            for _ in range(_ROUNDS):
                before = (desk.delivered, len(desk.roll), len(self._packs.pending))
                await self._scan(desk, None, drain=True)
                while self._rec.dirty:
                    await self._read(desk)
                await self._packs.drain()
                if (desk.delivered, len(desk.roll), len(self._packs.pending)) == before and not self._scan_wanted:
                    break
            for life in list(desk.lost.values()):
                await self._give_up(desk, life)
            for life in [life for life in desk.leaving.values() if not life.there and life.reason == "deleted"]:
                await self._end(desk, life)
        finally:
            desk.draining = False
            desk.shut()

    # -- the parts of a turn

    async def _begin(self, intake: Intake, positions: Positions) -> Desk:
        if self._desk is not None:
            self._desk.intake, self._desk.positions = intake, positions
            self._scan_wanted = True
            return self._desk
        desk = Desk(self._settings, self._clock, intake, positions)
        self._rec = Reconciler(desk)
        self._packs = Unpacker(desk, self._wake.set)
        known = await asyncio.to_thread(lambda: list(positions.known_files(self._settings.name)))
        scan = await asyncio.to_thread(self._patterns.scan)
        await recall(desk, self._rec, known, scan)
        self._desk = desk
        return desk

    async def _turn(self, desk: Desk, watcher: Watcher) -> None:
        now = self._clock.monotonic()
        changed, self._changed = self._changed, set()
        for path in changed:
            self._touch(desk, path)
        if now >= self._poll_at or (self._scan_wanted and now >= self._scan_after):
            await self._scan(desk, watcher)
        await self._read(desk)
        await self._tick(desk)
        if self._rec.dirty or self._changed:
            await self._clock.sleep(0)
            return
        wait = min(self._poll_at, self._scan_after if self._scan_wanted else self._poll_at) - self._clock.monotonic()
        if desk.leaving or desk.lost or self._rec.held or self._packs.pending:
            wait = min(wait, self._tick_at - self._clock.monotonic())
        self._wake.clear()
        if not self._changed and wait > 0:
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _reported(self, changes: list[tuple[str, bool]]) -> None:
        for path, name_changed in changes:
            self._changed.add(path)
            if name_changed:
                self._scan_wanted = True
        self._wake.set()

    def _want_scan(self) -> None:
        self._scan_wanted = True
        self._wake.set()

    def _touch(self, desk: Desk, path: str) -> None:
        life = desk.roll.by_path.get(path) or desk.roll.by_path.get(self._rec.links.get(path, ""))
        if life is not None and not life.packed:
            self._rec.dirty[life.key] = life
        elif self._patterns.reaches(path):
            self._scan_wanted = True

    async def _scan(self, desk: Desk, watcher: Watcher | None, *, drain: bool = False) -> None:
        self._scan_wanted = False
        started = self._clock.monotonic()
        scan = await asyncio.to_thread(self._patterns.scan)
        took = self._clock.monotonic() - started
        await self._report_denied(desk, scan)
        await self._rec.apply(scan, drain=drain)
        await self._packs.apply(scan)
        poll = self._settings.poll
        if watcher is not None and not watcher.watch(scan.folders, scan.files):
            poll = min(poll, _UNWATCHED_POLL)
        self.scans += 1
        ended = self._clock.monotonic()
        self._scan_after = ended + min(poll, _REST_MAX, _REST * took)
        self._poll_at = ended + max(poll, took)

    async def _report_denied(self, desk: Desk, scan: Scan) -> None:
        for path, reason in scan.denied.items():
            if desk.unreadable.get(path) != reason:
                desk.unreadable[path] = reason
                _log.warning("folder can't be read", source=self._settings.name, folder=path, reason=reason)

    async def _read(self, desk: Desk) -> None:
        for key, life in list(self._rec.dirty.items()):
            if life.packed:
                del self._rec.dirty[key]
                continue
            content, more = await follow(desk, life)
            if not more:
                self._rec.dirty.pop(key, None)
            if content is Content.UNSEEN:
                self._scan_wanted |= life.path not in desk.unreadable
            elif content in {Content.SHORTER, Content.OTHER}:
                held = desk.handles.get(key) is not None
                place = Place.HERE if life.there else Place.NOWHERE
                await self._rec.displace(life, fate(Sight(place, content, held=held, strong=life.strong, kin=True)))
                self._scan_wanted = True

    async def _tick(self, desk: Desk) -> None:
        now = self._clock.monotonic()
        if now < self._tick_at:
            return
        self._tick_at = now + self._tick_every
        settle = self._settings.copy_settle
        for life in list(desk.leaving.values()):
            if not life.there or life.size is None:
                self._rec.dirty.setdefault(life.key, life)
            if now - life.since >= settle and life.size == life.offset:
                await self._end(desk, life)
            elif now - life.since >= settle and life.at_room:
                life.closing = True
                self._rec.dirty.setdefault(life.key, life)
        for life in list(desk.lost.values()):
            if now - life.since >= settle and not self._rec.held and not self._packs.pending:
                await self._give_up(desk, life)
        if self._rec.held and now >= self._scan_after:
            self._scan_wanted = True
        self._packs.tick()

    async def _end(self, desk: Desk, life: Life) -> None:
        """A rotated or deleted file that has been read to its end and is quiet."""
        await desk.finish(life)
        self._rec.dirty.pop(life.key, None)
        desk.release(life)
        kind = EventKind.DELETED if life.reason == "deleted" and not life.there else EventKind.FINISHED
        await desk.tell(kind, life.origin, life.path, read_to=life.offset)

    async def _give_up(self, desk: Desk, life: Life) -> None:
        """A lost life's content was found nowhere: it ends, with a gap if bytes are or may be missing."""
        missing = missing_bytes(life.offset, life.size)
        if life.reason == "deleted":
            await desk.tell(EventKind.DELETED, life.origin, life.path, read_to=life.offset)
        if missing is None or missing > 0:
            await desk.tell(
                EventKind.GAP, life.origin, life.path, fault_of(life.size), read_to=life.offset, bytes=missing
            )
        await desk.finish(life)
