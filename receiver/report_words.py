"""The words of the status: levels, reasons, and ages."""

from dataclasses import dataclass

OK, WARNING, CRITICAL = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the exit code is what it is: level 1 or 2, the fact, and what to do."""

    level: int
    text: str
    hint: str = ""


def age(now_ns: int, then_ns: int | None) -> float | None:
    """Seconds from a time to now, never less than nothing; None for never."""
    return None if then_ns is None else max(0.0, (now_ns - then_ns) / 1e9)
