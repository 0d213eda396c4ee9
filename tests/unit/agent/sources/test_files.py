"""Growing files with everything that befalls them, on real files."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.model import EventKind
from agent.sources import desk as desk_module
from agent.sources import follow as follow_module
from agent.sources.files import FileSource
from agent.sources.watch import Watcher
from tests.support import wait_until_async
from tests.unit.agent.sources.ledger import Ledger, append, has, rows, running, scanned, settings

POSIX = pytest.mark.skipif(
    sys.platform == "win32", reason="there an open file is neither renamed nor deleted, and links need rights"
)


async def test_a_growing_file_is_read_as_it_grows(tmp_path: Path) -> None:
    """Bytes appended to a file arrive in order, as one life, whatever their alignment."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    async with running(ledger, settings(tmp_path / "*.csv")):
        append(file, rows(0, 10))
        await has(ledger, rows(0, 10))
        append(file, rows(10, 1))
        append(file, b"half a li")
        await has(ledger, rows(0, 11) + b"half a li")
    assert not ledger.events
    assert ledger.of("x.csv")[0].origin.stream == "t/x"
    assert not ledger.of("x.csv")[0].finished


async def test_events_bring_bytes_at_once(tmp_path: Path) -> None:
    """With a poll of an hour a line still arrives within a moment, stamped with the time of reading."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    append(file, b"start\n")
    async with running(ledger, settings(tmp_path / "*.csv", poll=3600)):
        await has(ledger, b"start\n")
        before = time.time_ns()
        append(file, b"tick\n")
        await has(ledger, b"start\ntick\n", within=2)
        assert before <= ledger.of("x.csv")[0].recv_ns[-1] <= time.time_ns()


async def test_the_poll_finds_what_events_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system reports no changes, files are read all the same."""

    async def deaf(self: Watcher) -> None:
        await self._changed.wait()
        await self._clock.sleep(3600)

    monkeypatch.setattr(Watcher, "run", deaf)
    ledger, file = Ledger(), tmp_path / "x.csv"
    async with running(ledger, settings(tmp_path / "*.csv", poll=0.2)):
        append(file, b"one\n")
        await has(ledger, b"one\n")
        append(file, b"two\n")
        await has(ledger, b"one\ntwo\n")


async def test_folders_that_appear_later_are_watched(tmp_path: Path) -> None:
    """New folders on the way to a file, however deep, are followed by events alone."""
    ledger = Ledger()
    async with running(ledger, settings(tmp_path / "a" / "*" / "x.csv", tmp_path / "b" / "**" / "*.csv", poll=3600)):
        for folder in ("a/new", "b/c/d"):
            (tmp_path / folder).mkdir(parents=True)
            append(tmp_path / folder / "x.csv", folder.encode())
        await has(ledger, b"a/new", b"b/c/d")
        append(tmp_path / "b/c/d/x.csv", b"!")
        await has(ledger, b"a/new", b"b/c/d!")


async def test_big_files_come_in_chunks_of_a_mebibyte_at_most(tmp_path: Path) -> None:
    """A backlog is delivered gapless and in order; the ledger checks sizes and offsets."""
    data = os.urandom(5 << 20) + b"end"
    (tmp_path / "x.bin").write_bytes(data)
    ledger = Ledger()
    async with running(ledger, settings(tmp_path / "*")):
        await has(ledger, data)
    assert ledger.of("x.bin")[0].chunks == 6


@POSIX
async def test_rotation_by_rename_continues_the_life(tmp_path: Path) -> None:
    """The renamed file stays its life and is read to its end; the new one of the same name is another."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    append(file, rows(0, 2000))
    async with running(ledger, settings(tmp_path / "x.csv*")):
        await has(ledger, rows(0, 2000))
        late = file.open("ab")
        file.rename(tmp_path / "x.csv.1")
        append(file, rows(5000, 5))
        late.write(rows(2000, 7))
        late.close()
        await has(ledger, rows(0, 2007), rows(5000, 5))
        await ledger.told(EventKind.FINISHED)
    assert [life.finished for life in ledger.lives.values()] == [True, False]
    assert ledger.of("x.csv")[0].path.endswith("x.csv.1")
    assert ledger.of("x.csv")[0].origin.stream == ledger.of("x.csv")[1].origin.stream == "t/x"


async def test_a_chain_of_renames_keeps_lives_apart(tmp_path: Path) -> None:
    """x.2 <- x.1 <- x in one go: nobody is mistaken for a neighbour."""
    ledger = Ledger()
    for number, name in enumerate(("x.csv.1", "x.csv")):
        append(tmp_path / name, rows(number * 100, 50))
    async with running(ledger, settings(tmp_path / "x.csv*")):
        await has(ledger, rows(0, 50), rows(100, 50))
        (tmp_path / "x.csv.1").rename(tmp_path / "x.csv.2")
        (tmp_path / "x.csv").rename(tmp_path / "x.csv.1")
        append(tmp_path / "x.csv", rows(200, 50))
        append(tmp_path / "x.csv.2", b"late\n")
        await has(ledger, rows(0, 50) + b"late\n", rows(100, 50), rows(200, 50))


async def test_a_finished_life_that_grows_after_all_goes_on(tmp_path: Path) -> None:
    """A writer that comes back to a rotated file long after loses nothing."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    append(file, rows(0, 50))
    async with running(ledger, settings(tmp_path / "x.csv*")):
        await has(ledger, rows(0, 50))
        file.rename(tmp_path / "x.csv.1")
        await ledger.told(EventKind.FINISHED)
        append(tmp_path / "x.csv.1", b"late\n")
        await has(ledger, rows(0, 50) + b"late\n")
        await ledger.told(EventKind.FINISHED, times=2)


