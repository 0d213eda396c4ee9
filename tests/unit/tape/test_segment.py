"""Segments: what is sealed, how it is proven, and what happens to damaged ones."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tape import segment as segments
from tape.column_digests import ColumnDigests
from tape.digest import digests_of, xxh3
from tape.durable import Disk
from tape.errors import DigestMismatch, DiskFull, SegmentError
from tape.footer import KEY
from tape.layout import LINES, Format, columns, detect, encoding
from tape.names import SegmentName
from tape.segment import SegmentWriter, read_footer, source_chunks, verify
from tests.support.sealing import EPOCH, START_NS, footer_for, taped

ROWS = b"".join(b"%d,%d.%02d,Q,2024-08-08 23:54:%02d.%03d\n" % (k, k, k % 100, k % 60, k % 1000) for k in range(5000))


def sealed(folder: Path, data: bytes = ROWS) -> segments.Sealed:
    """One segment of some bytes under its own name."""
    done = taped(folder, [data]).segments[0]
    path = folder / str(SegmentName(EPOCH, 0, done.digest))
    done.path.rename(path)
    return dataclasses.replace(done, path=path)


def test_the_footer_is_completed(tmp_path: Path) -> None:
    """Rows, times, digests, layout and schema are filled in, and are what the file says of itself."""
    done = sealed(tmp_path)
    footer = verify(done.path)
    assert footer == done.footer == read_footer(done.path)
    assert footer.rows == done.rows == 5000
    assert footer.source.digest == xxh3(ROWS)
    assert footer.recv_first_ns == footer.recv_last_ns == START_NS + len(ROWS)
    assert len(footer.schema) == 32
    both = digests_of(done.path)
    assert (both.size, both.digest, both.sha256) == (done.size, done.digest, done.sha256)


def test_every_reader_sees_the_same_values(tmp_path: Path) -> None:
    """DuckDB, Polars and pyarrow read equal values from every kind of column."""
    rows = [
        f"{k},{k % 7}.{k % 100:02d},{k % 3}.5{'' if k % 2 else '25'},99999999999999999999{k},Q{k % 5},"
        f"2024-08-08 23:54:13.{k % 1000:03d},2024-08-{k % 28 + 1:02d},{'' if k % 9 == 0 else k}\n"
        for k in range(3000)
    ]
    done = sealed(tmp_path, "".join(rows).encode() + b"stray\n")
    table = pq.read_table(done.path)
    assert table.num_columns == 10
    kinds = {str(field.type) for field in table.schema}
    assert {"int64", "decimal128(18, 2)", "decimal128(38, 0)", "string", "date32[day]", "binary"} <= kinds
    plain = table.set_column(0, "ts_recv", pc.cast(table.column(0), pa.int64()))
    expected = [tuple(row.values()) for row in plain.to_pylist()]
    frame = pl.read_parquet(done.path).with_columns(pl.col("ts_recv").cast(pl.Int64))
    assert frame.rows() == expected
    with duckdb.connect() as connection:
        relation = connection.read_parquet(str(done.path))
        assert relation.project("* REPLACE (epoch_ns(ts_recv) AS ts_recv)").fetchall() == expected


def sample_of(kind: Any) -> pa.Array:
    """Values of a type, nulls among them."""
    numbers = [None if k % 17 == 0 else k * 37 % 1000 for k in range(4000)]
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return pa.array([None if n is None else f"v{n}" for n in numbers]).cast(kind)
    if pa.types.is_decimal(kind):
        return pa.array(numbers).cast(pa.decimal128(38, kind.scale)).cast(kind)
    if kind.bit_width == 32:
        return pa.array(numbers, pa.int32()).cast(kind)
    return pa.array(numbers).cast(kind)


KINDS = [
    *[pa.int64(), pa.decimal64(18, 5), pa.decimal128(38, 18), pa.string(), pa.binary(), pa.date32()],
    *[pa.time32("ms"), pa.time64("us"), pa.timestamp("ms"), pa.timestamp("us", "UTC"), pa.timestamp("ns", "UTC")],
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_encoding_is_read_by_every_reader(tmp_path: Path, kind: Any) -> None:
    """Whatever encoding a plan may choose for a type, DuckDB and Polars read it as pyarrow does."""
    values = sample_of(kind)
    for choice in encoding.choices(kind):
        path = tmp_path / f"{choice}.parquet"
        plan = segments.EncodingPlan({"v": choice}, 1)
        with pq.ParquetWriter(path, pa.schema([("v", kind)]), **encoding.options(plan, 3)) as writer:
            writer.write_table(pa.table({"v": values}))
        back = pq.read_table(path).column("v")
        assert back.cast(values.type).combine_chunks().equals(values)
        assert pl.read_parquet(path).to_arrow().column("v").cast(values.type).combine_chunks().equals(values)
        with duckdb.connect() as connection:
            found = connection.read_parquet(str(path)).to_arrow_table()
        assert found.column("v").cast(values.type).combine_chunks().equals(values)


def test_no_column_is_ever_a_float(tmp_path: Path) -> None:
    """Floats as Python writes them become decimals or text."""
    data = b"".join(b"%r,%r,%r\n" % (k / 7, k / 8, k * 1e-9) for k in range(1, 3000))
    done = taped(tmp_path, [data])
    assert done.rendered() == data
    assert not any(pa.types.is_floating(field.type) for field in done.table().schema)
    assert done.table().schema.field("c1").type == pa.decimal128(18, 3)


def test_a_lying_parser_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a form parsed a wrong value, the proof would keep the chunk as raw rows: no byte is lost."""
    real = columns.parse

    def lying(column: Any, delimiter: str, fields: Any, index: int) -> Any:
        values, good = real(column, delimiter, fields, index)
        if index == 0 and len(values) > 10 and pa.types.is_int64(values.type):
            numbers = values.to_numpy(zero_copy_only=False).copy()
            numbers[7] += 1
            return pa.array(numbers), good
        return values, good

    monkeypatch.setattr(columns, "parse", lying)
    for data in (ROWS[:3000], ROWS):
        folder = tmp_path / str(len(data))
        folder.mkdir()
        done = taped(folder, [data])
        assert done.rendered() == data
        assert done.table().column("raw").null_count < done.table().num_rows


