"""Archives beside growing files: finished inputs, late compression, damage, and what is recognised again."""

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from agent.model import EventKind
from agent.sources.files import FileSource
from tests.support import wait_until_async
from tests.unit.agent.sources.ledger import Ledger, append, has, rows, running, scanned, settings


def zipped(**files: bytes) -> bytes:
    """A zip file; `_` in a name stands for `.`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_", "."), content)
    return buffer.getvalue()


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".zip": lambda data: zipped(x_csv=data),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


@pytest.mark.parametrize("suffix", PACK)
async def test_a_finished_archive_is_read_and_finished(tmp_path: Path, suffix: str) -> None:
    """Its content is a life under the archive's name, with offsets in the content."""
    (tmp_path / f"btc-20261121.csv{suffix}").write_bytes(PACK[suffix](rows(0, 200_000)))
    ledger = Ledger()
    async with running(ledger, settings(tmp_path / "*")):
        await has(ledger, rows(0, 200_000))
        await ledger.told(EventKind.FINISHED)
    (life,) = ledger.lives.values()
    assert life.finished
    assert life.origin.stream == "t/btc"
    assert life.path == str(tmp_path / f"btc-20261121.csv{suffix}")
    assert not ledger.gaps()


async def test_members_of_a_zip_are_origins_of_their_own(tmp_path: Path) -> None:
    """Several members are named `<zip>!<member>`; folders are nothing."""
    (tmp_path / "day.zip").write_bytes(zipped(a_csv=rows(0, 9), b_csv=rows(50, 9)))
    ledger = Ledger()
    async with running(ledger, settings(tmp_path / "*", stream="{parent}/{base}")):
        await has(ledger, rows(0, 9), rows(50, 9))
    assert sorted(life.origin.name for life in ledger.lives.values()) == [
        str(tmp_path / "day.zip!a.csv"),
        str(tmp_path / "day.zip!b.csv"),
    ]
    assert sorted(life.origin.stream for life in ledger.lives.values()) == ["day/a", "day/b"]