@POSIX
async def test_renamed_out_of_the_patterns_is_read_to_its_end(tmp_path: Path) -> None:
    """The open handle leads on to the bytes, and the life ends once it is quiet."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    append(file, rows(0, 50))
    async with running(ledger, settings(tmp_path / "*.csv")):
        await has(ledger, rows(0, 50))
        late = file.open("ab")
        file.rename(tmp_path / "x.old")
        late.write(b"late\n")
        late.close()
        await has(ledger, rows(0, 50) + b"late\n")
        await ledger.told(EventKind.FINISHED)


@pytest.mark.parametrize("regrown", [0, 3, 4000])
async def test_copytruncate_finds_the_unread_rest_in_the_copy(tmp_path: Path, regrown: int) -> None:
    """What was written between the last read and the cut is read from the copy, once, however far the
    file has grown again.
    """
    ledger, file, copy = Ledger(), tmp_path / "x.csv", tmp_path / "x.csv.1"
    append(file, rows(0, 3000))
    async with running(ledger, settings(tmp_path / "x.csv*")):
        await has(ledger, rows(0, 3000))
        append(file, rows(3000, 50))
        shutil.copyfile(file, copy)
        os.truncate(file, 0)
        append(file, rows(9000, regrown))
        await has(ledger, rows(0, 3050), *([rows(9000, regrown)] if regrown else []))
        await ledger.told(EventKind.FINISHED)
    assert EventKind.TRUNCATED in ledger.kinds() or EventKind.RECREATED in ledger.kinds()
    assert not ledger.gaps()


async def test_a_slow_copy_is_not_sent_while_the_original_stands(tmp_path: Path) -> None:
    """A copy under way is held; when the original is cut it is adopted, when both stay it is sent."""
    ledger, file, copy = Ledger(), tmp_path / "x.csv", tmp_path / "x.csv.1"
    data = rows(0, 3000)
    append(file, data)
    async with running(ledger, settings(tmp_path / "x.csv*", copy_settle=1.5)) as source:
        await has(ledger, data)
        for cut in (1, 10, 300, 20_000, len(data)):
            copy.write_bytes(data[:cut])
            await scanned(source, 2)
            assert ledger.contents == [data]
        os.truncate(file, 0)
        await ledger.told(EventKind.ROTATED)
        shutil.copyfile(copy, tmp_path / "x.csv.2")
        await has(ledger, data, data)
    assert [event.detail["how"] for event in ledger.events if event.kind is EventKind.ROTATED] == ["copy"]


async def test_a_copy_first_seen_together_with_its_original_is_not_sent(tmp_path: Path) -> None:
    """Created, copied and cut between two looks: the copy is the life that was cut."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    async with running(ledger, settings(tmp_path / "x.csv*", copy_settle=2)):
        append(file, rows(0, 20))
        shutil.copyfile(file, tmp_path / "x.csv.1")
        await has(ledger, rows(0, 20))
        os.truncate(file, 0)
        append(file, rows(50, 20))
        await has(ledger, rows(0, 20), rows(50, 20))
        await ledger.told(EventKind.ROTATED)


