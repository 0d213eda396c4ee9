"""Segments: immutable Parquet files that rebuild the bytes of their source, proven before they are sealed.

A `SegmentWriter` takes chunks, proves each (see tape.layout) and writes them; at the end the file is
fsynced, decoded again from disk and compared column by column with what was proven. Reading needs
nothing but the file. Memory is bounded by one row group.
"""

import contextlib
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tape.column_digests import ColumnDigests
from tape.digest import digest_of, digests_of, new_xxh3, xxh3
from tape.durable import DISK, Disk
from tape.errors import DigestMismatch, NameRefused, SegmentError
from tape.footer import KEY, Footer
from tape.layout import RAW, EncodingPlan, Layout, Misfit, Tally, columns, encoding, moments, parse, render
from tape.layout.model import Moment
from tape.names import SegmentName

__all__ = ["EncodingPlan", "Misfit", "Sealed", "SegmentWriter", "read_footer", "row_batches", "source_chunks", "verify"]

ROW_GROUP_ROWS = 1 << 20
ROW_GROUP_BYTES = 32 << 20
SHARED_BYTES = 32 << 20  # above this, every writer of the process writes what it has, if it is worth a row group
LEAST_BYTES = 4 << 20
FEW_ROWS = 1 << 10
MOST_SMALL = 64
SMALL_ARRAYS = 1 << 12  # columns of small batches that are kept apart at most, where a table is wide
ARRAY_COST = 1 << 9  # what a column of a batch takes beside its values, about
BATCH_ROWS = 1 << 16
BATCH_BYTES = 4 << 20
PIECE_BYTES = 1 << 19
_MOST_GROUP_ROWS = 1 << 24
_DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError, IndexError, TypeError, OverflowError)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A finished, durable segment file: size in bytes, XXH3-128 and SHA-256 (hex), rows, completed footer."""

    path: Path
    size: int
    digest: str
    sha256: str
    rows: int
    footer: Footer


class _Sink:
    """What Arrow writes into: an unbuffered file, every byte through the Disk."""

    closed = False

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self.file = disk.create(path)
        self.digest = new_xxh3()

    def write(self, data: bytes) -> int:
        """Write all of it; raises DiskError."""
        self._disk.write_all(self.file, data)
        self.digest.update(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def tell(self) -> int:
        """Bytes written so far."""
        return self.file.tell()

    def close(self) -> None:
        """The writer of the segment closes the file."""


class _Budget:
    """Bytes that all open writers of this process hold back together: many streams at once stay bounded."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held = 0

    def add(self, change: int) -> int:
        """Change the sum, and return it."""
        with self._guard:
            self._held += change
            return self._held


_HELD = _Budget()


