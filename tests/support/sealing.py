"""Source bytes through real segment writers and back, the way the agent drives them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tape.digest import genesis, xxh3
from tape.footer import Footer, Head, SourceRange
from tape.layout import Format, Layout, detect
from tape.names import utc_day
from tape.segment import EncodingPlan, Misfit, Sealed, SegmentWriter, source_chunks, verify

START_NS = 1_723_161_600_000_000_000
EPOCH = "00000000000000ab"


def footer_for(start: int, end: int, seq: int = 0) -> Footer:
    """A footer of a segment that covers [start, end) of a file; the writer fills in the rest."""
    source = SourceRange("file", "ticks.csv", "e" * 32, start, end, Head(0, xxh3(b"")))
    chain = genesis("box", "demo/ticks", EPOCH)
    return Footer("box", "demo/ticks", EPOCH, seq, chain, utc_day(START_NS), START_NS, 0, source)


@dataclass
class Taped:
    """The segments of one source, in order, and how many times the layout had to change."""

    segments: list[Sealed]
    misfits: int

    def rendered(self) -> bytes:
        """What the segments give back, each verified."""
        pieces = []
        for segment in self.segments:
            assert verify(segment.path) == segment.footer
            pieces += list(source_chunks(segment.path))
        return b"".join(pieces)

    def table(self, index: int = 0) -> Any:
        """One segment as plain pyarrow reads it."""
        return pq.read_table(self.segments[index].path)


def taped(
    folder: Path,
    chunks: Iterable[bytes],
    *,
    said: Format = Format.AUTO,
    marks: Sequence[int] = (),
    roll_bytes: int = 1 << 30,
    level: int = 1,
) -> Taped:
    """Chunks (as the agent would cut them) to sealed segments: detect, append, a new writer for each misfit."""
    done: list[Sealed] = []
    misfits, position, start = 0, 0, 0
    writer: SegmentWriter | None = None
    prior: Layout | None = None
    plan: EncodingPlan | None = None
    continues = False

    def seal() -> None:
        nonlocal writer, prior, plan
        assert writer is not None
        if writer.rows:
            done.append(writer.close(footer_for(start, position, len(done))))
        else:
            writer.abort()
        prior, plan, writer = writer.layout, writer.plan, None

    def opened(layout: Layout) -> SegmentWriter:
        return SegmentWriter(folder / f"{len(done)}.tmp", layout, level=level, plan=plan, continues=continues)

    try:
        for chunk in chunks:
            if not chunk:
                continue
            stops = [(end, START_NS + position + end) for end in marks if 0 < end < len(chunk)]
            stops.append((len(chunk), START_NS + position + len(chunk)))
            if writer is None:
                start = position
                writer = opened(detect(chunk, said, at_start=position == 0, prior=prior))
            try:
                writer.append(chunk, stops)
            except Misfit as misfit:
                misfits += 1
                seal()
                start = position
                writer = opened(misfit.layout)
                writer.append(chunk, stops)
            position += len(chunk)
            continues = not chunk.endswith(b"\n")
            if writer.source_bytes >= roll_bytes:
                seal()
        if writer is not None:
            seal()
    finally:
        if writer is not None:
            writer.abort()
    return Taped(done, misfits)


def whole_lines(data: bytes, sizes: Iterable[int]) -> list[bytes]:
    """The data cut into pieces of about these sizes, at line ends where there is one (as the agent reads)."""
    pieces, at = [], 0
    for size in sizes:
        if at >= len(data):
            break
        stop = data.rfind(b"\n", at, at + size) + 1 or at + size
        pieces.append(data[at:stop])
        at = min(stop, len(data))
    return [*pieces, data[at:]] if at < len(data) else pieces


def columns_of(table: pa.Table) -> dict[str, list[Any]]:
    """Plain values by column."""
    return {name: table.column(name).to_pylist() for name in table.column_names}
