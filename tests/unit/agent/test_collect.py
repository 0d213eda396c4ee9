"""The collector: every byte once, in time, within its memory, whatever the disk does."""

import asyncio
import shutil
from datetime import date
from pathlib import Path

import pytest

from agent.budget import Pause
from agent.model import Chunk, Event, EventKind
from agent.outbox import Outbox
from agent.settings import SpoolSettings
from agent.space import Space
from tape.clock import SYSTEM, Clock, ManualClock
from tape.errors import SourceError, StoreError
from tape.names import EVENTS_STREAM
from tests.support import wait_until_async
from tests.unit.agent.taping import events_in, exported, footers, open_files, origin, read_all, taping

LINE = b"2024-08-09,12:00:00.123,1234.50,7\n"
DAY = 86_400_000_000_000


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.collect.LOOK", 0.05)


async def test_age_seals_whole_lines_only(tmp_path: Path) -> None:
    """After max_age the whole lines are a segment; the unfinished line waits and goes on where it stopped."""
    one = origin()
    async with taping(tmp_path, max_age=0.1, partial_age=60) as tape:
        end = await tape.feed(one, LINE * 10 + b"2024-08-09,12:0")
        await tape.sealed(one, end - 15)
        assert tape.outbox.file(one.file_id).known.offset == end - 15  # type: ignore[union-attr]  # sealed: it is known
        end = await tape.feed(one, b"0:01.000,1.00,1\n", start=end)
        await tape.sealed(one, end)
    assert exported(tmp_path / "spool", one.file_id) == LINE * 10 + b"2024-08-09,12:00:01.000,1.00,1\n"


async def test_an_idle_unfinished_line_becomes_a_fragment(tmp_path: Path) -> None:
    """A last line without its newline is kept after partial_age, and what follows continues it mid-line."""
    one = origin()
    async with taping(tmp_path, max_age=60, partial_age=0.1) as tape:
        end = await tape.feed(one, LINE * 3 + b"half a li")
        await tape.sealed(one, end)
        end = await tape.feed(one, b"ne\n" + LINE, start=end)
        assert await tape.collector.flush()
    assert exported(tmp_path / "spool", one.file_id) == LINE * 3 + b"half a line\n" + LINE
    tables = [footer.rows for _, footer in footers(tmp_path / "spool") if footer.stream == one.stream]
    assert tables == [4, 2]


async def test_finish_seals_the_rest_and_says_so(tmp_path: Path) -> None:
    """finish() seals an unfinished line as well; the last footer is final and the file is known as finished."""
    one, empty, exact = origin(1), origin(2), origin(3)
    async with taping(tmp_path, max_age=60) as tape:
        await tape.feed(one, LINE + b"no newline")
        await tape.collector.finish(one)
        await tape.collector.finish(empty)
        end = await tape.feed(exact, LINE)
        assert await tape.collector.flush()
        await tape.sealed(exact, end)
        await tape.collector.finish(exact)
        await wait_until_async(
            lambda: (
                {f.origin.file_id: f.finished for f in tape.outbox.known_files("feed")}
                == {one.file_id: True, exact.file_id: True}
            )
        )
    finals = {f.source.file_id: f.source.final for _, f in footers(tmp_path / "spool") if f.source.kind == "file"}
    assert finals == {one.file_id: True, exact.file_id: False}
    assert exported(tmp_path / "spool", one.file_id) == LINE + b"no newline"


