"""What came in comes out: byte for byte, complete or told, from any one copy, in a window of time, as a table."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.export import (
    Export,
    ExportForm,
    Progress,
    Request,
    Shelf,
    Window,
    find_stream,
    shelf_from_folder,
    shelf_of,
)
from receiver.export_plan import safe_name
from receiver.export_tables import table_schema, widened
from receiver.targets.contract import Place
from receiver.targets.memory import MemoryTarget
from tape.errors import AlreadyThere, ExportError, NotFound, UsageError
from tape.layout import Column, Format, Layout, Shape, detect
from tape.segment import SegmentWriter
from tests.support.archive import Archive, Feed
from tests.support.sealing import footer_for
from tests.support.segments import START_NS, Made, finish, put

TICKS = b"time,bid,ask\n" + b"".join(b"%d,1.%04d,1.%04d\n" % (1000 + i, i, i + 3) for i in range(400))
JSON = b"".join(b'{"e":"trade","n":%d}\n' % i for i in range(300))
SECOND = 1_000_000_000
ASK = Request("box", "demo/ticks")


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """Home and nas."""
    made = Archive(tmp_path / "site")
    yield made
    made.catalog.close()


@pytest.fixture
def feed(tmp_path: Path) -> Feed:
    """An agent's sealing."""
    return Feed(tmp_path / "spool")


def shelf(archive: Archive) -> Shelf:
    return shelf_of(archive.catalog, archive.targets)


def cut(data: bytes, pieces: int) -> list[int]:
    """Places to cut, each after a line."""
    step = len(data) // pieces
    return [data.index(b"\n", step * i) + 1 for i in range(1, pieces)]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# ------------------------------------------------------------------------------------------ original bytes


@pytest.mark.parametrize(
    "data", [TICKS, JSON, TICKS[:-1], b"\xef\xbb\xbf" + TICKS.replace(b"\n", b"\r\n"), b"\0\xff\n" * 50]
)
def test_the_original_comes_out_to_the_last_byte(archive: Archive, feed: Feed, tmp_path: Path, data: bytes) -> None:
    """Segments of one file, taken in any order, give the file back under its own name."""
    made = feed.seal(data, cuts=cut(data, 5), file="/srv/bot/ticks-2026.csv")
    archive.take(made[2:])
    archive.take(made[:2])
    seen: list[Progress] = []
    report = Export(shelf(archive), ASK, progress=seen.append).to_folder(tmp_path / "out")
    assert files(tmp_path / "out") == {"ticks-2026.csv": data}
    assert [(file.bytes, file.source) for file in report.files] == [(len(data), "/srv/bot/ticks-2026.csv")]
    assert (report.segments, report.holes) == (5, [])
    assert (seen[-1].segments, seen[-1].bytes) == (seen[-1].of_segments, seen[-1].of_bytes) == (5, len(data))
    assert json.loads(report.to_json())["rows"] == sum(item.footer.rows for item in made)


@settings(max_examples=25)
@given(st.binary(max_size=300), st.lists(st.integers(1, 299), max_size=6, unique=True))
def test_any_bytes_cut_anywhere_come_out_again(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, at: list[int]
) -> None:
    """Arbitrary bytes sealed in arbitrary pieces, also in the middle of lines, are exported unchanged."""
    folder = tmp_path_factory.mktemp("any")
    archive = Archive(folder / "site", names=())
    try:
        cuts = sorted(place for place in at if place < len(data))
        archive.take(Feed(folder / "spool").seal(data, cuts=cuts) if data else [])
        if data:
            out = io.BytesIO()
            Export(shelf(archive), ASK).to_stream(out)
            assert out.getvalue() == data
        else:
            with pytest.raises(NotFound):
                Export(shelf(archive), ASK).to_stream(io.BytesIO())
    finally:
        archive.catalog.close()


