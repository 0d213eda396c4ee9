"""Numbers eight bytes at a time, against Python's own integers and strings."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tape.layout.words import (
    Span,
    Text,
    Token,
    appended,
    assemble,
    constant,
    count_digits,
    read_digits,
    spells,
    write_digits,
)

TEXTS = st.lists(st.text("0123456789-. x", max_size=19), min_size=1, max_size=40)
VALUES = st.lists(st.integers(0, 10**19 - 1), min_size=1, max_size=40)


def span_of(fields: list[bytes]) -> Span:
    """Fields with a comma behind each, as a span."""
    ends = np.cumsum([len(field) + 1 for field in fields]) - 1
    starts = ends - np.array([len(field) for field in fields])
    return Span(Text(b"".join(field + b"," for field in fields)), starts, ends)


@given(TEXTS)
def test_digits_are_read_as_python_reads_them(texts: list[str]) -> None:
    """Values of fields of up to 19 characters, and whether they are all digits."""
    span = span_of([text.encode() for text in texts])
    values, good = read_digits(span.text, span.ends, span.lengths)
    for text, value, proper in zip(texts, values.tolist(), good.tolist(), strict=True):
        assert proper == (not set(text) - set("0123456789"))
        if proper:
            assert value == int(text or "0")


@given(VALUES)
def test_digits_are_written_as_python_writes_them(values: list[int]) -> None:
    """Text of values of up to 19 digits, and how long it is."""
    numbers = np.array(values, np.uint64)
    lengths = count_digits(numbers)
    assert np.broadcast_to(lengths, len(values)).tolist() == [len(str(value)) for value in values]
    data, ends = assemble(appended(write_digits(numbers, lengths), b",\n"), len(values))
    assert data.tobytes() == b"".join(b"%d,\n" % value for value in values)
    assert ends.tolist() == np.cumsum([len(str(value)) + 2 for value in values]).tolist()


@given(VALUES, st.data())
def test_one_wrong_byte_is_seen(values: list[int], data: st.DataObject) -> None:
    """What spells a column no longer does when any byte of it is another, or a field is longer or shorter."""
    fields = [str(value).encode() for value in values]
    tokens = write_digits(np.array(values, np.uint64), count_digits(np.array(values, np.uint64)))
    assert spells(tokens, span_of(fields))
    row = data.draw(st.integers(0, len(fields) - 1))
    place = data.draw(st.integers(0, len(fields[row]) - 1))
    other = bytes([fields[row][place] ^ data.draw(st.integers(1, 255))])
    changed = fields[row][:place] + other + fields[row][place + 1 :]
    for wrong in (changed, fields[row] + b"0", fields[row][:-1], b""):
        assert not spells(tokens, span_of([*fields[:row], wrong, *fields[row + 1 :]]))


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=20))
def test_constants_of_any_length(texts: list[bytes]) -> None:
    """Constant texts one after the other come out as they went in, in every row."""
    tokens: list[Token] = []
    for text in texts:
        tokens = [*appended(tokens, text), *constant(text)]
    assert assemble(tokens, 3)[0].tobytes() == b"".join(text + text for text in texts) * 3


def test_many_rows_cross_the_blocks() -> None:
    """Rows are assembled in blocks; a table of several blocks has no seams."""
    values = np.arange(50_000, dtype=np.uint64) * np.uint64(37)
    data, _ = assemble(appended(write_digits(values, count_digits(values)), b"\n"), len(values))
    assert data.tobytes() == b"".join(b"%d\n" % value for value in values.tolist())
