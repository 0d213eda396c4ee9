"""Moments: dates and times of fixed width to Arrow's temporal types and back.

A pattern says where the digits of year (Y), month (M), day (D), hour (h), minute (m), second (s) and
fraction (f) stand; every other character stands for itself. A field is taken only if writing its
value in the pattern gives the same bytes, so the 30th of February, 24:00 and a leap second stay out.
"""

import re

import numpy as np
import pyarrow as pa

from tape.layout.model import Moment
from tape.layout.numbers import numpy_of
from tape.layout.words import Bytes, Ints, Mask, Span, Text, Token

_DATES = ("YYYY-MM-DD", "YYYY.MM.DD", "YYYY/MM/DD", "YYYYMMDD", "DD.MM.YYYY")
_TIMES = ("hh:mm:ss", "hhmmss", "hh:mm")
_ZONES = ("", "Z", "+00:00", "+0000", " UTC", "+00")
_TIGHT = re.compile(r"( ?)(0{3}|0{6,7})")  # HistData: hhmmssfff, NinjaTrader: hhmmss fffffff
_OFFSET = re.compile(r"([+-])([01][0-9]):?([0-5][0-9])$")
_DAY = 86_400
_UNITS = {"ms": 3, "us": 6, "ns": 9}
_FIRST_YEAR, _LAST_YEAR = 1678, 2261  # what int64 nanoseconds reach, wholly


def candidates(field: bytes) -> list[Moment]:
    """The patterns that a field could be in, most specific first; empty for anything that is no moment."""
    text = field.decode("latin-1")
    found = []
    for zone in _ZONES:
        if zone and not text.endswith(zone):
            continue
        body = text[: len(text) - len(zone)]
        found += [Moment(pattern + zone) for pattern in _bodies(body)]
    if not found and (offset := _OFFSET.search(text)):
        patterns = _bodies(text[: offset.start()])
        found = [Moment(pattern + offset[0]) for pattern in patterns if "Y" in pattern and "h" in pattern]
    return found


def _bodies(body: str) -> list[str]:
    shape = re.sub(r"[0-9]", "0", body)
    found = [date for date in _DATES if shape == _shape_of(date) and not date.isalpha()]
    for time in _TIMES:
        for date in ("", *_DATES):
            joins = ("T", " ", "-", "  ", "_", ":", ",") if date else ("",)
            for join in joins:
                start = date + join + time
                head = _shape_of(start)
                if shape[: len(head)] != head or (start.isalpha() and "T" not in start):
                    continue
                rest = shape[len(head) :]
                if not rest:
                    found.append(start)
                elif time.endswith("ss") and 2 <= len(rest) <= 10 and rest[0] in ".," and set(rest[1:]) == {"0"}:
                    found.append(start + rest[0] + "f" * (len(rest) - 1))
                elif time == "hhmmss" and date and (fraction := _TIGHT.fullmatch(rest)):
                    found.append(start + fraction[1] + "f" * len(fraction[2]))
    return found


def _ahead(pattern: str) -> int:
    """How many seconds the clock of a pattern with an offset is ahead of UTC."""
    offset = _OFFSET.search(pattern)
    if offset is None or "Y" not in pattern:
        return 0
    seconds = 3600 * int(offset[2]) + 60 * int(offset[3])
    return -seconds if offset[1] == "-" else seconds


def _shape_of(pattern: str) -> str:
    return re.sub(r"[YMDhmsf]", "0", pattern)


def valid(form: Moment) -> bool:
    """Whether a pattern, perhaps out of a foreign footer, is one that this module writes."""
    parts = _parts(form.pattern)
    date = all(len(parts[letter]) == size for letter, size in (("Y", 4), ("M", 2), ("D", 2)))
    no_date = not (parts["Y"] or parts["M"] or parts["D"])
    time = len(parts["h"]) == len(parts["m"]) == 2 and len(parts["s"]) in {0, 2}
    no_time = not (parts["h"] or parts["m"] or parts["s"] or parts["f"])
    return (date or no_date) and (time or no_time) and not (no_date and no_time) and len(parts["f"]) <= 9


def _parts(pattern: str) -> dict[str, list[int]]:
    return {letter: [k for k, char in enumerate(pattern) if char == letter] for letter in "YMDhmsf"}


def unit(form: Moment) -> str:
    """The coarsest of ms, us, ns that holds the pattern's fraction."""
    fraction = form.pattern.count("f")
    return "ms" if fraction <= 3 else "us" if fraction <= 6 else "ns"


def storage(form: Moment) -> pa.DataType:
    """The Arrow type: timestamp (UTC where the text says so), date or time of day."""
    pattern = form.pattern
    if "h" not in pattern:
        return pa.date32()
    if "Y" not in pattern:
        return pa.time32("ms") if unit(form) == "ms" else pa.time64(unit(form))
    aware = pattern.endswith(("Z", "+00:00", "+0000", "UTC", "+00")) or _OFFSET.search(pattern) is not None
    return pa.timestamp(unit(form), "UTC" if aware else None)