def test_files_of_one_name_are_kept_apart_by_time(archive: Archive, feed: Feed, tmp_path: Path) -> None:
    """Lives of the same path get numbers in the order of time; several files need a folder or --concatenate."""
    parts = [TICKS[:1000], TICKS[1000:2500], JSON]
    for number, data in enumerate(parts):
        archive.take(feed.seal(data, cuts=[], file="/srv/x.csv", file_id=f"{9 - number:032x}"))
    Export(shelf(archive), ASK).to_folder(tmp_path / "out")
    assert files(tmp_path / "out") == {"x.csv": parts[0], "x.csv.2": parts[1], "x.csv.3": parts[2]}
    with pytest.raises(UsageError, match="is 3 files"):
        Export(shelf(archive), ASK).to_file(tmp_path / "one")
    Export(shelf(archive), ASK).to_file(tmp_path / "one", concatenate=True)
    assert (tmp_path / "one").read_bytes() == b"".join(parts)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/srv/a/b.csv", "b.csv"),
        ("C:\\bot\\b.csv", "b.csv"),
        ("b.csv.gz", "b.csv"),
        ("/srv/day.zip!inner/b.csv", "b.csv"),
        ("/srv/a:b?.csv", "a_b_.csv"),
        ("/srv/nul.csv", "_nul.csv"),
        ("/srv/dots...", "dots"),
        ("/srv/..", "_"),
        ("/srv/.gz", ".gz"),
    ],
)
def test_names_are_safe_everywhere(path: str, name: str) -> None:
    """An output is named as its source was, without what a file system could misunderstand."""
    assert safe_name(path) == name


def test_nothing_is_replaced_without_leave(archive: Archive, feed: Feed, tmp_path: Path) -> None:
    """An existing file stops the export before anything is written; --force replaces it."""
    archive.take(feed.seal(TICKS, cuts=[], file="/srv/b.csv"))
    archive.take(feed.seal(JSON, cuts=[], file="/srv/a.json", file_id="a" * 32))
    (tmp_path / "a.json").write_bytes(b"precious")
    with pytest.raises(AlreadyThere):
        Export(shelf(archive), ASK).to_folder(tmp_path)
    with pytest.raises(AlreadyThere):
        Export(shelf(archive), ASK).to_file(tmp_path / "a.json", concatenate=True)
    assert (tmp_path / "a.json").read_bytes() == b"precious"
    assert not (tmp_path / "b.csv").exists()
    Export(shelf(archive), dataclasses.replace(ASK, force=True)).to_folder(tmp_path)
    assert (tmp_path / "a.json").read_bytes() == JSON


def test_a_file_that_appears_meanwhile_is_not_replaced(archive: Archive, feed: Feed, tmp_path: Path) -> None:
    """Even a file that somebody makes while the export runs keeps its bytes."""
    archive.take(feed.seal(TICKS, cuts=[]))
    out = tmp_path / "out.csv"

    def somebody(_: Progress) -> None:
        out.write_bytes(b"mine")

    with pytest.raises(AlreadyThere):
        Export(shelf(archive), ASK, progress=somebody).to_file(out)
    assert out.read_bytes() == b"mine"
    assert list(tmp_path.glob(".tmp-*")) == []


# ---------------------------------------------------------------------------------------- what is missing


