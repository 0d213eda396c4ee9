"""Files as they are found in the wild: each comes back byte for byte, with as many typed rows as it allows."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tape.layout import Format
from tests.support.recordings import RECORDINGS, recording
from tests.support.sealing import START_NS, taped, whole_lines

ROWS = b"".join(b"%d,1.%02d,Q\n" % (1000 + k, k % 100) for k in range(300))


def test_a_byte_order_mark_stays_with_its_header(tmp_path: Path) -> None:
    """BOM and header are one raw row; the names are clean."""
    data = b"\xef\xbb\xbftime,bid,venue\n" + ROWS
    done = taped(tmp_path, [data])
    assert done.rendered() == data
    table = done.table()
    assert table.column_names == ["ts_recv", "time", "bid", "venue", "raw"]
    assert table.column("raw").to_pylist()[0] == b"\xef\xbb\xbftime,bid,venue\n"
    assert table.column("raw").null_count == 300


def test_a_file_that_begins_with_its_header_alone(tmp_path: Path) -> None:
    """The header arrives first, the rows later: the names are known and the columns typed."""
    data = b"time,bid,venue\n" + ROWS
    done = taped(tmp_path, [data[:15], data[15:3000], data[3000:]])
    assert done.rendered() == data
    table = done.table(-1)
    assert table.schema.field("time").type == pa.int64()
    assert table.schema.field("bid").type == pa.decimal128(18, 2)


def test_names_are_unique_and_never_ours(tmp_path: Path) -> None:
    """Header names that clash with each other, with case or with our own columns are told apart."""
    data = b"Bid,bid,ts_recv,raw\n" + b"1,2,3,4\n" * 30
    done = taped(tmp_path, [data])
    assert done.rendered() == data
    assert done.table().column_names == ["ts_recv", "Bid", "bid_2", "ts_recv_2", "raw_2", "raw"]
    assert [column["header"] for column in done.segments[0].footer.layout["columns"]] == [
        "Bid",
        "bid",
        "ts_recv",
        "raw",
    ]


def test_the_middle_of_a_file_keeps_the_names(tmp_path: Path) -> None:
    """Later segments of a file carry the header's names though they never see it."""
    done = taped(tmp_path, whole_lines(b"time,bid,venue\n" + ROWS, [2000] * 5), roll_bytes=1500)
    assert len(done.segments) > 1
    assert done.table(-1).column_names == ["ts_recv", "time", "bid", "venue"]


def test_line_ends_of_windows(tmp_path: Path) -> None:
    """CRLF is a property of the layout: the values have no carriage return."""
    data = ROWS.replace(b"\n", b"\r\n")
    done = taped(tmp_path, [data])
    assert done.rendered() == data
    assert done.table().column("c2").to_pylist()[0] == "Q"
    assert "raw" not in done.table().column_names


def test_mixed_line_ends(tmp_path: Path) -> None:
    """Lines with the other line end are kept whole among the typed ones."""
    lines = ROWS.replace(b"\n", b"\r\n").splitlines(keepends=True)
    lines[50] = lines[50].replace(b"\r\n", b"\n")
    done = taped(tmp_path, [b"".join(lines)])
    assert done.rendered() == b"".join(lines)
    assert done.table().column("raw").to_pylist()[50] == lines[50]


ODDITIES = {
    "nul bytes": b"1,1.00,\x00\x00\n\x00\x00\x00\n",
    "not utf-8": b"\xff\xfe\xfd\n5,\x80,Q\n",
    "ragged": b"1,2\n1,2,3,4\n\n,,\n",
    "lone quotes": b'1,1.00,"Q\n2,"1.00,Q\n',
    "blank": b"\n\n\r\n",
    "garbage": b"** reconnected **\n",
    "a header again": b"time,bid,venue\n",
}


@pytest.mark.parametrize("oddity", ODDITIES.values(), ids=list(ODDITIES))
def test_odd_lines_stay_where_they_are(tmp_path: Path, oddity: bytes) -> None:
    """Odd lines in the middle come back, and the rows around them stay typed."""
    data = ROWS + oddity + ROWS
    done = taped(tmp_path, [data], said=Format.CSV)
    assert done.rendered() == data
    assert done.table().schema.field("c1").type == pa.decimal128(18, 2)
    assert done.table().column("c0").null_count <= oddity.count(b"\n")


def test_no_final_newline(tmp_path: Path) -> None:
    """A last line without its end is a raw row."""
    done = taped(tmp_path, [ROWS[:-1]])
    assert done.rendered() == ROWS[:-1]
    assert done.table().column("raw").to_pylist()[-1] == ROWS.splitlines()[-1]


