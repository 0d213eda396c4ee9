"""What a sample looks like. A wrong guess costs space, never truth: every row is proven later."""

import re
from dataclasses import replace

import numpy as np

from tape.layout import columns, frames, tables
from tape.layout.forms import few, form_of
from tape.layout.model import (
    LINES,
    MAX_COLUMNS,
    Column,
    Form,
    Format,
    Layout,
    Moment,
    Plain,
    Quoting,
    Shape,
    Stamp,
    sanitised,
)
from tape.layout.scan import Fields, fields_of, fitting_lines, lines_of, slices
from tape.layout.texts import blank, quoted
from tape.layout.words import Mask, Text

SAMPLE_BYTES = 1 << 18
SAMPLE_LINES = 2000
SAMPLE_VALUES = 1000
_WORD = re.compile(r"[^\W\d][\w .<>/%()#\[\]:+-]{0,99}")
_BOM = b"\xef\xbb\xbf"
_SHARE_OF_LINES = 0.8


def guessed(sample: bytes, said: Format, *, at_start: bool) -> Layout | None:
    """A layout for a sample on its own; None where there is no line to go by."""
    lines = _sample_lines(sample)
    return _fresh(sample[:SAMPLE_BYTES], lines, said, at_start=at_start) if lines else None


def _sample_lines(sample: bytes) -> list[bytes]:
    return [line for line in sample[:SAMPLE_BYTES].split(b"\n", SAMPLE_LINES)[:SAMPLE_LINES] if line.strip()]


def _fresh(sample: bytes, lines: list[bytes], said: Format, *, at_start: bool) -> Layout:
    eol = "\r\n" if 2 * sum(line.endswith(b"\r") for line in lines) > len(lines) else "\n"
    if said in {Format.AUTO, Format.FRAMES}:
        stamp = frames.detect(lines, said=said is Format.FRAMES)
        if stamp is None and said is Format.FRAMES:
            return Layout(Shape.FRAMES, eol=eol)
        if stamp is not None and not (said is Format.AUTO and _is_table(stamp, lines)):
            return Layout(Shape.FRAMES, eol=eol, stamp=stamp)
    if said is Format.LINES:
        return replace(LINES, eol=eol)
    delimiter = _delimiter(lines, said)
    if delimiter is None and said is Format.AUTO:
        delimiter = tables.delimiter_of(lines)
    if delimiter is None:
        return replace(LINES, eol=eol)
    return _delimited(sample, lines, eol, delimiter, at_start=at_start)


def _is_table(stamp: Stamp, lines: list[bytes]) -> bool:
    return stamp.separator == " " and tables.is_row_of_blanks(lines)


def _delimiter(lines: list[bytes], said: Format) -> str | None:
    """The delimiter that gives most lines the same number of fields; None where no such thing shows."""
    choices = {Format.TSV: "\t", Format.CSV: ",;|"}.get(said, "\t,;|")
    if said is Format.AUTO and tables.is_json(lines):
        return None
    best: tuple[float, int, str] | None = None
    for choice in choices:
        count, share = tables.modal(lines, choice.encode())
        if count >= 2 and count <= MAX_COLUMNS and (best is None or (share, count) > best[:2]):
            best = (share, count, choice)
    if best is not None and (best[0] >= _SHARE_OF_LINES or said is not Format.AUTO):
        return best[2]
    return choices[0] if said is not Format.AUTO else None


