"""Files that two outboxes have read: what comes out holds every tick once, however the second found them."""

import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pytest

from receiver.export import Export, ExportForm, Request, shelf_of
from tests.support.archive import Archive, Feed
from tests.support.segments import START_NS

HOUR = 3600 * 10**9
ASK = Request("box", "demo/ticks")
Read = tuple[str, bytes, Sequence[int]]  # a file's path, what was read of it, and where it was cut


def rows(first: int, count: int) -> bytes:
    """Lines of ticks, each like no other."""
    return b"".join(b"%d,%d.%02d,%d\n" % (n, 100 + n % 97, n % 100, n * 7) for n in range(first, first + count))


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """A home archive without other targets."""
    made = Archive(tmp_path / "archive", names=())
    yield made
    made.catalog.close()


def read_twice(archive: Archive, folder: Path, first: Sequence[Read], second: Sequence[Read]) -> None:
    """What the outbox sealed that was lost, and then the one after it."""
    number = 0
    for epoch, start, files in (("a" * 16, START_NS, first), ("b" * 16, START_NS + HOUR, second)):
        feed = Feed(folder / epoch, epoch=epoch, start_ns=start)
        for path, data, cuts in files:
            number += 1
            archive.take(feed.seal(data, cuts=cuts, file=path, file_id=f"{number:032x}"))


def assert_once(archive: Archive, folder: Path, files: Sequence[bytes]) -> None:
    """Original bytes, CSV and Parquet hold exactly these files, or their rows."""
    shelf = shelf_of(archive.catalog, archive.targets)
    Export(shelf, ASK).to_folder(folder)
    assert sorted(path.read_bytes() for path in folder.iterdir()) == sorted(files)
    wanted = sorted(line.split(b",")[0].decode() for data in files for line in data.splitlines())
    for form in (ExportForm.CSV, ExportForm.PARQUET):
        out = io.BytesIO()
        Export(shelf, dataclasses.replace(ASK, form=form)).to_stream(out)
        held = out.getvalue()
        table = pl.read_csv(held, infer_schema=False) if form is ExportForm.CSV else pl.read_parquet(held)
        assert sorted(table["c0"].cast(pl.String).to_list()) == wanted, form


SMALL, OTHER, BIG = rows(0, 20), rows(5000, 20), rows(0, 3020)
TORN = BIG.index(b"\n", len(BIG) // 2) - 4

WORLDS: dict[str, tuple[list[Read], list[Read]]] = {
    "a short file that was renamed away": (
        [("/x/f.csv", SMALL, [])],
        [("/x/f.csv.1", SMALL, []), ("/x/f.csv", OTHER, [])],
    ),
    "a short file that grew by much and was renamed away": (
        [("/x/f.csv", SMALL, [])],
        [("/x/f.csv.1", BIG, [BIG.index(b"\n", 9000) + 1]), ("/x/f.csv", OTHER, [])],
    ),
    "a short file that was renamed by date and compressed": (
        [(r"C:\x\f.csv", SMALL, [])],
        [(r"C:\x\f-2026-11-21.csv.gz", BIG, []), (r"C:\x\f.csv", OTHER, [])],
    ),
    "read to the middle of a line": ([("/x/t.csv", BIG[:TORN], [])], [("/x/t.csv", BIG, [])]),
    "read to the middle of a line, cut before and behind it": (
        [("/x/t.csv", BIG[:TORN], [BIG.index(b"\n", 700) + 1])],
        [("/x/t.csv", BIG, [BIG.rindex(b"\n", 0, TORN) + 1, BIG.index(b"\n", TORN) + 1])],
    ),
    "a long file read twice": ([("/x/t.csv", BIG, [])], [("/x/t.csv.1", BIG, []), ("/x/t.csv", OTHER, [])]),
}


@pytest.mark.parametrize("world", WORLDS)
def test_every_tick_comes_out_once(archive: Archive, tmp_path: Path, world: str) -> None:
    """Nothing twice and nothing lost, as bytes and as rows."""
    first, second = WORLDS[world]
    read_twice(archive, tmp_path, first, second)
    assert_once(archive, tmp_path / "out", [data for _, data, _ in second])


def test_a_hole_that_the_second_reading_fills_ends_at_a_row(archive: Archive, tmp_path: Path) -> None:
    """The first reading lost a segment between two torn lines: the rows around it come from the second, whole."""
    one, two = (BIG.index(b"\n", place) - 3 for place in (8000, 16000))
    feed = Feed(tmp_path / "a", epoch="a" * 16)
    made = feed.seal(BIG, cuts=[one, two], file="/x/t.csv", file_id="1" * 32)
    archive.take([made[0], made[2]])
    again = Feed(tmp_path / "b", epoch="b" * 16, start_ns=START_NS + HOUR)
    archive.take(again.seal(BIG, cuts=[], file="/x/t.csv", file_id="2" * 32))
    shelf = shelf_of(archive.catalog, archive.targets)
    out = io.BytesIO()
    ask = dataclasses.replace(ASK, form=ExportForm.PARQUET, allow_gaps=True)
    Export(shelf, ask).to_stream(out)
    table = pl.read_parquet(out.getvalue())
    assert sorted(table["c0"].to_list()) == list(range(3020))


def test_the_next_days_file_is_another_one(archive: Archive, tmp_path: Path) -> None:
    """A date that was exchanged for another is no rotation: both files come out, though one begins as the other."""
    read_twice(archive, tmp_path, [("/x/f-2026-11-20.csv", SMALL, [])], [("/x/f-2026-11-21.csv", BIG, [])])
    shelf = shelf_of(archive.catalog, archive.targets)
    Export(shelf, ASK).to_folder(tmp_path / "out")
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert files == {"f-2026-11-20.csv": SMALL, "f-2026-11-21.csv": BIG}