async def test_what_is_cut_before_it_was_read_is_a_gap_with_its_count(tmp_path: Path) -> None:
    """With the intake full, a file cut before its rest was read leaves a gap record with the exact count."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    file.write_bytes(rows(0, 400_000))
    size = file.stat().st_size
    ledger.close_after(1 << 20)
    async with running(ledger, settings(tmp_path / "*.csv"), started=False):
        await wait_until_async(lambda: ledger.total == 1 << 20)
        os.truncate(file, 0)
        ledger.open_again()
        await ledger.told(EventKind.GAP)
    assert [(gap.fault, gap.detail["bytes"]) for gap in ledger.gaps()] == [("feed", size - ledger.total)]
    assert ledger.of("x.csv")[0].finished


async def test_copytruncate_without_a_copy_in_sight_starts_a_new_life(tmp_path: Path) -> None:
    """All was read before the cut: no gap, two lives."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    append(file, rows(0, 100))
    async with running(ledger, settings(tmp_path / "*.csv")):
        await has(ledger, rows(0, 100))
        os.truncate(file, 0)
        append(file, rows(500, 3))
        await has(ledger, rows(0, 100), rows(500, 3))
        await wait_until_async(lambda: ledger.of("x.csv")[0].finished)
    assert not ledger.gaps()


@pytest.mark.parametrize("way", ["delete", "replace", "rewrite in place"])
@pytest.mark.parametrize("count", [100, 99, 300])
async def test_a_re_created_file_is_a_life_of_its_own(tmp_path: Path, way: str, count: int) -> None:
    """Deleted and written anew, replaced by a rename, or rewritten in place: shorter, as long, or longer."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    old, new = rows(100, 100), rows(500, count)
    file.write_bytes(old)
    async with running(ledger, settings(tmp_path / "*.csv")):
        await has(ledger, old)
        if way == "delete":
            file.unlink()
            file.write_bytes(new)
        elif way == "replace":
            (tmp_path / "new").write_bytes(new)
            (tmp_path / "new").replace(file)
        else:
            file.write_bytes(new)
        await has(ledger, old, new)
        await wait_until_async(lambda: ledger.of("x.csv")[0].finished)
    assert not ledger.of("x.csv")[1].finished
    assert not ledger.gaps()
    assert EventKind.RECREATED in ledger.kinds() or EventKind.TRUNCATED in ledger.kinds()


@pytest.mark.parametrize("way", ["delete", "rewrite in place"])
async def test_a_re_created_file_whose_handle_was_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Without an open handle it is noticed all the same, and the new file's size is not taken for the old one's."""
    monkeypatch.setattr(follow_module, "KEEP_OPEN", False)
    ledger, file = Ledger(), tmp_path / "x.csv"
    file.write_bytes(rows(100, 100))
    async with running(ledger, settings(tmp_path / "*.csv")):
        await has(ledger, rows(100, 100))
        if way == "delete":
            file.unlink()
        file.write_bytes(rows(500, 300))
        await has(ledger, rows(100, 100), rows(500, 300))
        await wait_until_async(lambda: ledger.of("x.csv")[0].finished)
    assert EventKind.RECREATED in ledger.kinds()
    assert not ledger.gaps()


@POSIX
async def test_the_same_header_again_is_sent_again(tmp_path: Path) -> None:
    """A file that held a header only is deleted and re-created with the same header: two files."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    file.write_bytes(b"time,bid,ask\n")
    async with running(ledger, settings(tmp_path / "*.csv")):
        await has(ledger, b"time,bid,ask\n")
        file.unlink()
        file.write_bytes(b"time,bid,ask\n1,2,3\n")
        await has(ledger, b"time,bid,ask\n", b"time,bid,ask\n1,2,3\n")


async def test_a_file_replaced_by_a_longer_version_of_itself_goes_on(tmp_path: Path) -> None:
    """A tool like rsync writes beside and renames over: only what is new is sent."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    file.write_bytes(rows(0, 1000))
    async with running(ledger, settings(tmp_path / "*.csv")):
        await has(ledger, rows(0, 1000))
        (tmp_path / ".x.csv.tmp").write_bytes(rows(0, 1500))
        (tmp_path / ".x.csv.tmp").replace(file)
        await has(ledger, rows(0, 1500))
    assert len(ledger.lives) == 1


async def test_many_files_of_one_header_stay_apart_and_do_not_wait(tmp_path: Path) -> None:
    """Files that hold the same header are each sent, and one that gets a row of its own is sent at once."""
    ledger, header = Ledger(), b"time,bid,ask\n"
    for number in range(60):
        (tmp_path / f"s{number}.csv").write_bytes(header)
    async with running(ledger, settings(tmp_path / "*.csv", copy_settle=2)):
        await has(ledger, *[header] * 60)
        for number in range(60, 90):
            (tmp_path / f"s{number}.csv").write_bytes(header)
        append(tmp_path / "s70.csv", b"1,2,3\n")
        await has(ledger, *[header] * 60, header + b"1,2,3\n", within=1.5)
        await has(ledger, *[header] * 89, header + b"1,2,3\n")