def test_a_hole_is_told_not_skipped(archive: Archive, feed: Feed, tmp_path: Path) -> None:
    """A missing segment stops the export with its bytes named; with leave, what is there comes and the hole is told."""
    cuts = cut(TICKS, 4)
    made = feed.seal(TICKS, cuts=cuts, file="/srv/b.csv")
    archive.take([made[0], made[1], made[3]])
    with pytest.raises(ExportError, match=f"bytes {cuts[1]} to {cuts[2]} of b.csv"):
        Export(shelf(archive), ASK).to_folder(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = Export(shelf(archive), dataclasses.replace(ASK, allow_gaps=True)).to_folder(tmp_path / "out")
    assert files(tmp_path / "out") == {"b.csv": TICKS[: cuts[1]] + TICKS[cuts[2] :]}
    assert report.holes == ["segment 2 of epoch 00000000000000aa", f"bytes {cuts[1]} to {cuts[2]} of b.csv"]


def test_a_missing_file_is_told_by_its_segment(archive: Archive, feed: Feed) -> None:
    """A whole file that is missing shows as a missing number in its epoch."""
    archive.take(feed.seal(TICKS, cuts=[], file_id="1" * 32))
    feed.seal(JSON, cuts=[], file_id="2" * 32)
    archive.take(feed.seal(TICKS, cuts=[], file_id="3" * 32))
    with pytest.raises(ExportError, match="segment 1 of epoch 00000000000000aa"):
        Export(shelf(archive), ASK).to_stream(io.BytesIO(), concatenate=True)


def damage(archive: Archive, target: str, made: Made) -> Path:
    path = archive.root / target / str(made.path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


def test_a_damaged_copy_is_never_exported(archive: Archive, feed: Feed, tmp_path: Path) -> None:
    """A flipped bit is noticed; another target's copy is taken instead, and without one the segment is named."""
    made = feed.seal(TICKS, cuts=cut(TICKS, 3))
    archive.take(made)
    damage(archive, "home", made[1])
    with pytest.raises(ExportError, match="is damaged") as caught:
        Export(shelf(archive), ASK).to_file(tmp_path / "out")
    assert str(made[1].path) in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".tmp-*")) == []
    put(archive.root / "nas", made[1])
    Export(shelf(archive), ASK).to_file(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == TICKS
    damage(archive, "nas", made[1])
    out = io.BytesIO()
    report = Export(shelf(archive), dataclasses.replace(ASK, allow_gaps=True)).to_stream(out)
    first, second = cut(TICKS, 3)
    assert out.getvalue() == TICKS[:first] + TICKS[second:]
    assert [str(made[1].path) in hole for hole in report.holes] == [True]


def test_a_segment_that_lies_about_its_bytes_is_caught(archive: Archive, feed: Feed) -> None:
    """If rows do not give back the bytes the footer promises, the export fails although the file's digest is right."""
    (made,) = feed.seal(TICKS, cuts=[])
    (held,) = archive.take([made])
    lying = dataclasses.replace(made.footer, source=dataclasses.replace(made.footer.source, digest="0" * 32))
    table = pq.read_table(archive.root / "home" / str(held.path))
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({b"hometape": lying.to_json()}), buffer)
    other = Archive(archive.root / "lying", names=())
    other.take([finish(lying, buffer.getvalue())])
    with pytest.raises(ExportError, match="do not give back"):
        Export(shelf(other), ASK).to_stream(io.BytesIO())
    other.catalog.close()


# -------------------------------------------------------------------------------------- any copy, any folder


def test_a_bare_folder_is_enough(archive: Archive, feed: Feed, tmp_path: Path) -> None:
    """With nothing but one copy's files, no catalog and no marker, the export is the same; so from a day's folder."""
    made = [*feed.seal(TICKS, cuts=cut(TICKS, 7), file="/srv/b.csv")]
    made += Feed(tmp_path / "spool2", stream="other").seal(JSON, cuts=[], file="/srv/c.json")
    bare = tmp_path / "usb"
    for item in made:
        put(bare, item)
    (bare / "README.txt").write_bytes(b"hello")
    (bare / made[0].path.folder / "SHA256SUMS").write_bytes(b"")
    for root in (bare, bare / "box" / "demo"):
        with shelf_from_folder(root) as found:
            assert find_stream(found, "box/demo/ticks") == find_stream(found, "demo/ticks") == ("box", "demo/ticks")
            out = io.BytesIO()
            Export(found, ASK).to_stream(out)
            assert out.getvalue() == TICKS
    with shelf_from_folder(bare) as found, pytest.raises(NotFound) as caught:
        find_stream(found, "nothing")
    assert "box/other" in caught.value.hint


