"""Growing files with everything that befalls them, on real files."""

import gzip
import os
import shutil
from pathlib import Path

from agent.model import EventKind
from agent.sources.files import FileSource
from tests.support import wait_until_async
from tests.unit.agent.sources.ledger import Ledger, has, running, settings


def rows(start: int, count: int, tag: str = "a") -> bytes:
    """Distinct lines."""
    return b"".join(b"%d,%s,%d\n" % (i, tag.encode(), i * i) for i in range(start, start + count))


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


async def test_a_growing_file_is_read_as_it_grows(tmp_path: Path) -> None:
    """Bytes appended to a file arrive in order, with no life but one."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    async with running(ledger, settings(tmp_path / "*.csv")):
        append(file, rows(0, 10))
        await has(ledger, rows(0, 10))
        append(file, rows(10, 1))
        append(file, b"half a li")
        await has(ledger, rows(0, 11) + b"half a li")
    assert not ledger.events
    assert ledger.of("x.csv")[0].origin.stream == "t/x"


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
        await wait_until_async(lambda: [e for e in ledger.events if e.kind is EventKind.FINISHED])
    assert [life.finished for life in ledger.lives.values()] == [True, False]
    assert EventKind.ROTATED in ledger.kinds()


async def test_copytruncate_finds_the_unread_rest_in_the_copy(tmp_path: Path) -> None:
    """What was written between the last read and the cut is read from the copy, once."""
    ledger, file, copy = Ledger(), tmp_path / "x.csv", tmp_path / "x.csv.1"
    append(file, rows(0, 3000))
    async with running(ledger, settings(tmp_path / "x.csv*")):
        await has(ledger, rows(0, 3000))
        append(file, rows(3000, 50))
        shutil.copyfile(file, copy)
        os.truncate(file, 0)
        append(file, rows(9000, 3))
        await has(ledger, rows(0, 3050), rows(9000, 3))
    assert EventKind.TRUNCATED in ledger.kinds() or EventKind.RECREATED in ledger.kinds()
    assert not ledger.gaps()


async def test_late_compression_sends_nothing_again(tmp_path: Path) -> None:
    """A tailed file that becomes a .gz is recognised by its content."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    append(file, rows(0, 3000))
    async with running(ledger, settings(tmp_path / "x.csv*")):
        await has(ledger, rows(0, 3000))
        (tmp_path / "x.csv.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
        await wait_until_async(lambda: EventKind.COMPRESSED in ledger.kinds())
    assert ledger.contents == [rows(0, 3000)]


async def test_drain_reads_all_there_is(tmp_path: Path) -> None:
    """One call reads plain files and archives and returns."""
    ledger = Ledger()
    append(tmp_path / "a.csv", rows(0, 100))
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(rows(100, 100)))
    await FileSource(settings(tmp_path / "*")).drain(ledger, ledger)
    assert ledger.contents == sorted([rows(0, 100), rows(100, 100)])
    assert [life.finished for life in ledger.lives.values()] == [False, True]