@POSIX
async def test_deleted_while_it_is_read_is_read_to_its_end(tmp_path: Path) -> None:
    """The handle is kept; nothing of what was there is lost."""
    ledger, file = Ledger(), tmp_path / "x.bin"
    data = os.urandom(4 << 20)
    file.write_bytes(data)
    ledger.close_after(1 << 20)
    async with running(ledger, settings(tmp_path / "*.bin"), started=False):
        await wait_until_async(lambda: ledger.total == 1 << 20)
        file.unlink()
        ledger.open_again()
        await has(ledger, data)
        await ledger.told(EventKind.DELETED)
    assert ledger.of("x.bin")[0].finished
    assert not ledger.gaps()


async def test_dated_new_files_share_a_stream(tmp_path: Path) -> None:
    """Each day's file is a life; the stream without the date holds them all."""
    ledger = Ledger()
    async with running(ledger, settings(tmp_path / "btc-*.csv")):
        for day in (20, 21, 22):
            append(tmp_path / f"btc-2026-11-{day}.csv", b"time,bid\n" + rows(day, 3))
        await has(ledger, *[b"time,bid\n" + rows(day, 3) for day in (20, 21, 22)])
    assert {life.origin.stream for life in ledger.lives.values()} == {"t/btc"}
    assert not any(life.finished for life in ledger.lives.values())


async def test_empty_files_wait_for_their_first_byte(tmp_path: Path) -> None:
    """An empty file is nothing yet, and emptied files start anew."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    file.touch()
    async with running(ledger, settings(tmp_path / "*.csv")):
        assert not ledger.lives
        append(file, b"1")
        await has(ledger, b"1")
    assert not ledger.events


@POSIX
async def test_a_switched_link_ends_one_life_and_starts_another(tmp_path: Path) -> None:
    """`current.csv` -> the day's file elsewhere: growth behind the link is seen, and so is the switch."""
    ledger, far = Ledger(), tmp_path / "far"
    far.mkdir()
    (tmp_path / "near").mkdir()
    append(far / "a", rows(0, 10))
    link = tmp_path / "near" / "current.csv"
    link.symlink_to(far / "a")
    async with running(ledger, settings(tmp_path / "near" / "*.csv", poll=3600)):
        await has(ledger, rows(0, 10))
        append(far / "a", rows(10, 1))
        await has(ledger, rows(0, 11))
        append(far / "b", rows(50, 2))
        (tmp_path / "near" / "new").symlink_to(far / "b")
        (tmp_path / "near" / "new").replace(link)
        await has(ledger, rows(0, 11), rows(50, 2))
        await wait_until_async(lambda: ledger.lives and next(iter(ledger.lives.values())).finished)


@POSIX
async def test_one_file_under_several_names_is_read_once(tmp_path: Path) -> None:
    """Hard links and links to a file that is reached itself are the same life."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    append(file, rows(0, 10))
    (tmp_path / "link.csv").symlink_to(file)
    os.link(file, tmp_path / "hard.csv")
    async with running(ledger, settings(tmp_path / "*.csv")):
        append(file, rows(10, 1))
        await has(ledger, rows(0, 11))
        (tmp_path / "link.csv").unlink()
        append(file, rows(11, 1))
        await has(ledger, rows(0, 12))


@pytest.mark.skipif(sys.platform == "win32", reason="names are Unicode there")
async def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """Files and folders with any bytes in their names are read; their names survive."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9t\xe9"))
    folder.mkdir()
    file = Path(os.fsdecode(os.fsencode(folder) + b"/\xff.csv"))
    append(file, b"1\n")
    ledger = Ledger()
    async with running(ledger, settings(tmp_path / "*" / "*.csv", poll=3600)):
        await has(ledger, b"1\n")
        append(file, b"2\n")
        await has(ledger, b"1\n2\n")
        file.rename(Path(str(file) + "\udcfe.csv"))
        append(Path(str(file) + "\udcfe.csv"), b"3\n")
        await has(ledger, b"1\n2\n3\n")
    assert os.fsencode(next(iter(ledger.lives.values())).origin.name).endswith(b"/\xe9t\xe9/\xff.csv")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
