"""The collector when the disk is full, refuses or lies, and when typing itself fails: nothing lost, nothing twice."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from agent import space
from agent.budget import Pause
from agent.collect import Collector
from agent.model import Chunk, Event, EventKind
from agent.outbox import Outbox
from agent.settings import SealSettings, SpoolSettings
from agent.workshop import Workshop
from tape.clock import SYSTEM
from tape.durable import Disk
from tape.errors import DiskError, DiskFull, SegmentError, StoreError, SyncFailed
from tape.segment import SegmentWriter
from tests.support import wait_until_async
from tests.unit.agent.taping import events_in, exported, footers, origin, taping

ROWS = b"".join(b"%d,%d.%02d,%d\n" % (n, n % 977, n % 100, n * 7919 % 10007) for n in range(150_000))
SOME = ROWS[: ROWS.index(b"\n", 5000) + 1]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.collect.LOOK", 0.05)


class Faulty(Disk):
    """A disk that asks before every operation on a segment; what the answer raises happens."""

    def __init__(self) -> None:
        self.ask: Callable[[str], None] = lambda _: None

    def write_all(self, file: BinaryIO, data: bytes | memoryview) -> None:
        """Write, unless told otherwise."""
        self.ask("write")
        super().write_all(file, data)

    def create(self, path: Path) -> BinaryIO:
        """Create, unless told otherwise."""
        self.ask("create")
        return super().create(path)

    def sync(self, file: BinaryIO) -> None:
        """Fsync, unless told otherwise."""
        self.ask("sync")
        super().sync(file)

    def place(self, temp: Path, final: Path) -> None:
        """Name, unless told otherwise."""
        self.ask("place")
        super().place(temp, final)

    def sync_dir(self, path: Path) -> None:
        """Fsync a folder, unless told otherwise."""
        self.ask("sync_dir")
        super().sync_dir(path)


def after(count: int, error: Exception, *, only: str = "", times: int = 1) -> Callable[[str], None]:
    """Let `count` operations (of one kind) pass, then fail so many times."""
    left = [count, times]

    def ask(what: str) -> None:
        if only and what != only:
            return
        left[0] -= 1
        if left[0] < 0 < left[1]:
            left[1] -= 1
            raise error

    return ask


@pytest.mark.parametrize("count", range(14))
async def test_a_full_disk_at_any_moment_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Wherever in the making of a segment the disk is full, the same text is sealed once it has room again."""
    monkeypatch.setattr(space, "RETRY", 0.1)
    one = origin()
    disk = Faulty()
    async with taping(tmp_path, disk=disk, max_bytes=2**17, buffer=2**19) as tape:
        disk.ask = after(count, DiskFull("full"), times=2)
        end = await asyncio.wait_for(tape.feed(one, ROWS[: 2**19], sizes=[100_000] * 20), 60)
        await wait_until_async(tape.collector.flush, within=60)
        await tape.sealed(one, ROWS.rfind(b"\n", 0, end) + 1)
        assert tape.collector.snapshot().pause is Pause.NONE
    assert exported(tmp_path / "spool", one.file_id) == ROWS[: ROWS.rfind(b"\n", 0, 2**19) + 1]
    assert not list((tmp_path / "spool").rglob(".tmp-*"))


async def test_a_full_database_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When SQLite can't commit, the placed file is taken back and the same seq is used again."""
    monkeypatch.setattr(space, "RETRY", 0.1)
    one = origin()
    real = Outbox.commit
    left = [3]

    def commit(self: Outbox, new):  # type: ignore[no-untyped-def]  # as the real one
        left[0] -= 1
        if left[0] >= 0:
            raise DiskFull("full")
        return real(self, new)

    monkeypatch.setattr(Outbox, "commit", commit)
    async with taping(tmp_path) as tape:
        end = await tape.feed(one, ROWS)
        await wait_until_async(tape.collector.flush, within=60)
        await tape.sealed(one, end)
    assert exported(tmp_path / "spool", one.file_id) == ROWS
    seqs = [f.seq for _, f in footers(tmp_path / "spool") if f.stream == one.stream]
    assert seqs == list(range(len(seqs)))


