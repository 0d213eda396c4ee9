"""A recording intake with offset checks, positions in memory, and a source run beside the test."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.model import Chunk, Event, EventKind, KnownFile, Origin
from agent.settings import SourceSettings
from agent.sources.files import FileSource
from tape.digest import xxh3
from tests.support import wait_until_async


@dataclass
class Taken:
    """What was taken of one life since its first byte."""

    origin: Origin
    data: bytearray = field(default_factory=bytearray)
    path: str = ""
    device: int = 0
    inode: int = 0
    finished: bool = False
    sealed: int = 0
    sealed_finished: bool = False
    chunks: int = 0
    recv_ns: list[int] = field(default_factory=list)


class Ledger:
    """Intake and Positions in one: keeps the bytes of every life, refuses a gap or an overlap.

    `seal` makes what was taken durable, in part or in full; `restart` forgets the rest, as a crash does.
    """

    def __init__(self) -> None:
        self.lives: dict[str, Taken] = {}
        self.events: list[Event] = []
        self.moves: list[tuple[str, str]] = []
        self.waiting = 0
        self._room: int | None = None
        self._held = ""
        self._opened = asyncio.Event()

    async def take(self, chunk: Chunk, *, path: str, device: int, inode: int) -> None:
        while self._held and path.endswith(self._held):
            self.waiting += 1
            await self._opened.wait()
        life = self.lives.setdefault(chunk.origin.file_id, Taken(chunk.origin))
        assert life.origin == chunk.origin
        assert 0 < len(chunk.data) <= 1 << 20
        assert chunk.start == len(life.data), f"{path}: {chunk.start} follows {len(life.data)}"
        while self._room is not None and self.total >= self._room:
            await self._opened.wait()
        life.data += chunk.data
        life.path, life.device, life.inode, life.finished = path, device, inode, False
        life.chunks += 1
        life.recv_ns.append(chunk.recv_ns)

    async def finish(self, origin: Origin) -> None:
        if origin.file_id in self.lives:
            self.lives[origin.file_id].finished = True

    async def event(self, event: Event) -> None:
        self.events.append(event)

    def known_files(self, source: str) -> Iterable[KnownFile]:
        for life in self.lives.values():
            if life.sealed and life.origin.source == source:
                done = bytes(life.data[: life.sealed])
                head, tail = done[:4096], done[-4096:]
                yield KnownFile(
                    life.origin, life.path, life.device, life.inode, life.sealed, len(head), xxh3(head),
                    len(tail), xxh3(tail), finished=life.sealed_finished,
                )  # fmt: skip

    def moved(self, file_id: str, path: str, device: int, inode: int) -> None:
        self.moves.append((file_id, path))
        if file_id in self.lives:
            life = self.lives[file_id]
            life.path, life.device, life.inode = path, device, inode

    def seal(self, rng: random.Random | None = None) -> None:
        """Make what was taken durable; with `rng` up to a random place not before the last."""
        for life in self.lives.values():
            life.sealed = len(life.data) if rng is None else rng.randint(life.sealed, len(life.data))
            life.sealed_finished = life.finished and life.sealed == len(life.data)

    def restart(self) -> None:
        """Forget what was not sealed."""
        for key, life in list(self.lives.items()):
            del life.data[life.sealed :]
            life.finished = life.sealed_finished
            if not life.sealed:
                del self.lives[key]

    def close_after(self, count: int) -> None:
        """Take nothing more once this many bytes were taken."""
        self._room = count
        self._opened.clear()

    def hold(self, name: str) -> None:
        """Take nothing of files of this name."""
        self._held = name
        self._opened.clear()

    def let_go(self) -> None:
        """Take everything."""
        self._held = ""
        self._opened.set()

    def open_again(self) -> None:
        """Take everything."""
        self._room = None
        self._opened.set()

    # -- what tests ask

    @property
    def contents(self) -> list[bytes]:
        """The bytes of all lives, sorted."""
        return sorted(bytes(life.data) for life in self.lives.values())

    @property
    def total(self) -> int:
        """Bytes over all lives."""
        return sum(len(life.data) for life in self.lives.values())

    def of(self, name: str | Path) -> list[Taken]:
        """Lives first seen under a path (its end is enough), oldest first."""
        return [life for life in self.lives.values() if life.origin.name.endswith(str(name))]

    def kinds(self) -> list[EventKind]:
        """The kinds of all events in order."""
        return [event.kind for event in self.events]

    async def told(self, kind: EventKind, *, times: int = 1) -> None:
        """Wait until an event of this kind was told."""
        await wait_until_async(lambda: self.kinds().count(kind) >= times, what=f"the event {kind.value}")

    def gaps(self) -> list[Event]:
        """The gap events."""
        return [event for event in self.events if event.kind is EventKind.GAP]


def settings(*paths: Path | str, **more: Any) -> SourceSettings:
    """Settings with short waits."""
    values: dict[str, Any] = {
        "name": "ticks",
        "paths": [str(p) for p in paths],
        "stream": "t/{base}",
        "poll": 0.4,
        "copy_settle": 0.6,
        "archive_settle": 0.15,
    }
    return SourceSettings(**(values | more))


def rows(start: int, count: int) -> bytes:
    """Lines that no other numbers give."""
    return b"".join(b"%d,row,%d\n" % (i, i * i) for i in range(start, start + count))


def append(path: Path, data: bytes) -> None:
    """Write at the end of a file, created if need be."""
    with path.open("ab") as file:
        file.write(data)


@asynccontextmanager
async def running(
    ledger: Ledger, source: SourceSettings | FileSource, *, started: bool = True
) -> AsyncIterator[FileSource]:
    """The source running beside the test; its errors are the test's."""
    running_source = source if isinstance(source, FileSource) else FileSource(source)
    task = asyncio.create_task(running_source.run(ledger, ledger))
    try:
        if started:
            await wait_until_async(lambda: task.done() or running_source.scans > 1, what="the first scans")
        yield running_source
        if task.done():
            task.result()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def scanned(source: FileSource, times: int) -> None:
    """Wait until the source has looked at its folders as often again."""
    until = source.scans + times
    await wait_until_async(lambda: source.scans >= until, what="further scans")


async def has(ledger: Ledger, *contents: bytes, within: float = 10.0) -> None:
    """Wait until the lives hold exactly these contents."""
    wanted = sorted(contents)
    await wait_until_async(
        lambda: ledger.contents == wanted or None, within=within, what=f"{[len(c) for c in wanted]} bytes"
    )
