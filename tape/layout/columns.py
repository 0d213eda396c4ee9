"""One place that knows every form: its Arrow type, its parser, its writer."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tape.layout import moments, numbers, texts
from tape.layout.model import PAYLOAD, RAW, RECEIVED, Column, Layout, Moment, Number, Quoting, Shape
from tape.layout.scan import Fields
from tape.layout.words import Mask, Span, Token, assemble, constant, masked

STAMPS = pa.timestamp("ns", "UTC")


def storage(column: Column) -> pa.DataType:
    """The Arrow type that holds a column while it is built."""
    form = column.form
    if isinstance(form, Number):
        return numbers.storage(form)
    if isinstance(form, Moment):
        return moments.storage(form)
    return texts.storage(form)


def schema(layout: Layout) -> pa.Schema:
    """The Arrow schema of a segment: receive time, the source's columns or the payload, and strays if any."""
    fields = [pa.field(RECEIVED, STAMPS)]
    if layout.shape is Shape.DELIMITED:
        fields += [pa.field(column.name, storage(column)) for column in layout.columns]
    else:
        fields.append(pa.field(PAYLOAD, pa.binary()))
    if layout.strays:
        fields.append(pa.field(RAW, pa.binary()))
    return pa.schema(fields)


def reads_as(expected: pa.DataType, found: pa.DataType) -> bool:
    """Whether Parquet gives a column of the expected type back as the found one."""
    if pa.types.is_decimal64(expected):
        return bool(found == pa.decimal128(expected.precision, expected.scale))
    return bool(found == expected)


def parse(column: Column, delimiter: str, fields: Fields, index: int) -> tuple[pa.Array, Mask | None]:
    """Values of one column and which of its fields are in the column's form (None: all)."""
    form, span = column.form, fields.spans[index]
    if not isinstance(form, Number | Moment):
        return texts.parse(form, column.quoting, delimiter, span)
    wrapped = None
    if column.quoting is Quoting.BLANK:
        wrapped = texts.blank(span) & (span.lengths > 1)  # a blank before nothing is not the null of a number
        span = Span(span.text, span.starts + wrapped, span.ends)
        wrapped |= span.lengths == 0
    elif column.quoting is Quoting.ALWAYS:
        wrapped = texts.quoted(span)
        wrapped &= span.lengths > 2  # two quotes around nothing are not the null of a number
        inner = Span(span.text, span.starts + wrapped, span.ends - wrapped)
        wrapped |= span.lengths == 0
        span = inner
    if isinstance(form, Number):
        values, good = numbers.parse(form, span)
    else:
        values, good = moments.parse(form, span)
    if wrapped is not None and not wrapped.all():
        good = wrapped if good is None else good & wrapped
    return values, good


def tokens(column: Column, delimiter: str, values: pa.Array) -> list[Token] | None:
    """Tokens of a column's text; None if it is better written as an array of texts."""
    form = column.form
    if isinstance(form, Number) and not form.wide:
        plain = numbers.tokens(form, values)
    elif isinstance(form, Moment):
        plain = moments.tokens(form, values)
    else:
        return texts.tokens_of(text_of(column, delimiter, values))
    before, behind = _around(column)
    if before:
        plain = [*constant(before), *plain, *constant(behind)]
        if values.null_count:
            plain = masked(plain, values.is_valid().to_numpy(zero_copy_only=False))
    return plain


def text_of(column: Column, delimiter: str, values: pa.Array) -> pa.Array:
    """A column's text as a binary array without nulls."""
    form = column.form
    if not isinstance(form, Number | Moment):
        return texts.text_of(column.quoting, delimiter, values)
    if isinstance(form, Number) and form.wide:
        text = numbers.wide_text(form, values)
        before, behind = _around(column)
        if not before or not len(text):
            return text
        empty = pa.scalar(b"", pa.binary())
        return _where_present(values, pc.binary_join_element_wise(pa.scalar(before), text, pa.scalar(behind), empty))
    pieces = tokens(column, delimiter, values) or []
    return as_array(pieces, len(values))


def _around(column: Column) -> tuple[bytes, bytes]:
    """What stands before and behind each number or time that is not empty."""
    return {Quoting.ALWAYS: (b'"', b'"'), Quoting.BLANK: (b" ", b"")}.get(column.quoting, (b"", b""))


def _where_present(values: pa.Array, text: pa.Array) -> pa.Array:
    return pc.if_else(values.is_valid(), text, pa.scalar(b"", pa.binary()))


def as_array(pieces: list[Token], rows: int) -> pa.Array:
    """The rows' text as a binary array."""
    data, ends = assemble(pieces, rows)
    offsets = np.zeros(rows + 1, np.int32)
    offsets[1:] = ends
    return pa.Array.from_buffers(pa.binary(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(data)])