async def test_an_erring_disk_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An I/O error that is no failed fsync pauses and is tried again."""
    monkeypatch.setattr(space, "RETRY", 0.1)
    one = origin()
    disk = Faulty()
    async with taping(tmp_path, disk=disk, max_age=0.05) as tape:
        disk.ask = after(1, DiskError("input/output error"))
        end = await tape.feed(one, ROWS)
        await tape.sealed(one, end)
    assert exported(tmp_path / "spool", one.file_id) == ROWS


@pytest.mark.parametrize("kind", ["sync", "sync_dir"])
async def test_a_failed_fsync_ends_everything(tmp_path: Path, kind: str) -> None:
    """After a failed fsync nothing is acknowledged: run raises, take raises, the outbox refuses, the cursor stays."""
    one = origin()
    disk = Faulty()
    outbox = Outbox.open(tmp_path, "bot", clock=SYSTEM, disk=disk)
    (outbox.spool / one.stream).mkdir(parents=True)
    (outbox.spool / "hometape" / "events").mkdir(parents=True)
    collector = Collector(outbox, SealSettings(max_age=0.05), SpoolSettings(keep_free=0), clock=SYSTEM, disk=disk)
    disk.ask = after(0, SyncFailed("fsync failed"), only=kind, times=1)
    running = asyncio.create_task(collector.run())
    chunk = Chunk(one, 0, ROWS[:1000], SYSTEM.now_ns())
    await collector.take(chunk, path="p", device=1, inode=1)
    with pytest.raises(SyncFailed):
        await asyncio.wait_for(running, 20)
    with pytest.raises(SyncFailed):
        await collector.take(Chunk(one, 1000, b"x", SYSTEM.now_ns()), path="p", device=1, inode=1)
    with pytest.raises(SyncFailed):
        outbox.head(one.stream)
    await collector.stop()
    outbox.close()
    again = Outbox.open(tmp_path, "bot", clock=SYSTEM)
    stored = again.file(one.file_id)
    covered = exported(again.spool, one.file_id)
    assert len(covered) == (stored.known.offset if stored else 0)
    again.close()


async def test_text_that_breaks_typing_is_kept_as_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the proof or the encoding fails, the same text is sealed as plain lines, and later text is typed again."""
    one, two = origin(1), origin(2, "demo/other")
    real = SegmentWriter.append
    bad = b"149999,"

    def append(self: SegmentWriter, data: bytes, marks: list[tuple[int, int]]) -> None:
        if bad in data and self.layout.columns:
            raise AssertionError("a bug in typing")
        real(self, data, marks)

    monkeypatch.setattr(SegmentWriter, "append", append)
    async with taping(tmp_path, max_bytes=2**19) as tape:
        end = await tape.feed(one, ROWS)
        await tape.feed(two, SOME)
        await wait_until_async(tape.collector.flush, within=60)
        end = await tape.feed(one, SOME, start=end)
        await wait_until_async(tape.collector.flush, within=60)
        await tape.sealed(one, end)
    assert exported(tmp_path / "spool", one.file_id) == ROWS + SOME
    shapes = [f.layout["shape"] for _, f in footers(tmp_path / "spool") if f.stream == one.stream]
    assert "lines" in shapes
    assert shapes[0] == shapes[-1] == "delimited"


async def test_a_segment_that_does_not_decode_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that fails its decode check is never placed; its text is sealed again."""
    one = origin()
    left = [1]
    real = SegmentWriter._check

    def check(self: SegmentWriter, footer):  # type: ignore[no-untyped-def]  # as the real one
        left[0] -= footer.stream == one.stream
        if left[0] == 0:
            left[0] = -1
            raise SegmentError("does not decode")
        return real(self, footer)

    monkeypatch.setattr(SegmentWriter, "_check", check)
    async with taping(tmp_path) as tape:
        end = await tape.feed(one, ROWS)
        await wait_until_async(tape.collector.flush, within=60)
        await tape.sealed(one, end)
    assert exported(tmp_path / "spool", one.file_id) == ROWS


async def test_an_origin_that_cannot_be_sealed_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text that fails in every form is reported as stuck and kept in memory; other origins go on."""
    one, two = origin(1), origin(2)
    real = SegmentWriter.append

    def append(self: SegmentWriter, data: bytes, marks: list[tuple[int, int]]) -> None:
        if data.startswith(b"bad"):
            raise ValueError("no way")
        real(self, data, marks)

    monkeypatch.setattr(SegmentWriter, "append", append)
    async with taping(tmp_path, max_age=0.05) as tape:
        await tape.feed(one, b"bad\n")
        end = await tape.feed(two, ROWS)
        await tape.sealed(two, end)
        await wait_until_async(lambda: tape.collector.snapshot().stuck)
        (stuck,) = tape.collector.snapshot().stuck
        assert "no way" in stuck
        assert tape.collector.snapshot().held_bytes > 0


async def test_what_is_stuck_in_memory_holds_no_other_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text that can't be sealed fills a good part of the buffer: the others are sealed early to make room, as ever."""
    one, others = origin(1), [origin(2 + n, f"demo/s{n}") for n in range(30)]
    real = SegmentWriter.append

    def append(self: SegmentWriter, data: bytes, marks: list[tuple[int, int]]) -> None:
        if data.startswith(b"bad"):
            raise ValueError("no way")
        real(self, data, marks)

    monkeypatch.setattr(SegmentWriter, "append", append)
    async with taping(tmp_path, max_age=3600, buffer=2**20) as tape:
        await tape.feed(one, b"bad" + random.Random(1).randbytes(400_000).replace(b"\n", b"") + b"\n")
        await tape.collector.finish(one)
        await wait_until_async(lambda: tape.collector.snapshot().stuck)
        async with asyncio.timeout(30):
            for other in others:
                await tape.feed(other, SOME * 20)
        assert tape.collector.snapshot().stuck


async def test_events_wait_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that finds the disk full is recorded once there is room; its caller waits."""
    monkeypatch.setattr("agent.event_log.RETRY", 0.05)
    real = Outbox.add_events
    left = [3]

    def add_events(self: Outbox, events: list[Event]) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise DiskFull("full")
        real(self, events)

    monkeypatch.setattr(Outbox, "add_events", add_events)
    async with taping(tmp_path) as tape:
        event = Event(EventKind.GAP, "feed", "demo/ticks", "/f", SYSTEM.now_ns(), {"missing": 5}, "feed")
        await asyncio.wait_for(tape.collector.event(event), 20)
        assert left[0] < 0
    assert events_in(tmp_path / "spool").count(b'"missing":5') == 1


async def test_a_bug_in_the_collector_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception in a job ends the collector with an error instead of silence."""

    async def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    outbox = Outbox.open(tmp_path, "bot", clock=SYSTEM)
    collector = Collector(outbox, SealSettings(max_age=0.05), SpoolSettings(keep_free=0), clock=SYSTEM)
    monkeypatch.setattr(Workshop, "append", broken)
    await collector.take(Chunk(origin(), 0, b"x\n", SYSTEM.now_ns()), path="p", device=1, inode=1)
    with pytest.raises(StoreError, match="a bug"):
        await asyncio.wait_for(collector.run(), 20)
    await collector.stop()
    outbox.close()