async def test_rolls_by_rows_and_bytes(tmp_path: Path) -> None:
    """No segment has more rows than max_rows, nor more bytes than max_bytes and a line."""
    rows, size = origin(1), origin(2, "demo/other")
    async with taping(tmp_path / "rows", max_rows=100) as tape:
        await tape.feed(rows, LINE * 1050, sizes=[700] * 20)
        assert await tape.collector.flush()
    counts = [f.rows for _, f in footers(tmp_path / "rows" / "spool") if f.stream == rows.stream]
    assert counts == [100] * 10 + [50]
    async with taping(tmp_path / "size", max_bytes=2000) as tape:
        await tape.feed(size, LINE * 1050, sizes=[701] * 20)
        assert await tape.collector.flush()
    spans = [f.source.end - f.source.start for _, f in footers(tmp_path / "size" / "spool") if f.stream == size.stream]
    assert all(span <= 2000 + len(LINE) for span in spans)
    assert len(spans) < 25
    assert exported(tmp_path / "size" / "spool", size.file_id) == LINE * 1050


async def test_a_segment_never_spans_two_days(tmp_path: Path) -> None:
    """Rows read on different UTC days are in different segments, with the day in the footer."""
    clock = ManualClock(wall_ns=19_900 * DAY - 2_000_000_000)
    one = origin()
    async with taping(tmp_path, clock=clock, max_age=3600) as tape:
        for number in range(8):
            clock.wall_ns = 19_900 * DAY + (number - 4) * 1_000_000_000
            await tape.collector.take(Chunk(one, number * len(LINE), LINE, clock.wall_ns), path="p", device=1, inode=1)
        await wait_until_async(tape.collector.flush)
    days = [(f.day, f.rows) for _, f in footers(tmp_path / "spool") if f.stream == one.stream]
    assert days == [(date(2024, 6, 25), 4), (date(2024, 6, 26), 4)]


