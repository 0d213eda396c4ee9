"""What happened while the agent was not running: found out from content, sealed places and fingerprints."""

import gzip
import os
import shutil
from pathlib import Path

import pytest

from agent.model import EventKind
from agent.settings import SourceSettings
from tests.support import wait_until_async
from tests.unit.agent.sources.ledger import Ledger, append, has, rows, running, scanned, settings


async def before(ledger: Ledger, source: SourceSettings, *contents: bytes) -> None:
    """One run of the agent until it has read these contents; all of it sealed, then it dies."""
    async with running(ledger, source):
        await has(ledger, *contents)
    ledger.seal()
    ledger.restart()


async def test_reading_goes_on_at_the_sealed_place(tmp_path: Path) -> None:
    """What was taken but not sealed is read again under the same id, what was sealed is not."""
    ledger, file, source = Ledger(), tmp_path / "x.csv", settings(tmp_path / "*")
    append(file, rows(0, 100))
    await before(ledger, source, rows(0, 100))
    append(file, rows(100, 100))
    async with running(ledger, source):
        await has(ledger, rows(0, 200))
    ledger.restart()
    assert ledger.contents == [rows(0, 100)]
    append(file, rows(200, 100))
    async with running(ledger, source):
        await has(ledger, rows(0, 300))
    assert len(ledger.lives) == 1
    assert not ledger.events


async def test_what_was_never_sealed_starts_anew(tmp_path: Path) -> None:
    """Nothing is remembered of it, so nothing can be missed."""
    ledger, file, source = Ledger(), tmp_path / "x.csv", settings(tmp_path / "*")
    append(file, rows(0, 100))
    async with running(ledger, source):
        await has(ledger, rows(0, 100))
    ledger.restart()
    assert not ledger.lives
    async with running(ledger, source):
        await has(ledger, rows(0, 100))


@pytest.mark.parametrize("count", [10, 2000])
async def test_rotation_by_rename(tmp_path: Path, count: int) -> None:
    """Few bytes or many: the renamed file is found and read to its end."""
    ledger, file, source = Ledger(), tmp_path / "x.csv", settings(tmp_path / "x.csv*")
    append(file, rows(0, count))
    await before(ledger, source, rows(0, count))
    append(file, rows(count, 3))
    file.rename(tmp_path / "x.csv.1")
    append(file, rows(9000, 3))
    async with running(ledger, source):
        await has(ledger, rows(0, count + 3), rows(9000, 3))
        await ledger.told(EventKind.FINISHED)
    assert not ledger.gaps()


@pytest.mark.parametrize("count", [10, 2000])
async def test_copytruncate(tmp_path: Path, count: int) -> None:
    """The unsealed rest is read from the copy."""
    ledger, file, source = Ledger(), tmp_path / "x.csv", settings(tmp_path / "x.csv*")
    append(file, rows(0, count))
    await before(ledger, source, rows(0, count))
    append(file, rows(count, 3))
    shutil.copyfile(file, tmp_path / "x.csv.1")
    os.truncate(file, 0)
    append(file, rows(9000, 3))
    async with running(ledger, source):
        await has(ledger, rows(0, count + 3), rows(9000, 3))
    assert not ledger.gaps()