def test_a_file_that_holds_something_else_is_not_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file on disk is decoded before it is sealed: a value that changed on the way stops it."""
    real = pq.ParquetWriter.write_table

    def changed(self: Any, table: pa.Table, **options: Any) -> None:
        first = pc.add(table.column(1), pa.scalar(1, pa.int64()))
        real(self, table.set_column(1, table.schema.field(1), first), **options)

    monkeypatch.setattr(encoding, "plan", lambda table, _: _plain_plan(table))
    monkeypatch.setattr(pq.ParquetWriter, "write_table", changed)
    path = tmp_path / "x"
    writer = SegmentWriter(path, detect(ROWS, Format.CSV, at_start=True, prior=None), level=1)
    writer.append(ROWS, [(len(ROWS), START_NS)])
    with pytest.raises(SegmentError, match="does not decode to what was proven"):
        writer.close(footer_for(0, len(ROWS)))
    assert not path.exists()


def _plain_plan(table: pa.Table) -> segments.EncodingPlan:
    return segments.EncodingPlan(dict.fromkeys(table.column_names, "PLAIN"), table.num_rows)


def test_bytes_that_changed_on_disk_are_not_sealed(tmp_path: Path) -> None:
    """A disk that stores another byte than the one written is found out by the check before sealing."""

    class Rotten(Disk):
        def sync(self, file: Any) -> None:
            file.seek(200)
            byte = file.read(1)
            file.seek(200)
            file.write(bytes([byte[0] ^ 1]))
            super().sync(file)

    path = tmp_path / "x"
    writer = SegmentWriter(path, LINES, level=1, disk=Rotten())
    writer.append(ROWS, [(len(ROWS), START_NS)])
    with pytest.raises(SegmentError, match="other bytes back than were written"):
        writer.close(footer_for(0, len(ROWS)))
    assert not path.exists()


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    """No space while writing is DiskFull, and nothing stays."""

    class Full(Disk):
        def write_all(self, file: Any, data: Any) -> None:
            raise DiskFull(f"no space left while writing {file.name}")

    path = tmp_path / "x"
    writer = SegmentWriter(path, LINES, level=1, disk=Full())
    writer.append(b"a\n", [(2, START_NS)])
    with pytest.raises(DiskFull):
        writer.close(footer_for(0, 2))
    assert not path.exists()


def test_abort_leaves_nothing(tmp_path: Path) -> None:
    """An aborted segment is gone; aborting again, or after close, does nothing."""
    writer = SegmentWriter(tmp_path / "x", LINES, level=1)
    writer.append(b"a\n", [(2, START_NS)])
    writer.abort()
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_a_misfit_consumes_nothing(tmp_path: Path) -> None:
    """After a Misfit the writer still holds what it held, and seals it."""
    numbers = b"".join(b"%d,1\n" % k for k in range(300))
    words = b"".join(b"w%d,1\n" % k for k in range(300))
    writer = SegmentWriter(tmp_path / "x", detect(numbers, Format.CSV, at_start=True, prior=None), level=1)
    writer.append(numbers, [(len(numbers), START_NS)])
    with pytest.raises(segments.Misfit):
        writer.append(words, [(len(words), START_NS)])
    assert (writer.rows, writer.source_bytes) == (300, len(numbers))
    done = writer.close(footer_for(0, len(numbers)))
    assert b"".join(source_chunks(done.path)) == numbers


def test_the_wrong_range_is_refused(tmp_path: Path) -> None:
    """A footer that covers other bytes than those appended is a mistake that does not pass."""
    writer = SegmentWriter(tmp_path / "x", LINES, level=1)
    writer.append(b"a\n", [(2, START_NS)])
    with pytest.raises(ValueError, match="2 that were appended"):
        writer.close(footer_for(0, 3))
    writer.abort()


def test_an_empty_segment_is_readable(tmp_path: Path) -> None:
    """A segment without rows covers no bytes."""
    done = SegmentWriter(tmp_path / "x", LINES, level=1).close(footer_for(5, 5))
    assert verify(done.path).rows == 0
    assert list(source_chunks(done.path)) == []


def test_a_plan_is_used_again(tmp_path: Path) -> None:
    """The encodings that one segment chose serve the next; other columns make a new choice."""
    layout = detect(ROWS, Format.CSV, at_start=True, prior=None)
    first = SegmentWriter(tmp_path / "1", layout, level=3)
    first.append(ROWS, [(len(ROWS), START_NS)])
    first.close(footer_for(0, len(ROWS)))
    assert first.plan is not None
    assert set(first.plan.encodings) == {"ts_recv", "c0", "c1", "c2", "c3"}
    second = SegmentWriter(tmp_path / "2", layout, level=3, plan=first.plan)
    second.append(ROWS, [(len(ROWS), START_NS)])
    second.close(footer_for(0, len(ROWS)))
    assert second.plan is first.plan
    third = SegmentWriter(tmp_path / "3", LINES, level=3, plan=first.plan)
    third.append(ROWS, [(len(ROWS), START_NS)])
    third.close(footer_for(0, len(ROWS)))
    assert third.plan is not None
    assert set(third.plan.encodings) == {"ts_recv", "payload"}


def test_a_plan_of_few_rows_is_made_anew(tmp_path: Path) -> None:
    """What was chosen on a handful of rows is not kept for a large segment."""
    layout = detect(ROWS, Format.CSV, at_start=True, prior=None)
    small = segments.EncodingPlan(dict.fromkeys(["ts_recv", "c0", "c1", "c2", "c3"], "PLAIN"), 10)
    writer = SegmentWriter(tmp_path / "1", layout, level=3, plan=small)
    writer.append(ROWS, [(len(ROWS), START_NS)])
    writer.close(footer_for(0, len(ROWS)))
    assert writer.plan is not small


def test_row_groups_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large segment is written group by group, with room for strays, and comes back."""
    monkeypatch.setattr(segments, "ROW_GROUP_ROWS", 4000)
    monkeypatch.setattr(segments, "BATCH_ROWS", 700)
    done = taped(tmp_path, [ROWS, ROWS, b"stray\n", ROWS])
    assert done.rendered() == ROWS + ROWS + b"stray\n" + ROWS
    assert pq.ParquetFile(done.segments[0].path).metadata.num_row_groups == 3
    assert done.misfits == 0


