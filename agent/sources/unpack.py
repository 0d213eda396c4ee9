"""Finished archives: recognised by their content, read as streams, one after the other."""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import BinaryIO

from agent.identity import FINGERPRINT, Claim, Match
from agent.model import EventKind
from agent.sources.archives import Archive
from agent.sources.claims import Likeness, Newcomer, begins_with, decide
from agent.sources.contract import Unread
from agent.sources.desk import Desk, Moved
from agent.sources.lives import Life
from agent.sources.naming import MEMBER
from agent.sources.reconcile import new_life
from agent.sources.restart import outer_path
from agent.sources.scan import Scan, Seen
from tape.digest import xxh3
from tape.errors import Damaged
from tape.filenames import archive_suffix

_NOWHERE = Seen(-1, -1, -1, -1, link=False)


@dataclass(slots=True)
class Pack:
    """An archive that has not been read to its end as it is now. `since`: monotonic time of its last change,
    `first`: of the first one that was not read. `before`: its size when it was read last.
    """

    path: str
    seen: Seen
    since: float
    first: float
    before: int
    queued: bool = False
    done: set[str] = field(default_factory=set)
    held: dict[str, Newcomer] = field(default_factory=dict)


@dataclass(slots=True)
class Probe:
    """One pass through a content: its length, that of its first line (0: it has none), what is wrong with it, its
    last bytes, digests of the bytes before some offsets.
    """

    length: int = 0
    header: int = 0
    flaw: str = ""
    last: bytes = b""
    ends: dict[int, str] = field(default_factory=dict)


class Unpacker:
    """Reads archives. `pending`: by path, those that are not done; `done`: what the others looked like."""

    def __init__(self, desk: Desk, wake: Callable[[], None]) -> None:
        self.pending: dict[str, Pack] = {}
        self._desk = desk
        self._wake = wake
        self._done: dict[str, Seen] = {}
        self._queue: deque[Pack] = deque()
        self._ready = asyncio.Event()

    async def apply(self, scan: Scan) -> None:
        """Take note of new, changed, renamed and vanished archives."""
        now = self._desk.clock.monotonic()
        there = {path: seen for path, seen in scan.files.items() if archive_suffix(path)}
        await self._renamed(there)
        for path, seen in there.items():
            pack = self.pending.get(path)
            if pack is not None and pack.seen != seen:
                pack.seen, pack.since = seen, now
                pack.done.clear()
                pack.held.clear()
            elif pack is None and self._done.get(path) != seen:
                before = self._done.pop(path, _NOWHERE)
                self.pending[path] = Pack(path, seen, now, now, max(0, before.size))
        vanished = {path for path in (*self._done, *self.pending) if path not in there}
        if vanished:
            await self._vanished(vanished)

    async def _renamed(self, there: dict[str, Seen]) -> None:
        """Archives that are done and lie under other names now, chains of renames included."""
        left = {seen[:4]: path for path, seen in self._done.items() if there.get(path, _NOWHERE)[:2] != seen[:2]}
        moves = {path: left[seen[:4]] for path, seen in there.items() if seen[:4] in left} if left else {}
        lives = {old: self._lives_of({old}) for old in moves.values()}
        for old in moves.values():
            self._done.pop(old, None)
        for path, old in moves.items():
            seen = there[path]
            self._done[path] = seen
            self.pending.pop(path, None)
            for life in lives[old]:
                await self._desk.moved(life, path + life.path[len(old) :], seen.device, seen.inode)
                life.size = life.offset

    async def _vanished(self, paths: set[str]) -> None:
        for path in paths:
            self._done.pop(path, None)
            self.pending.pop(path, None)
        for life in self._lives_of(paths):
            self._desk.roll.unplace(life)
            if not life.finished and not life.busy:
                await self._desk.finish(life)
                await self._desk.tell(EventKind.DELETED, life.origin, life.path, read_to=life.offset)

    def _lives_of(self, paths: set[str]) -> list[Life]:
        return [life for life in self._desk.roll.by_path.values() if life.packed and outer_path(life.path) in paths]

    def unread(self) -> Unread:
        """How much waits to be read. What is left of an archive that was read before counts, as it lies on disk."""
        now = self._desk.clock.monotonic()
        oldest = min(self.pending.values(), key=lambda pack: pack.first, default=None)
        if oldest is None:
            return Unread()
        size = sum(max(0, pack.seen.size - pack.before) for pack in self.pending.values())
        return Unread(len(self.pending), size, now - oldest.first, oldest.path)

    def tick(self) -> None:
        """Queue what has become ready by time, or because a life changed."""
        now, wall = self._desk.clock.monotonic(), self._desk.clock.now_ns()
        settings = self._desk.settings
        for pack in self.pending.values():
            if pack.queued:
                continue
            age = wall - pack.seen.mtime_ns
            ready = now - pack.since >= settings.archive_settle or age >= settings.archive_settle * 1e9
            if pack.held and now - pack.since < settings.copy_settle:
                ready = any(n.unsure or any(not k.life.there for k in n.like) for n in pack.held.values())
            if ready:
                pack.queued = True
                self._queue.append(pack)
                self._ready.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            while self._queue:
                await self._work(self._queue.popleft(), drain=False)
                self._wake()
            self._ready.clear()
            await self._ready.wait()

    async def drain(self) -> None:
        """Read all that is pending, once."""
        for pack in list(self.pending.values()):
            await self._work(pack, drain=True)

    async def _work(self, pack: Pack, *, drain: bool) -> None:
        desk, seen = self._desk, pack.seen
        if self.pending.get(pack.path) is not pack:
            return
        try:
            fd = desk.opened(pack.path, seen.device, seen.inode)
            with os.fdopen(fd, "rb") as file:
                held = await self._members(pack, file, drain=drain)
        except (Moved, FileNotFoundError):
            pack.queued = False
            return  # the next scan tells
        except OSError as error:
            await desk.refused(pack.path, new_life(desk, pack.path, 0, 0).origin, error)
            pack.since, pack.queued = desk.clock.monotonic() + desk.settings.poll, False
            return
        desk.unreadable.pop(pack.path, None)
        pack.queued = False
        if self.pending.get(pack.path) is pack and pack.seen == seen and not held:
            del self.pending[pack.path]
            self._done[pack.path] = seen

    async def _members(self, pack: Pack, file: BinaryIO, *, drain: bool) -> bool:
        """Read all members that are not done; True if some have to wait."""
        archive = await asyncio.to_thread(Archive, file, archive_suffix(pack.path))
        pack.held.clear()
        flaw, named = archive.flaw, new_life(self._desk, pack.path, 0, 0).origin
        used: set[str] = set()
        for number, name in enumerate(archive.members()):
            key = pack.path + (MEMBER + name if name else "")
            if key in used:
                key = f"{key}#{number}"  # zip allows the same name twice
            used.add(key)
            if key in pack.done:
                continue
            try:
                if await _Member(self._desk, pack, archive, number, key).read(drain=drain):
                    pack.done.add(key)
            except Damaged as error:
                flaw = ""
                pack.done.add(key)
                life = self._desk.roll.by_path.get(key)
                await self._desk.tell(
                    EventKind.GAP, life.origin if life else named, key, "storage",
                    reason=str(error), read_to=life.offset if life else 0, size=pack.seen.size, bytes=None,
                )  # fmt: skip
        if flaw:
            await self._desk.tell(
                EventKind.GAP, named, pack.path, "storage", reason=flaw, size=pack.seen.size, bytes=None
            )
        return bool(pack.held)


