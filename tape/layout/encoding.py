"""Which Parquet encoding makes each column smallest, tried on a sample and remembered for the stream."""

import io
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

DICTIONARY = "DICTIONARY"
SAMPLE_ROWS = 1 << 15
SAMPLE_BYTES = 4 << 20  # columns are tried so many bytes at a time
RUNS = 4
_NUMBERS = ("DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT", DICTIONARY, "PLAIN")
_TEXTS = (DICTIONARY, "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY", "PLAIN")
_FIXED = (DICTIONARY, "PLAIN")  # the others are valid Parquet, but Polars does not read them in this type
NARROW = 18
PAGE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class EncodingPlan:
    """The encoding of each column, by name, and the number of rows that it was chosen on."""

    encodings: dict[str, str]
    rows: int

    def serves(self, schema: pa.Schema, rows: int) -> bool:
        """Whether it can be used for a file that begins with so many rows, or is worth choosing anew."""
        if any(self.encodings.get(field.name) not in choices(field.type) for field in schema):
            return False
        return self.rows >= SAMPLE_ROWS // 2 or rows < 2 * self.rows


def choices(kind: pa.DataType) -> tuple[str, ...]:
    """The encodings that come into question for an Arrow type."""
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return _TEXTS
    if pa.types.is_decimal128(kind) and kind.precision > NARROW:
        return _FIXED
    return _NUMBERS


def plan(table: pa.Table, level: int) -> EncodingPlan:
    """Try every encoding on every column, on a sample of the rows, and keep the smallest."""
    best: dict[str, str] = {}
    for names in _parts(table):
        best |= _smallest(_spread(table.select(names)), level)
    return EncodingPlan(best, min(table.num_rows, SAMPLE_ROWS))


def _parts(table: pa.Table) -> list[list[str]]:
    """The columns, as many at a time as a sample may be large; nearly always all of them."""
    parts: list[list[str]] = []
    room = 0
    for name, values in zip(table.column_names, table.columns, strict=True):
        size = values.nbytes * min(table.num_rows, SAMPLE_ROWS) // max(1, table.num_rows)
        if not parts or size > room:
            parts.append([])
            room = SAMPLE_BYTES
        parts[-1].append(name)
        room -= size
    return parts


def _smallest(sample: pa.Table, level: int) -> dict[str, str]:
    sizes: dict[str, dict[str, int]] = {field.name: {} for field in sample.schema}
    for turn in range(max(len(_NUMBERS), len(_TEXTS), len(_FIXED))):
        chosen = {field.name: choices(field.type)[turn % len(choices(field.type))] for field in sample.schema}
        metadata = _tried(sample, chosen, level)
        for k, (name, encoding) in enumerate(chosen.items()):
            groups = range(metadata.num_row_groups)
            sizes[name][encoding] = sum(metadata.row_group(g).column(k).total_compressed_size for g in groups)
    return {name: min(tried, key=tried.__getitem__) for name, tried in sizes.items()}


def _spread(table: pa.Table) -> pa.Table:
    """A few runs of rows from all over a table: the start of a day is not the day. Fewer rows where they are long."""
    most = max(1, min(SAMPLE_ROWS, SAMPLE_BYTES * table.num_rows // max(1, table.nbytes)))
    if table.num_rows <= most:
        return table.combine_chunks()
    run = max(1, most // RUNS)
    starts = [k * (table.num_rows - run) // (RUNS - 1) for k in range(min(RUNS, most))]
    return pa.concat_tables([table.slice(start, run) for start in starts]).combine_chunks()


def _tried(sample: pa.Table, encodings: dict[str, str], level: int) -> Any:
    into = io.BytesIO()
    with pq.ParquetWriter(into, sample.schema, **options(EncodingPlan(encodings, 0), level)) as writer:
        writer.write_table(sample, row_group_size=SAMPLE_ROWS)
    return pq.read_metadata(into)


def options(chosen: EncodingPlan, level: int) -> dict[str, Any]:
    """Keyword arguments of pyarrow's ParquetWriter for a plan."""
    plain = {name: encoding for name, encoding in chosen.encodings.items() if encoding != DICTIONARY}
    return {
        "compression": "zstd",
        "compression_level": level,
        "use_dictionary": [name for name in chosen.encodings if name not in plain],
        "column_encoding": plain,
        "store_schema": False,
        "store_decimal_as_integer": True,
        "write_page_checksum": True,
        "data_page_size": PAGE_BYTES,
        "dictionary_pagesize_limit": 1 << 20,
        "max_rows_per_page": 1 << 30,  # pages by size: many small ones cost a tenth of the file
        "version": "2.6",
    }
