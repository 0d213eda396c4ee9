"""NULs at the end of a file: room that its writer has yet to fill, or content, told apart without losing either."""

import mmap
import os
import sys
from pathlib import Path

import pytest

from agent.model import EventKind
from agent.sources import follow as follow_module
from agent.sources import room as room_module
from agent.sources.files import FileSource
from tests.unit.agent.sources.ledger import Ledger, append, has, rows, running, scanned, settings

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="there an open file is neither renamed nor deleted")
LONG_AGO = 1_000_000_000


def put(path: Path, offset: int, data: bytes) -> None:
    """Write somewhere inside of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def room(path: Path, data: bytes, size: int) -> None:
    """A file of a size made first, that begins with these bytes."""
    with path.open("wb") as file:
        file.truncate(size)
        file.write(data)


async def test_a_file_made_large_first_is_read_as_it_is_filled(tmp_path: Path) -> None:
    """No NUL is read ahead of its writer, no line is missed, before a restart and after one."""
    ledger, file, source = Ledger(), tmp_path / "x.csv", settings(tmp_path / "*", poll=0.2)
    room(file, b"", 3_000_000)
    async with running(ledger, source) as one:
        await scanned(one, 2)
        put(file, 0, rows(0, 300))
        await has(ledger, rows(0, 300))
        await scanned(one, 3)
        put(file, len(rows(0, 300)), rows(300, 30_000))
        await has(ledger, rows(0, 30_300))
    ledger.seal()
    ledger.restart()
    put(file, len(rows(0, 30_300)), rows(30_300, 10))
    async with running(ledger, source):
        await has(ledger, rows(0, 30_310))
        os.truncate(file, len(rows(0, 30_310)))
        append(file, rows(30_310, 5))
        await has(ledger, rows(0, 30_315))
    assert len(ledger.lives) == 1
    assert not ledger.events


async def test_a_map_that_grows_ahead_of_its_data(tmp_path: Path) -> None:
    """Steps of NULs, filled through memory and cut at the end: one life, all its lines."""
    ledger, file, step = Ledger(), tmp_path / "x.csv", 1 << 16
    data = rows(0, 12_000)
    file.touch()
    async with running(ledger, settings(tmp_path / "*", poll=0.1)) as source:
        with file.open("r+b") as opened:
            for start in range(0, len(data), step):
                opened.truncate(start + step)
                with mmap.mmap(opened.fileno(), start + step) as mapped:
                    for at in range(start, min(start + step, len(data)), step // 2):
                        some = data[at : at + step // 2]
                        mapped[at : at + len(some)] = some
                        await scanned(source, 1)
            opened.truncate(len(data))
        await has(ledger, data)
    assert len(ledger.lives) == 1
    assert not ledger.events


@pytest.mark.parametrize("count", [1, 5000, 3_000_000])
async def test_nuls_that_something_follows_are_content(tmp_path: Path, count: int) -> None:
    """What a lost power supply leaves behind: NULs, and then the writer appends."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    append(file, rows(0, 100) + bytes(count))
    async with running(ledger, settings(tmp_path / "*")) as source:
        await has(ledger, rows(0, 100))
        await scanned(source, 2)
        append(file, rows(100, 100))
        await has(ledger, rows(0, 100) + bytes(count) + rows(100, 100))
    assert len(ledger.lives) == 1