def test_a_bare_folder_with_a_damaged_file_says_so(feed: Feed, tmp_path: Path) -> None:
    """A file that can't be read, a file renamed, two files for one segment: each is named, none is passed over."""
    made = feed.seal(TICKS, cuts=cut(TICKS, 3))
    paths = [put(tmp_path / "usb", item) for item in made]
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:-20])
    with shelf_from_folder(tmp_path / "usb") as found, pytest.raises(ExportError, match=paths[1].name):
        Export(found, ASK).to_stream(io.BytesIO())
    paths[1].write_bytes(whole)
    name = paths[1].name
    paths[1].rename(paths[1].with_name(name.replace("-000000000001-", "-000000000007-")))
    with (
        shelf_from_folder(tmp_path / "usb") as found,
        pytest.raises(ExportError, match="says inside that it is segment 1"),
    ):
        Export(found, ASK).to_stream(io.BytesIO())
    paths[1].with_name(name.replace("-000000000001-", "-000000000007-")).rename(paths[1])
    twin = paths[1].with_name(name[:-40] + "0" * 32 + ".parquet")
    twin.write_bytes(whole)
    with pytest.raises(ExportError, match="claim to be the same segment"), shelf_from_folder(tmp_path / "usb"):
        pass
    with pytest.raises(NotFound), shelf_from_folder(tmp_path / "usb" / "nothing"):
        pass


def test_damage_elsewhere_in_a_bare_folder_holds_up_nobody(feed: Feed, tmp_path: Path) -> None:
    """A bad file among another stream's is that stream's; one that lies among none may be anybody's."""
    bare = tmp_path / "usb"
    paths = [put(bare, item) for item in feed.seal(TICKS, cuts=cut(TICKS, 3))]
    others = [put(bare, item) for item in Feed(tmp_path / "spool2", stream="other").seal(JSON, cuts=cut(JSON, 3))]
    others[1].write_bytes(b"bad")
    for root in (bare, bare / "box"):
        with shelf_from_folder(root) as found:
            out = io.BytesIO()
            Export(found, ASK).to_stream(out)
            assert out.getvalue() == TICKS
            with pytest.raises(ExportError, match=others[1].name):
                Export(found, dataclasses.replace(ASK, stream="other")).to_stream(io.BytesIO())
    (bare / paths[0].name).write_bytes(b"bad")
    with shelf_from_folder(bare) as found, pytest.raises(ExportError, match=paths[0].name):
        Export(found, ASK).to_stream(io.BytesIO())


def test_the_newest_of_a_bare_folder_are_missed_by_their_sums(feed: Feed, tmp_path: Path) -> None:
    """They leave no hole when they are gone: what SHA256SUMS names and nobody met is missing, wherever the tree starts;
    not so in another stream, nor outside of the window.
    """
    made = feed.seal(TICKS, cuts=cut(TICKS, 4))
    other = Feed(tmp_path / "spool2", stream="other").seal(JSON, cuts=[], file="/srv/c.json")
    bare = tmp_path / "usb"
    for item in (*made, *other):
        with (put(bare, item).parent / "SHA256SUMS").open("a", encoding="ascii", newline="\n") as sums:
            sums.write(f"{item.sha256}  {item.path.name}\n")
    last = made[-1].path
    (bare / str(last)).unlink()
    for root in (bare, bare / "box" / "demo", bare / last.folder):
        with shelf_from_folder(root) as found, pytest.raises(ExportError, match=str(last)):
            Export(found, ASK).to_stream(io.BytesIO())
    with shelf_from_folder(bare) as found:
        early = dataclasses.replace(ASK, window=Window(until_ns=START_NS - 3 * 86_400 * SECOND))
        with pytest.raises(NotFound, match="nothing of"):
            Export(found, early).to_stream(io.BytesIO())
        out = io.BytesIO()
        report = Export(found, dataclasses.replace(ASK, allow_gaps=True)).to_stream(out)
        assert report.holes == [f"{last}, which SHA256SUMS names"]
        assert TICKS.startswith(out.getvalue())
        assert Export(found, Request("box", "other")).to_stream(io.BytesIO()).holes == []


def test_a_target_without_local_files_will_do(archive: Archive, feed: Feed) -> None:
    """A target whose files can't be opened in place is read through a temporary copy."""
    made = feed.seal(TICKS, cuts=cut(TICKS, 3))
    archive.take(made)
    memory = MemoryTarget(Place("cloud"))
    for item in made:
        memory.put(str(item.path), [item.data], len(item.data), item.path.name.digest)
    out = io.BytesIO()
    Export(shelf_of(archive.catalog, [memory]), ASK).to_stream(out)
    assert out.getvalue() == TICKS


# ----------------------------------------------------------------------------------- read again, but once only


