"""The drop box: a folder that a plain SFTP server fills for one agent, taken from as if it had come by the ingress.

A file is taken by copying it, hashed on the way, into a private file of the inbox (a bundle into one for each of
its segments): never the inode that the uploader may still write. The copy goes to the committer; only when that
said OK, durably, is the file deleted from the folder, and only if it is still the one that was copied. What the
folder holds besides uploads is left alone and reported once. Signed receipts are written to `.receipts/`.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import aiofiles
import watchfiles

from receiver.dropbox_copy import BoxCopy
from receiver.dropbox_receipts import BoxReceipts
from receiver.dropbox_troubles import About, Troubles
from receiver.foreign import ForeignFolder, Stamp
from receiver.ingress.inbox import clear_inbox, make_private, private_path
from receiver.ingress.names import RECEIPTS, Kind, Spot, locate
from receiver.ingress.storing import Room
from receiver.model import Answer, Committer, Outcome
from receiver.settings import AgentEntry
from tape.bundle import MAX_ITEMS
from tape.clock import SYSTEM, Clock
from tape.durable import DISK, Disk
from tape.errors import ConfigError, DiskError, HometapeError, NameRefused
from tape.log import get_logger
from tape.names import MAX_PARTS, SegmentName

_log = get_logger(__name__)

POLL = 5.0
"""Seconds between two looks at the folder when nothing is reported to have changed."""
SETTLE = 10.0
"""Seconds a file whose bytes do not fit its name must lie unchanged before it counts as damaged, not unfinished."""
AGAIN = 30.0
"""Seconds until a good file that could not be committed is tried again."""
ORPHANED = 24 * 3600.0
"""Seconds a `.part` must lie unchanged before it counts as left behind, not as under way."""
CROWD = 0.1
"""Seconds to wait after a change was reported, because changes come in crowds."""
_HINT = "create it, or mount what holds it, and let the SFTP server write there; it is looked at again by itself"
_HINT_DAMAGED = (
    "the agent sends again what no receipt confirms (docs/drop-box.md); see the disk that holds the drop box"
)
_TOLD = 24 * 3600.0
_AT_A_TIME = 8
_PAGE = 1_000
_MAX_REPORTED = 1_000
_BLOCK = 4 << 20


class DropBox:
    """One agent's drop box; `run` works until it is cancelled. `streams`: those the receiver knows of the agent.

    Raises ConfigError where the folder is missing at the start. Later it may come and go.
    """

    def __init__(
        self,
        entry: AgentEntry,
        state: Path,
        committer: Committer,
        *,
        streams: Callable[[], Iterable[str]],
        clock: Clock = SYSTEM,
        disk: Disk = DISK,
        poll: float = POLL,
    ) -> None:
        if entry.dropbox is None:
            raise ConfigError(f"agent {entry.name!r} has no `dropbox`")
        self.agent = entry.name
        self.root = entry.dropbox
        self._max = entry.max_segment
        self._folder = ForeignFolder(entry.dropbox)
        self._inbox = state / "inbox"
        self._prefix = f"box.{entry.name}."
        self._committer = committer
        self._clock = clock
        self._disk = disk
        self._poll = poll
        self._wake = asyncio.Event()
        self._room = Room(_AT_A_TIME * MAX_ITEMS)  # for each that is under way
        self._seen: set[str] = set()  # streams something was committed to
        self._later: dict[str, float] = {}
        self._odd: dict[str, tuple[Stamp, float]] = {}  # bytes that do not fit the name; since when
        self._parts: dict[str, tuple[Stamp, float]] = {}  # uploads under way; unchanged since when
        self._reported: set[str] = set()
        self.troubles = Troubles(entry.name, entry.dropbox, clock)
        self._receipts = BoxReceipts(
            entry.name,
            self._folder,
            committer,
            self.troubles,
            streams=lambda: self._seen | set(streams()),
            clock=clock,
            disk=disk,
        )

    def start(self) -> None:
        """Make the inbox ready and delete what an earlier life left there. Raises ConfigError, DiskError."""
        if not self.root.is_dir():
            raise ConfigError(
                f"agent {self.agent!r}: the drop box {self.root} is no folder",
                hint=_HINT,
            )
        make_private(self._inbox, self._disk)
        clear_inbox(self._inbox, self._disk, self._prefix)

    async def run(self) -> None:
        """Take what comes and keep the receipts fresh, until cancelled."""
        watching = asyncio.ensure_future(self._watch())
        try:
            while True:
                self._wake.clear()
                try:
                    await self.take_all()
                    await self.write_receipts()
                except (HometapeError, OSError) as error:
                    self.troubles.tell(About.BOX, "", f"it can't be worked on: {error}", _HINT)
                else:
                    self.troubles.over(About.BOX, "")
                await self._pause()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    def changed(self) -> None:
        """Something changed that receipts tell, such as a copy at a target: look soon."""
        self._wake.set()

    async def _pause(self) -> None:
        waits = [asyncio.ensure_future(self._wake.wait()), asyncio.ensure_future(self._clock.sleep(self._poll))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._wake.is_set():
            await self._clock.sleep(CROWD)

    async def _watch(self) -> None:
        """Wake up when the system reports a new name; the poll serves where it does not."""
        try:
            async for _ in watchfiles.awatch(
                self.root, watch_filter=self._matters, debounce=100, step=20, recursive=True
            ):
                self._wake.set()
        except (OSError, RuntimeError) as error:
            _log.warning("the drop box can't be watched; looking every few seconds", agent=self.agent, error=str(error))

    def _matters(self, change: watchfiles.Change, path: str) -> bool:
        with contextlib.suppress(ValueError):
            relative = Path(path).relative_to(self.root).as_posix()
            return change is not watchfiles.Change.deleted and not relative.startswith(f"{RECEIPTS}/")
        return True

    # ------------------------------------------------------------ taking

    async def take_all(self) -> int:
        """One look: take every upload that lies there; returns how many left the folder."""
        taken = 0
        while True:
            page = await asyncio.to_thread(self._look)
            gate = asyncio.Semaphore(_AT_A_TIME)

            async def one(path: str, spot: Spot, gate: asyncio.Semaphore = gate) -> bool:
                async with gate:
                    return await self._take(path, spot)

            gone = sum(await asyncio.gather(*(one(path, spot) for path, spot in page)))
            taken += gone
            if len(page) < _PAGE or not gone:
                return taken

    def _look(self) -> list[tuple[str, Spot]]:
        """Uploads to take now, in the order of their names, at most a page. Raises OSError if the folder is away."""
        now = self._clock.monotonic()
        self._later = {path: when for path, when in self._later.items() if when > now}
        found: dict[str, Spot] = {}
        parts: list[str] = []
        for thing in self._folder.walk(MAX_PARTS):
            if thing.path == RECEIPTS or thing.path.startswith(f"{RECEIPTS}/"):
                continue
            spot = self._upload_at(thing.path, folder=thing.folder, regular=thing.regular)
            if spot is None:
                continue
            if spot.kind is Kind.PART:
                parts.append(thing.path)
            else:
                found[thing.path] = spot
        self._clear_parts(parts)
        self.troubles.only(About.UPLOAD, found)
        return sorted((path, spot) for path, spot in found.items() if path not in self._later)[:_PAGE]

    def _upload_at(self, path: str, *, folder: bool, regular: bool) -> Spot | None:
        try:
            spot = locate(("/" + path).encode("utf-8", "surrogateescape"))
        except NameRefused as error:
            self._report(path, f"left alone: {error}")
            return None
        if folder:
            return None
        if not regular or spot.kind not in (Kind.PART, Kind.FINAL):
            self._report(path, "left alone: it is not an upload")
            return None
        return spot

    def _clear_parts(self, parts: list[str]) -> None:
        """Remove unfinished uploads that nobody has written to for long, as seen from here: no clock is believed."""
        now, before = self._clock.monotonic(), self._parts
        self._parts = {}
        for path in parts:
            try:
                stamp = self._folder.stamp(path)
                known, since = before.get(path, (stamp, now))
                if known != stamp:
                    since = now
                if now - since < ORPHANED:
                    self._parts[path] = (stamp, since)
                elif self._folder.remove(path, stamp):
                    _log.info("an unfinished upload was left behind and is removed", agent=self.agent, path=path)
            except FileNotFoundError:
                continue  # it was finished just now
            except OSError as error:
                self._report(path, f"an unfinished upload can't be looked at or removed: {error}")

    def _report(self, path: str, what: str) -> None:
        if len(self._reported) < _MAX_REPORTED and f"{path} {what}" not in self._reported:
            self._reported.add(f"{path} {what}")
            _log.warning(what, agent=self.agent, folder=str(self.root), path=ascii(path[:300]))

    def _tell(self, path: str, what: str) -> None:
        self.troubles.tell(About.UPLOAD, path, f"{path[:300]!a} {what}", "it stays there and is tried again")

    async def _take(self, path: str, spot: Spot) -> bool:
        assert spot.name is not None
        copy = BoxCopy(private_path(self._inbox, self._prefix), spot.name, self._disk, self._room)
        try:
            stamp = await self._copy(path, copy)
        except (OSError, DiskError) as error:
            self._later[path] = self._clock.monotonic() + AGAIN
            self._tell(path, f"could not be copied: {error}")
            await self._forget(copy)
            return False
        fits = stamp is not None and copy.fits()
        if stamp is None or (not fits and not self._settled(path, stamp)):
            await self._forget(copy)
            return False
        outcome = await self._commit(spot, copy)
        if outcome.answer is Answer.RESEND and fits:
            self._tell(path, f"could not be committed: {outcome.reason}")
            self._later[path] = self._clock.monotonic() + AGAIN
            return False
        if not outcome.ok:
            _log.warning("an upload was not taken", agent=self.agent, path=path, why=outcome.reason)
            if not fits and not await self._ask(path, copy.segments(spot.stream), outcome.reason):
                return False
        self._odd.pop(path, None)
        if spot.stream:
            self._seen.add(spot.stream)
        return await asyncio.to_thread(self._remove, path, stamp)

    async def _copy(self, path: str, copy: BoxCopy) -> Stamp | None:
        """Copy and hash a file; None if it changed meanwhile. Raises OSError, DiskError."""
        number = await asyncio.to_thread(self._folder.open, path)
        async with aiofiles.open(number, "rb", buffering=0) as source:
            before = Stamp.of(os.fstat(number))
            if before.size > self._max:
                raise DiskError(f"{before.size} bytes are more than an upload may hold ({self._max})")
            while block := await source.read(_BLOCK):
                if copy.size + len(block) > before.size:
                    return None
                await asyncio.to_thread(copy.write, block)
            after = Stamp.of(os.fstat(number))
        await asyncio.to_thread(copy.end)
        return before if after == before and copy.size == before.size else None

    def _settled(self, path: str, stamp: Stamp) -> bool:
        """Whether a file that does not fit its name has lain unchanged long enough to be no upload under way."""
        now = self._clock.monotonic()
        old, since = self._odd.get(path, (None, now))
        if old != stamp:
            since = now
            self._odd = {p: facts for p, facts in self._odd.items() if now - facts[1] < 10 * SETTLE}
            self._odd[path] = (stamp, now)
        return now - since >= SETTLE

    async def _commit(self, spot: Spot, copy: BoxCopy) -> Outcome:
        try:
            outcome = await self._committer.commit(copy.upload(self.agent, spot.stream, self._clock.now_ns()))
        except (HometapeError, OSError) as error:
            _log.error("an upload could not be committed", agent=self.agent, path=spot.path, error=str(error))
            await self._forget(copy)
            return Outcome(Answer.RESEND, "the receiver could not store it")
        copy.store.let_go()
        return outcome

    async def _ask(self, path: str, segments: list[tuple[str, SegmentName]], why: str) -> bool:
        """Have the receipts ask for what came damaged, before it is removed: nobody else hears of it."""
        if not segments:
            text = f"{path[:300]!a} came damaged and was removed; what it held is not known: {why}"
            self.troubles.tell(About.DAMAGED, path, text, _HINT_DAMAGED, lasting=_TOLD)
            return True
        try:
            await self._committer.ask_again(self.agent, segments, why)
        except (HometapeError, OSError) as error:
            self._later[path] = self._clock.monotonic() + AGAIN
            self._tell(path, f"came damaged, and can't be asked for again now: {error}")
            return False
        self._seen.update(stream for stream, _ in segments)
        return True

    async def _forget(self, copy: BoxCopy) -> None:
        try:
            await asyncio.to_thread(copy.store.delete)
        except DiskError as error:
            _log.error("a private copy could not be deleted", path=str(copy.store.path), error=str(error))

    def _remove(self, path: str, stamp: Stamp) -> bool:
        try:
            gone = self._folder.remove(path, stamp)
        except OSError as error:
            self._tell(path, f"taken, but it can't be deleted from the drop box: {error}")
            self._later[path] = self._clock.monotonic() + AGAIN
            return False
        self.troubles.over(About.UPLOAD, path)
        return gone

    # ------------------------------------------------------------ receipts

    async def write_receipts(self) -> int:
        """Write each stream's receipt that says something new, or is old; returns how many were written."""
        return await self._receipts.write()
