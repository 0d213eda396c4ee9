"""Numbers: decimal text to int64 or DECIMAL and back, never through a float.

The parsers accept exactly what the writers write: a field is taken only if its value, written in the
column's form, is the same text. `-0`, `+5`, `007`, `1e-5`, ` 1` and `NaN` are none of that.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tape.layout.model import Number
from tape.layout.scan import slices
from tape.layout.words import (
    POWERS,
    Ints,
    Mask,
    Span,
    Text,
    Token,
    Words,
    appended,
    count_digits,
    masked,
    read_digits,
    short_digits,
    write_digits,
)

MINUS, ZERO = ord("-"), ord("0")
_INT64_MAX = np.uint64((1 << 63) - 1)
NARROW = 18
_LEAST = np.array([0, *(10**k for k in range(8))], np.uint64)  # the least number of so many digits, 1 excepted


def storage(form: Number) -> pa.DataType:
    """The Arrow type that holds the column while it is built."""
    if form.wide:
        return pa.decimal128(38, form.scale)
    return pa.decimal64(NARROW, form.scale) if form.scale else pa.int64()


def parse(form: Number, span: Span, *, digits: int = NARROW) -> tuple[pa.Array, Mask | None]:
    """Values of the fields, null where empty, and which fields are in this form (None: all).

    `digits`: how many a number with a fraction may have in all, 19 at most. Where the mask is false
    the value means nothing.
    """
    if not form.scale and form.pad == 1 and not form.wide and (quick := _short_wholes(span)) is not None:
        return _array(form, quick.view(np.int64), None), None
    shape = _shape(form, span)
    if form.wide:
        return _parse_wide(form, span, shape)
    whole, fraction, negative, null, good = shape.whole, shape.fraction, shape.negative, shape.null, shape.good
    most = digits - form.scale if form.scale else 19
    longest = int(whole.max(initial=0))
    if longest > most:
        good &= whole <= most
        whole = np.clip(whole, 0, most)
    value, proper = read_digits(span.text, shape.point, whole, _words_at_point(form, span))
    good &= proper
    if form.scale:
        value *= np.uint64(10**form.scale)
        part, proper = read_digits(span.text, span.ends, fraction, span.words.copy())
        good &= proper
        if not isinstance(fraction, int):
            part *= POWERS[form.scale - fraction].view(np.uint64)
        value += part
    if longest + form.scale >= 19:
        good &= value <= _INT64_MAX
    number: Ints = value.view(np.int64)
    if negative is not None:
        good &= ~(negative & (number == 0))
        number = np.where(negative, -number, number)
    if null is not None:
        good |= null
    everything = bool(good.all())
    return _array(form, number, null), None if everything else good


def _short_wholes(span: Span) -> Words | None:
    """The values if every field is a plain whole number of 1 .. 8 digits; None otherwise, without saying which."""
    if span.longest > 8 or span.shortest < 1:
        return None
    values = short_digits(span)
    if values is None:
        return None
    if span.shortest == span.longest:
        proper = span.longest == 1 or int(values.min()) >= 10 ** (span.longest - 1)
    else:
        proper = bool(((values >= _LEAST[span.lengths]) | (span.lengths == 1)).all())
    return values if proper else None


def _words_at_point(form: Number, span: Span) -> Words | None:
    """The eight bytes before the point where they follow from those before the field's end."""
    if not form.scale:
        return span.words.copy()
    if form.scale == form.least and span.longest <= 8:
        return span.words << np.uint64(8 * (form.scale + 1)) if form.scale < 7 else None
    return None


class _Shape:
    """Sign, point and length of every field, and whether they are in the column's form."""

    def __init__(self, span: Span) -> None:
        text, starts = span.text, span.starts
        first = text.at(starts)
        lengths = span.lengths
        empty = lengths == 0
        self.null: Mask | None = empty if empty.any() else None
        self.negative: Mask | None = None
        self.begins = starts
        self.first = first
        if text.has_minus and (minus := (first == MINUS) & ~empty).any():
            self.negative = minus
            self.begins = starts + minus
            self.first = text.at(self.begins)
        self.point = span.ends
        self.whole = lengths
        self.fraction: Ints | int = 0
        self.good: Mask = np.ones(len(starts), bool)


def _shape(form: Number, span: Span) -> _Shape:
    shape = _Shape(span)
    text, ends = span.text, span.ends
    if form.scale and form.scale == form.least:
        shape.point = ends - (form.scale + 1)
        shape.fraction = form.scale
        shape.good &= text.at(np.maximum(shape.point, -1)) == ord(".")
    elif form.scale:
        _find_points(form, text, shape, ends)
    whole = shape.point - shape.begins
    shape.good &= whole >= form.pad
    shape.whole = np.maximum(whole, 0)
    if form.pad == 1:
        shape.good &= (shape.first != ZERO) | (whole == 1)
    else:
        shape.good &= (shape.first != ZERO) | (whole == form.pad)
    shape.point = np.maximum(shape.point, 0)
    return shape


def _find_points(form: Number, text: Text, shape: _Shape, ends: Ints) -> None:
    points = text.points
    if not len(points):
        shape.fraction = np.zeros(len(ends), np.int64)
        shape.good &= form.least == 0
        return
    index = np.searchsorted(points, shape.begins)
    found = points[np.minimum(index, len(points) - 1)]
    has = (index < len(points)) & (found < ends)
    shape.point = np.where(has, found, ends)
    fraction = ends - shape.point - has
    last = text.at(np.maximum(ends - 1, -1))
    shape.good &= (fraction >= form.least) & (fraction <= form.scale) & ~(has & (fraction == 0))
    shape.good &= (fraction <= form.least) | (last != ZERO)
    shape.fraction = np.clip(fraction, 0, form.scale)