@pytest.mark.parametrize("form", list(ExportForm))
@pytest.mark.parametrize("kept", [0.3, 0.55, 1.0])
def test_a_file_read_again_under_a_new_epoch_comes_out_once(
    archive: Archive, feed: Feed, tmp_path: Path, kept: float, form: ExportForm
) -> None:
    """An agent that lost its outbox reads the file again, cut elsewhere: no byte, no row is there twice."""
    upto = TICKS.index(b"\n", int(len(TICKS) * kept) - 1) + 1
    archive.take(feed.seal(TICKS[:upto], cuts=cut(TICKS[:upto], 3)))
    again = Feed(tmp_path / "again", epoch="00000000000000bb", start_ns=START_NS + 3600 * SECOND)
    archive.take(again.seal(TICKS, cuts=cut(TICKS, 4), file_id="e" * 32))
    out = io.BytesIO()
    report = Export(shelf(archive), dataclasses.replace(ASK, form=form)).to_stream(out)
    if form is ExportForm.ORIGINAL:
        assert out.getvalue() == TICKS
    else:
        table = pl.read_csv(out.getvalue()) if form is ExportForm.CSV else pl.read_parquet(out.getvalue())
        assert table.height == TICKS.count(b"\n") == report.rows
        assert table["time"].drop_nulls().to_list() == list(range(1000, 1400))
    assert report.holes == []


def test_what_the_first_reading_lost_the_second_fills(archive: Archive, feed: Feed, tmp_path: Path) -> None:
    """A hole in one life is filled from the other life of the same file."""
    made = feed.seal(TICKS, cuts=cut(TICKS, 4))
    archive.take([made[0], made[1], made[3]])
    again = Feed(tmp_path / "again", epoch="00000000000000bb", start_ns=START_NS + 3600 * SECOND)
    archive.take(again.seal(TICKS, cuts=cut(TICKS, 3), file_id="e" * 32))
    out = io.BytesIO()
    report = Export(shelf(archive), dataclasses.replace(ASK, allow_gaps=True)).to_stream(out)
    assert out.getvalue() == TICKS
    assert report.holes == ["segment 2 of epoch 00000000000000aa"]


def test_another_file_under_the_same_name_is_another_file(archive: Archive, feed: Feed, tmp_path: Path) -> None:
    """After a rebuilt server the name comes again with the same header and other ticks: both come out whole."""
    other = TICKS[:13] + TICKS[13:].replace(b"1.", b"2.")
    archive.take(feed.seal(TICKS, cuts=cut(TICKS, 3)))
    again = Feed(tmp_path / "again", epoch="00000000000000bb", start_ns=START_NS + 3600 * SECOND)
    archive.take(again.seal(other, cuts=cut(other, 3), file_id="e" * 32))
    Export(shelf(archive), ASK).to_folder(tmp_path / "out")
    assert files(tmp_path / "out") == {"ticks.csv": TICKS, "ticks.csv.2": other}


def test_a_file_that_differs_late_is_another_file(archive: Archive, feed: Feed, tmp_path: Path) -> None:
    """The first bytes only make lives candidates: a single other byte far behind keeps them apart."""
    other = TICKS[:-4] + b"7" + TICKS[-3:]
    assert len(TICKS) > 4096 + 100
    archive.take(feed.seal(TICKS, cuts=cut(TICKS, 3)))
    again = Feed(tmp_path / "again", epoch="00000000000000bb", start_ns=START_NS + 3600 * SECOND)
    archive.take(again.seal(other, cuts=cut(other, 2), file_id="e" * 32))
    Export(shelf(archive), ASK).to_folder(tmp_path / "out")
    assert files(tmp_path / "out") == {"ticks.csv": TICKS, "ticks.csv.2": other}


def test_equal_files_of_one_epoch_stay_two_beside_another_epoch(archive: Archive, feed: Feed, tmp_path: Path) -> None:
    """Read again by a new epoch, two equal lives of the old one are still two; the new reading is one of them."""
    archive.take(feed.seal(TICKS, cuts=[], file_id="1" * 32))
    archive.take(feed.seal(TICKS, cuts=[], file_id="2" * 32))
    again = Feed(tmp_path / "again", epoch="00000000000000bb", start_ns=START_NS + 3600 * SECOND)
    archive.take(again.seal(TICKS, cuts=cut(TICKS, 2), file_id="3" * 32))
    Export(shelf(archive), ASK).to_folder(tmp_path / "out")
    assert files(tmp_path / "out") == {"ticks.csv": TICKS, "ticks.csv.2": TICKS}