@pytest.mark.parametrize("count", [10, 2000])
async def test_rotation_and_compression(tmp_path: Path, count: int) -> None:
    """x.csv -> x.csv.1 -> x.csv.2.gz while nobody looked."""
    ledger, file, source = Ledger(), tmp_path / "x.csv", settings(tmp_path / "x.csv*")
    append(file, rows(0, count))
    await before(ledger, source, rows(0, count))
    append(file, rows(count, 3))
    (tmp_path / "x.csv.2.gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()
    append(tmp_path / "x.csv.1", rows(5000, 3))
    append(file, rows(9000, 3))
    async with running(ledger, source):
        await has(ledger, rows(0, count + 3), rows(5000, 3), rows(9000, 3))
    assert not ledger.gaps()


async def test_compressed_days_after_it_was_finished(tmp_path: Path) -> None:
    """A finished, sealed and deleted life is recognised in an archive of another folder after two restarts."""
    ledger, file, source = Ledger(), tmp_path / "x.csv", settings(tmp_path / "**" / "*")
    append(file, rows(0, 3000))
    async with running(ledger, source):
        await has(ledger, rows(0, 3000))
        file.rename(tmp_path / "x.csv.1")
        await ledger.told(EventKind.FINISHED)
    ledger.seal()
    (tmp_path / "x.csv.1").rename(tmp_path.parent / f"{tmp_path.name}-kept")
    ledger.restart()
    async with running(ledger, source) as again:
        await scanned(again, 3)
    ledger.restart()
    (tmp_path / "old").mkdir()
    packed = gzip.compress((tmp_path.parent / f"{tmp_path.name}-kept").read_bytes())
    (tmp_path / "old" / "some-other-name.gz").write_bytes(packed)
    async with running(ledger, source):
        await ledger.told(EventKind.COMPRESSED)
    assert ledger.contents == [rows(0, 3000)]
    assert not ledger.gaps()


async def test_a_finished_archive_is_not_read_again(tmp_path: Path) -> None:
    """Neither after a restart nor when it grew in the meantime, but for what is new."""
    ledger, source = Ledger(), settings(tmp_path / "*")
    (tmp_path / "x.gz").write_bytes(gzip.compress(rows(0, 3000)))
    async with running(ledger, source):
        await ledger.told(EventKind.FINISHED)
    ledger.seal()
    ledger.restart()
    chunks = ledger.of("x.gz")[0].chunks
    async with running(ledger, source) as again:
        await scanned(again, 3)
        assert not again.busy
    assert ledger.of("x.gz")[0].chunks == chunks
    ledger.restart()
    append(tmp_path / "x.gz", gzip.compress(rows(3000, 10)))
    async with running(ledger, source):
        await has(ledger, rows(0, 3010))


async def test_a_round_of_renamed_archives(tmp_path: Path) -> None:
    """x.1.gz -> x.2.gz and a new x.1.gz while nobody looked: only the new one is read, few bytes or not."""
    ledger, source = Ledger(), settings(tmp_path / "*")
    (tmp_path / "x.1.gz").write_bytes(gzip.compress(rows(0, 3)))
    async with running(ledger, source):
        await ledger.told(EventKind.FINISHED)
    ledger.seal()
    ledger.restart()
    (tmp_path / "x.1.gz").rename(tmp_path / "x.2.gz")
    (tmp_path / "x.1.gz").write_bytes(gzip.compress(rows(9000, 3)))
    async with running(ledger, source) as again:
        await has(ledger, rows(0, 3), rows(9000, 3))
        await wait_until_async(lambda: not again.busy)
    assert ledger.contents == sorted([rows(0, 3), rows(9000, 3)])


async def test_an_archive_half_read_goes_on_in_the_middle(tmp_path: Path) -> None:
    """Sealed up to somewhere inside: the rest is unpacked again and only the rest is taken."""
    ledger, source = Ledger(), settings(tmp_path / "*")
    (tmp_path / "x.gz").write_bytes(gzip.compress(rows(0, 300_000)))
    async with running(ledger, source):
        await ledger.told(EventKind.FINISHED)
    ledger.of("x.gz")[0].sealed = 1_234_567
    ledger.restart()
    async with running(ledger, source):
        await has(ledger, rows(0, 300_000))


@pytest.mark.parametrize("size", ["shorter", "same", "longer"])
async def test_re_created_with_the_same_inode_number(tmp_path: Path, size: str) -> None:
    """Rewritten in place or given a freed inode: another content is another life, and the doubt is recorded."""
    ledger, file, source = Ledger(), tmp_path / "x.csv", settings(tmp_path / "*")
    old, new = rows(100, 500), rows(500, {"shorter": 40, "same": 500, "longer": 900}[size])
    file.write_bytes(old)
    inode = file.stat().st_ino
    await before(ledger, source, old)
    file.write_bytes(new)
    assert file.stat().st_ino == inode
    async with running(ledger, source):
        await has(ledger, old, new)
        await ledger.told(EventKind.GAP)
    (gap,) = ledger.gaps()
    assert (gap.fault, gap.detail["bytes"], gap.detail["read_to"]) == ("agent", None, len(old))
    assert ledger.of("x.csv")[0].finished


async def test_a_freed_inode_number_and_the_same_header_are_not_the_same_file(tmp_path: Path) -> None:
    """A new day's file that got the inode of yesterday's header-only file is a life of its own."""
    ledger, source, header = Ledger(), settings(tmp_path / "*.csv"), b"time,bid,ask\n"
    old, new = tmp_path / "x-20261120.csv", tmp_path / "x-20261121.csv"
    old.write_bytes(header)
    await before(ledger, source, header)
    old.rename(new)  # the very inode, as a file system that reuses numbers gives it
    append(new, b"1,2,3\n")
    async with running(ledger, source):
        await has(ledger, header, header + b"1,2,3\n")


async def test_deleted_while_nobody_looked(tmp_path: Path) -> None:
    """How much of it was never read can't be known: a gap record without a count, and the life ends."""
    ledger, file, source = Ledger(), tmp_path / "x.csv", settings(tmp_path / "*")
    append(file, rows(0, 100))
    await before(ledger, source, rows(0, 100))
    file.unlink()
    async with running(ledger, source):
        await ledger.told(EventKind.GAP)
    assert ledger.of("x.csv")[0].finished
    assert ledger.gaps()[0].detail["bytes"] is None


async def test_moved_to_another_disk(tmp_path: Path) -> None:
    """Other inode numbers, same paths and contents, as after a restore: nothing of size is sent again."""
    ledger, source = Ledger(), settings(tmp_path / "data" / "*")
    (tmp_path / "data").mkdir()
    for number in range(5):
        append(tmp_path / "data" / f"s{number}.csv", rows(number * 10_000, 1000))
    await before(ledger, source, *[rows(n * 10_000, 1000) for n in range(5)])
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "copy").rename(tmp_path / "data")
    append(tmp_path / "data" / "s3.csv", b"more\n")
    async with running(ledger, source):
        await has(ledger, *[rows(n * 10_000, 1000) + b"more\n" * (n == 3) for n in range(5)])
    assert len(ledger.lives) == 5


async def test_the_device_number_may_change(tmp_path: Path) -> None:
    """Some systems number devices anew at each boot: few bytes under the same path and inode go on."""
    ledger, file, source = Ledger(), tmp_path / "x.csv", settings(tmp_path / "*")
    append(file, b"time,bid\n")
    await before(ledger, source, b"time,bid\n")
    ledger.of("x.csv")[0].device += 1
    append(file, b"1,2\n")
    async with running(ledger, source):
        await has(ledger, b"time,bid\n1,2\n")
    assert len(ledger.lives) == 1
