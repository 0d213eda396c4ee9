"""A rate by the time of day: how many bytes a second may be moved when. Pure; local time comes from the caller."""

import re
from dataclasses import dataclass
from typing import Self

from tape.settings import parse_size

_ENTRY = re.compile(r"([0-2][0-9]):([0-5][0-9])\s+(.+)")
_DAY = 24 * 60
OFF = "off"


@dataclass(frozen=True, slots=True)
class Timetable:
    """Steps of (minute of the day, bytes a second or None for no limit), ascending; empty: never a limit."""

    steps: tuple[tuple[int, int | None], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `2 MiB`, `off` or `08:00 1 MiB, 23:00 off`; raises ValueError."""
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if len(parts) == 1 and not _ENTRY.fullmatch(parts[0]):
            rate = _rate(parts[0])
            return cls() if rate is None else cls(((0, rate),))
        steps = []
        for part in parts:
            found = _ENTRY.fullmatch(part)
            if not found or int(found[1]) > 23:
                raise ValueError(f"{part!r} is not a rate at a time such as '08:00 1 MiB' or '23:00 off'")
            steps.append((int(found[1]) * 60 + int(found[2]), _rate(found[3])))
        steps.sort(key=lambda step: step[0])
        if len({minute for minute, _ in steps}) != len(steps):
            raise ValueError(f"{text!r} names a time twice")
        return cls(tuple(steps))

    def at(self, minute: int) -> int | None:
        """The rate at a minute of the local day, bytes a second; None: no limit. Before the first step, the last."""
        if not self.steps:
            return None
        return next((rate for start, rate in reversed(self.steps) if start <= minute % _DAY), self.steps[-1][1])


def _rate(text: str) -> int | None:
    if text.strip().lower() == OFF:
        return None
    rate = int(parse_size(text.strip().removesuffix("/s").strip()))
    if rate <= 0:
        raise ValueError(f"{text!r}: a rate is more than nothing; `off` means no limit")
    return rate