def parse(form: Moment, span: Span) -> tuple[pa.Array, Mask | None]:
    """Values of the fields, null where empty, and which fields are in this form (None: all)."""
    pattern = form.pattern
    width = len(pattern)
    starts, lengths = span.starts, span.lengths
    rows = len(starts)
    null = lengths == 0
    fits = lengths == width
    if not fits.any():
        good = null.copy()
        return pa.nulls(rows, storage(form)), None if good.all() else good
    begins = starts if fits.all() else np.where(fits, starts, starts[fits][0])
    matrix = _matrix(span.text, begins, width)
    number = _number(pattern, matrix)
    good = fits & _fields_in_range(pattern, matrix)
    good &= (_written(form, np.where(good, number, 0))[:, :width] == matrix).all(axis=1)
    good |= null
    return _array(form, number, good & ~null), None if good.all() else good


def _matrix(text: Text, starts: Ints, width: int) -> Bytes:
    words = np.empty((len(starts), -(-width // 8)), np.uint64)
    for k in range(words.shape[1]):
        words[:, k] = text.words_from(np.minimum(starts + 8 * k, text.size))
    return words.view(np.uint8)[:, :width]


def _value(matrix: Bytes, places: list[int]) -> Ints:
    total = np.zeros(len(matrix), np.int64)
    for place in places:
        total *= 10
        total += matrix[:, place]
        total -= ord("0")
    return total


def _fields_in_range(pattern: str, matrix: Bytes) -> Mask:
    parts = _parts(pattern)
    good = np.ones(len(matrix), bool)
    limits = {"Y": (_FIRST_YEAR, _LAST_YEAR), "M": (1, 12), "D": (1, 31), "h": (0, 23), "m": (0, 59), "s": (0, 59)}
    for letter, (least, most) in limits.items():
        if parts[letter]:
            value = _value(matrix, parts[letter])
            good &= (value >= least) & (value <= most)
    return good


def _number(pattern: str, matrix: Bytes) -> Ints:
    """The stored number: days for dates, else units since midnight or since 1970; nonsense for nonsense."""
    parts = _parts(pattern)
    days = np.zeros(len(matrix), np.int64)
    if parts["Y"]:
        days = _days(_value(matrix, parts["Y"]), _value(matrix, parts["M"]), _value(matrix, parts["D"]))
        if not parts["h"]:
            return days
    seconds = _value(matrix, parts["h"]) * 3600 + _value(matrix, parts["m"]) * 60 + _value(matrix, parts["s"])
    digits = _UNITS[unit(Moment(pattern))]
    fraction = _value(matrix, parts["f"]) * 10 ** (digits - len(parts["f"]))
    number: Ints = (days * _DAY + seconds - _ahead(pattern)) * 10**digits + fraction
    return number


def _days(year: Ints, month: Ints, day: Ints) -> Ints:
    """Days since 1970-01-01 in the Gregorian calendar (months counted from March, years in eras of 400)."""
    year = year - (month <= 2)
    era = year // 400
    of_era = year - era * 400
    day_of_year = (153 * (month + np.where(month > 2, -3, 9)) + 2) // 5 + day - 1
    day_of_era = of_era * 365 + of_era // 4 - of_era // 100 + day_of_year
    days: Ints = era * 146097 + day_of_era - 719468
    return days


def _civil(days: Ints) -> tuple[Ints, Ints, Ints]:
    days = days + 719468
    era = days // 146097
    of_era = days - era * 146097
    year_of_era = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    day_of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + np.where(shifted < 10, 3, -9)
    return year_of_era + era * 400 + (month <= 2), month, day


def _array(form: Moment, number: Ints, keep: Mask) -> pa.Array:
    kind = storage(form)
    number = np.where(keep, number, 0)
    nulls = int(len(keep) - np.count_nonzero(keep))
    validity = pa.py_buffer(np.packbits(keep, bitorder="little")) if nulls else None
    if kind.bit_width == 32:
        number = number.astype(np.int32)
    return pa.Array.from_buffers(kind, len(keep), [validity, pa.py_buffer(number)], nulls)


def _written(form: Moment, number: Ints) -> Bytes:
    """The text of each number as a row of bytes, padded with zero bytes to a multiple of eight."""
    pattern = form.pattern
    parts = _parts(pattern)
    width = -(-len(pattern) // 8) * 8
    row = np.frombuffer(pattern.encode("ascii").ljust(width, b"\0"), np.uint8)
    matrix = np.repeat(row[None, :], len(number), axis=0)
    values: dict[str, Ints] = {}
    days = number
    if parts["h"]:
        digits = _UNITS[unit(form)]
        seconds = number // 10**digits
        values["f"] = (number - seconds * 10**digits) // 10 ** (digits - len(parts["f"]))
        seconds = seconds + _ahead(pattern)
        days = seconds // _DAY
        seconds = seconds - days * _DAY
        values["h"] = seconds // 3600
        values["m"] = seconds // 60 % 60
        values["s"] = seconds % 60
    if parts["Y"]:
        values["Y"], values["M"], values["D"] = _civil(days)
    for letter, value in values.items():
        for place in reversed(parts[letter]):
            rest = value // 10
            matrix[:, place] = value - rest * 10 + ord("0")
            value = rest
    return matrix


def tokens(form: Moment, values: pa.Array) -> list[Token]:
    """The text of a moment column, empty where null."""
    if values.type.bit_width == 32:
        values = values.cast(pa.int32()).cast(pa.int64())
    number, present = numpy_of(values)
    words = _written(form, number).view(np.uint64)
    width = len(form.pattern)
    lengths = [min(8, width - 8 * k) for k in range(words.shape[1])]
    if present is None:
        return [Token(words[:, k], length) for k, length in enumerate(lengths)]
    return [Token(words[:, k], present * np.int64(length)) for k, length in enumerate(lengths)]
