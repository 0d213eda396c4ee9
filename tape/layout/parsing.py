"""From bytes to columns. Rows that don't fit become strays; forms that too many rows miss are widened."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tape.layout import columns, frames, infer
from tape.layout.model import (
    LINES,
    PAYLOAD,
    RAW,
    RECEIVED,
    Column,
    Format,
    Layout,
    Moment,
    Number,
    Plain,
    Quoting,
    Shape,
)
from tape.layout.rendering import render
from tape.layout.scan import Fields, Lines, fields_of, fitting_lines, lines_of, slices
from tape.layout.words import Ints, Mask, Text, spells

WINDOW_ROWS = 4096
SMALL_BYTES = 1 << 16
_MOST_CHANGES = 40


class Misfit(Exception):
    """The data wants another layout than the one a segment was opened with. Nothing was consumed."""

    def __init__(self, layout: Layout) -> None:
        super().__init__("the data wants another layout")
        self.layout = layout


FEW = 16


def tolerated(rows: int, few: int = FEW) -> int:
    """How many rows of so many may miss a form before the form is widened."""
    return max(few, rows // 100)


@dataclass(slots=True)
class Tally:
    """Rows that missed, in a window of recent rows: what decides when a form or a layout has had its day."""

    rows: int = 0
    broken: int = 0
    missed: list[int] = field(default_factory=list)
    few: int = FEW

    def added(self, rows: int, broken: int, missed: Sequence[int]) -> "Tally":
        """The tally after some more rows; an old window is forgotten."""
        if self.rows >= WINDOW_ROWS or len(self.missed) != len(missed):
            return Tally(rows, broken, list(missed), self.few)
        both = [one + other for one, other in zip(self.missed, missed, strict=True)]
        return Tally(self.rows + rows, self.broken + broken, both, self.few)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A chunk as rows: its layout (with strays if there are any), one batch, and the tally after it."""

    layout: Layout
    batch: pa.RecordBatch
    tally: Tally


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What one layout made of a chunk. `stray` is None where every line fits."""

    layout: Layout
    lines: Lines | None
    arrays: list[pa.Array]
    stray: Mask | None
    missed: list[int]
    broken: int
    rows: int
    ends: Ints
    received: Ints | None = None
    fields: Fields | None = None


def parse(
    layout: Layout, data: bytes, marks: Sequence[tuple[int, int]], *, tally: Tally, continues: bool = False
) -> Parsed:
    """One chunk as rows that are proven to render to the very bytes.

    `marks`: (end offset, receive time in ns), ascending, the last at the end of the data.
    `continues`: the data begins in the middle of a line. Raises Misfit when another layout is wanted.
    """
    text = Text(data)
    attempt, wanted = _settle(layout, text, tally, continues=continues)
    if wanted is not None:
        raise Misfit(replace(wanted, strays=layout.strays))
    batch = _batch(attempt, text, marks)
    if not _renders(attempt, batch, data):
        attempt = _all_stray(layout, text)
        batch = _batch(attempt, text, marks)
        if not _renders(attempt, batch, data):
            raise AssertionError("raw rows do not give their own bytes back")
    done = layout.with_strays() if attempt.stray is not None else layout
    return Parsed(done, batch, tally.added(attempt.rows, attempt.broken, attempt.missed))


def settled(layout: Layout, sample: bytes) -> Layout:
    """The layout after as many changes as a sample wants."""
    whole = sample[: sample.rfind(b"\n") + 1]
    if not whole:
        return layout
    few = min(FEW, whole.count(b"\n") // 10)
    return _settle(layout, Text(whole), Tally(few=few), continues=False)[1] or layout


def _settle(layout: Layout, text: Text, tally: Tally, *, continues: bool) -> tuple[_Attempt, Layout | None]:
    """The attempt that stands, and the layout it wants where that is another than the one given."""
    first = layout
    for _ in range(_MOST_CHANGES):
        attempt = _attempt(layout, text, continues=continues)
        changed = _changed(attempt, text, tally if layout is first else Tally(few=tally.few))
        if changed is None:
            return attempt, None if layout is first else layout
        layout = changed
    layout = replace(LINES, eol=layout.eol)
    return _attempt(layout, text, continues=continues), layout


def _renders(attempt: _Attempt, batch: pa.RecordBatch, data: bytes) -> bool:
    """The proof: what the columns say, written out, is the data to the last byte.

    Large clean chunks are compared field by field where they stand: delimiters and line ends lie
    between the fields by construction. All others are rendered whole.
    """
    if attempt.stray is None and attempt.fields is not None and len(data) > SMALL_BYTES:
        return _spells(attempt.layout, attempt.fields, attempt.arrays)
    layout = attempt.layout.with_strays() if attempt.stray is not None else replace(attempt.layout, strays=False)
    return bool(pa.py_buffer(render(layout, batch)).equals(pa.py_buffer(data)))


def _spells(layout: Layout, fields: Fields, arrays: list[pa.Array]) -> bool:
    for column, values, span in zip(layout.columns, arrays, fields.spans, strict=True):
        tokens = columns.tokens(column, layout.delimiter, values)
        if tokens is not None:
            if not spells(tokens, span):
                return False
        elif not columns.text_of(column, layout.delimiter, values).equals(slices(span.text, span.starts, span.ends)):
            return False
    return True


def _attempt(layout: Layout, text: Text, *, continues: bool) -> _Attempt:
    if layout.shape is Shape.DELIMITED:
        return _delimited(layout, text, continues=continues)
    lines = lines_of(text)
    good = np.ones(len(lines), bool)
    received: Ints | None = None
    if layout.shape is Shape.FRAMES:
        received, begins, stops, good = frames.parse(layout.stamp, layout.eol, text, lines)
    else:
        begins, stops = lines.starts, lines.ends - len(layout.eol)
        if len(layout.eol) == 2:
            good = (stops >= begins) & (text.at(np.maximum(stops, 0)) == ord("\r"))
        if not lines.whole:
            good[-1:] = False
        begins, stops = np.where(good, begins, lines.starts), np.where(good, stops, lines.starts)
    if continues:
        good[:1] = False
    broken = int(np.count_nonzero(~good))
    stray = ~good if broken else None
    values = slices(text, begins, np.where(good, stops, begins))
    if stray is not None:
        values = _with_nulls(values, good)
    return _Attempt(layout, lines, [values], stray, [], broken, len(lines), lines.ends, received)


def _with_nulls(values: pa.Array, good: Mask) -> pa.Array:
    return pc.if_else(pa.array(good), values, pa.scalar(None, values.type))


def _delimited(layout: Layout, text: Text, *, continues: bool) -> _Attempt:
    fields = None if continues else fields_of(text, layout)
    lines: Lines | None = None
    stray: Mask | None = None
    broken = 0
    if fields is None:
        lines = lines_of(text)
        fit = fitting_lines(text, lines, layout)
        if continues:
            fit[:1] = False
        fields = infer.chosen_fields(text, fit, layout)
        stray = ~fit if fields is not None else np.ones(len(lines), bool)
        broken = int(np.count_nonzero(stray))
    if fields is None:
        assert lines is not None
        assert stray is not None
        none = [pa.nulls(len(lines), columns.storage(column)) for column in layout.columns]
        return _Attempt(layout, lines, none, stray, [0] * len(none), broken, len(lines), lines.ends)
    arrays, missed, good = _columns(layout, fields)
    rows = fields.rows if lines is None else len(lines)
    if good is not None:
        if lines is None:
            lines = lines_of(text)
            stray = ~good
        else:
            assert stray is not None
            stray[np.flatnonzero(~stray)[~good]] = True
        arrays = [array.filter(pa.array(good)) for array in arrays]
    ends = fields.spans[-1].ends + len(layout.eol) if lines is None else lines.ends
    if stray is not None:
        arrays = _spread(arrays, stray)
    return _Attempt(layout, lines, arrays, stray, missed, broken, rows, ends, fields=fields)


def _columns(layout: Layout, fields: Fields) -> tuple[list[pa.Array], list[int], Mask | None]:
    arrays, missed = [], []
    everywhere: Mask | None = None
    for k, column in enumerate(layout.columns):
        values, good = columns.parse(column, layout.delimiter, fields, k)
        arrays.append(values)
        missed.append(0 if good is None else int(np.count_nonzero(~good)))
        if good is not None:
            everywhere = good if everywhere is None else everywhere & good
    return arrays, missed, everywhere


def _spread(arrays: list[pa.Array], stray: Mask) -> list[pa.Array]:
    """The good rows' values in their places among all rows, null where a row is a stray."""
    index = pa.array(np.cumsum(~stray) - 1, mask=stray)
    return [array.take(index) for array in arrays]


