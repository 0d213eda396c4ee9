"""Whatever bytes a source delivers, in whatever pieces, come back byte for byte."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tape.layout import Format
from tests.support.sealing import taped, whole_lines

FORMATS = st.sampled_from(list(Format))
THOROUGH = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
PIECES = st.sampled_from(
    b"1/23/-4/0/007/1.50/1.5/-0/+5/1e-5/ 1/NaN/NA//abc/-0.00/./5./.5/-/\x00/\xff\xfe/\xc3\xa9/\r/"
    b'"a,b"/"/""/"x""y"/9223372036854775807/9223372036854775808/99999999999999999999999/'
    b"1723161254036059768/2024-08-08 23:54:13.937/2024-02-30/20240808-23:54:13.937/23:59:60/24:00:00/"
    b"2024-08-08T23:54:13Z/2024-08-08T23:54:13+01:00/20240808 235413937/20240808 235413 9372510".split(b"/")
)
SEPARATORS = st.sampled_from([b",", b";", b"\t", b"|", b"\n", b"\r\n", b" ", b": ", b", ", b"~", b":"])


def comes_back(data: bytes, sizes: Iterable[int], chosen: Format, *, lines: bool) -> bool:
    """Whether some bytes survive the way through segments."""
    with tempfile.TemporaryDirectory() as folder:
        if lines:
            pieces = whole_lines(data, sizes)
        else:
            pieces, at = [], 0
            for size in sizes:
                pieces.append(data[at : at + size])
                at += size
            pieces.append(data[at:])
        return taped(Path(folder), pieces, said=chosen, roll_bytes=300).rendered() == data


SIZES = st.lists(st.integers(1, 200), max_size=8)


@THOROUGH
@given(st.binary(max_size=300), SIZES, FORMATS, st.booleans())
@example(b"\n\n\r\n\r", [1], Format.CSV, True)
@example(b"\xef\xbb\xbfa,b\n1,2\n", [6], Format.AUTO, True)
def test_arbitrary_bytes_come_back(data: bytes, sizes: list[int], chosen: Format, lines: bool) -> None:
    """Bytes without any structure survive, as lines or in pieces."""
    assert comes_back(data, sizes, chosen, lines=lines)


@THOROUGH
@given(st.lists(st.tuples(PIECES, SEPARATORS), max_size=120), SIZES, FORMATS, st.booleans())
def test_soups_of_fields_come_back(
    parts: list[tuple[bytes, bytes]], sizes: list[int], chosen: Format, lines: bool
) -> None:
    """Nearly-tables with every trap of the forms in them survive."""
    assert comes_back(b"".join(piece + end for piece, end in parts), sizes, chosen, lines=lines)


def _number(scale: int) -> st.SearchStrategy[bytes]:
    return st.decimals(min_value=-(10**9), max_value=10**9, places=scale).map(lambda d: f"{d:f}".encode())


KINDS = [
    *[_number(scale) for scale in (0, 1, 5, 8, 12, 18)],
    st.integers(-(10**25), 10**25).map(lambda n: b"%d" % n),
    st.integers(-(1 << 63), (1 << 63) - 1).map(lambda n: b"%d" % n),
    st.floats(allow_nan=False).map(lambda x: repr(x).encode()),
    st.floats(-1000, 1000).map(lambda x: repr(round(x, 3)).encode()),
    st.integers(0, 99999).map(lambda n: b"%05d" % n),
    st.integers(-999, 999).map(lambda n: b" %d" % n),
    st.sampled_from([b" 1.5", b" 10.25", b"", b" 99999999999999999999"]),
    st.sampled_from([b"Q", b"P", b"NASDAQ", b""]),
    st.datetimes().map(lambda t: t.isoformat(timespec="microseconds").encode() + b"-05:30"),
    st.datetimes().map(lambda t: t.isoformat(sep=" ", timespec="milliseconds").encode()),
    st.datetimes().map(lambda t: t.strftime("%Y%m%d-%H:%M:%S.").encode() + b"%06d" % t.microsecond),
    st.text(max_size=12).map(lambda t: t.replace("\n", "").encode()),
    st.text(max_size=6).map(lambda t: b'"' + t.replace("\n", "").replace('"', '""').encode() + b'"'),
]


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """A table whose columns each hold one kind of value, with a few stray lines in it."""
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=5))
    delimiter = draw(st.sampled_from([b",", b"\t", b";", b"|", b" ", b"~", b":"]))
    eol = draw(st.sampled_from([b"\n", b"\r\n"]))
    rows = draw(st.integers(1, 40))
    lines = []
    if draw(st.booleans()):
        lines.append(delimiter.join(b"col%d" % k for k in range(len(kinds))))
    for _ in range(rows):
        if draw(st.integers(0, 15)) == 0:
            lines.append(draw(st.binary(max_size=20)))
        else:
            lines.append(delimiter.join(draw(kind) for kind in kinds))
    body = eol.join(lines)
    return body + eol if draw(st.booleans()) else body


@THOROUGH
@given(tables(), SIZES, FORMATS)
def test_tables_of_every_kind_come_back(data: bytes, sizes: list[int], chosen: Format) -> None:
    """Tables with numbers, moments, quoted and odd text, headers and strays survive."""
    assert comes_back(data, sizes, chosen, lines=True)