def test_overlapping_segments_of_one_life_give_each_byte_once(archive: Archive, feed: Feed) -> None:
    """An outbox restored from an old image seals bytes a second time: they come out once."""
    first, second, third = cut(TICKS, 4)
    archive.take(feed.seal(TICKS[:second], cuts=[]))
    again = Feed(feed.folder, epoch="00000000000000bb", start_ns=START_NS + 3600 * SECOND)
    archive.take(again.seal(TICKS[first:], cuts=[third - first], offset=first, head=TICKS))
    for form, rows in ((ExportForm.ORIGINAL, None), (ExportForm.PARQUET, TICKS.count(b"\n"))):
        out = io.BytesIO()
        report = Export(shelf(archive), dataclasses.replace(ASK, form=form)).to_stream(out)
        assert report.rows == rows if rows else out.getvalue() == TICKS


def test_a_recreated_file_in_one_epoch_is_never_merged(archive: Archive, feed: Feed, tmp_path: Path) -> None:
    """Within an epoch the agent knows lives apart: equal content, even all of it, is exported twice."""
    archive.take(feed.seal(TICKS, cuts=[], file_id="1" * 32))
    archive.take(feed.seal(TICKS, cuts=[], file_id="2" * 32))
    Export(shelf(archive), ASK).to_folder(tmp_path / "out")
    assert files(tmp_path / "out") == {"ticks.csv": TICKS, "ticks.csv.2": TICKS}


# ----------------------------------------------------------------------------------------------- in a window


def test_a_window_takes_rows_by_their_receive_time(archive: Archive, feed: Feed) -> None:
    """Whole rows received in [first, until) come out; holes outside the window do not matter."""
    cuts = cut(TICKS, 6)
    made = feed.seal(TICKS, cuts=cuts)
    archive.take([*made[:4], made[5]])
    window = Window(START_NS + SECOND, START_NS + 3 * SECOND)
    out = io.BytesIO()
    report = Export(shelf(archive), dataclasses.replace(ASK, window=window)).to_stream(out)
    assert out.getvalue() == TICKS[cuts[0] : cuts[2]]
    assert report.segments == 2
    with pytest.raises(ExportError, match="missing are"):
        Export(shelf(archive), dataclasses.replace(ASK, window=Window(START_NS + 3 * SECOND, None))).to_stream(out)
    with pytest.raises(NotFound, match="in that time"):
        Export(shelf(archive), dataclasses.replace(ASK, window=Window(START_NS + 99 * SECOND))).to_stream(out)


def test_a_window_cuts_inside_segments(archive: Archive, feed: Feed, tmp_path: Path) -> None:
    """A segment of which only some rows are in the window gives these rows."""
    lines = JSON.splitlines(keepends=True)
    path = tmp_path / "x"
    writer = SegmentWriter(path, detect(JSON, Format.LINES, at_start=True, prior=None), level=1)
    marks = [(sum(map(len, lines[: i + 1])), START_NS + i) for i in range(len(lines))]
    writer.append(JSON, marks)
    sealed = writer.close(dataclasses.replace(footer_for(0, len(JSON)), agent="box", stream="demo/ticks"))
    archive.take([finish(sealed.footer, path.read_bytes())])
    for first, until in ((0, 300), (17, 40), (299, 300), (None, 5), (200, None)):
        window = Window(None if first is None else START_NS + first, None if until is None else START_NS + until)
        out = io.BytesIO()
        report = Export(shelf(archive), dataclasses.replace(ASK, window=window)).to_stream(out)
        assert out.getvalue() == b"".join(lines[first:until])
        assert report.rows == len(lines[first:until])


# ------------------------------------------------------------------------------------------------- as tables


