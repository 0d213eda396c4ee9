"""Frames: lines that begin with the time at which a recorder received them.

A number of the right width is such a time if it lies between 2001, when seconds got their tenth digit, and
`LATEST_NS`, and if a sample of them goes on as a clock does: hardly ever back, and mostly in steps below
an hour. Identifiers and the dates of bars do not. Lines that miss the range later on are strays.
"""

import re
from itertools import pairwise

import numpy as np
import pyarrow as pa

from tape.footer import LATEST_NS
from tape.layout import numbers
from tape.layout.model import Number, Stamp
from tape.layout.scan import RETURN, Lines, slices
from tape.layout.words import Ints, Mask, Span, Text, Token

_FRAME = re.compile(rb"(?P<whole>[1-9][0-9]{9}(?:[0-9]{3}){0,3})(?:\.(?P<fraction>[0-9]{1,9}))?(?P<separator>: ?| )")
_HOUR = 3_600_000_000_000


def detect(lines: list[bytes], *, said: bool = False) -> Stamp | None:
    """The stamp that most of the lines begin with; None if they are no frames. `said`: the user says that they are."""
    matches = [match for line in lines if (match := _FRAME.match(line)) and _time(match) < LATEST_NS]
    if not matches or 10 * len(matches) < 8 * len(lines):
        return None
    if not said and not _goes_on(list(map(_time, matches))):
        return None
    separators = {match["separator"].decode() for match in matches}
    if len(separators) != 1 or (separator := separators.pop()) not in {" ", ": "}:
        return None
    fractions = [len(match["fraction"] or b"") for match in matches]
    widths = {len(match["whole"]) for match in matches}
    if len(widths) != 1:
        return None
    width = widths.pop()
    if not any(fractions):
        return Stamp(width, None, separator) if width > 10 else None
    if width != 10:
        return None
    return Stamp(10, (min(*fractions, 1), 9), separator) if _trimmed(matches) else _fixed(fractions, separator)


def _time(match: re.Match[bytes]) -> int:
    """The time in ns that a line begins with."""
    whole = match["whole"]
    fraction: bytes = match["fraction"] or b""
    return int(whole) * int(10 ** (19 - len(whole))) + int(fraction.ljust(9, b"0"))


def _goes_on(times: list[int]) -> bool:
    """Whether these are times of a clock, one after the other."""
    steps = sorted(after - before for before, after in pairwise(times))
    back = sum(step < 0 for step in steps)
    return 10 * back <= len(steps) and (not steps or steps[len(steps) // 2] <= _HOUR)


def _trimmed(matches: list[re.Match[bytes]]) -> bool:
    return not any((match["fraction"] or b"")[1:].endswith(b"0") for match in matches)


def _fixed(fractions: list[int], separator: str) -> Stamp | None:
    return Stamp(10, (fractions[0], fractions[0]), separator) if len(set(fractions)) == 1 else None


def _form(stamp: Stamp) -> Number:
    least, most = stamp.fraction or (0, 0)
    return Number(scale=most, least=least)


def _factor(stamp: Stamp) -> int:
    """Nanoseconds of one unit of the parsed number."""
    digits = 9 - stamp.fraction[1] if stamp.fraction else 19 - stamp.digits
    return int(10**digits)


def parse(stamp: Stamp, eol: str, text: Text, lines: Lines) -> tuple[Ints, Ints, Ints, Mask]:
    """Receive time in ns, start and end of the payload per line, and which lines are frames of this stamp.

    Where the mask is false the rest means nothing, but start <= end holds and both ascend.
    """
    starts, stops = lines.starts, lines.ends - len(eol)
    good = np.ones(len(lines), bool)
    if not lines.whole:
        good[-1] = False
    if len(eol) == 2:
        good &= text.at(np.maximum(stops, 0)) == RETURN
    cuts = _cuts(stamp, text, starts)
    good &= cuts + len(stamp.separator) <= stops
    for k, char in enumerate(stamp.separator.encode()):
        good &= text.at(np.minimum(cuts + k, text.size)) == char
    cuts = np.where(good, cuts, starts)
    values, fits = numbers.parse(_form(stamp), Span(text, starts, cuts), digits=19)
    good &= cuts > starts
    if fits is not None:
        good &= fits
    number, _ = numbers.numpy_of(values)
    factor = _factor(stamp)
    seconds = number // (10**9 // factor) if stamp.fraction else number
    good &= (seconds >= 10 ** (stamp.digits - 1)) & (number < LATEST_NS // factor)
    number = np.where(good, number, 0) * factor
    begins = np.where(good, cuts + len(stamp.separator), starts)
    return number, begins, np.where(good, stops, starts), good


def _cuts(stamp: Stamp, text: Text, starts: Ints) -> Ints:
    """Where the separator should start."""
    if stamp.fraction is None:
        return starts + stamp.digits
    places = np.flatnonzero(text.bytes == ord(stamp.separator[0]))
    if not len(places):
        return starts
    index = np.searchsorted(places, starts)
    return places[np.minimum(index, len(places) - 1)]


def payloads(text: Text, begins: Ints, ends: Ints) -> pa.Array:
    """The payload of every frame."""
    return slices(text, begins, ends)


def tokens(stamp: Stamp, received: pa.Array) -> list[Token]:
    """The text of the stamps."""
    number, _ = numbers.numpy_of(received)
    number = number // _factor(stamp)
    form = _form(stamp)
    return numbers.tokens(form, _as_stored(form, number))


def _as_stored(form: Number, number: Ints) -> pa.Array:
    return pa.Array.from_buffers(numbers.storage(form), len(number), [None, pa.py_buffer(number)])
