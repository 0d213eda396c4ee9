"""Each form of a column: what it takes, what it leaves as it is, and the values that readers see."""

import datetime as dt
import decimal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tape.layout import Format, Shape
from tests.support.sealing import Taped, taped

Tape = Callable[..., Taped]


@pytest.fixture
def tape(tmp_path: Path) -> Tape:
    """Bytes to segments, checked on the way back."""

    def run(data: bytes, chosen: Format = Format.CSV) -> Taped:
        done = taped(tmp_path, [data], said=chosen)
        assert done.rendered() == data
        return done

    return run


def column(values: list[str], other: str = "7") -> bytes:
    """A table of the values and a plain second column."""
    return b"".join(f"{value},{other}\n".encode() for value in values)


def typed(done: Taped, index: int = 1) -> Any:
    """The first column of the source in the last segment: Arrow type and values."""
    table = pq.read_table(done.segments[-1].path)
    return table.schema.field(index).type, table.column(index).cast(pa.string()).to_pylist()


NUMBERS = [
    (["1", "-23", "0", "9223372036854775807"], pa.int64()),
    (["1", "", "3"], pa.int64()),
    (["9223372036854775808", "-99999999999999999999", "1"], pa.decimal128(38, 0)),
    (["1.50", "-2.25", "0.00"], pa.decimal128(18, 2)),
    (["1.5", "2.25", "3.0", "100.125"], pa.decimal128(18, 3)),
    (["1.5", "2", "-3.25", "0"], pa.decimal128(18, 2)),
    (["0.00001", "123456.78901"], pa.decimal128(18, 5)),
    (["0.000000000000000001", "12.500000000000000000", "-0.000000100000000000"], pa.decimal128(38, 18)),
    (["12345678901234.5", "0.123456789"], pa.decimal128(38, 9)),
]


@pytest.mark.parametrize(("values", "kind"), NUMBERS)
def test_numbers_become_exact_columns(tape: Tape, values: list[str], kind: Any) -> None:
    """Decimal text becomes int64 or a decimal with exactly these values, never a float."""
    done = tape(column(values * 20))
    table = pq.read_table(done.segments[-1].path)
    assert table.schema.field(1).type == kind
    assert "raw" not in table.column_names
    with decimal.localcontext(prec=60):
        expected = [decimal.Decimal(value) if value else None for value in values]
        found = [None if x is None else decimal.Decimal(x) for x in table.column(1).to_pylist()[: len(values)]]
        assert found == expected


def test_zeros_in_front_keep_their_width(tape: Tape) -> None:
    """A column of fixed width with zeros in front is a number all the same."""
    kind, values = typed(tape(column(["000150", "093000", "123456"] * 10)))
    assert kind == pa.int64()
    assert values[:3] == ["150", "93000", "123456"]


ODD = [
    "-0",
    "+5",
    "007",
    "1e-5",
    " 1",
    "1 ",
    "NaN",
    "NA",
    "inf",
    "0x10",
    "1_000",
    "--1",
    "-",
    "1.",
    ".5",
    "\uff11",
    "1.0",
]


@pytest.mark.parametrize("odd", ODD)
def test_a_value_that_would_change_stays_whole(tape: Tape, odd: str) -> None:
    """One odd value among numbers is kept as a raw row in its place; the column stays a number."""
    values = [str(k) for k in range(1, 200)]
    values[100] = odd
    done = tape(column(values))
    table = pq.read_table(done.segments[-1].path)
    assert table.schema.field(1).type == pa.int64()
    assert table.column("raw").to_pylist()[100] == f"{odd},7\n".encode()
    assert table.column(1).to_pylist()[100] is None
    assert table.column("raw").null_count == 198


@pytest.mark.parametrize("odd", ["1.5", "1.50", "2024-01-01", "NaN", "99999999999999999999", "-0", "007"])
def test_many_odd_values_widen_the_column(tape: Tape, odd: str) -> None:
    """Where more than a few rows miss the form, the column is widened and no row is raw."""
    done = tape(column([str(k) for k in range(1, 200)] + [odd, "5"] * 100))
    table = pq.read_table(done.segments[-1].path)
    assert table.schema.field(1).type != pa.int64()
    assert "raw" not in table.column_names