def test_rows_as_csv_and_parquet_keep_their_values(archive: Archive, feed: Feed, tmp_path: Path) -> None:
    """Both tables hold every row with exact values; what fits no column is in `raw`."""
    odd = TICKS + b"not, a tick at all, no\n" + b"1400,1.5000,1.6000\n"
    archive.take(feed.seal(odd, cuts=cut(odd, 3)))
    Export(shelf(archive), dataclasses.replace(ASK, form=ExportForm.CSV)).to_file(tmp_path / "t.csv")
    Export(shelf(archive), dataclasses.replace(ASK, form=ExportForm.PARQUET)).to_file(tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet")
    assert table.column_names == ["ts_recv", "time", "bid", "ask", "raw"]
    raw = [value for value in table["raw"].to_pylist() if value is not None]
    assert b"not, a tick at all, no\n" in raw
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == table.num_rows == odd.count(b"\n")
    ticks = [row for row in rows if not row["raw"]]
    assert [row["time"] for row in ticks] == [str(n) for n in range(1000, 1401)]
    assert float(ticks[7]["bid"]) == 1.0007
    assert ticks[0]["ts_recv"] == "2023-11-15T00:00:00.000000000Z"
    assert [str(value) for value in table["bid"].to_pylist() if value is not None][:2] == ["1.0000", "1.0001"]


def test_columns_that_change_are_brought_together(archive: Archive, feed: Feed) -> None:
    """New columns, wider numbers and numbers that become text end up in one table without loss."""
    one = b"a,b\n" + b"1,1.5\n" * 20
    two = b"a,b,c\n" + b"2,2.25,x\n" * 20
    three = b"a,b,c\n" + b"three,3.125,y\n" * 20
    for number, data in enumerate((one, two, three)):
        archive.take(feed.seal(data, cuts=[], file_id=f"{number:032x}"))
    out = io.BytesIO()
    Export(shelf(archive), dataclasses.replace(ASK, form=ExportForm.PARQUET)).to_stream(out)
    table = pl.read_parquet(out.getvalue()).filter(pl.col("b").is_not_null())
    assert table.select("a", "b", "c").unique(maintain_order=True).rows() == [
        ("1", pytest.approx(1.5), None), ("2", pytest.approx(2.25), "x"), ("three", pytest.approx(3.125), "y"),
    ]  # fmt: skip


def test_bytes_in_a_csv_are_readable(archive: Archive, feed: Feed) -> None:
    """Payloads that are not UTF-8 are written with escapes, others as they are."""
    data = b'{"x": 1}\n' * 5 + b"\xff\xfe bad\n"
    archive.take(feed.seal(data, cuts=[]))
    out = io.BytesIO()
    Export(shelf(archive), dataclasses.replace(ASK, form=ExportForm.CSV)).to_stream(out)
    payloads = [row["payload"] for row in csv.DictReader(io.StringIO(out.getvalue().decode("utf-8")))]
    assert payloads == ['{"x": 1}'] * 5 + ["\\xff\\xfe bad"]


def test_tables_come_as_one_file(archive: Archive, feed: Feed, tmp_path: Path) -> None:
    """A table into a folder is a mistake that is told."""
    archive.take(feed.seal(TICKS, cuts=[]))
    with pytest.raises(UsageError, match="one file"):
        Export(shelf(archive), dataclasses.replace(ASK, form=ExportForm.CSV)).to_folder(tmp_path / "x")


def test_types_widen_and_never_narrow() -> None:
    """Numbers widen to numbers while 38 digits hold them, then to text; bytes swallow text."""
    small, price = pa.int64(), pa.decimal128(18, 4)
    assert widened(small, price) == pa.decimal128(23, 4)
    assert widened(widened(price, pa.decimal128(18, 5)), pa.decimal128(18, 6)) == pa.decimal128(20, 6)
    assert widened(pa.decimal128(38, 30), small) == pa.string()
    assert widened(pa.string(), small) == pa.string()
    assert widened(pa.binary(), pa.string()) == pa.binary()
    assert widened(pa.timestamp("ms", "UTC"), pa.timestamp("ns", "UTC")) == pa.timestamp("ns", "UTC")
    assert table_schema([Layout(Shape.DELIMITED, columns=(Column("x"),), strays=True)]).names == ["ts_recv", "x", "raw"]
