"""What is wrong with a drop box now: told once in the log, and to `tape-receiver status` for as long as it lasts."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from tape.clock import Clock
from tape.log import get_logger

log = get_logger(__name__)

MOST_TOLD = 5
"""Of each drop box, in the status; all of them are in the log."""
_MOST = 1_000


class About(StrEnum):
    """What a trouble is about."""

    BOX = "box"  # the folder as a whole
    RECEIPT = "receipt"  # of one stream
    UPLOAD = "upload"  # one file that lies there
    DAMAGED = "damaged"  # one file that lay there


@dataclass(frozen=True, slots=True)
class _Trouble:
    text: str
    hint: str
    since: float
    until: float | None = None


class Troubles:
    """Those of one drop box, each by what it is about and a name there."""

    def __init__(self, agent: str, root: Path, clock: Clock) -> None:
        self._agent = agent
        self._root = root
        self._clock = clock
        self._now: dict[tuple[About, str], _Trouble] = {}

    def tell(self, about: About, name: str, text: str, hint: str = "", *, lasting: float | None = None) -> None:
        """Something is wrong; the same again, while it lasts, is no news. `lasting`: for so many seconds."""
        old = self._now.get((about, name))
        if old is None and len(self._now) >= _MOST:
            return
        if old is None or old.text != text:
            log.error("a drop box is in trouble", what=text, agent=self._agent, folder=str(self._root), hint=hint)
        now = self._clock.monotonic()
        until = None if lasting is None else now + lasting
        self._now[about, name] = _Trouble(text, hint, now if old is None else old.since, until)

    def over(self, about: About, name: str) -> None:
        """It is well again, if it was not."""
        if self._now.pop((about, name), None) is not None:
            log.info("a drop box is well again", agent=self._agent, about=about.value, name=ascii(name[:300]))

    def only(self, about: About, names: Collection[str]) -> None:
        """Of this kind there is nothing but these any more."""
        gone = [key for key in list(self._now) if key[0] is about and key[1] not in names]
        for key in gone:
            self._now.pop(key, None)

    def facts(self) -> dict[str, Any]:
        """For `status`: the first few as plain values, the gravest kind first, and how many there are."""
        now, order = self._clock.monotonic(), list(About)
        for key, one in list(self._now.items()):
            if one.until is not None and one.until <= now:
                del self._now[key]
        found = sorted(self._now.items(), key=lambda item: (order.index(item[0][0]), item[1].since, item[0][1]))
        told = [
            {"about": about.value, "text": one.text, "hint": one.hint, "since_s": round(now - one.since, 1)}
            for (about, _), one in found[:MOST_TOLD]
        ]
        return {"agent": self._agent, "folder": str(self._root), "troubles": told, "count": len(found)}