MOMENTS = [
    ("2024-08-08 23:54:13", pa.timestamp("ms")),
    ("2024-08-08T23:54:13.937", pa.timestamp("ms")),
    ("2024-08-08T23:54:13.937Z", pa.timestamp("ms", "UTC")),
    ("2024-08-08 23:54:13.937251+00:00", pa.timestamp("us", "UTC")),
    ("2024-08-08T23:54:13.937251123Z", pa.timestamp("ns", "UTC")),
    ("20240808 23:54:13.937", pa.timestamp("ms")),
    ("20240808-23:54:13.937", pa.timestamp("ms")),
    ("20240808-23:54:13", pa.timestamp("ms")),
    ("20240808 235413937", pa.timestamp("ms")),
    ("20240808 235413 9372510", pa.timestamp("ns")),
    ("20240808T235413Z", pa.timestamp("ms", "UTC")),
    ("2024.08.08 23:54:13", pa.timestamp("ms")),
    ("2024.08.08 23:54:13.937", pa.timestamp("ms")),
    ("2024.08.08 23:54", pa.timestamp("ms")),
    ("2024-08-08", pa.date32()),
    ("2024.08.08", pa.date32()),
    ("23:54:13.937", pa.time32("ms")),
    ("23:54:13.937251", pa.time64("us")),
]


@pytest.mark.parametrize(("text", "kind"), MOMENTS)
def test_moments_become_times(tape: Tape, text: str, kind: Any) -> None:
    """Dates and times of the usual recorders become temporal columns with the value that they say."""
    done = tape(column([text] * 30))
    table = pq.read_table(done.segments[-1].path)
    assert table.schema.field(1).type == kind
    shown = table.column(1).cast(pa.string()).to_pylist()[0]
    digits = "".join(char for char in text.removesuffix("+00:00") if char.isdigit())
    assert "".join(char for char in shown if char.isdigit()).startswith(digits)


OFFSETS = [
    ("2024-08-08T23:54:13.937251+01:00", "2024-08-08T22:54:13.937251"),
    ("2024-08-08 23:54:13-0530", "2024-08-09T05:24:13"),
    ("2024-12-31T23:59:59-00:30", "2025-01-01T00:29:59"),
    ("1969-12-31 23:54:13+05:45", "1969-12-31T18:09:13"),
]


@pytest.mark.parametrize(("text", "instant"), OFFSETS)
def test_a_time_with_an_offset_is_the_moment_that_it_says(tape: Tape, text: str, instant: str) -> None:
    """Times of a clock ahead of or behind UTC are stored in UTC, and come back with their offset."""
    table = pq.read_table(tape(column([text] * 30)).segments[-1].path)
    assert table.schema.field(1).type.tz == "UTC"
    assert table.column(1).to_pylist()[0] == dt.datetime.fromisoformat(instant).replace(tzinfo=dt.UTC)


def test_another_offset_is_another_text(tape: Tape) -> None:
    """A few rows of the night on which the clocks change are raw; a form has one offset."""
    rows = ["2024-10-27T02:00:00+02:00"] * 150 + ["2024-10-27T02:00:00+01:00"] * 5
    table = pq.read_table(tape(column(rows)).segments[-1].path)
    assert table.schema.field(1).type == pa.timestamp("ms", "UTC")
    assert table.column("raw").null_count == 150


def test_a_blank_before_each_value_belongs_to_the_column(tape: Tape) -> None:
    """Tables with a comma and a blank are typed; text keeps its blank, and what has none or two is raw."""
    rows = [b'2024/11/%d, 00:%02d:00, %d.25, x, %d, "q"\n' % (k % 30 + 1, k % 60, k, k * 10**15) for k in range(300)]
    rows[0] = b"Date, Time, Last, Name, Volume, Note\n"
    rows[50] = rows[50].replace(b", 50.25", b",  50.25")
    rows[51] = rows[51].replace(b", 51.25", b",51.25")
    rows[52] = rows[52].replace(b", 52.25", b",")
    rows[53] = rows[53].replace(b", 53.25", b", ")
    done = tape(b"".join(rows), Format.AUTO)
    table = pq.read_table(done.segments[-1].path)
    assert table.column_names == ["ts_recv", "Date", "Time", "Last", "Name", "Volume", "Note", "raw"]
    assert table.schema.field("Time").type == pa.time32("ms")
    assert table.schema.field("Last").type == pa.decimal128(18, 2)
    assert table.column("Name").to_pylist()[1] == " x"
    assert table.column("Volume").to_pylist()[299] == 299 * 10**15
    assert [k for k, raw in enumerate(table.column("raw").to_pylist()) if raw] == [0, 50, 51, 53]
    assert table.column("Last").to_pylist()[52] is None