@pytest.mark.parametrize("suffix", PACK)
async def test_late_compression_sends_nothing_again(tmp_path: Path, suffix: str) -> None:
    """A tailed file that becomes an archive is recognised by its content, and only its rest is read from it."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    append(file, rows(0, 3000))
    async with running(ledger, settings(tmp_path / "x.csv*")):
        await has(ledger, rows(0, 3000))
        (tmp_path / f"x.csv{suffix}").write_bytes(PACK[suffix](file.read_bytes() + b"late\n"))
        file.unlink()
        await ledger.told(EventKind.COMPRESSED)
        await has(ledger, rows(0, 3000) + b"late\n")
        assert ledger.of("x.csv")[0].path.endswith(suffix)


async def test_rotate_then_compress(tmp_path: Path) -> None:
    """What logrotate does: rename, go on, compress the renamed file slowly, delete it."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    append(file, rows(0, 3000))
    async with running(ledger, settings(tmp_path / "x.csv*", copy_settle=2)) as source:
        await has(ledger, rows(0, 3000))
        file.rename(tmp_path / "x.csv.1")
        append(file, rows(9000, 10))
        packed = gzip.compress(rows(0, 3000))
        for cut in (0, 30, len(packed) // 2, len(packed)):
            (tmp_path / "x.csv.1.gz").write_bytes(packed[:cut])
            await scanned(source, 3)
            assert ledger.contents == sorted([rows(0, 3000), rows(9000, 10)])
        (tmp_path / "x.csv.1").unlink()
        await ledger.told(EventKind.COMPRESSED)
    assert ledger.contents == sorted([rows(0, 3000), rows(9000, 10)])
    assert not ledger.gaps()


async def test_an_archive_that_stays_beside_its_original_is_a_file_of_its_own(tmp_path: Path) -> None:
    """`gzip -k`: after the wait both are kept, since nothing may be lost."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    append(file, rows(0, 3000))
    async with running(ledger, settings(tmp_path / "x.csv*", copy_settle=1)) as source:
        await has(ledger, rows(0, 3000))
        (tmp_path / "x.csv.gz").write_bytes(gzip.compress(rows(0, 3000)))
        await scanned(source, 2)
        assert ledger.contents == [rows(0, 3000)]
        await has(ledger, rows(0, 3000), rows(0, 3000))


@pytest.mark.parametrize("suffix", PACK)
async def test_a_truncated_archive_is_a_gap_until_it_is_whole(tmp_path: Path, suffix: str) -> None:
    """What decodes is kept, the end is told with facts, and when the copy is complete the rest follows."""
    ledger, file = Ledger(), tmp_path / f"x.csv{suffix}"
    data = rows(0, 120_000)
    packed = PACK[suffix](data)
    file.write_bytes(packed[: len(packed) // 2])
    async with running(ledger, settings(tmp_path / "*")):
        await ledger.told(EventKind.GAP)
        (life,) = ledger.lives.values()
        assert data.startswith(life.data)
        assert len(life.data) > 100_000
        assert not life.finished
        (gap,) = ledger.gaps()
        assert gap.fault == "storage"
        assert gap.file == str(file)
        assert gap.detail["read_to"] == len(life.data)
        assert gap.detail["size"] == len(packed) // 2
        assert gap.detail["reason"]
        file.write_bytes(packed)
        await has(ledger, data)
        await ledger.told(EventKind.FINISHED)
    assert life.finished


async def test_a_corrupt_archive_replaced_by_a_good_one_of_other_content(tmp_path: Path) -> None:
    """What was read of the first stays its life; the second is another."""
    ledger, file = Ledger(), tmp_path / "x.csv.gz"
    packed = bytearray(gzip.compress(rows(0, 60_000)))
    packed[len(packed) // 2 :] = bytes(len(packed) - len(packed) // 2)
    file.write_bytes(packed)
    async with running(ledger, settings(tmp_path / "*")):
        await ledger.told(EventKind.GAP)
        file.write_bytes(gzip.compress(rows(100_000, 5000)))
        await wait_until_async(lambda: rows(100_000, 5000) in ledger.contents)
    assert len(ledger.lives) == 2
    assert EventKind.RECREATED in ledger.kinds()


async def test_no_archive_at_all_is_told_and_stops_nobody(tmp_path: Path) -> None:
    """Text named .gz gives a gap record; others are read."""
    ledger = Ledger()
    (tmp_path / "x.csv.gz").write_bytes(b"plain text\n")
    (tmp_path / "y.zip").write_bytes(b"PK\x03\x04 and no more")
    append(tmp_path / "z.csv", b"1\n")
    async with running(ledger, settings(tmp_path / "*")):
        await ledger.told(EventKind.GAP, times=2)
        await has(ledger, b"1\n")


async def test_a_renamed_archive_is_the_same(tmp_path: Path) -> None:
    """Nothing is read again, even if it holds so little that its content proves nothing."""
    ledger = Ledger()
    (tmp_path / "x.gz").write_bytes(gzip.compress(rows(0, 3)))
    async with running(ledger, settings(tmp_path / "*")) as source:
        await has(ledger, rows(0, 3))
        await ledger.told(EventKind.FINISHED)
        (tmp_path / "x.gz").rename(tmp_path / "kept.gz")
        (tmp_path / "x.gz").write_bytes(gzip.compress(rows(9000, 3)))
        await has(ledger, rows(0, 3), rows(9000, 3))
        await scanned(source, 2)
    assert ledger.contents == sorted([rows(0, 3), rows(9000, 3)])


async def test_a_gzip_that_grows_by_members_goes_on(tmp_path: Path) -> None:
    """Some writers append whole gzip members: each is read as it comes."""
    ledger, file = Ledger(), tmp_path / "x.gz"
    append(file, gzip.compress(rows(0, 500)))
    async with running(ledger, settings(tmp_path / "*")):
        await has(ledger, rows(0, 500))
        append(file, gzip.compress(rows(500, 500)))
        await has(ledger, rows(0, 1000))


async def test_drain_counts_archives_as_finished(tmp_path: Path) -> None:
    """No waiting for archives to settle, and their lives are finished."""
    ledger = Ledger()
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(rows(100, 100)))
    (tmp_path / "c.zip").write_bytes(zipped(a_csv=rows(0, 9), b_csv=rows(50, 9)))
    source = FileSource(settings(tmp_path / "*", poll=3600, archive_settle=3600, copy_settle=3600))
    await source.drain(ledger, ledger)
    assert ledger.contents == sorted([rows(100, 100), rows(0, 9), rows(50, 9)])
    assert all(life.finished for life in ledger.lives.values())


async def test_archives_do_not_stop_growing_files(tmp_path: Path) -> None:
    """While an archive waits for the intake, a tick in a growing file still gets through."""
    ledger = Ledger()
    (tmp_path / "big.gz").write_bytes(gzip.compress(rows(0, 200_000), 1))
    append(tmp_path / "x.csv", b"1\n")
    ledger.hold("big.gz")
    async with running(ledger, settings(tmp_path / "*")):
        await wait_until_async(lambda: ledger.waiting)
        append(tmp_path / "x.csv", b"2\n")
        await has(ledger, b"1\n2\n")
        ledger.let_go()
        await has(ledger, b"1\n2\n", rows(0, 200_000))
