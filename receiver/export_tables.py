r"""Rows of many segments as one table: the columns they share, and writers for CSV and Parquet that stream.

The columns of a stream may change over time. The table has every column that any segment has, in order
of first appearance, `raw` last; a type is widened as far as needed, to text at the worst. CSV is for
reading: bytes that are not UTF-8 are written as `\xNN`. What is lossless is the export of the original.
"""

import io
from collections.abc import Iterable
from typing import Any, Protocol

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tape.layout import RAW, RECEIVED, Layout
from tape.layout.columns import schema as schema_of

GROUP_ROWS = 1 << 20
GROUP_BYTES = 64 << 20
_WIDE = 38
_STAMP = "%Y-%m-%dT%H:%M:%S%.9fZ"


def table_schema(layouts: Iterable[Layout]) -> pa.Schema:
    """One schema that takes the rows of all these layouts."""
    kinds: dict[str, pa.DataType] = {RECEIVED: pa.timestamp("ns", "UTC")}
    strays = False
    for layout in layouts:
        for column in schema_of(layout):
            if column.name == RAW:
                strays = True
                continue
            kind = _stored(column.type)
            known = kinds.get(column.name)
            kinds[column.name] = kind if known is None else widened(known, kind)
    fields = [pa.field(name, kind) for name, kind in kinds.items()]
    return pa.schema([*fields, pa.field(RAW, pa.binary())] if strays else fields)


def _stored(kind: pa.DataType) -> pa.DataType:
    """A type as Parquet gives it back."""
    return pa.decimal128(kind.precision, kind.scale) if pa.types.is_decimal(kind) else kind


def widened(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """A type that takes the values of both, text or bytes where nothing else does."""
    if one == other:
        return one
    if _is_number(one) and _is_number(other):
        scale = max(_scale(one), _scale(other))
        whole = max(_digits(one) - _scale(one), _digits(other) - _scale(other))
        if whole + scale <= _WIDE:
            return pa.decimal128(whole + scale, scale)
    elif pa.types.is_timestamp(one) and pa.types.is_timestamp(other) and one.tz == other.tz:
        return pa.timestamp("ns", one.tz)
    return pa.binary() if pa.types.is_binary(one) or pa.types.is_binary(other) else pa.string()


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_decimal(kind))


def _digits(kind: pa.DataType) -> int:
    return int(kind.precision) if pa.types.is_decimal(kind) else 19


def _scale(kind: pa.DataType) -> int:
    return int(kind.scale) if pa.types.is_decimal(kind) else 0


def fitted(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch with the columns and types of the whole table; nulls where it has no such column."""
    arrays = []
    for column in schema:
        index = batch.schema.get_field_index(column.name)
        if index < 0:
            arrays.append(pa.nulls(batch.num_rows, column.type))
        else:
            arrays.append(_cast(batch.column(index), column.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _cast(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if values.type == kind:
        return values
    if pa.types.is_binary(kind) and not pa.types.is_binary(values.type):
        return values.cast(pa.string()).cast(kind)
    if pa.types.is_integer(values.type) and pa.types.is_decimal(kind):
        return values.cast(pa.decimal128(19, 0)).cast(kind)
    return values.cast(kind)


class Out(Protocol):
    """Where the bytes of a table go; need not be seekable."""

    def write(self, data: bytes, /) -> int:
        """Write all of it."""


class RowSink(Protocol):
    """Takes batches of one schema; `close` finishes the file."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Some more rows."""

    def close(self) -> None:
        """No more rows."""


class CsvSink:
    """Rows as CSV with a header line: receive time in ISO 8601 with nanoseconds, decimals as they are, no float."""

    def __init__(self, out: Out, schema: pa.Schema) -> None:
        self._out = out
        out.write(pl.DataFrame({name: [] for name in schema.names}).write_csv().encode("utf-8"))

    def write(self, batch: pa.RecordBatch) -> None:
        """Some more rows."""
        columns = [_readable(values) for values in batch.columns]
        plain = pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
        frame = pl.from_arrow(plain)
        assert isinstance(frame, pl.DataFrame)
        if RECEIVED in frame.columns:
            frame = frame.with_columns(pl.col(RECEIVED).dt.strftime(_STAMP))
        held = io.BytesIO()
        frame.write_csv(held, include_header=False)
        self._out.write(held.getvalue())

    def close(self) -> None:
        """Nothing is held back."""


def _readable(values: pa.Array) -> pa.Array:
    if not pa.types.is_binary(values.type):
        return values
    try:
        return pc.cast(values, pa.string())
    except pa.ArrowInvalid:
        texts = [None if value is None else value.decode("utf-8", "backslashreplace") for value in values.to_pylist()]
        return pa.array(texts, pa.string())


class ParquetSink:
    """Rows as one Parquet file, zstd, in row groups of bounded size. `out` need not be seekable."""

    def __init__(self, out: Out, schema: pa.Schema, facts: dict[str, str]) -> None:
        self._schema = schema.with_metadata({f"export.{key}": value for key, value in facts.items()})
        self._file = pa.PythonFile(out, mode="w")
        self._writer: Any = pq.ParquetWriter(self._file, self._schema, compression="zstd")
        self._waiting: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Some more rows."""
        self._waiting.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what is left and the footer."""
        self._flush()
        self._writer.close()
        self._file.flush()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches(self._waiting).replace_schema_metadata(self._schema.metadata)
            self._writer.write_table(table, row_group_size=max(1, self._rows))
        self._waiting, self._rows, self._bytes = [], 0, 0