async def test_room_is_looked_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written NULs of many MiB cost one pass, then a few KiB at each poll; a hole costs nothing."""
    ledger, file, read = Ledger(), tmp_path / "x.csv", [0]
    size = 40 << 20
    file.write_bytes(rows(0, 10) + bytes(size))
    room(tmp_path / "sparse.csv", rows(0, 20), 1 << 36)

    def counting(fd: int, offset: int, count: int) -> bytes:
        data = os.pread(fd, count, offset)
        read[0] += len(data)
        return data

    for module in (room_module, follow_module):
        monkeypatch.setattr(module, "read_at", counting)
    async with running(ledger, settings(tmp_path / "*", poll=0.1)) as source:
        await has(ledger, rows(0, 10), rows(0, 20))
        await scanned(source, 20)
    assert read[0] < size + (8 << 20)


@POSIX
@pytest.mark.parametrize("how", ["renamed", "deleted"])
async def test_a_life_that_ends_takes_its_room_home(tmp_path: Path, how: str) -> None:
    """Rotated or deleted, and quiet: what is left is content, so that the file comes home as it was."""
    ledger, file, size = Ledger(), tmp_path / "x.csv", 2_500_000
    room(file, rows(0, 100), size)
    async with running(ledger, settings(tmp_path / "*", poll=0.2)):
        await has(ledger, rows(0, 100))
        if how == "renamed":
            file.rename(tmp_path / "x.csv.1")
        else:
            file.unlink()
        await has(ledger, rows(0, 100).ljust(size, b"\0"))
        await ledger.told(EventKind.FINISHED if how == "renamed" else EventKind.DELETED)
    assert not ledger.gaps()


@pytest.mark.parametrize("restarted", [False, True])
async def test_room_of_a_file_that_rests_is_content_until_it_is_filled(tmp_path: Path, *, restarted: bool) -> None:
    """After `room_settle` NULs are read; a writer that comes back to them is told, and all is read anew."""
    ledger, file, size = Ledger(), tmp_path / "x.csv", 2_500_000
    source = settings(tmp_path / "*", poll=0.1, room_settle=0.3)
    room(file, rows(0, 1000), size)
    async with running(ledger, source):
        await has(ledger, rows(0, 1000).ljust(size, b"\0"))
        if not restarted:
            await has(ledger, rows(0, 1000).ljust(size, b"\0"))
            put(file, len(rows(0, 1000)), rows(1000, 5))
            await ledger.told(EventKind.RECREATED)
            await has(ledger, rows(0, 1000).ljust(size, b"\0"), rows(0, 1005).ljust(size, b"\0"))
            return
    ledger.seal()
    ledger.restart()
    async with running(ledger, source) as again:
        await scanned(again, 2)
        put(file, len(rows(0, 1000)), rows(1000, 5))
        await ledger.told(EventKind.RECREATED)
        await has(ledger, rows(0, 1000).ljust(size, b"\0"), rows(0, 1005).ljust(size, b"\0"))


async def test_drain_takes_room_only_of_files_that_rest(tmp_path: Path) -> None:
    """A file that is being filled goes on at the next run; one from long ago is complete."""
    ledger, old, new = Ledger(), tmp_path / "old.csv", tmp_path / "new.csv"
    room(old, rows(0, 100), 2_500_000)
    os.utime(old, (LONG_AGO, LONG_AGO))
    room(new, rows(500, 100), 2_500_000)
    source = settings(tmp_path / "*")
    await FileSource(source).drain(ledger, ledger)
    assert ledger.contents == sorted([rows(0, 100).ljust(2_500_000, b"\0"), rows(500, 100)])
    put(new, len(rows(500, 100)), rows(600, 100))
    ledger.seal()
    ledger.restart()
    await FileSource(source).drain(ledger, ledger)
    assert ledger.of(new)[0].data == rows(500, 200)


async def test_text_of_two_bytes_a_letter_is_read_to_its_end(tmp_path: Path) -> None:
    """Its last byte is a NUL, and no room."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    data = rows(0, 100).decode("ascii").encode("utf-16-le")
    file.write_bytes(data)
    async with running(ledger, settings(tmp_path / "*")):
        await has(ledger, data)


async def test_a_page_that_is_filled_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that saw a page too early and the next one in time is made again, before NULs count as content."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    data = rows(0, 2000)
    room(file, data[:4096], 1 << 17)
    put(file, 8192, data[8192:])

    def early(fd: int, offset: int, count: int) -> bytes:
        seen = os.pread(fd, count, offset)
        put(file, 4096, data[4096:8192])
        return seen

    monkeypatch.setattr(follow_module, "read_at", early)
    async with running(ledger, settings(tmp_path / "*")):
        await has(ledger, data)
    assert len(ledger.lives) == 1
