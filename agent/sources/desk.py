"""What the parts of a file source share: its lives, open handles, and the way to the intake."""

import asyncio
import os
import stat
from dataclasses import dataclass, field

from agent.identity import FINGERPRINT, Content
from agent.model import Chunk, Event, EventKind, Origin
from agent.settings import SourceSettings
from agent.sources.contract import Intake, Positions
from agent.sources.handles import Handles, open_shared, raise_limit, read_at
from agent.sources.lives import Life, Roll
from agent.sources.naming import stream_of
from agent.sources.rewrites import HINT, OFTEN, WITHIN, Rewrites
from agent.sources.scan import Seen
from tape.clock import Clock
from tape.digest import xxh3
from tape.filenames import kin
from tape.log import get_logger

_log = get_logger(__name__)
_HANDLES = 2048
_BLOCK = 1 << 20
_LOOK_BACK = 1 << 24


class Moved(OSError):
    """The path no longer leads to the file it led to."""


@dataclass(slots=True)
class Desk:
    """State and plumbing; the rules are in agent.identity, the flow in the modules beside this one."""

    settings: SourceSettings
    clock: Clock
    intake: Intake
    positions: Positions
    roll: Roll = field(default_factory=Roll)
    handles: Handles = field(init=False)
    unreadable: dict[str, str] = field(default_factory=dict)
    leaving: dict[str, Life] = field(default_factory=dict)
    lost: dict[str, Life] = field(default_factory=dict)
    rewrites: Rewrites = field(default_factory=Rewrites)
    delivered: int = 0
    draining: bool = False

    def __post_init__(self) -> None:
        self.handles = Handles(min(_HANDLES, raise_limit() // 4), self._may_close)

    def _may_close(self, key: str) -> bool:
        life = self.roll.by_id.get(key)
        if life is not None:
            if not life.there and not life.finished:
                return False  # nothing else leads to it any more
            life.close()
        return True

    def shut(self) -> None:
        """Close every handle; lives keep the digests of their last bytes."""
        for life in self.roll:
            if life.last is not None:
                life.close()
        self.handles.close_all()

    def release(self, life: Life) -> None:
        """Close a life's handle."""
        life.close()
        self.handles.close(life.key)

    async def deliver(self, life: Life, data: bytes, recv_ns: int) -> None:
        """Hand bytes to the intake; the life moves on once they are taken."""
        if life.finished:  # it grew after all: what follows belongs to it
            life.finished = False
            if life.leaving and not life.packed:
                self.leaving[life.key] = life
        chunk = Chunk(life.origin, life.offset, data, recv_ns)
        await self.intake.take(chunk, path=life.path, device=life.device, inode=life.inode)
        self.roll.read(life, data)
        self.delivered += len(data)
        life.since = self.clock.monotonic()

    async def finish(self, life: Life) -> None:
        """Nothing will follow for this life."""
        if not life.finished:
            life.finished = True
            self.leaving.pop(life.key, None)
            self.lost.pop(life.key, None)
            await self.intake.finish(life.origin)

    async def tell(
        self, kind: EventKind, origin: Origin, path: str, fault: str = "", **detail: str | int | None
    ) -> None:
        """Record an event and log it."""
        log = _log.warning if fault or kind in {EventKind.UNREADABLE, EventKind.REWRITTEN} else _log.info
        log(f"file {kind.value}", source=origin.source, stream=origin.stream, file=path, fault=fault or None, **detail)
        event = Event(kind, origin.source, origin.stream, path, self.clock.now_ns(), dict(detail), fault)
        await self.intake.event(event)
        if kind in {EventKind.ROTATED, EventKind.COMPRESSED}:
            self.rewrites.found(origin.file_id)
        elif kind in {EventKind.TRUNCATED, EventKind.RECREATED} and self.rewrites.note(
            path, origin.file_id, self.clock.monotonic()
        ):
            await self.tell(EventKind.REWRITTEN, origin, path, times=OFTEN, within_s=round(WITHIN), hint=HINT)

    async def moved(self, life: Life, path: str, device: int, inode: int) -> None:
        """A life's file lies elsewhere now: note it here and durably."""
        self.roll.place(life, path, device, inode)
        self.lost.pop(life.key, None)
        life.lost = False
        life.size, life.mtime_ns = None, -1
        life.room_to, life.written_at, life.closing = 0, -1, False
        life.since = self.clock.monotonic()
        if not life.leaving and path != life.origin.name:
            life.leaving = True
        if life.leaving and not life.finished and not life.packed:
            self.leaving[life.key] = life
        await asyncio.to_thread(self.positions.moved, life.key, path, device, inode)

    def displaced(self, life: Life) -> None:
        """A life's content is not in its file any more; it must be looked for elsewhere."""
        self.release(life)
        self.roll.unplace(life)
        life.leaving = True
        self.leaving.pop(life.key, None)
        if not life.finished:
            life.lost = True
            life.since = self.clock.monotonic()
            self.lost[life.key] = life

    async def refused(self, path: str, origin: Origin, error: OSError) -> None:
        """A file can't be read now: said once for each reason; it is tried again at every poll."""
        reason = error.strerror or str(error)
        if self.unreadable.get(path) != reason:
            self.unreadable[path] = reason
            await self.tell(EventKind.UNREADABLE, origin, path, reason=reason)

    def opened(self, path: str, device: int, inode: int) -> int:
        """A descriptor of exactly this file; raises Moved when the path leads elsewhere, else OSError."""
        fd = open_shared(path)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise Moved(f"{path} is not a regular file")
            if (status.st_dev, status.st_ino) != (device, inode):
                raise Moved(f"{path} is another file now")
        except OSError:
            os.close(fd)
            raise
        return fd

    def handle(self, life: Life) -> int:
        """The open descriptor of a plain life, opened if need be (not yet compared); raises OSError."""
        fd = self.handles.get(life.key)
        if fd is None:
            fd = self.opened(life.path, life.device, life.inode)
            self.handles.put(life.key, fd)
        return fd

    def related(self, path: str, life: Life) -> bool:
        """Whether a path looks like the later name of a life's file: a rotated form of the same stream."""
        template, fallback = self.settings.stream, self.settings.name
        return kin(path, life.path) and (
            stream_of(template, path, fallback) == stream_of(template, life.origin.name, fallback)
        )

    def compare(self, life: Life, fd: int, *, whole: bool = False) -> Content:
        """What an open file holds, compared with what was read of a life. Raises OSError.

        Notes the size of a file that is the same. With its last bytes at hand only those are compared, unless `whole`.
        """
        size = os.fstat(fd).st_size
        if size < life.offset:
            return Content.SHORTER
        length, digest = life.end_mark()
        last = read_at(fd, life.offset - length, length)
        if len(last) < length:
            return Content.SHORTER
        if ((xxh3(last) != digest) if length else False) or filled(life, fd):
            return Content.OTHER
        if life.last is None or whole:
            head = read_at(fd, 0, life.head_length)
            if life.head_length and xxh3(head) != life.head:
                return Content.OTHER
            self.roll.opened(life, head, last)
            life.header = life.header or header_of(fd, life.offset)
            if life.hollow is None and last and not last.strip(b"\0"):
                life.hollow = _hollow(fd, life.offset)
        life.size = size
        return Content.SAME


def header_of(fd: int, read_to: int) -> int:
    """Life.header of an open file, looked for in what was read of it and in its first MiB. Raises OSError."""
    start, step = 0, FINGERPRINT
    while start < min(read_to, _BLOCK):
        at = read_at(fd, start, min(step, read_to - start)).find(b"\n")
        if at >= 0:
            return start + at + 1
        start, step = start + step, _BLOCK - FINGERPRINT
    return -1 if read_to >= _BLOCK else 0


def same_stat(life: Life, seen: Seen) -> bool:
    """Whether a file looks untouched since the life was read last. What was filled through a map may look so."""
    same = life.size == seen.size and life.mtime_ns == seen.mtime_ns and life.offset == seen.size
    return same and life.hollow is None


def filled(life: Life, fd: int) -> bool:
    """Whether something was written where NULs at the end of the file were read. Raises OSError."""
    if life.hollow is None:
        return False
    return bool(read_at(fd, life.hollow, min(FINGERPRINT, life.offset - life.hollow)).strip(b"\0"))


def _hollow(fd: int, end: int) -> int:
    """Where the NULs before an offset begin, as far as one looks back."""
    start = end
    while start > max(0, end - _LOOK_BACK):
        block = read_at(fd, max(0, start - _BLOCK), min(start, _BLOCK))
        kept = len(block.rstrip(b"\0"))
        start -= len(block) - kept
        if kept or not block:
            break
    return start
