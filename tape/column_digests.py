"""Digests of columns that depend on their rows alone: what was proven against what a file decodes to."""

from typing import Any

import numpy as np
import pyarrow as pa

from tape.digest import new_xxh3
from tape.layout.encoding import NARROW


class ColumnDigests:
    """Running digests of columns: equal for equal rows, however they are cut into batches."""

    def __init__(self) -> None:
        self.rows = 0
        self._digests: dict[str, tuple[Any, Any, Any]] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Some more rows."""
        self.rows += batch.num_rows
        for name, values in zip(batch.schema.names, batch.columns, strict=True):
            body, lengths, present = self._digests.setdefault(name, (new_xxh3(), new_xxh3(), new_xxh3()))
            if values.null_count:
                mask = values.is_valid().to_numpy(zero_copy_only=False)
                where = np.flatnonzero(~mask) + (self.rows - batch.num_rows)
                present.update(where.tobytes())
                values = values.drop_null()
            _add_values(values, body, lengths)

    def result(self) -> dict[str, tuple[str, str, str]]:
        """The digests of every column."""
        return {name: (a.hexdigest(), b.hexdigest(), c.hexdigest()) for name, (a, b, c) in self._digests.items()}


def _add_values(values: pa.Array, body: Any, lengths: Any) -> None:
    kind, rows = values.type, len(values)
    if rows == 0:
        return
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + rows + 1]
        lengths.update(np.diff(offsets).tobytes())
        data = values.buffers()[2]
        if data is not None:
            body.update(memoryview(data)[int(offsets[0]) : int(offsets[-1])])
        return
    if pa.types.is_decimal128(kind) and kind.precision <= NARROW:
        numbers = np.frombuffer(values.buffers()[1], np.int64)[0::2]
        body.update(np.ascontiguousarray(numbers[values.offset : values.offset + rows]))
        return
    width = kind.bit_width // 8
    body.update(memoryview(values.buffers()[1])[values.offset * width : (values.offset + rows) * width])