class SegmentWriter:
    """Builds one segment: `append` chunks, then `close` (or `abort`). Not for use from several threads at once.

    `layout`: what the data is believed to be; `writer.layout` is what it became. `level`: zstd's.
    `plan`: encodings of the stream's last segment; `writer.plan` is what was used. `continues`: the
    first bytes continue a line whose start lies in an earlier segment. `disk` is the seam for tests.
    Raises DiskError from any call when the disk refuses.
    """

    def __init__(
        self,
        path: Path,
        layout: Layout,
        *,
        level: int,
        plan: EncodingPlan | None = None,
        continues: bool = False,
        disk: Disk = DISK,
    ) -> None:
        self.path = path
        self.layout = replace(layout, strays=False)
        self.plan = plan
        self.rows = 0
        self.source_bytes = 0
        self.recv_first_ns: int | None = None
        self.recv_last_ns: int | None = None
        self._level = level
        self._disk = disk
        self._continues = continues
        self._tally = Tally()
        self._digest = new_xxh3()
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0
        self._pending_rows = 0
        self._shared = 0
        self._small = 0
        self._written = ColumnDigests()
        self._writer: Any = None
        self._sink: _Sink | None = _Sink(disk, path)

    def append(self, data: bytes, marks: Sequence[tuple[int, int]]) -> None:
        """Some more bytes of the source: whole lines, or any bytes where a line is longer than a chunk.

        `marks`: (end offset in data, receive time in ns since 1970), ascending, the last at its end.
        About 4 MiB at a time. Raises Misfit, with nothing consumed, when another layout is wanted:
        close this segment and give the same bytes to a writer with that layout.
        """
        if not data:
            return
        if not marks or marks[-1][0] != len(data):
            raise ValueError("the last mark must be the end of the data")
        layout, tally, continues = self.layout, self._tally, self._continues
        batches = []
        for piece, inner in _pieces(data, marks):
            parsed = parse(layout, piece, inner, tally=tally, continues=continues)
            layout, tally, continues = parsed.layout, parsed.tally, not piece.endswith(b"\n")
            batches.append(parsed.batch)
        self.layout, self._tally, self._continues = layout, tally, continues
        self._digest.update(data)
        self.source_bytes += len(data)
        for batch in batches:
            self._take(batch)
        full = self._pending_rows >= ROW_GROUP_ROWS or self._pending_bytes >= ROW_GROUP_BYTES
        if full or (self._shared > SHARED_BYTES and self._pending_bytes >= LEAST_BYTES):
            self._flush(last=False)

    def _take(self, batch: pa.RecordBatch) -> None:
        self._pending.append(batch)
        self._small = self._small + 1 if batch.num_rows < FEW_ROWS else 0
        weight = batch.nbytes + ARRAY_COST * batch.num_columns
        # A live stream comes row by row, a wide table a few rows at a time: such batches weigh more than their rows.
        if self._small >= min(MOST_SMALL, max(2, SMALL_ARRAYS // batch.num_columns)):
            schema = columns.schema(self.layout)
            joined = [_complete(one, schema) for one in self._pending[-self._small :]]
            self._pending[-self._small :] = [pa.concat_batches(joined)]
            weight -= ARRAY_COST * batch.num_columns * (self._small - 1)
            self._small = 0
        self._pending_rows += batch.num_rows
        self._pending_bytes += weight
        self._shared = _HELD.add(weight)
        self.rows += batch.num_rows
        times = np.frombuffer(batch.column(0).buffers()[1], np.int64)[: batch.num_rows]
        first, last = int(times.min()), int(times.max())
        self.recv_first_ns = first if self.recv_first_ns is None else min(first, self.recv_first_ns)
        self.recv_last_ns = last if self.recv_last_ns is None else max(last, self.recv_last_ns)

    def _flush(self, *, last: bool) -> None:
        """Write what is pending as one row group.

        A file that goes on gets room for strays at once: its columns are fixed from now on.
        """
        if not last:
            self.layout = self.layout.with_strays()
        schema = columns.schema(self.layout)
        batches = [_complete(batch, schema) for batch in self._pending]
        table = pa.Table.from_batches(batches, schema)
        if self._writer is None:
            if self.plan is None or not self.plan.serves(schema, table.num_rows):
                self.plan = encoding.plan(table, self._level)
            options = encoding.options(self.plan, self._level)
            self._writer = pq.ParquetWriter(pa.PythonFile(self._sink, mode="w"), schema, **options)
        for batch in batches:
            self._written.add(batch)
        if table.num_rows:
            self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self._release()

    def _release(self) -> None:
        self._shared = _HELD.add(-self._pending_bytes)
        self._pending, self._pending_rows, self._pending_bytes, self._small = [], 0, 0, 0

    def close(self, footer: Footer) -> Sealed:
        """Finish, fsync, decode from disk and compare; the footer's unknown fields are filled in here.

        Raises SegmentError if the file does not hold what was proven; the file is then removed.
        """
        sink = self._sink
        if sink is None:
            raise ValueError("the segment is closed already")
        if footer.source.end - footer.source.start != self.source_bytes:
            raise ValueError(f"the footer covers other bytes than the {self.source_bytes} that were appended")
        try:
            if self._pending or self._writer is None:
                self._flush(last=True)
            done = footer.completed(
                rows=self.rows,
                recv_first_ns=self.recv_first_ns,
                recv_last_ns=self.recv_last_ns,
                schema=schema_fingerprint(self.layout),
                layout=self.layout.to_json(),
                source=replace(footer.source, digest=self._digest.hexdigest()),
            )
            self._writer.add_key_value_metadata({KEY: done.to_json()})
            self._writer.close()
            self._disk.sync(sink.file)
            sink.file.close()
            both = digests_of(self.path)
            if both.digest != sink.digest.hexdigest():
                raise SegmentError(f"{self.path}: the disk gives other bytes back than were written")
            self._check(done)
        except BaseException:
            self.abort()
            raise
        self._sink = None
        return Sealed(self.path, both.size, both.digest, both.sha256, self.rows, done)

    def _check(self, footer: Footer) -> None:
        found = ColumnDigests()
        with _opened(self.path, sums=False) as file:  # its digest is the one that was written
            for batch in _batches(self.path, file, footer):
                found.add(batch)
        if found.rows != self.rows or found.result() != self._written.result():
            raise SegmentError(f"{self.path}: what was written does not decode to what was proven")

    def abort(self) -> None:
        """Give up: nothing stays on disk. Does nothing after close."""
        sink, self._sink = self._sink, None
        self._release()
        if sink is None:
            return
        if self._writer is not None:
            with contextlib.suppress(*_DAMAGE, SegmentError):
                self._writer.close()
        sink.file.close()
        self._disk.remove(self.path)


def _pieces(data: bytes, marks: Sequence[tuple[int, int]]) -> Iterator[tuple[bytes, list[tuple[int, int]]]]:
    """The data cut at line ends into pieces that a processor's cache holds, each with its own marks."""
    start = 0
    while start < len(data):
        stop = data.rfind(b"\n", start, start + PIECE_BYTES) + 1 or data.find(b"\n", start) + 1 or len(data)
        if len(data) - stop < PIECE_BYTES // 4:
            stop = len(data)
        first = bisect_right(marks, start, key=_offset)
        last = bisect_left(marks, stop, key=_offset)
        inner = [(min(end, stop) - start, stamp) for end, stamp in marks[first : last + 1]]
        yield data[start:stop], inner
        start = stop


def _offset(mark: tuple[int, int]) -> int:
    return mark[0]


def _complete(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """With a raw column of nulls where the schema has one and the batch has not."""
    if RAW in schema.names and RAW not in batch.schema.names:
        arrays = [*batch.columns, pa.nulls(batch.num_rows, pa.binary())]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)
    return batch


def schema_fingerprint(layout: Layout) -> str:
    """32 hex digits over the names and types of the columns."""
    return xxh3("\n".join(f"{field.name}:{field.type}" for field in columns.schema(layout)).encode("utf-8", "replace"))


@contextlib.contextmanager
def _opened(path: Path, *, sums: bool = True) -> Iterator[Any]:
    """The file as pyarrow sees it; whatever is wrong with it is a SegmentError that names the path.

    `sums`: check the pages' own checksums, too.
    """
    try:
        with path.open("rb") as raw, pq.ParquetFile(raw, page_checksum_verification=sums) as file:
            yield file
    except _DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SegmentError(f"{path}: not a readable segment: {reason}") from error


def _footer_of(path: Path, file: Any) -> Footer:
    found = (file.metadata.metadata or {}).get(KEY)
    if found is None:
        raise SegmentError(f"{path}: a Parquet file, but not a hometape segment")
    return Footer.from_json(found, where=str(path))


def _batches(path: Path, file: Any, footer: Footer) -> Iterator[pa.RecordBatch]:
    """All rows in order, a few MiB of source at a time."""
    total = file.metadata.num_rows
    if total != footer.rows:
        raise SegmentError(f"{path}: the footer says {footer.rows} rows, the file holds {total}")
    average = (footer.source.end - footer.source.start) / max(1, total)
    for group in range(file.metadata.num_row_groups):
        facts = file.metadata.row_group(group)
        if facts.num_rows > _MOST_GROUP_ROWS:
            raise SegmentError(f"{path}: row group {group} claims {facts.num_rows} rows")
        heavy = max(average, facts.total_byte_size / max(1, facts.num_rows), 1.0)
        rows = int(min(BATCH_ROWS, max(1, BATCH_BYTES // heavy)))
        yield from file.iter_batches(batch_size=rows, row_groups=[group], use_threads=False)


def read_footer(path: Path) -> Footer:
    """The footer of a segment file; raises SegmentError."""
    with _opened(path) as file:
        return _footer_of(path, file)


def _layout_of(path: Path, file: Any, footer: Footer) -> Layout:
    """The footer's layout, if the file has the columns that it speaks of."""
    layout = Layout.from_json(footer.layout, where=str(path))
    if any(isinstance(column.form, Moment) and not moments.valid(column.form) for column in layout.columns):
        raise SegmentError(f"{path}: layout can't be read: unknown form of a moment")
    names = columns.schema(layout).names
    if file.schema_arrow.names != names:
        raise SegmentError(f"{path}: the columns are not those of the layout")
    for expected, found in zip(columns.schema(layout), file.schema_arrow, strict=True):
        if not columns.reads_as(expected.type, found.type):
            raise SegmentError(f"{path}: column {expected.name!r} is {found.type}, not {expected.type}")
    return layout


def row_batches(path: Path) -> Iterator[tuple[Layout, pa.RecordBatch]]:
    """All rows in order, some MiB of source at a time, with the layout that renders them; raises SegmentError."""
    with _opened(path) as file:
        footer = _footer_of(path, file)
        layout = _layout_of(path, file, footer)
        for batch in _batches(path, file, footer):
            yield layout, batch


def source_chunks(path: Path) -> Iterator[bytes]:
    """The bytes of the source that the segment covers, some MiB at a time; raises SegmentError.

    The digest is not checked here: the caller concatenates segments and compares, or calls `verify`.
    """
    for layout, batch in row_batches(path):
        yield bytes(render(layout, batch))


def verify(path: Path) -> Footer:
    """Check a segment file wholly and return its footer.

    Digest against the file's name where it is a segment's name, footer, rows, schema, and the
    rendered bytes against the source digest. Raises DigestMismatch or SegmentError.
    """
    try:
        name = SegmentName.parse(path.name)
    except NameRefused:
        name = None
    if name is not None:
        try:
            digest = digest_of(path)
        except OSError as error:
            raise SegmentError(f"{path}: can't be read: {error.strerror or error}") from error
        if digest != name.digest:
            raise DigestMismatch(f"{path}: the bytes have the digest {digest}, not the one in the name")
    footer = read_footer(path)
    if name is not None and (name.epoch, name.seq) != (footer.epoch, footer.seq):
        raise SegmentError(f"{path}: the footer speaks of epoch {footer.epoch}, segment {footer.seq}")
    fast, size = new_xxh3(), 0
    for chunk in source_chunks(path):
        fast.update(chunk)
        size += len(chunk)
    if size != footer.source.end - footer.source.start or fast.hexdigest() != footer.source.digest:
        raise SegmentError(f"{path}: the rows do not give back the bytes of the source")
    return footer
