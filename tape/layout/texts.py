"""Text columns: as they stand, or in double quotes, with quotes inside doubled."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tape.layout.model import Plain, Quoting
from tape.layout.scan import QUOTE, slices
from tape.layout.words import Mask, Span, Text, Token

MOST_TOKENS = 4
BLANK = 32


def storage(form: Plain) -> pa.DataType:
    """String, or binary where the text is not all UTF-8."""
    return pa.binary() if form.binary else pa.string()


def parse(form: Plain, quoting: Quoting, delimiter: str, span: Span) -> tuple[pa.Array, Mask | None]:
    """Values of the fields and which of them are in this form (None: all)."""
    good: Mask | None = None
    text, starts, ends = span.text, span.starts, span.ends
    if quoting is Quoting.NONE:
        values = slices(text, starts, ends)
    elif quoting is Quoting.ALWAYS:
        good = quoted(span)
        inner = slices(text, np.where(good, starts + 1, ends), np.where(good, ends - 1, ends))
        values = pc.replace_substring(inner, b'""', b'"')
        good &= _same(pc.replace_substring(values, b'"', b'""'), inner)
        values, good = _empty_as_null(values, good, starts == ends)
    else:
        values, good = _minimal(delimiter, span)
    if not form.binary:
        values, decoded = _decoded(values)
        if decoded is not None:
            good = decoded if good is None else good & decoded
    return values, None if good is None or good.all() else good


def _empty_as_null(values: pa.Array, good: Mask, empty: Mask) -> tuple[pa.Array, Mask]:
    """An empty field without quotes is null, one of two quotes is the empty text."""
    if not empty.any():
        return values, good
    return pc.if_else(pa.array(empty), pa.scalar(None, values.type), values), good | empty


def quoted(span: Span) -> Mask:
    """Which fields start and end with a double quote."""
    first, last = span.text.at(span.starts), span.text.at(span.ends - 1)
    mask: Mask = (span.lengths >= 2) & (first == QUOTE) & (last == QUOTE)
    return mask


def blank(span: Span) -> Mask:
    """Which fields start with a blank."""
    mask: Mask = (span.lengths > 0) & (span.text.at(span.starts) == BLANK)
    return mask


def _minimal(delimiter: str, span: Span) -> tuple[pa.Array, Mask]:
    text, starts, ends = span.text, span.starts, span.ends
    whole = slices(text, starts, ends)
    if not text.has_quotes:
        return whole, ~_needs_quotes(whole, delimiter)
    wrapped = quoted(span)
    inner = slices(text, np.where(wrapped, starts + 1, starts), np.where(wrapped, ends - 1, ends))
    plain = pc.replace_substring(inner, b'""', b'"')
    values = pc.if_else(pa.array(wrapped), plain, whole)
    good = _needs_quotes(values, delimiter) == wrapped
    good &= ~wrapped | _same(pc.replace_substring(plain, b'"', b'""'), inner)
    return values, good


def _needs_quotes(values: pa.Array, delimiter: str) -> Mask:
    need = np.zeros(len(values), bool)
    data = values.buffers()[2]
    content = np.frombuffer(data, np.uint8) if data is not None and data.size else np.empty(0, np.uint8)
    for char in (delimiter, '"', "\r", "\n"):
        if (content == ord(char)).any():
            need |= pc.match_substring(values, char).to_numpy(zero_copy_only=False)
    return need


def _same(left: pa.Array, right: pa.Array) -> Mask:
    same: Mask = pc.equal(left, right).to_numpy(zero_copy_only=False)
    return same


def _decoded(values: pa.Array) -> tuple[pa.Array, Mask | None]:
    """As strings; where one is not UTF-8, null, and a mask of those that are."""
    try:
        return values.cast(pa.string()), None
    except pa.ArrowInvalid:
        good = np.array([_is_utf8(value) for value in values.to_pylist()], bool)
        return pc.if_else(pa.array(good), values, pa.scalar(None, values.type)).cast(pa.string()), good


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def text_of(quoting: Quoting, delimiter: str, values: pa.Array) -> pa.Array:
    """The text of a column as a binary array without nulls (empty where null)."""
    present = values.is_valid() if values.null_count else None
    values = pc.fill_null(values.cast(pa.binary()), b"") if values.null_count else values.cast(pa.binary())
    if quoting is Quoting.NONE:
        return values
    need = _needs_quotes(values, delimiter) if quoting is Quoting.MINIMAL else None
    if need is not None and not need.any():
        return values
    escaped = pc.replace_substring(values, b'"', b'""')
    wrapped = pc.binary_join_element_wise(b"", escaped, b"", b'"')
    if need is not None:
        wrapped = pc.if_else(pa.array(need), wrapped, values)
    return wrapped if present is None else pc.if_else(present, wrapped, pa.scalar(b"", pa.binary()))


def tokens_of(values: pa.Array) -> list[Token] | None:
    """Tokens of a binary array without nulls; None if a value is too long for them."""
    rows = len(values)
    offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + rows + 1]
    lengths = np.diff(offsets).astype(np.int64)
    count = -(-int(lengths.max(initial=0)) // 8)
    if count > MOST_TOKENS:
        return None
    if count == 0:
        return [Token(0, 0)]
    first, last = int(offsets[0]), int(offsets[-1])
    text = Text(memoryview(values.buffers()[2])[first:last])
    starts = offsets[:-1].astype(np.int64) - first
    if count == 1:
        return [Token(text.words_from(starts), lengths)]
    parts = range(count)
    return [
        Token(text.words_from(np.minimum(starts + 8 * k, text.size)), np.clip(lengths - 8 * k, 0, 8)) for k in parts
    ]
