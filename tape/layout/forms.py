"""The narrowest form that some fields are in."""

import re
from collections import Counter
from collections.abc import Iterable

from tape.layout import moments
from tape.layout.model import Form, Number, Plain

_NUMBER = re.compile(rb"-?([0-9]+)(?:\.([0-9]+))?")


def few(count: int) -> int:
    """How many of so many values may miss a form that a sample is said to have."""
    return max(count // 100, min(count // 10, 16))


def form_of(values: Iterable[bytes]) -> Form:
    """The narrowest form that all but a few of some fields are in; a whole number where all are empty."""
    filled = [value for value in values if value]
    if not filled:
        return Number()
    numbers = [match for value in filled if (match := _NUMBER.fullmatch(value))]
    if len(filled) - len(numbers) <= few(len(filled)):
        return _number_of(numbers) or Plain()
    for form in moments.candidates(Counter(filled).most_common(1)[0][0]):
        if sum(len(value) == len(form.pattern) for value in filled) >= len(filled) - few(len(filled)):
            return form
    return Plain()


def _number_of(matches: list[re.Match[bytes]]) -> Number | None:
    """The form of some numbers; a few that no form has in common with the rest are left aside."""
    form = _common(matches)
    if form is not None:
        return form
    allowed = few(len(matches))
    unpadded = [match for match in matches if len(match[1]) == 1 or not match[1].startswith(b"0")]
    if len(matches) - len(unpadded) <= allowed:
        form = _common(unpadded)
        matches = unpadded
    if form is None:
        size = Counter(len(match[2] or b"") for match in matches).most_common(1)[0][0]
        fixed = [match for match in matches if len(match[2] or b"") == size]
        form = _common(fixed) if len(matches) - len(fixed) <= allowed else None
    return form


def _common(matches: list[re.Match[bytes]]) -> Number | None:
    """The narrowest form that all of some numbers are in."""
    wholes = [match[1] for match in matches]
    fractions = [match[2] or b"" for match in matches]
    scale, least = max(map(len, fractions)), min(map(len, fractions))
    if any(len(part) > least and part.endswith(b"0") for part in fractions):
        return None
    padded = [len(whole) for whole in wholes if len(whole) > 1 and whole.startswith(b"0")]
    pad = max(padded, default=1)
    if pad > 18 or (padded and min(map(len, wholes)) < pad):
        return None
    longest = max(map(len, wholes))
    if longest + scale <= 18 or (scale == 0 and all(int(whole) < 1 << 63 for whole in wholes)):
        return Number(scale, least, pad)
    return Number(scale, least, pad, wide=True) if longest + scale <= 38 else None