class _Member:
    """One content of one archive: found out what it is, then read."""

    def __init__(self, desk: Desk, pack: Pack, archive: Archive, number: int, key: str) -> None:
        self._desk = desk
        self._pack = pack
        self._archive = archive
        self._number = number
        self._key = key

    async def read(self, *, drain: bool) -> bool:
        """True when it is read to its end, False when it has to wait; raises Damaged."""
        desk, pack, key = self._desk, self._pack, self._key
        head = await asyncio.to_thread(_head, self._archive.blocks(self._number))
        own = desk.roll.by_path.get(key)
        if own is not None and not own.packed:
            own = None
        if own is not None and self._unchanged(own, head):
            own.size = own.offset
            return True
        others = [life for life in desk.roll.starting_like(head) if life is not own]
        plain = list(desk.roll.beginning_with(key, head))
        if own is None and not others and not plain:
            await self._stream(self._start())
            return True
        wanted = {(life.offset, life.end_mark()[0]) for life in (*others, *([own] if own else []))}
        probe = await asyncio.to_thread(_probe, self._archive.blocks(self._number), wanted)
        if own is not None:
            if own.offset <= probe.length and probe.ends.get(own.offset) == own.end_mark()[1]:
                await self._stream(own)
                return True
            if probe.flaw and own.offset > probe.length:
                raise Damaged(probe.flaw)  # being written anew, or cut: what was read of it stays
            await self._replaced(own)
        like = [k for life in others if (k := _likeness(life, probe))]
        end = max(0, probe.length - FINGERPRINT)
        like.extend(
            Likeness(life, Match.PREFIX, life.offset)
            for life in plain
            if life.offset > probe.length and begins_with(desk, life, head[: probe.length], end, probe.last)
        )
        newcomer = Newcomer(self._name(), pack.seen, pack.since, probe.length, like)
        waited = drain or desk.clock.monotonic() - pack.since >= desk.settings.copy_settle
        verdict, original = decide(desk, newcomer, waited=waited)
        if verdict is Claim.HOLD:
            pack.held[key] = newcomer
            return False
        if verdict is Claim.ADOPT and original is not None:
            await self._adopt(original)
        await self._stream(original or self._start())
        return True

    def _name(self) -> str:
        """The name by which relatives are known: a member's own, where there are several."""
        member = self._key[len(self._pack.path) + 1 :]
        return str(PurePath(self._pack.path).parent / member) if member else self._pack.path

    def _unchanged(self, own: Life, head: bytes) -> bool:
        """After a restart: a finished archive that is what it was, without unpacking all of it again."""
        seen = self._pack.seen
        same = own.finished and own.size is None and (own.device, own.inode) == (seen.device, seen.inode)
        return (
            same
            and xxh3(head[: own.head_length]) == own.head
            and self._archive.stated_size(self._number) in {own.offset, own.offset % 2**32}
        )

    def _start(self) -> Life:
        seen = self._pack.seen
        life = new_life(self._desk, self._key, seen.device, seen.inode, packed=True)
        self._desk.roll.add(life)
        return life

    async def _replaced(self, own: Life) -> None:
        desk = self._desk
        desk.roll.unplace(own)
        await desk.tell(EventKind.RECREATED, own.origin, own.path, read_to=own.offset)
        await desk.finish(own)

    async def _adopt(self, life: Life) -> None:
        desk, seen, old = self._desk, self._pack.seen, life.path
        desk.release(life)
        life.packed = True
        desk.leaving.pop(life.key, None)
        await desk.moved(life, self._key, seen.device, seen.inode)
        await desk.tell(EventKind.COMPRESSED, life.origin, self._key, before=old, read_to=life.offset)

    async def _stream(self, life: Life) -> None:
        """Read what the life does not have yet, then finish it; raises Damaged after the last good byte."""
        desk, seen = self._desk, self._pack.seen
        life.device, life.inode = seen.device, seen.inode
        blocks = self._archive.blocks(self._number)
        life.busy = True
        try:
            if life.offset:
                head, last, first = await asyncio.to_thread(_skip, blocks, life.offset)
                desk.roll.opened(life, head, last)
            else:
                life.last, first = b"", b""
            block: bytes | None = first
            while block is not None:
                if block:
                    await desk.deliver(life, block, desk.clock.now_ns())
                block = await asyncio.to_thread(next, blocks, None)
            life.size = life.offset
        finally:
            life.busy = False
            life.close()
        if not life.finished:
            await desk.finish(life)
            await desk.tell(EventKind.FINISHED, life.origin, life.path, read_to=life.offset)


