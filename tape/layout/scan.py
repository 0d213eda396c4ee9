"""Where rows and fields lie in a chunk of bytes."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tape.layout.model import Layout
from tape.layout.words import Ints, Mask, Span, Text

NEWLINE = 10
RETURN = 13
QUOTE = 34


@dataclass(frozen=True, slots=True)
class Lines:
    """Where each line starts and ends; `ends` lies behind its line feed, which the last line may lack."""

    starts: Ints
    ends: Ints
    whole: bool

    def __len__(self) -> int:
        return len(self.starts)


def lines_of(text: Text) -> Lines:
    """Cut at every line feed; bytes behind the last one are a line that is not whole."""
    ends = np.flatnonzero(text.bytes == NEWLINE) + 1
    whole = not text.size or (len(ends) > 0 and int(ends[-1]) == text.size)
    if not whole:
        ends = np.append(ends, text.size)
    starts = np.empty_like(ends)
    if len(ends):
        starts[0] = 0
        starts[1:] = ends[:-1]
    return Lines(starts, ends, whole)


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of each column, row by row."""

    text: Text
    spans: list[Span]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.spans[0].starts)


def fields_of(text: Text, layout: Layout) -> Fields | None:
    """Fields of a chunk all of whose lines fit the layout; None if one does not."""
    cuts, feeds = _cuts(text, layout)
    count = len(layout.columns)
    if cuts is None or not len(cuts) or len(cuts) % count or int(cuts[-1]) != text.size - 1:
        return None
    ends = np.ascontiguousarray(cuts.reshape(-1, count).T)
    last = ends[-1]
    # As many line feeds as rows, one at each row's end: then there is none inside a row.
    if feeds != len(last) or not (text.bytes[last] == NEWLINE).all():
        return None
    starts = np.empty_like(ends)
    starts[1:] = ends[:-1] + 1
    starts[0, 0] = 0
    starts[0, 1:] = last[:-1] + 1
    if layout.eol == "\r\n":
        if (last == starts[-1]).any() or not (text.bytes[last - 1] == RETURN).all():
            return None
        ends[-1] -= 1
    return Fields(text, [Span(text, starts[k], ends[k]) for k in range(count)])


def _cuts(text: Text, layout: Layout) -> tuple[Ints | None, int]:
    """Positions of every delimiter and line feed, and how many line feeds there are.

    Those inside quotes are left out; None if a line leaves a quote open.
    """
    data = text.bytes
    marks = data == NEWLINE
    feeds = int(np.count_nonzero(marks))
    if len(layout.columns) > 1:
        marks |= data == ord(layout.delimiter)
    cuts = np.flatnonzero(marks)
    if layout.quotes and text.has_quotes:
        inside = np.cumsum(data == QUOTE, dtype=np.uint8) & 1
        open_here = inside[cuts].astype(bool)
        if (open_here & (data[cuts] == NEWLINE)).any():
            return None, feeds
        cuts = cuts[~open_here]
    return cuts, feeds


def fitting_lines(text: Text, lines: Lines, layout: Layout) -> Mask:
    """Which lines have the layout's line end and number of fields."""
    data = text.bytes
    counts = len(layout.columns) - 1
    fit = np.ones(len(lines), bool)
    if not lines.whole:
        fit[-1] = False
    if layout.eol == "\r\n":
        fit &= (text.at(lines.ends - 2) == RETURN) & (lines.ends - lines.starts >= 2)
    marks = np.flatnonzero(data == ord(layout.delimiter))
    if layout.quotes and text.has_quotes:
        quotes = np.flatnonzero(data == QUOTE)
        before = np.searchsorted(quotes, lines.starts)
        fit &= (np.searchsorted(quotes, lines.ends) - before) % 2 == 0
        line = np.searchsorted(lines.ends, marks, side="right")
        inside = (np.searchsorted(quotes, marks) - before[line]) % 2 == 1
        marks = marks[~inside]
    if len(layout.columns) > 1:
        found = np.searchsorted(marks, lines.ends) - np.searchsorted(marks, lines.starts)
        fit &= found == counts
    return fit


def slices(text: Text, starts: Ints, ends: Ints) -> pa.Array:
    """The bytes between each start and end (ascending, not overlapping) as a binary array."""
    rows = len(starts)
    if rows == 0:
        return pa.array([], pa.binary())
    lengths = ends - starts
    if text.size and int(lengths.max()) <= 1 and int(lengths.min()) == 1:
        offsets = np.arange(rows + 1, dtype=np.int32)
        return pa.Array.from_buffers(pa.binary(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(text.bytes[starts])])
    bounds = np.empty(2 * rows, np.int32)
    bounds[0::2] = starts
    bounds[1::2] = ends
    both = pa.Array.from_buffers(pa.binary(), 2 * rows - 1, [None, pa.py_buffer(bounds), pa.py_buffer(text.bytes)])
    return both.take(pa.array(np.arange(0, 2 * rows, 2)))
