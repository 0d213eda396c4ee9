"""Since when something lacks, pure: told from what was seen at the last look and what is seen now.

A lack is named by its text, `1 of 2 sites` or whatever the caller calls it, and known by the oldest
segment it concerns. Nobody keeps a history of every segment: the first look that finds a lack dates it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Lack:
    """`oldest_ns`: when the oldest segment it concerns was committed; `since_ns`: since when it lasts at least."""

    oldest_ns: int
    since_ns: int


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look found: every lack by its text. `at_ns`: when, None before the first."""

    at_ns: int | None = None
    lacks: dict[str, Lack] = field(default_factory=dict)


def observe(previous: Looked, now_ns: int, found: Mapping[str, int]) -> Looked:
    """The next look. `found`: each lack there is now with the commit time of the oldest segment it concerns.

    A new lack began when its oldest segment was committed, or, if that was there at the last look
    already, after that look. A known one keeps its beginning, or begins later where older segments
    have been healed since. One that is gone is forgotten. A time that is still to come is that of a clock which was
    wrong, and is passed over: no lack waits for it.
    """
    lacks = {}
    for what, oldest in found.items():
        known = previous.lacks.get(what)
        earliest = known.since_ns if known is not None else previous.at_ns
        past = [when for when in (oldest, earliest) if when is not None and when <= now_ns]
        lacks[what] = Lack(oldest, max(past, default=now_ns))
    return Looked(now_ns, lacks)