def _all_stray(layout: Layout, text: Text) -> _Attempt:
    lines = lines_of(text)
    kinds = [field.type for field in columns.schema(replace(layout, strays=False))][1:]
    none = [pa.nulls(len(lines), kind) for kind in kinds]
    stray = np.ones(len(lines), bool)
    return _Attempt(layout, lines, none, stray, [0] * len(layout.columns), len(lines), len(lines), lines.ends)


def _batch(attempt: _Attempt, text: Text, marks: Sequence[tuple[int, int]]) -> pa.RecordBatch:
    arrays = [pa.Array.from_buffers(columns.STAMPS, attempt.rows, [None, pa.py_buffer(_received(attempt, marks))])]
    arrays += attempt.arrays
    names = [RECEIVED]
    shaped = attempt.layout.shape is Shape.DELIMITED
    names += [column.name for column in attempt.layout.columns] if shaped else [PAYLOAD]
    if attempt.stray is not None:
        lines = attempt.lines
        assert lines is not None
        bounds = np.where(attempt.stray, lines.ends, lines.starts)
        arrays.append(_with_nulls(slices(text, lines.starts, bounds), attempt.stray))
        names.append(RAW)
    return pa.RecordBatch.from_arrays(arrays, names=names)


def _received(attempt: _Attempt, marks: Sequence[tuple[int, int]]) -> Ints:
    if len(marks) == 1:
        times = np.full(attempt.rows, marks[0][1], np.int64)
    else:
        bounds = np.array([end for end, _ in marks], np.int64)
        stamps = np.array([stamp for _, stamp in marks], np.int64)
        times = stamps[np.minimum(np.searchsorted(bounds, attempt.ends), len(bounds) - 1)]
    if attempt.received is not None:
        times = attempt.received if attempt.stray is None else np.where(attempt.stray, times, attempt.received)
    return np.ascontiguousarray(times)