def _delimited(sample: bytes, lines: list[bytes], eol: str, delimiter: str, *, at_start: bool) -> Layout:
    count, _ = tables.modal(lines, delimiter.encode())
    text = Text(sample)
    plain = Layout(Shape.DELIMITED, eol, delimiter, tuple(Column(f"c{k}") for k in range(count)))
    quoting = replace(plain, quotes=True)
    found = lines_of(text)
    with_quotes, without = fitting_lines(text, found, quoting), fitting_lines(text, found, plain)
    layout, fit = (quoting, with_quotes) if with_quotes.sum() >= without.sum() else (plain, without)
    header = _header(lines, layout, count) if at_start else None
    if header is not None and len(fit):
        fit = fit.copy()
        fit[0] = False
    fields = chosen_fields(text, fit, layout)
    if fields is not None:
        forms = inferred(fields, layout)
        layout = replace(layout, columns=tuple(forms))
    if header is not None and (fields is None or any(not isinstance(c.form, Plain) for c in layout.columns)):
        names = sanitised(header)
        named = zip(layout.columns, names, header, strict=True)
        layout = replace(layout, columns=tuple(replace(c, name=n, header=h) for c, n, h in named))
    elif header is not None:
        fields = chosen_fields(text, with_quotes if layout.quotes else without, layout)
        layout = replace(layout, columns=tuple(inferred(fields, layout))) if fields is not None else layout
    return layout


def _header(lines: list[bytes], layout: Layout, count: int) -> list[str] | None:
    """The names in the first line, if it can be a header."""
    line = lines[0].removeprefix(_BOM).rstrip(b"\r\n")
    names = [name.decode("utf-8", "replace") for name in _split(line, layout.delimiter.encode())]
    if len(names) != count or not all(_WORD.fullmatch(name.strip().strip('"')) for name in names):
        return None
    return names


def _split(line: bytes, delimiter: bytes) -> list[bytes]:
    fields, inside, piece = [], False, b""
    for part in line.split(delimiter):
        piece = piece + delimiter + part if inside else part
        inside = piece.count(b'"') % 2 == 1
        if not inside:
            fields.append(piece)
    return [*fields, piece] if inside else fields


def chosen_fields(text: Text, fit: Mask, layout: Layout) -> Fields | None:
    """Fields of the chosen lines alone; None if there are none."""
    if not fit.any():
        return None
    if not fit.all():
        lines = lines_of(text)
        text = Text(b"".join(slices(text, lines.starts, lines.ends).filter(fit).to_pylist()))
    return fields_of(text, layout)


def inferred(fields: Fields, layout: Layout) -> list[Column]:
    """Each column of the layout with the form that its fields want."""
    return [_wanted(column, fields, layout, k) for k, column in enumerate(layout.columns)]


def _wanted(column: Column, fields: Fields, layout: Layout, index: int) -> Column:
    span = fields.spans[index]
    starts, ends = span.starts, span.ends
    wrapped = quoted(span)
    filled = starts < ends
    if layout.quotes and wrapped.any() and bool((wrapped | ~filled).all()):
        quoting = Quoting.ALWAYS
        starts, ends = starts + wrapped, ends - wrapped
    elif (led := blank(span)).any() and np.count_nonzero(filled & ~led) <= few(int(np.count_nonzero(filled))):
        quoting = Quoting.BLANK
        starts = starts + led
    else:
        quoting = Quoting.MINIMAL if layout.quotes else Quoting.NONE
    values: list[bytes] = []
    for run in _runs(len(starts)):
        values += slices(fields.text, starts[run], ends[run]).to_pylist()
    form = form_of(values)
    if isinstance(form, Moment):
        form = _confirmed(form, fields, index, quoting)
    if quoting is Quoting.BLANK and isinstance(form, Plain):
        quoting = Quoting.MINIMAL if layout.quotes else Quoting.NONE
    elif quoting is Quoting.MINIMAL and not isinstance(form, Plain):
        quoting = Quoting.NONE
    return replace(column, form=form, quoting=quoting)


def _runs(rows: int) -> list[slice]:
    """Rows to look at: all of few, or runs from start, middle and end (every n-th row would miss a rhythm)."""
    if rows <= SAMPLE_VALUES:
        return [slice(0, rows)]
    run = SAMPLE_VALUES // 3
    return [slice(start, start + run) for start in (0, (rows - run) // 2, rows - run)]


def _confirmed(form: Form, fields: Fields, index: int, quoting: Quoting) -> Form:
    _, good = columns.parse(Column("c", form, quoting), ",", fields, index)
    missed = 0 if good is None else int(np.count_nonzero(~good))
    return form if missed <= few(fields.rows) else Plain()