def _array(form: Number, number: Ints, null: Mask | None) -> pa.Array:
    rows = len(number)
    validity, nulls = None, 0
    if null is not None:
        validity = pa.py_buffer(np.packbits(~null, bitorder="little"))
        nulls = int(np.count_nonzero(null))
        number = np.where(null, 0, number)
    return pa.Array.from_buffers(storage(form), rows, [validity, pa.py_buffer(number)], nulls)


def _parse_wide(form: Number, span: Span, shape: _Shape) -> tuple[pa.Array, Mask | None]:
    good = shape.good & (shape.whole <= 38 - form.scale)
    fields = slices(span.text, span.starts, span.ends)
    good &= _all_digits(fields)
    if shape.null is not None:
        good |= shape.null
    safe = good if shape.null is None else good & ~shape.null
    keep = pa.array(safe)
    texts = pc.if_else(keep, fields, pa.scalar(None, pa.binary())).cast(pa.string())
    try:
        values = texts.cast(storage(form))
    except pa.ArrowInvalid:  # more digits than fit, zeros in front included
        return pa.nulls(len(fields), storage(form)), np.zeros(len(fields), bool)
    if shape.negative is not None:
        zero = pc.fill_null(pc.equal(values, pa.scalar(0).cast(storage(form))), fill_value=False)
        good &= ~(shape.negative & zero.to_numpy(zero_copy_only=False))
    return values, None if bool(good.all()) else good


def _all_digits(fields: pa.Array) -> Mask:
    """Which fields hold digits and at most one full stop behind at most one minus sign; where, shape has checked."""
    matches: Mask = pc.match_substring_regex(fields, r"^-?[0-9]+(\.[0-9]+)?$").to_numpy(zero_copy_only=False)
    return matches


def tokens(form: Number, values: pa.Array) -> list[Token]:
    """The text of a narrow number column, empty where null."""
    number, valid = numpy_of(values)
    result: list[Token] = []
    negative = number < 0
    magnitude: Words = np.abs(number).view(np.uint64)
    if negative.any():
        result.append(Token(MINUS, negative.astype(np.int64)))
    if form.scale:
        unit = np.uint64(10**form.scale)
        whole = magnitude // unit
        fraction = magnitude - whole * unit
    else:
        whole, fraction = magnitude, magnitude
    count = count_digits(whole)
    if form.pad > 1:
        count = max(count, form.pad) if isinstance(count, int) else np.maximum(count, form.pad)
    result += write_digits(whole, count)
    if form.scale:
        result = _with_fraction(form, result, fraction)
    return result if valid is None else masked(result, valid)


def _with_fraction(form: Number, whole: list[Token], fraction: Words) -> list[Token]:
    if form.scale == form.least:
        return [*appended(whole, b"."), *write_digits(fraction, form.scale)]
    lengths = np.full(len(fraction), form.scale, np.int64)
    rest = fraction
    open_rows = np.ones(len(fraction), bool)
    for _ in range(form.scale - form.least):
        shorter = rest // np.uint64(10)
        open_rows &= rest == shorter * np.uint64(10)
        if not open_rows.any():
            break
        lengths -= open_rows
        rest = np.where(open_rows, shorter, rest)
    point = Token(ord("."), (lengths > 0).astype(np.int64)) if form.least == 0 else None
    digits = write_digits(rest, lengths)
    return [*whole, point, *digits] if point else [*appended(whole, b"."), *digits]


def numpy_of(values: pa.Array) -> tuple[Ints, Mask | None]:
    """The int64 values behind a column (0 where null) and which are not null (None: all)."""
    if len(values) == 0:
        return np.empty(0, np.int64), None
    valid = None
    if values.null_count:
        valid = values.is_valid().to_numpy(zero_copy_only=False)
    data = np.frombuffer(values.buffers()[1], np.int64)
    if pa.types.is_decimal128(values.type):
        data = data[0::2]
    number: Ints = data[values.offset : values.offset + len(values)]
    if valid is not None:
        number = np.where(valid, number, 0)
    return np.ascontiguousarray(number), valid


def wide_text(form: Number, values: pa.Array) -> pa.Array:
    """The text of a wide number column as a binary array, empty where null."""
    unscaled = pa.Array.from_buffers(
        pa.decimal128(38, 0), len(values), values.buffers(), values.null_count, values.offset
    )
    digits = pc.fill_null(unscaled.cast(pa.string()), "0")
    negative = pc.starts_with(digits, "-")
    digits = pc.utf8_ltrim(digits, "-")
    digits = pc.utf8_lpad(digits, form.scale + form.pad, "0")
    parts = [pc.if_else(negative, "-", "")]
    if form.scale:
        parts.append(pc.utf8_slice_codeunits(digits, 0, -form.scale))
        kept = pc.utf8_slice_codeunits(digits, -form.scale)
        fixed = pc.utf8_slice_codeunits(kept, 0, form.least)
        trimmed = pc.utf8_rtrim(pc.utf8_slice_codeunits(kept, form.least), "0")
        fraction = pc.binary_join_element_wise(fixed, trimmed, "")
        parts += [pc.if_else(pc.equal(fraction, ""), "", "."), fraction]
    else:
        parts.append(digits)
    text = pc.binary_join_element_wise(*parts, "")
    return pc.if_else(values.is_valid(), text, "").cast(pa.binary())
