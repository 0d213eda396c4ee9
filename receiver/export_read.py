"""Segments back to bytes and rows for an export: checked while they are read, cut to a window and to what is new."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from receiver.catalog import SourceFile
from receiver.export_plan import FULL_HEAD, Part, Runs, Window, extent, runs_of
from receiver.model import Held
from receiver.shelf import Shelf
from tape.digest import new_xxh3
from tape.errors import ExportError
from tape.layout import RECEIVED, Layout, render
from tape.segment import row_batches


def source_bytes(shelf: Shelf, held: Held) -> Iterator[bytes]:
    """The source's bytes of a segment, some MiB at a time; raises ExportError if they are not those of its footer."""
    assert held.footer is not None
    fast, size = new_xxh3(), 0
    with shelf.opened(held) as path:
        for layout, batch in row_batches(path):
            data = bytes(render(layout, batch))
            fast.update(data)
            size += len(data)
            yield data
    source = held.footer.source
    if size != source.end - source.start or fast.hexdigest() != source.digest:
        raise ExportError(
            f"the rows of {held.path} do not give back the {source.end - source.start} bytes it was made of"
        )


def part_bytes(shelf: Shelf, part: Part, window: Window) -> Iterator[tuple[bytes, int]]:
    """What a part adds to its file: (bytes, rows), some MiB at a time. Rows are counted with the segment they end."""
    if window.open and part.whole:
        rows = part.held.rows
        for data in source_bytes(shelf, part.held):
            yield data, rows
            rows = 0
    elif window.open:
        here = extent(part.held)[0]
        for data in source_bytes(shelf, part.held):
            piece = data[max(0, part.low - here) : max(0, part.high - here)]
            here += len(data)
            if piece:
                yield piece, piece.count(b"\n")
    else:
        for layout, batch in part_rows(shelf, part, window):
            yield bytes(render(layout, batch)), batch.num_rows


def part_rows(shelf: Shelf, part: Part, window: Window) -> Iterator[tuple[Layout, pa.RecordBatch]]:
    """The rows of a part that lie in the window. A row that it shares with a neighbour is whole in both."""
    here = extent(part.held)[0]
    with shelf.opened(part.held) as path:
        for layout, batch in row_batches(path):
            if not part.whole:
                size = len(render(layout, batch))
                low, high = max(0, part.low - here), part.high - here
                here += size
                if low >= size or high <= 0:
                    continue
                first = _rows_within(layout, batch, low)
                after = batch.num_rows if high >= size else _rows_within(layout, batch, high - 1) + 1
                batch = batch.slice(first, after - first)
            batch = within(batch, window)
            if batch.num_rows:
                yield layout, batch


def within(batch: pa.RecordBatch, window: Window) -> pa.RecordBatch:
    """The rows received in the window; rows without a receive time only where the window takes everything."""
    if window.open or not batch.num_rows:
        return batch
    received = batch.column(batch.schema.get_field_index(RECEIVED))
    known = received.is_valid().to_numpy(zero_copy_only=False)
    times = received.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    mask = known
    if window.first_ns is not None:
        mask = mask & (times >= window.first_ns)
    if window.until_ns is not None:
        mask = mask & (times < window.until_ns)
    return batch if bool(np.all(mask)) else batch.filter(pa.array(mask))


def _rows_within(layout: Layout, batch: pa.RecordBatch, size: int) -> int:
    """How many rows from the start are made of at most so many bytes."""
    low, high = 0, batch.num_rows
    while low < high:
        middle = (low + high + 1) // 2
        if len(render(layout, batch.slice(0, middle))) <= size:
            low = middle
        else:
            high = middle - 1
    return low


