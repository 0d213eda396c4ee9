"""From columns back to the bytes of the source."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tape.layout import columns, frames
from tape.layout.model import PAYLOAD, RAW, RECEIVED, Layout, Shape
from tape.layout.words import Bytes, Ints, Token, appended, assemble


def render(layout: Layout, batch: pa.RecordBatch) -> bytes | memoryview:
    """The source's bytes of some rows: each row's line, or its raw bytes where it is a stray."""
    if layout.strays:
        raw = batch.column(RAW)
        if raw.null_count < len(raw):
            return _with_strays(layout, batch, raw)
    return _memory(_lines(layout, batch)[0])


def _memory(data: Bytes) -> memoryview:
    return np.ascontiguousarray(data).data


def _with_strays(layout: Layout, batch: pa.RecordBatch, raw: pa.Array) -> bytes:
    stray = raw.is_valid().to_numpy(zero_copy_only=False)
    data, ends = _lines(layout, batch.filter(pa.array(~stray)))
    whole = _memory(data)
    before = np.concatenate(([0], ends))[np.cumsum(~stray)[stray]]  # rendered bytes in front of each stray
    pieces: list[bytes | memoryview] = []
    done = 0
    for value, cut in zip(raw.drop_null(), before.tolist(), strict=True):
        pieces += [whole[done:cut], memoryview(value.as_buffer())]
        done = cut
    pieces.append(whole[done:])
    return b"".join(pieces)


def _lines(layout: Layout, batch: pa.RecordBatch) -> tuple[Bytes, Ints]:
    """The lines of rows without strays, one after the other, and where each ends."""
    rows = batch.num_rows
    if rows == 0:
        return np.empty(0, np.uint8), np.empty(0, np.int64)
    eol = layout.eol.encode()
    if layout.shape is Shape.LINES:
        return _joined([batch.column(PAYLOAD)], b"", eol)
    if layout.shape is Shape.FRAMES:
        stamps = columns.as_array(frames.tokens(layout.stamp, batch.column(RECEIVED)), rows)
        return _joined([stamps, batch.column(PAYLOAD)], layout.stamp.separator.encode(), eol)
    delimiter = layout.delimiter.encode()
    pieces: list[Token] = []
    last = len(layout.columns) - 1
    for k, column in enumerate(layout.columns):
        tokens = columns.tokens(column, layout.delimiter, batch.column(k + 1))
        if tokens is None:
            break
        pieces += appended(tokens, eol if k == last else delimiter)
    else:
        return assemble(pieces, rows)
    texts = [columns.text_of(column, layout.delimiter, batch.column(k + 1)) for k, column in enumerate(layout.columns)]
    return _joined(texts, delimiter, eol)


def _joined(texts: list[pa.Array], separator: bytes, eol: bytes) -> tuple[Bytes, Ints]:
    body = texts[0] if len(texts) == 1 else pc.binary_join_element_wise(*texts, pa.scalar(separator, pa.binary()))
    empty = pa.scalar(b"", pa.binary())
    lines = pc.binary_join_element_wise(body, empty, pa.scalar(eol, pa.binary()))
    offsets = np.frombuffer(lines.buffers()[1], np.int32)[lines.offset : lines.offset + len(lines) + 1]
    data = np.frombuffer(lines.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    return data, (offsets[1:] - offsets[0]).astype(np.int64)