def test_many_writers_share_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together, open segments hold back no more than the budget: then each writes what it has."""
    monkeypatch.setattr(segments, "SHARED_BYTES", 1 << 20)
    monkeypatch.setattr(segments, "LEAST_BYTES", 1 << 16)
    layout = detect(ROWS, Format.CSV, at_start=True, prior=None)
    writers = [SegmentWriter(tmp_path / str(k), layout, level=1) for k in range(8)]
    for _ in range(4):
        for writer in writers:
            writer.append(ROWS, [(len(ROWS), START_NS)])
            assert segments._HELD.add(0) < (1 << 20) + 2 * len(ROWS) * 8
    for writer in writers[:7]:
        done = writer.close(footer_for(0, 4 * len(ROWS)))
        assert b"".join(source_chunks(done.path)) == ROWS * 4
    assert pq.ParquetFile(tmp_path / "6").metadata.num_row_groups > 1
    writers[7].abort()
    assert segments._HELD.add(0) == 0


def test_rows_one_by_one_do_not_pile_up(tmp_path: Path) -> None:
    """A live stream, a row at a time with a stray now and then, keeps few batches waiting and comes back."""
    lines = [b"stray\n" if k % 100 == 7 else line for k, line in enumerate(ROWS.splitlines(keepends=True)[:1000])]
    layout = detect(ROWS, Format.CSV, at_start=True, prior=None)
    writer = SegmentWriter(tmp_path / "x", layout, level=1)
    for line in lines:
        writer.append(line, [(len(line), START_NS)])
        assert len(writer._pending) < 100
    done = writer.close(footer_for(0, sum(map(len, lines))))
    assert b"".join(source_chunks(done.path)) == b"".join(lines)


def test_files_that_are_no_segments(tmp_path: Path) -> None:
    """Missing, empty, foreign and plain Parquet files raise SegmentError with the path in it."""
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"a": [1]}), foreign)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_bytes(b"PAR1 but not really PAR1")
    for name in ("missing", "empty", "text", "foreign.parquet"):
        for call in (read_footer, verify, lambda path: list(source_chunks(path))):
            with pytest.raises(SegmentError, match=name):
                call(tmp_path / name)
    with pytest.raises(SegmentError, match="not a hometape segment"):
        read_footer(foreign)


def test_a_file_that_is_not_its_name(tmp_path: Path) -> None:
    """One changed byte anywhere is found by the digest in the name."""
    done = sealed(tmp_path)
    data = bytearray(done.path.read_bytes())
    data[len(data) // 2] ^= 1
    done.path.write_bytes(data)
    with pytest.raises(DigestMismatch, match=done.digest):
        verify(done.path)


def complaint_about(path: Path) -> str | None:
    """What verify says of a file; None if it finds nothing wrong."""
    try:
        verify(path)
    except SegmentError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", ["flip", "cut", "zero"])
def test_damage_is_an_error_and_never_a_crash(tmp_path: Path, kind: str) -> None:
    """Flipped bytes, cut ends and zeroed blocks raise SegmentError; verify never calls damage good."""
    good = sealed(tmp_path, ROWS[:20_000]).path.read_bytes()
    path = tmp_path / "damaged"
    rng = np.random.default_rng(7)
    complaints = []
    for _ in range(150):
        data = bytearray(good)
        place = int(rng.integers(0, len(good)))
        if kind == "flip":
            data[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == "cut":
            del data[place:]
        else:
            data[place : place + 64] = bytes(len(data[place : place + 64]))
        path.write_bytes(data)
        complaint = complaint_about(path)
        complaints.append(complaint or "")
        if complaint is None:
            assert b"".join(source_chunks(path)) == ROWS[:20_000]
        else:
            assert str(path) in complaint
    # Pages carry sums of their own: damage in them is found before anything is unpacked.
    assert kind == "cut" or sum("CRC checksum" in complaint for complaint in complaints) >= 8


LIES: list[dict[str, Any]] = [
    {"rows": 4999},
    {"layout": {}},
    {"layout": {"shape": "lines", "eol": "\n"}},
    {"layout": {"shape": "delimited", "eol": "\n", "delimiter": ",", "columns": []}},
    {"layout": {"shape": "delimited", "eol": "\n", "delimiter": ",", "columns": [{"name": "c0", "moment": "Y" * 30}]}},
    {"layout": {"shape": "frames", "eol": "\n", "stamp": {"digits": 4, "separator": " "}}},
    {"layout": [1]},
]


@pytest.mark.parametrize("lie", LIES)
def test_a_footer_that_lies_is_found_out(tmp_path: Path, lie: dict[str, Any]) -> None:
    """A well-formed file whose footer does not fit its columns raises SegmentError."""
    done = sealed(tmp_path)
    table = pq.read_table(done.path)
    plain = json.loads(done.footer.to_json()) | lie
    path = tmp_path / "lie"
    pq.write_table(table.replace_schema_metadata({KEY: json.dumps(plain).encode()}), path)
    with pytest.raises(SegmentError, match="lie"):
        verify(path)


def test_values_that_are_not_the_source_are_found_out(tmp_path: Path) -> None:
    """A changed value under an honest footer does not render to the source's digest."""
    done = sealed(tmp_path)
    table = pq.read_table(done.path)
    changed = table.set_column(1, table.schema.field(1), pc.add(table.column(1), pa.scalar(1, pa.int64())))
    path = tmp_path / "changed"
    pq.write_table(changed.replace_schema_metadata({KEY: done.footer.to_json()}), path, store_decimal_as_integer=True)
    with pytest.raises(SegmentError, match="do not give back"):
        verify(path)


def test_column_digests_do_not_depend_on_batches() -> None:
    """The check of the columns sees rows, not how they were cut; and sees every kind of change."""
    table = pa.table(
        {"a": [1, None, 3, 4], "b": ["x", "", None, "yz"], "c": [b"1", b"2", b"", None]},
        schema=pa.schema([("a", pa.int64()), ("b", pa.string()), ("c", pa.binary())]),
    )

    def digests(value: pa.Table, sizes: int) -> Any:
        found = ColumnDigests()
        for batch in value.to_batches(max_chunksize=sizes):
            found.add(batch)
        return found.result()

    assert digests(table, 4) == digests(table, 1) == digests(table, 3)
    others = [
        table.set_column(0, "a", pa.array([1, None, 3, 5])),
        table.set_column(0, "a", pa.array([1, 3, None, 4])),
        table.set_column(1, "b", pa.array(["x", None, "", "yz"])),
        table.set_column(1, "b", pa.array(["", "x", None, "yz"])),
        table.set_column(2, "c", pa.array([b"12", b"", b"", None])),
    ]
    assert all(digests(one, 4) != digests(two, 4) for one, two in itertools.combinations([table, *others], 2))