def at_rows(shelf: Shelf, parts: Iterable[Part]) -> list[Part]:
    """A file's parts, ascending, cut where rows begin and end.

    Where one reading ends in the middle of a row that the next one has whole (or the other way round), the row is
    taken from the one that has it whole, so that it comes out once and as it is.
    """
    done: list[Part] = []
    for part in parts:
        if done and done[-1].high == part.low:
            cut = _row_cut(shelf, done, part)
            while done and done[-1].low >= cut:
                done.pop()
            if done and cut != part.low:
                done[-1] = replace(done[-1], high=cut)
            part = replace(part, low=cut)
        if part.low < part.high:
            done.append(part)
    return done


def _row_cut(shelf: Shelf, done: list[Part], after: Part) -> int:
    """Where to cut between the parts so far and the next one, so that no row is torn; where they meet, if it must."""
    here, before = after.low, done[-1]
    if extent(after.held)[0] < here:
        start, _ = _row_at(shelf, after.held, here)
        other = next((part for part in done if part.low <= start < part.high), None)
        if other is not None and start != here and _begins(shelf, other.held, start):
            return start
    if extent(before.held)[1] > here:
        _, end = _row_at(shelf, before.held, here)
        if end <= after.high and _begins(shelf, after.held, end):
            return end
    return here


def _begins(shelf: Shelf, held: Held, place: int) -> bool:
    """Whether a row of a segment begins at a place of its file, or the segment itself begins or ends there."""
    return place in extent(held) or _row_at(shelf, held, place)[0] == place


def _row_at(shelf: Shelf, held: Held, place: int) -> tuple[int, int]:
    """Where the row of a segment begins that a place lies in or in front of, and where it ends; both the place
    itself if a row ends and the next one begins there.
    """
    here = extent(held)[0]
    with shelf.opened(held) as path:
        for layout, batch in row_batches(path):
            size = len(render(layout, batch))
            if here + size >= place:
                count = _rows_within(layout, batch, place - here)
                start = here + len(render(layout, batch.slice(0, count)))
                if start == place:
                    return place, place
                return start, start + len(render(layout, batch.slice(count, 1)))
            here += size
    return here, here


def prefix_of(shelf: Shelf, agent: str, stream: str, life: SourceFile) -> bytes:
    """The first bytes of a file life, as many as a head fingerprint covers; fewer if that is all, none if not held."""
    found = b""
    for held in shelf.catalog.segments_of_file(agent, stream, life.file_id):
        assert held.footer is not None
        if held.footer.source.start != len(found) or len(found) >= FULL_HEAD:
            break
        for data in source_bytes(shelf, held):
            found += data[: FULL_HEAD - len(found)]
            if len(found) >= FULL_HEAD:
                return found
    return found


def same_bytes(shelf: Shelf, agent: str, stream: str, one: SourceFile, other: SourceFile) -> bool:
    """Whether two file lives agree in every byte that both cover, and there is such a byte."""
    shared = False
    for low, high in _shared(*(runs_of(shelf.catalog, agent, stream, life) for life in (one, other))):
        shared = True
        if _digest(shelf, agent, stream, one, low, high) != _digest(shelf, agent, stream, other, low, high):
            return False
    return shared


def _shared(one: Runs, other: Runs) -> Iterator[tuple[int, int]]:
    """The ranges that both lists of runs cover."""
    left, right = iter(one), iter(other)
    a, b = next(left, None), next(right, None)
    while a is not None and b is not None:
        low, high = max(a[0], b[0]), min(a[1], b[1])
        if low < high:
            yield low, high
        if a[1] <= b[1]:
            a = next(left, None)
        else:
            b = next(right, None)


def _digest(shelf: Shelf, agent: str, stream: str, life: SourceFile, low: int, high: int) -> str:
    fast = new_xxh3()
    within = itertools.takewhile(
        lambda held: extent(held)[0] < high, shelf.catalog.segments_of_file(agent, stream, life.file_id)
    )
    for held in shelf.along((held for held in within if extent(held)[1] > low), lambda held: held):
        here = extent(held)[0]
        for data in source_bytes(shelf, held):
            fast.update(data[max(0, low - here) : max(0, high - here)])
            here += len(data)
    return fast.hexdigest()