def _changed(attempt: _Attempt, text: Text, tally: Tally) -> Layout | None:
    """The layout that should be tried instead, None if this one stands."""
    layout = attempt.layout
    after = tally.added(attempt.rows, attempt.broken, attempt.missed)
    if attempt.broken > max(tally.few, attempt.rows // 2) or after.broken > max(tally.few, after.rows // 2):
        better = _better(attempt, text)
        if better is not None:
            return better
    if attempt.fields is None:
        return None
    forms = list(layout.columns)
    for k, missed in enumerate(attempt.missed):
        own = missed > tolerated(attempt.fields.rows, tally.few)
        if missed and (own or after.missed[k] > tolerated(after.rows, tally.few)):
            forms[k] = _widened(layout, attempt.fields, k, min(missed, tolerated(attempt.fields.rows, tally.few)) // 2)
    return replace(layout, columns=tuple(forms)) if tuple(forms) != layout.columns else None


def _better(attempt: _Attempt, text: Text) -> Layout | None:
    """Another layout that takes more of these lines; where there is none, strays are what they are."""
    layout = attempt.layout
    if attempt.lines is None or attempt.stray is None:
        return None
    start = int(attempt.lines.starts[int(np.argmax(attempt.stray))])
    fresh = infer.guessed(text.bytes[start : start + infer.SAMPLE_BYTES].tobytes(), Format.AUTO, at_start=True)
    if fresh is None or _frame_of(fresh) == _frame_of(layout):
        return None
    headed = any(column.header is not None for column in fresh.columns)
    if len(fresh.columns) == len(layout.columns) and not headed:
        named = zip(fresh.columns, layout.columns, strict=True)
        fresh = replace(fresh, columns=tuple(replace(f, name=o.name, header=o.header) for f, o in named))
    other = _attempt(fresh, text, continues=False)
    return fresh if 2 * other.broken < attempt.broken else None


def _frame_of(layout: Layout) -> Layout:
    """All of a layout but what its columns are called and hold."""
    return replace(layout, strays=False, columns=tuple(Column(f"c{k}") for k in range(len(layout.columns))))


def _widened(layout: Layout, fields: Fields, index: int, allowed: int) -> Column:
    """The least wider form that these fields are in; binary text takes anything."""
    column = layout.columns[index]
    for form, quoting in _wider(column, layout, fields, index):
        wider = replace(column, form=form, quoting=quoting)
        _, good = columns.parse(wider, layout.delimiter, fields, index)
        if good is None or int(np.count_nonzero(~good)) <= allowed:
            return wider
    return replace(column, form=Plain(binary=True), quoting=Quoting.NONE)


def _wider(
    column: Column, layout: Layout, fields: Fields, index: int
) -> Iterator[tuple[Number | Moment | Plain, Quoting]]:
    now = column.form
    seen = infer.inferred(fields, layout)[index]
    if isinstance(now, Number) and isinstance(seen.form, Number):
        wide = now.wide or seen.form.wide
        both = Number(
            max(now.scale, seen.form.scale), min(now.least, seen.form.least), min(now.pad, seen.form.pad), wide
        )
        for form in (both, replace(both, wide=True)):
            if form != now:
                yield form, column.quoting
        if (seen.form.scale, seen.form.wide) > (now.scale, now.wide):
            yield seen.form, seen.quoting
    if isinstance(seen.form, Moment) and (
        isinstance(now, Number) or (isinstance(now, Moment) and len(seen.form.pattern) > len(now.pattern))
    ):
        yield seen.form, seen.quoting
    plain = Quoting.MINIMAL if layout.quotes else Quoting.NONE
    styles = [plain if seen.quoting is Quoting.BLANK else seen.quoting, plain]
    if isinstance(now, Plain):
        styles = [column.quoting]
    for quoting in dict.fromkeys([*styles, Quoting.NONE]):
        for binary in (False, True):
            if binary or not (isinstance(now, Plain) and now.binary):
                yield Plain(binary=binary), quoting