def test_wide_values_behind_a_blank(tape: Tape) -> None:
    """Numbers of any width may have a blank before them, empty ones none."""
    done = tape(column([" 99999999999999999999", "", " -1"] * 30))
    assert typed(done)[0] == pa.decimal128(38, 0)
    assert "raw" not in done.table().column_names


def test_a_number_behind_a_blank_can_become_text(tape: Tape) -> None:
    """A column that stops being a number is widened to text with its blanks."""
    done = tape(column([f" {k}" for k in range(1000)] + [" n/a"] * 1000))
    assert typed(done)[0] == pa.string()


@pytest.mark.parametrize(
    "wrong",
    ["2024-02-30 00:00:00", "2024-08-08 24:00:00", "2024-12-31 23:59:60", "2024-08-08 23:54:1x", "0000-00-00 00:00:00"],
)
def test_a_moment_that_does_not_exist_stays_raw(tape: Tape, wrong: str) -> None:
    """The 30th of February, 24:00 and a leap second are kept as they stand."""
    done = tape(column(["2024-08-08 23:54:13"] * 150 + [wrong]))
    table = pq.read_table(done.segments[-1].path)
    assert table.schema.field(1).type == pa.timestamp("ms")
    assert table.column("raw").to_pylist()[150] == f"{wrong},7\n".encode()
    assert table.column("raw").null_count == 150


@pytest.mark.parametrize("text", ["08/09/2024", "1/2/2024", "Aug 8 2024", "2024-8-8", "12:5", "20240808 235413.5 CET"])
def test_what_could_mean_two_things_stays_text(tape: Tape, text: str) -> None:
    """No meaning is guessed: such dates are text."""
    assert typed(tape(column([text] * 30)))[0] == pa.string()


def test_all_days_of_four_centuries_survive(tape: Tape) -> None:
    """Every date from 1800 to 2199 is the date that Python says, and comes back."""
    first = dt.date(1800, 1, 1)
    days = [first + dt.timedelta(k) for k in range(146_097)]
    done = tape(column([day.isoformat() for day in days]))
    assert pq.read_table(done.segments[-1].path).column(1).to_pylist() == days


def test_quoted_fields_keep_their_columns(tape: Tape) -> None:
    """Fields in quotes may hold delimiters and quotes; the values are what the quotes stood around."""
    rows = [b'1,"a,b",x\n', b'2,"say ""hi""",y\n', b"3,plain,z\n", b"4,,\n"] * 30
    table = pq.read_table(tape(b"".join(rows)).segments[-1].path)
    assert table.column(2).to_pylist()[:4] == ["a,b", 'say "hi"', "plain", ""]
    assert "raw" not in table.column_names


def test_quotes_around_everything_are_a_form_of_their_own(tape: Tape) -> None:
    """Numbers and moments in quotes are numbers and moments; an empty field without quotes is null."""
    rows = [b'"1","1.50","2024-08-08","a,b"\n', b'"-2","0.25","2024-08-09",""\n', b'"3",,"2024-08-10",\n'] * 30
    table = pq.read_table(tape(b"".join(rows)).segments[-1].path)
    kinds = [field.type for field in table.schema][1:]
    assert kinds == [pa.int64(), pa.decimal128(18, 2), pa.date32(), pa.string()]
    assert table.column(4).to_pylist()[:3] == ["a,b", "", None]


