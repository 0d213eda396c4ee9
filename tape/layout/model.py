"""What a layout is: how the rows of a segment map to the bytes of their source, and back.

Forms of a column only ever widen (number -> wide number -> text -> binary text), so that a stream
whose data changes settles after a few segments.
"""

import json
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from tape.digest import xxh3
from tape.errors import SegmentError

RECEIVED = "ts_recv"
RAW = "raw"
PAYLOAD = "payload"
MAX_COLUMNS = 2000
DELIMITERS = (b",", b"\t", b";", b"|", b" ", b"~", b":")


class Format(StrEnum):
    """What a source is said to hold; AUTO looks at the data. CSV: any of , ; | and TSV: tab."""

    AUTO = "auto"
    CSV = "csv"
    TSV = "tsv"
    LINES = "lines"
    FRAMES = "frames"


class Shape(StrEnum):
    """How rows are cut into columns."""

    DELIMITED = "delimited"
    LINES = "lines"
    FRAMES = "frames"


class Quoting(StrEnum):
    """Whether fields of a column stand in double quotes: never, always, or only where they need it.

    BLANK: no quotes, but one blank before each number or time that is not empty.
    """

    NONE = "none"
    ALWAYS = "always"
    MINIMAL = "minimal"
    BLANK = "blank"


@dataclass(frozen=True, slots=True)
class Number:
    """Decimal digits with up to `scale` after the point and never fewer than `least`; `pad` digits at least before it.

    Between `least` and `scale` digits, zeros at the end are not written. `wide`: 38 digits in all instead of 18
    (19 for whole numbers that fit 64 bits). Empty fields are null.
    """

    scale: int = 0
    least: int = 0
    pad: int = 1
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Moment:
    """A date, a time of day or both, of fixed width: Y M D h m s f stand for digits, all else for itself."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Plain:
    """Text as it stands: a string column, or a binary one where it is not all UTF-8."""

    binary: bool = False


Form = Number | Moment | Plain


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name in Parquet, the form of its text, its quoting, and the header's own words for it."""

    name: str
    form: Form = Number()
    quoting: Quoting = Quoting.NONE
    header: str | None = None


@dataclass(frozen=True, slots=True)
class Stamp:
    """How a frame starts: whole digits of a unit (`digits` of them) or seconds with a fraction, then a separator.

    `fraction` is None for whole numbers, else (least, most) digits after the point.
    """

    digits: int = 19
    fraction: tuple[int, int] | None = None
    separator: str = " "


