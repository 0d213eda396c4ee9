"""What is a frame, what is a table without a usual delimiter, and what stays a line."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tape.footer import LATEST_NS
from tape.layout import Format, Layout, Shape, detect
from tests.support.sealing import START_NS, taped

BARS = b"".join(
    b"%d %d.%02d %d.%02d %d\n" % ((1_009_843_200 + k * 86_400) * 1000, 97 + k, k % 100, 98 + k, k % 100, k * 17)
    for k in range(300)
)
ORDERS = b"".join(b"%d BUY 0.%03d %d.%02d\n" % (8_389_765_514_270_012_345 + k, k, 97_000 + k, k) for k in range(99))


def shape(data: bytes, said: Format = Format.AUTO) -> Layout:
    """What a whole file is taken for."""
    return detect(data, said, at_start=True, prior=None)


@pytest.mark.parametrize("data", [BARS, ORDERS], ids=["bars", "orders"])
def test_rows_that_begin_with_a_long_number_are_columns(tmp_path: Path, data: bytes) -> None:
    """Bars and orders parted by blanks are typed columns in one segment, received when they were read."""
    done = taped(tmp_path, [data])
    assert done.rendered() == data
    assert [(s.footer.recv_last_ns or 0) // 10**9 for s in done.segments] == [START_NS // 10**9]
    assert done.table().schema.field("c0").type in (pa.int64(), pa.decimal128(38, 0))
    assert done.table().schema.field("c3").type in (pa.int64(), pa.decimal128(18, 2))
    assert "raw" not in done.table().column_names


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_few_rows_of_numbers_are_no_frames(rows: int) -> None:
    """A first row of nothing but numbers is no message behind a time, and not enough to be a table."""
    assert shape(b"".join(BARS.splitlines(keepends=True)[:rows])).shape is Shape.LINES


def identifiers() -> list[int]:
    """Numbers of 19 digits in no order."""
    return random.Random(7).sample(range(10**18, LATEST_NS), 200)


NO_CLOCKS = [
    [LATEST_NS + k for k in range(100)],
    identifiers(),
    [START_NS + k * 86_400 * 10**9 for k in range(100)],
    [START_NS - k * 10**9 for k in range(100)],
]


@pytest.mark.parametrize("numbers", NO_CLOCKS, ids=["after 2116", "random", "days", "backwards"])
def test_numbers_that_do_not_go_on_as_a_clock_are_no_receive_times(numbers: list[int]) -> None:
    """Out of range, in no order, backwards or days apart: whatever stands behind them, these are lines."""
    assert shape(b"".join(b'%d {"a": 1}\n' % number for number in numbers)).shape is Shape.LINES


PAYLOADS = [b'{"e":"trade"}', b'{"e": "trade", "p": "1.5"}', b"ping", b"8=FIX.4.4 35=W", b"{}", b"a b c d"]


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("stamp", [b"%d", b"%d.5:"])
def test_messages_behind_a_clock_are_frames(payload: bytes, stamp: bytes) -> None:
    """What recorders write stays frames, late ones and pauses among them."""
    start = START_NS if stamp == b"%d" else START_NS // 10**9
    offsets = [k * 7 for k in range(60)]
    offsets[20], offsets[40:] = offsets[10], [offset + 10**5 for offset in offsets[40:]]
    data = b"".join(stamp % (start + offset) + b" " + payload + b"\n" for offset in offsets)
    assert shape(data).shape is Shape.FRAMES
    assert shape(data[: data.find(b"\n") + 1]).shape is Shape.FRAMES


def test_a_source_said_to_be_frames_may_be_slow() -> None:
    """Funding rates every eight hours: a sample does not show a clock, but whoever configured it knows."""
    data = b"".join(b'%d {"rate":%d}\n' % ((1_700_000_000 + k * 28_800) * 1000, k) for k in range(50))
    assert shape(data).shape is Shape.LINES
    stamp = shape(data, Format.FRAMES).stamp
    assert stamp is not None
    assert stamp.digits == 13


def test_numbers_behind_a_time_and_a_colon_are_frames() -> None:
    """A time with a colon behind it is no field of a table."""
    data = b"".join(b"%d.5: %d 1.5 2.5\n" % (START_NS // 10**9 + k, k) for k in range(60))
    assert shape(data).shape is Shape.FRAMES


def test_no_frame_claims_a_time_that_home_refuses(tmp_path: Path) -> None:
    """Numbers above what a footer may hold, among frames, are raw rows with the time at which they were read."""
    lines = [b'%d {"k":%d}\n' % (START_NS + k, k) for k in range(400)]
    lines[200] = b"%d late\n" % (LATEST_NS - 1)
    lines[201] = b"%d later\n" % LATEST_NS
    done = taped(tmp_path, [b"".join(lines)])
    assert done.rendered() == b"".join(lines)
    assert [segment.footer.recv_last_ns for segment in done.segments] == [LATEST_NS - 1]
    assert done.table().column("raw").drop_null().to_pylist() == [lines[201]]


TABLES = {
    "one price": b"".join(b"%d.%d\n" % (97_000 + k, k % 10) for k in range(300)),
    "one time": b"".join(b"2024-08-08 23:%02d:13.%03d\n" % (k % 60, k) for k in range(300)),
    "headed": b"price\n" + b"".join(b"%d.5\n" % k for k in range(300)),
    "blanks": b"".join(b"20240808 %06d 1.%05d 1.1 Q\n" % (k, k) for k in range(300)),
    "tildes": b"".join(b"%d~1.%02d~7\r\n" % (START_NS + k, k % 100) for k in range(300)),
    "colons": b"".join(b"%d:1.%02d:7\n" % (START_NS + k, k % 100) for k in range(300)),
}
COLUMNS = {"one price": 1, "one time": 1, "headed": 1, "blanks": 5, "tildes": 3, "colons": 3}


@pytest.mark.parametrize("name", TABLES)
def test_tables_without_a_usual_delimiter(tmp_path: Path, name: str) -> None:
    """One column, blanks, `~` and `:`: typed columns, and a line that does not fit stays raw in its place."""
    done = taped(tmp_path, [TABLES[name] + b"# reconnected, at last\n" + TABLES[name][-20:]])
    assert done.rendered() == TABLES[name] + b"# reconnected, at last\n" + TABLES[name][-20:]
    table = pq.read_table(done.segments[0].path)
    assert table.num_columns == 2 + COLUMNS[name]
    assert not pa.types.is_binary(table.schema.field(1).type)
    assert not pa.types.is_string(table.schema.field(1).type)
    assert b"# reconnected, at last\n" in table.column("raw").to_pylist()


NO_TABLES = {
    "words": b"".join(b"INFO connected to feed %d\n" % k for k in range(99)),
    "ragged": b"".join(b"1 2 3 4"[: 1 + 2 * (k % 4)] + b"\n" for k in range(99)),
    "json": b'{"a": 1}\n' * 99,
    "few": b"1 2\n" * 5,
    "pairs": b"".join(b"key%d:value\n" % k for k in range(99)),
}


@pytest.mark.parametrize("name", NO_TABLES)
def test_text_stays_lines(name: str) -> None:
    """Words, ragged lines, JSON and what is too short to tell are kept as they stand."""
    assert shape(NO_TABLES[name]).shape is Shape.LINES


def test_usual_delimiters_come_first() -> None:
    """A table that has one is cut there, however well blanks or colons would do."""
    layout = shape(b"".join(b"2024-08-08 23:00:%02d,1 5 7,2:3\n" % (k % 60) for k in range(99)))
    assert (layout.delimiter, len(layout.columns)) == (",", 3)


def test_a_line_that_grows_is_a_table_once_there_is_enough(tmp_path: Path) -> None:
    """Rows that come one at a time are lines at first; the segment that begins with enough of them has columns."""
    rows = TABLES["blanks"].splitlines(keepends=True)
    done = taped(tmp_path, [rows[0], b"".join(rows[1:])], roll_bytes=len(rows[0]))
    assert done.rendered() == TABLES["blanks"]
    assert [segment.footer.layout["shape"] for segment in done.segments][:: len(done.segments) - 1] == [
        "lines",
        "delimited",
    ]