def test_quotes_where_none_are_needed_stay_in_the_text(tape: Tape) -> None:
    """Where quoting follows no rule the quotes are part of the text, and the columns stay."""
    rows = [b'1,"a"\n', b"2,a\n", b'3,"b"\n', b"4,c\n"] * 30
    table = pq.read_table(tape(b"".join(rows)).segments[-1].path)
    assert table.column(2).to_pylist()[:2] == ['"a"', "a"]
    assert table.schema.field(1).type == pa.int64()


def test_text_that_is_not_utf8_is_binary(tape: Tape) -> None:
    """A column of other encodings keeps its bytes; the columns beside it stay typed."""
    table = pq.read_table(tape(b"".join(b"%d,\xe4%d\n" % (k, k) for k in range(100))).segments[-1].path)
    assert table.schema.field(2).type == pa.binary()
    assert table.schema.field(1).type == pa.int64()


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_delimiters_are_found(tape: Tape, delimiter: str) -> None:
    """Comma, semicolon, bar and tab each make columns on their own."""
    data = "".join(delimiter.join((str(k), "1.25", "Q")) + "\n" for k in range(50)).encode()
    done = tape(data, Format.AUTO)
    assert done.segments[0].footer.layout["delimiter"] == delimiter
    assert pq.read_table(done.segments[0].path).num_columns == 4


def test_frames_give_their_receive_time(tape: Tape) -> None:
    """`<ns> <payload>`: the time becomes ts_recv, the rest the payload, as binary."""
    data = b"".join(b'%d {"k":%d}\n' % (1_723_161_254_036_059_768 + k, k) for k in range(50))
    done = tape(data, Format.AUTO)
    table = pq.read_table(done.segments[0].path)
    assert done.segments[0].footer.layout["shape"] == Shape.FRAMES
    assert table.column("ts_recv").cast(pa.int64()).to_pylist()[7] == 1_723_161_254_036_059_775
    assert table.column("payload").to_pylist()[7] == b'{"k":7}'
    assert done.segments[0].footer.recv_last_ns == 1_723_161_254_036_059_817


def test_frames_of_seconds_with_a_fraction(tape: Tape) -> None:
    """`<seconds>: <frame>` gives the time to the nanosecond; other lines between them are raw, in place."""
    data = b"wss://x <-> 1.5\n" + b"".join(b"1626992741.%s: [%d]\n" % (f"{k + 1:05d}1".encode(), k) for k in range(50))
    table = pq.read_table(tape(data, Format.AUTO).segments[0].path)
    assert table.column("ts_recv").cast(pa.int64()).to_pylist()[1] == 1_626_992_741_000_011_000
    assert table.column("raw").to_pylist()[0] == b"wss://x <-> 1.5\n"
    assert table.column("payload").to_pylist()[2] == b"[1]"


@pytest.mark.parametrize("stamp", [b"01723161254036059768", b"9999999999999999999", b"17231612540360597681", b"x"])
def test_a_frame_with_an_odd_time_stays_raw(tape: Tape, stamp: bytes) -> None:
    """A receive time that int64 nanoseconds don't write back is not taken as one."""
    good = b"1723161254036059768 {}\n" * 50
    table = pq.read_table(tape(good + stamp + b" {}\n", Format.FRAMES).segments[0].path)
    assert table.column("raw").to_pylist()[50] == stamp + b" {}\n"


@pytest.mark.parametrize(("stamp", "ns"), [(b"1723161254036059", 1000), (b"1723161254036", 1_000_000)])
def test_frames_of_coarser_units(tape: Tape, stamp: bytes, ns: int) -> None:
    """Micro- and milliseconds in front of a payload are receive times as well."""
    table = pq.read_table(tape(stamp + b" {}\n" + stamp + b" []\n", Format.AUTO).segments[0].path)
    assert table.column("ts_recv").cast(pa.int64()).to_pylist() == [int(stamp) * ns] * 2


def test_json_lines_are_payload(tape: Tape) -> None:
    """JSON lines are kept line by line, whatever commas they hold."""
    done = tape(b'{"a":1,"b":2}\n' * 20, Format.AUTO)
    assert pq.read_table(done.segments[0].path).column("payload").to_pylist()[0] == b'{"a":1,"b":2}'