async def test_an_unreadable_file_stops_nobody_and_is_tried_again(open_folder: Path) -> None:
    """It is told once, others are read, and it is read as soon as it may be."""
    ledger, user = Ledger(), os.geteuid()
    closed = open_folder / "closed.csv"
    append(closed, b"secret\n")
    append(open_folder / "open.csv", b"1\n")
    closed.chmod(0)
    try:
        if user == 0:
            os.seteuid(65534)
        async with running(ledger, settings(open_folder / "*.csv", poll=0.2)) as source:
            await has(ledger, b"1\n")
            await ledger.told(EventKind.UNREADABLE)
            assert source.unreadable == {str(closed): "Permission denied"}
            os.seteuid(user)
            closed.chmod(0o644)
            if user == 0:
                os.seteuid(65534)
            await has(ledger, b"1\n", b"secret\n")
            assert not source.unreadable
    finally:
        os.seteuid(user)
    assert ledger.kinds().count(EventKind.UNREADABLE) == 1


async def test_few_handles_serve_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are closed and opened again; each is compared first, and none is mixed up."""
    monkeypatch.setattr(desk_module, "_HANDLES", 8)
    ledger, wanted, names = Ledger(), [b""] * 40, [f"s{n}.csv" for n in range(40)]
    async with running(ledger, settings(tmp_path / "*.csv*")):
        for turn in range(3):
            for number in range(40):
                data = rows(number * 1000 + turn, 400)
                append(tmp_path / names[number], data)
                wanted[number] += data
            await has(ledger, *wanted)
            (tmp_path / names[turn]).rename(tmp_path / f"s{turn}.csv.1")
            names[turn] = f"s{turn}.csv.1"
    assert EventKind.ROTATED in ledger.kinds()


@POSIX
async def test_the_last_way_to_a_file_is_not_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handle is kept while no name leads to its file any more, however many others are opened."""
    monkeypatch.setattr(desk_module, "_HANDLES", 8)
    ledger, file = Ledger(), tmp_path / "x.csv"
    append(file, rows(0, 10))
    async with running(ledger, settings(tmp_path / "*.csv", copy_settle=20)) as source:
        await has(ledger, rows(0, 10))
        file.rename(tmp_path / "x.old")
        await scanned(source, 2)
        for number in range(1, 21):
            append(tmp_path / f"s{number}.csv", rows(number * 100, 5))
        await has(ledger, rows(0, 10), *[rows(n * 100, 5) for n in range(1, 21)])
        append(tmp_path / "x.old", b"late\n")
        await has(ledger, rows(0, 10) + b"late\n", *[rows(n * 100, 5) for n in range(1, 21)])


async def test_back_pressure_holds_the_reader(tmp_path: Path) -> None:
    """While the intake does not take, nothing more is read; then all of it comes."""
    ledger, file = Ledger(), tmp_path / "x.bin"
    data = os.urandom(3 << 20)
    file.write_bytes(data)
    ledger.close_after(1)
    async with running(ledger, settings(tmp_path / "*.bin"), started=False):
        await wait_until_async(lambda: ledger.total == 1 << 20)
        append(file, b"more")
        assert ledger.total == 1 << 20
        ledger.open_again()
        await has(ledger, data + b"more")


async def test_drain_reads_all_there_is(tmp_path: Path) -> None:
    """One call reads plain files to their end and returns; what may grow stays open-ended."""
    ledger = Ledger()
    data = os.urandom(3 << 20)
    (tmp_path / "a.csv").write_bytes(data)
    append(tmp_path / "b.csv", rows(0, 100))
    source = FileSource(settings(tmp_path / "*", poll=3600, copy_settle=3600))
    await source.drain(ledger, ledger)
    assert ledger.contents == sorted([data, rows(0, 100)])
    assert not any(life.finished for life in ledger.lives.values())
    append(tmp_path / "b.csv", b"more")
    await source.drain(ledger, ledger)
    assert ledger.contents == sorted([data, rows(0, 100) + b"more"])


async def test_ten_thousand_files_in_a_folder(tmp_path: Path) -> None:
    """All are followed, one that grows is read at once, and a further scan reads no file again."""
    for number in range(10_000):
        (tmp_path / f"s{number}.csv").write_bytes(b"time,bid,ask\n%d\n" % number)
    ledger = Ledger()
    async with running(ledger, settings(tmp_path / "*.csv", poll=3600), started=False) as source:
        await wait_until_async(lambda: len(ledger.lives) == 10_000, within=60)
        chunks = sum(life.chunks for life in ledger.lives.values())
        append(tmp_path / "s77.csv", b"x")
        await wait_until_async(lambda: ledger.of("/s77.csv")[0].data.endswith(b"x"), within=10)
        append(tmp_path / "later.csv", b"y\n")
        await wait_until_async(lambda: ledger.of("/later.csv"), within=20)
        assert sum(life.chunks for life in ledger.lives.values()) == chunks + 2
        assert source.lives == 10_001