async def test_midnight_seals_without_new_ticks(tmp_path: Path) -> None:
    """At UTC midnight yesterday's rows are sealed although max_age is far away."""
    clock = _Offset(SYSTEM.now_ns() // DAY * DAY + DAY - 500_000_000 - SYSTEM.now_ns())
    one = origin()
    async with taping(tmp_path, clock=clock, max_age=3600) as tape:
        end = await tape.feed(one, LINE)
        await tape.sealed(one, end)


class _Offset(Clock):
    def __init__(self, offset_ns: int) -> None:
        self._offset = offset_ns

    def now_ns(self) -> int:
        return super().now_ns() + self._offset


async def test_frames_are_filed_by_the_day_of_their_stamps(tmp_path: Path) -> None:
    """A recorder's log read late is cut at the midnights of its stamps; each segment's day is that of its rows."""
    one = origin(1, "demo/frames")
    start = 1_700_000_000 // 86_400 * 86_400
    lines = [f'{start + n * 72}000000000 {{"n":{n}}}\n'.encode() for n in range(3000)]
    async with taping(tmp_path) as tape:
        await tape.feed(one, b"".join(lines), sizes=[16650] * 4)
        assert await tape.collector.flush()
    found = [(f.day, f.rows) for _, f in footers(tmp_path / "spool") if f.stream == one.stream]
    assert found == [(date(2023, 11, 14), 1200), (date(2023, 11, 15), 1200), (date(2023, 11, 16), 600)]
    assert exported(tmp_path / "spool", one.file_id) == b"".join(lines)


async def test_a_backlog_flows_through_bounded_memory(tmp_path: Path) -> None:
    """A large backlog is cut into full segments while the text held stays within seal.buffer and a chunk."""
    one = origin()
    held = []
    data = b"".join(b"%d,%d.%02d,%d\n" % (n, n % 977, n % 100, n * 7919 % 10007) for n in range(1_200_000))
    async with taping(tmp_path, buffer=8 * 2**20, max_bytes=8 * 2**20, max_age=60) as tape:
        for at in range(0, len(data), 2**19):
            await tape.feed(one, data[at : at + 2**19], start=at)
            held.append(tape.collector.snapshot().held_bytes)
        await tape.collector.finish(one)
        assert await tape.collector.flush()
    assert max(held) <= 9 * 2**20
    sizes = [f.source.end - f.source.start for _, f in footers(tmp_path / "spool") if f.stream == one.stream]
    assert len(sizes) <= len(data) // (6 * 2**20) + 1, "pressure must not make small segments of a backlog"
    assert exported(tmp_path / "spool", one.file_id) == data


async def test_many_small_files_share_the_buffer(tmp_path: Path) -> None:
    """Hundreds of files above seal.buffer: the largest are sealed early, few writers are open at any time."""
    many = [origin(n, f"demo/{n % 7}") for n in range(150)]
    before = open_files()
    async with taping(tmp_path, buffer=128 * 1024, max_age=3600) as tape:
        for n, one in enumerate(many):
            await tape.feed(one, LINE * (20 + n % 40))
        assert tape.collector.snapshot().held_bytes < 170 * 1024
        assert open_files() < before + 20
        assert await tape.collector.flush(within=60)
    for n, one in enumerate(many[::37]):
        assert exported(tmp_path / "spool", one.file_id) == LINE * (20 + (n * 37) % 40)
    heads: dict[str, list[int]] = {}
    for footer in read_all(tmp_path / "spool"):
        heads.setdefault(footer.stream, []).append(footer.seq)
    assert all(sorted(seqs) == list(range(len(seqs))) for seqs in heads.values())


async def test_unfinished_lines_cannot_block_the_buffer(tmp_path: Path) -> None:
    """When only unfinished lines fill the buffer they are cut into fragments, so that taking goes on."""
    many = [origin(n) for n in range(6)]
    async with taping(tmp_path, buffer=2**20, max_age=3600, partial_age=3600) as tape:
        for one in many:
            await asyncio.wait_for(tape.feed(one, b"q" * 400_000), 20)
        for one in many:
            await asyncio.wait_for(tape.feed(one, b"\n", start=400_000), 20)
        assert await tape.collector.flush()
    for one in many:
        assert exported(tmp_path / "spool", one.file_id) == b"q" * 400_000 + b"\n"


async def test_layout_and_cursor_carry_over_restarts(tmp_path: Path) -> None:
    """After a restart the columns keep the header's names, and sealing goes on at the next byte."""
    one = origin()
    header = b"time,price,size\n"
    rows = b"".join(b"%d,%d.50,%d\n" % (n, 100 + n, n) for n in range(200))
    async with taping(tmp_path) as tape:
        end = await tape.feed(one, header + rows)
        epoch = tape.outbox.epoch
    async with taping(tmp_path) as tape:
        assert tape.outbox.epoch == epoch
        await tape.feed(one, rows, start=end)
    found = [f for _, f in footers(tmp_path / "spool") if f.stream == one.stream]
    assert [f.seq for f in found] == [0, 1]
    names = [[column["name"] for column in f.layout["columns"]] for f in found]
    assert names == [["time", "price", "size"]] * 2
    assert found[1].row_first == found[0].rows
    assert exported(tmp_path / "spool", one.file_id) == header + rows + rows


async def test_a_schema_change_rolls_and_is_an_event(tmp_path: Path) -> None:
    """Rows of another shape start a new segment, and a schema event tells."""
    one = origin()
    first = b"".join(b"%d,%d\n" % (n, n) for n in range(500))
    then = b"".join(b"%d,%d,abc,%d.25\n" % (n, n, n) for n in range(500))
    async with taping(tmp_path) as tape:
        end = await tape.feed(one, first)
        assert await tape.collector.flush()
        await tape.feed(one, then, start=end)
        assert await tape.collector.flush()
    assert exported(tmp_path / "spool", one.file_id) == first + then
    assert events_in(tmp_path / "spool").count(b'"kind":"schema"') == 1


async def test_events_are_sealed_as_a_stream(tmp_path: Path) -> None:
    """Events are durable when `event` returns and become the stream hometape/events, start and stop included."""
    async with taping(tmp_path, max_age=0.1) as tape:
        await asyncio.gather(
            *(
                tape.collector.event(
                    Event(EventKind.ROTATED, "feed", "demo/ticks", f"/a{n}", SYSTEM.now_ns(), {"n": n})
                )
                for n in range(50)
            )
        )
        with tape.outbox._store.reading() as db:
            stored = db.execute("SELECT count(*) FROM events").fetchone()[0]
        assert stored + sum(f.rows for f in read_all(tmp_path / "spool")) >= 50
        await wait_until_async(lambda: tape.outbox.events_waiting() == 0)
    lines = events_in(tmp_path / "spool").splitlines()
    assert len(lines) == 52
    assert b'"kind":"started"' in lines[0] or b'"kind":"started"' in b"".join(lines)
    assert b'"kind":"stopped"' in lines[-1]
    assert [line for line in lines if b"rotated" in line][49].find(b'"n":49') > 0
    (total,) = {f.stream for f in read_all(tmp_path / "spool")}
    assert total == EVENTS_STREAM


async def test_events_survive_a_crash_before_they_are_sealed(tmp_path: Path) -> None:
    """What `event` returned for is sealed by the next life, once."""
    outbox = Outbox.open(tmp_path, "bot", clock=SYSTEM)
    outbox.add_events([Event(EventKind.DELETED, "feed", "demo/ticks", "/gone", SYSTEM.now_ns(), {})])
    outbox.close()
    for _ in range(2):
        async with taping(tmp_path):
            pass
    assert events_in(tmp_path / "spool").count(b'"kind":"deleted"') == 1


async def test_a_clock_step_is_an_event(tmp_path: Path) -> None:
    """A jump of the wall clock against the monotonic one is recorded with its size."""
    clock = _Offset(0)
    async with taping(tmp_path, clock=clock, max_age=0.2):
        await asyncio.sleep(0)
        clock._offset = 3_600_000_000_000
        await wait_until_async(lambda: b'"kind":"clock"' in events_in(tmp_path / "spool"), every=0.2)
    (line,) = [line for line in events_in(tmp_path / "spool").splitlines() if b'"kind":"clock"' in line]
    assert b'"step_ms":36000' in line or b'"step_ms":35999' in line


async def test_a_full_spool_pauses_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At spool.max_bytes nothing more is sealed or taken; when a receipt frees space it goes on, with nothing lost."""
    from tests.unit.agent.outboxes import receipt

    one = origin()
    spool = SpoolSettings(max_bytes=20_000, keep_free=0)
    blocks = [b"".join(b"%d\n" % (n * n * 7919 % 1_000_003 + k) for n in range(2000)) for k in range(40)]
    saved: dict[int, bytes] = {}
    async with taping(tmp_path, spool=spool, max_age=0.05, buffer=64 * 1024) as tape:

        async def feed() -> int:
            end = 0
            for block in blocks:
                end = await tape.feed(one, block, start=end)
            return end

        feeding = asyncio.create_task(feed())
        await wait_until_async(lambda: tape.collector.snapshot().pause is Pause.SPOOL_FULL)
        size = tape.outbox.spooled_bytes()
        assert size < 60_000
        assert not feeding.done()
        assert tape.collector.snapshot().held_bytes <= 128 * 1024
        freed = 0

        def release() -> bool:
            nonlocal freed
            for made in tape.outbox.unsent(1000):
                if made.stream == one.stream:
                    saved[made.name.seq] = (tape.outbox.spool / made.path).read_bytes()
            freed += 1
            tape.outbox.apply_receipt(receipt(tape.outbox, freed, safe=sorted(saved)))
            return feeding.done()

        await wait_until_async(release, every=0.1, within=60)
        end = feeding.result()

        def all_there() -> bool:
            release()
            stored = tape.outbox.file(one.file_id)
            return stored is not None and stored.known.offset >= end

        await wait_until_async(all_there, every=0.05, within=60)
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "spool", again)
    for footer_seq, data in saved.items():
        (again / f"{footer_seq}.parquet").write_bytes(data)
    found = {f.source.start: path for path, f in _loose(again) if f.source.file_id == one.file_id}
    from tape.segment import source_chunks

    assert b"".join(b"".join(source_chunks(found[start])) for start in sorted(found)) == b"".join(blocks)


def _loose(folder: Path):  # type: ignore[no-untyped-def]  # pairs of path and footer
    from tape.segment import read_footer

    return [(path, read_footer(path)) for path in folder.rglob("*.parquet")]


async def test_a_backlog_of_many_files_never_stands_still(tmp_path: Path) -> None:
    """Many more files with a backlog than may have writers open: all are taken long before any is due by its age, and
    small ones beside them get their turn.
    """
    block = b"".join(b"%d,%d\n" % (n * n * 7919 % 1_000_003, n) for n in range(100_000))
    many, small = [origin(n, f"demo/s{n}") for n in range(7)], [origin(100 + n, "demo/small") for n in range(6)]
    async with taping(tmp_path, max_age=3600, workers=1, buffer=6 * 2**20) as tape, asyncio.timeout(60):
        for turn, one in enumerate(small):
            for big in many:
                await tape.feed(big, block, start=turn * len(block))
            end = await tape.feed(one, LINE)
            await tape.collector.finish(one)
            await tape.sealed(one, end)
        assert await tape.collector.flush()
    for big in many:
        assert exported(tmp_path / "spool", big.file_id) == block * len(small)


async def test_a_low_disk_pauses_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below spool.keep_free nothing is sealed; above it work goes on by itself."""
    free = 10
    monkeypatch.setattr(Space, "free", lambda _: free)
    one = origin()
    async with taping(tmp_path, spool=SpoolSettings(keep_free=1000), max_age=0.05) as tape:
        await wait_until_async(lambda: tape.collector.snapshot().pause is Pause.DISK_LOW)
        end = await tape.feed(one, LINE)
        looked = SYSTEM.monotonic() + 0.3
        await wait_until_async(lambda: SYSTEM.monotonic() > looked)
        assert tape.outbox.file(one.file_id) is None
        free = 2000
        await tape.sealed(one, end)


async def test_a_source_that_starts_again_is_not_taped_twice(tmp_path: Path) -> None:
    """Bytes taken before are skipped, a hole is refused, and `drop` forgets what is not sealed."""
    one, two = origin(1), origin(2)
    async with taping(tmp_path, max_age=3600) as tape:
        end = await tape.feed(one, LINE * 5)
        await tape.feed(one, LINE * 7)
        with pytest.raises(SourceError, match="missing"):
            await tape.feed(one, LINE, start=end + 3 * len(LINE))
        await tape.feed(two, b"x" * 10_000 + b"\n" + LINE * 9)
        await tape.collector.flush()
        await tape.feed(two, LINE * 3, start=10_001 + 9 * len(LINE))
        await tape.collector.drop("feed")
        assert tape.collector.snapshot().held_bytes == 0
    assert exported(tmp_path / "spool", one.file_id) == LINE * 7
    assert exported(tmp_path / "spool", two.file_id) == b"x" * 10_000 + b"\n" + LINE * 9


async def test_a_stopped_collector_takes_nothing(tmp_path: Path) -> None:
    """After stop every call raises instead of pretending."""
    async with taping(tmp_path) as tape:
        pass
    with pytest.raises(StoreError, match="stopped"):
        await tape.feed(origin(), LINE)


async def test_ten_thousand_idle_origins_cost_nothing_open(tmp_path: Path) -> None:
    """Origins without text in memory are forgotten: no descriptor, no writer, no lane stays."""
    before = open_files()
    async with taping(tmp_path, max_age=3600) as tape:
        for n in range(10_000):
            await tape.collector.finish(origin(n))
        await wait_until_async(lambda: tape.collector.snapshot().origins <= 1)
        assert open_files() < before + 20
    assert tape.outbox.epoch