def _likeness(life: Life, probe: Probe) -> Likeness | None:
    if life.offset > probe.length:
        return None if life.there else Likeness(life, Match.PREFIX, life.offset)
    if probe.ends.get(life.offset) == life.end_mark()[1]:
        life.header = life.header or probe.header
        return Likeness(life, Match.FULL, life.offset)
    return None


def _head(blocks: Iterator[bytes]) -> bytes:
    head = b""
    try:
        while len(head) < FINGERPRINT and (block := next(blocks, None)) is not None:
            head += block[:FINGERPRINT]
    except Damaged:
        pass  # told when it is read
    return head[:FINGERPRINT]


def _probe(blocks: Iterator[bytes], wanted: set[tuple[int, int]]) -> Probe:
    """Go through a content and take the digest of the `length` bytes before each wanted (offset, length)."""
    probe = Probe()
    marks = deque(sorted(wanted))
    try:
        for block in blocks:
            joined = probe.last + block
            base = probe.length - len(probe.last)
            if not probe.header and b"\n" in block:
                probe.header = probe.length + block.find(b"\n") + 1
            probe.length += len(block)
            while marks and marks[0][0] <= probe.length:
                offset, length = marks.popleft()
                probe.ends[offset] = xxh3(joined[offset - length - base : offset - base])
            probe.last = joined[-FINGERPRINT:]
    except Damaged as error:
        probe.flaw = str(error)
    return probe


def _skip(blocks: Iterator[bytes], offset: int) -> tuple[bytes, bytes, bytes]:
    """Pass over `offset` bytes: the first of them, the last of them, and what was read too far. Raises Damaged."""
    head, last, at = b"", b"", 0
    for block in blocks:
        used = block[: offset - at]
        at += len(used)
        if len(head) < FINGERPRINT:
            head = (head + used)[:FINGERPRINT]
        last = (last + used)[-FINGERPRINT:]
        if at == offset:
            return head, last, block[len(used) :]
    return head, last, b""