@dataclass(frozen=True, slots=True)
class Layout:
    """How rows map to bytes. `strays`: rows that don't fit are kept whole in a `raw` column."""

    shape: Shape
    eol: str = "\n"
    delimiter: str = ","
    columns: tuple[Column, ...] = ()
    stamp: Stamp = Stamp()
    strays: bool = False
    quotes: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values for the footer."""
        plain: dict[str, Any] = {"shape": self.shape.value, "eol": self.eol}
        if self.strays:
            plain["strays"] = True
        if self.shape is Shape.DELIMITED:
            plain["delimiter"] = self.delimiter
            plain["columns"] = [_column_json(column) for column in self.columns]
            if self.quotes:
                plain["quotes"] = True
        elif self.shape is Shape.FRAMES:
            plain["stamp"] = {"digits": self.stamp.digits, "separator": self.stamp.separator}
            if self.stamp.fraction:
                plain["stamp"]["fraction"] = list(self.stamp.fraction)
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any], *, where: str = "segment") -> "Layout":
        """Read what to_json wrote; raises SegmentError that names `where` for anything else."""
        try:
            layout = _layout_of(plain)
            _check(layout)
        except (KeyError, TypeError, ValueError, AttributeError, UnicodeError) as error:
            raise SegmentError(f"{where}: layout can't be read: {error}") from error
        return layout

    @property
    def fingerprint(self) -> str:
        """32 hex digits that differ when the layout does."""
        return xxh3(json.dumps(self.to_json(), sort_keys=True, separators=(",", ":")).encode("ascii"))

    def with_strays(self) -> "Layout":
        """The same with a raw column."""
        return replace(self, strays=True)


LINES = Layout(Shape.LINES)


def _column_json(column: Column) -> dict[str, Any]:
    plain: dict[str, Any] = {"name": column.name}
    form = column.form
    if isinstance(form, Number):
        plain["number"] = {"scale": form.scale, "least": form.least, "pad": form.pad, "wide": form.wide}
    elif isinstance(form, Moment):
        plain["moment"] = form.pattern
    else:
        plain["text"] = "binary" if form.binary else "utf-8"
    if column.quoting is not Quoting.NONE:
        plain["quoting"] = column.quoting.value
    if column.header is not None:
        plain["header"] = column.header
    return plain


def _column_of(plain: dict[str, Any]) -> Column:
    form: Form
    if "number" in plain:
        form = Number(**plain["number"])
    elif "moment" in plain:
        form = Moment(str(plain["moment"]))
    else:
        form = Plain(binary=plain["text"] == "binary")
    header = plain.get("header")
    return Column(str(plain["name"]), form, Quoting(plain.get("quoting", "none")), header)


def _layout_of(plain: dict[str, Any]) -> Layout:
    shape = Shape(plain["shape"])
    layout = Layout(shape, eol=str(plain["eol"]), strays=bool(plain.get("strays", False)))
    if shape is Shape.DELIMITED:
        columns = tuple(_column_of(column) for column in plain["columns"])
        quotes = bool(plain.get("quotes", False))
        return replace(layout, delimiter=str(plain["delimiter"]), columns=columns, quotes=quotes)
    if shape is Shape.FRAMES:
        stamp = plain["stamp"]
        fraction = stamp.get("fraction")
        pair = (int(fraction[0]), int(fraction[1])) if fraction else None
        return replace(layout, stamp=Stamp(int(stamp["digits"]), pair, str(stamp["separator"])))
    return layout


def _check(layout: Layout) -> None:
    if layout.eol not in {"\n", "\r\n"}:
        raise ValueError("unknown line end")
    if layout.shape is Shape.DELIMITED:
        if layout.delimiter.encode() not in DELIMITERS:
            raise ValueError("unknown delimiter")
        if not 1 <= len(layout.columns) <= MAX_COLUMNS:
            raise ValueError("no columns, or too many")
        for column in layout.columns:
            _check_form(column.form)
            if column.quoting is Quoting.BLANK and isinstance(column.form, Plain):
                raise ValueError("a blank before a text is part of it")
        names = {column.name for column in layout.columns}
        if len(names) != len(layout.columns) or names & {RECEIVED, RAW}:
            raise ValueError("column names are not unique")
    if layout.shape is Shape.FRAMES:
        least, most = layout.stamp.fraction or (0, 0)
        if layout.stamp.digits not in {10, 13, 16, 19} or not 0 <= least <= most <= 9:
            raise ValueError("unknown stamp")
        if layout.stamp.separator not in {" ", ": "} or (layout.stamp.fraction and layout.stamp.digits != 10):
            raise ValueError("unknown stamp")


def _check_form(form: Form) -> None:
    if isinstance(form, Number):
        numbers = (form.scale, form.least, form.pad)
        if not all(type(n) is int for n in numbers) or type(form.wide) is not bool:
            raise ValueError("malformed number form")
        most = 38 if form.wide else 18
        if not 0 <= form.least <= form.scale <= most or not 1 <= form.pad <= 18:
            raise ValueError("number form out of range")
    elif isinstance(form, Moment) and (len(form.pattern) > 40 or not form.pattern.isascii()):
        raise ValueError("malformed moment form")


def sanitised(headers: list[str]) -> list[str]:
    """Column names for Parquet: unique whatever their case, never empty, never one of ours."""
    names: list[str] = []
    taken = {RECEIVED, RAW}
    for index, header in enumerate(headers):
        name = (
            re.sub(r"[\x00-\x1f\x7f\ufeff\ud800-\udfff\ufffd]", "", header).strip().strip('"').strip()[:100]
            or f"c{index}"
        )
        base, number = name, 2
        while name.casefold() in taken:
            name, number = f"{base}_{number}", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names