def test_what_follows_a_fragment_is_no_row_of_its_own(tmp_path: Path) -> None:
    """The rest of a line that was cut is raw, even where it looks like a row; the next lines are typed."""
    line = b"17234,1.25,Q\n"  # what is left of it behind the cut is a fine row
    done = taped(tmp_path, [ROWS, line[:2], line[2:] + ROWS])
    assert done.rendered() == ROWS + line + ROWS
    raw = [value for value in done.table().column("raw").to_pylist() if value is not None]
    assert raw == [line[:2], line[2:]]


def test_a_fragment_across_two_segments(tmp_path: Path) -> None:
    """A line cut by the end of a segment continues as a raw row in the next."""
    line = b"17234,1.25,Q\n"  # what is left of it behind the cut is a fine row
    done = taped(tmp_path, [ROWS + line[:2], line[2:] + ROWS], roll_bytes=1)
    assert done.rendered() == ROWS + line + ROWS
    assert done.table(1).column("raw").to_pylist()[0] == line[2:]


@pytest.mark.parametrize("size", [64 << 20])
def test_a_line_of_64_mib(tmp_path: Path, size: int) -> None:
    """A line far longer than a chunk is kept in fragments between typed rows."""
    pieces = [ROWS, *[b"x" * (4 << 20)] * (size >> 22), b"\n", ROWS]
    done = taped(tmp_path, pieces)
    assert done.rendered() == b"".join(pieces)
    assert sum(segment.size for segment in done.segments) < 1 << 20


def test_other_columns_from_the_middle_on(tmp_path: Path) -> None:
    """A new header and other columns in the middle of a file start a new segment with other columns."""
    other = b"time,bid,ask,venue\n" + b"".join(b"%d,1.5,1.75,P\n" % k for k in range(500))
    pieces = [ROWS, *whole_lines(other, [2000] * 10)]
    done = taped(tmp_path, pieces)
    assert done.rendered() == ROWS + other
    assert done.misfits == 1
    assert done.table(-1).column_names == ["ts_recv", "time", "bid", "ask", "venue", "raw"]
    assert done.table(-1).column("raw").null_count == 500


def test_other_values_from_the_middle_on(tmp_path: Path) -> None:
    """A column that turns from whole numbers to decimals, then to text, settles in as many segments."""
    decimals = b"".join(b"%d.5,1.25,Q\n" % k for k in range(300))
    words = b"".join(b"n%d,1.25,Q\n" % k for k in range(300))
    again = ROWS
    done = taped(tmp_path, [ROWS, decimals, words, again, decimals, words, again])
    assert done.rendered() == ROWS + decimals + words + again + decimals + words + again
    assert done.misfits == 2
    kinds = [pq.read_schema(segment.path).field("c0").type for segment in done.segments]
    assert kinds == [pa.int64(), pa.decimal128(18, 1), pa.string()]


def test_odd_rows_one_by_one_widen_a_column_too(tmp_path: Path) -> None:
    """Live data comes a line at a time: a column whose form has changed is widened after a few rows."""
    lines = [b"%d,1.25,n%d\n" % (k, k) for k in range(60)]
    numbers = [b"%d,1.25,%d\n" % (k, k) for k in range(60)]
    done = taped(tmp_path, [*numbers, *lines])
    assert done.rendered() == b"".join(numbers + lines)
    assert done.misfits == 1
    assert done.table(-1).schema.field("c2").type == pa.string()


def test_receive_times_follow_the_marks(tmp_path: Path) -> None:
    """Each row carries the receive time of the mark that covers its last byte."""
    done = taped(tmp_path, [ROWS], marks=[12, 30])
    times = done.table().column("ts_recv").cast(pa.int64()).to_pylist()
    end = START_NS + len(ROWS)
    assert times[:4] == [START_NS + 12, START_NS + 30, end, end]


@pytest.mark.parametrize("name", RECORDINGS)
def test_recorded_ticks_come_back(name: str, tmp_path: Path) -> None:
    """Real recordings of the first MiB survive in odd pieces, typed where they are tables."""
    data = recording(name).read(1 << 20)
    done = taped(tmp_path, whole_lines(data, [1, 7, 100, 5000, 70_000, 300_000, 600_000]))
    assert done.rendered() == data
    assert done.misfits <= 2
    last = done.table(-1)
    raw = last.num_rows - last.column("raw").null_count if "raw" in last.column_names else 0
    assert raw <= max(1, last.num_rows // 20)
