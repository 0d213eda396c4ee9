"""The receipts in a drop box: each stream's written again when it says something new, and as a sign of life."""

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from receiver.dropbox_troubles import About, Troubles
from receiver.foreign import ForeignFolder
from receiver.ingress.names import RECEIPTS
from receiver.model import Committer
from tape.clock import Clock
from tape.durable import Disk
from tape.errors import HometapeError
from tape.names import EVENTS_STREAM

RENEW = 60.0
"""Seconds after which a receipt is issued again though nothing changed: the agent sees that the box is looked at."""
_HINT = "nothing is freed on the server without it: see what lies there, and who may write; it is tried again"


@dataclass(slots=True)
class _Written:
    """A receipt as it lies in the folder."""

    meaning: Any
    at: float


class BoxReceipts:
    """Those of one agent. `streams`: which there may be."""

    def __init__(
        self,
        agent: str,
        folder: ForeignFolder,
        committer: Committer,
        troubles: Troubles,
        *,
        streams: Callable[[], Iterable[str]],
        clock: Clock,
        disk: Disk,
    ) -> None:
        self._agent = agent
        self._folder = folder
        self._committer = committer
        self._troubles = troubles
        self._streams = streams
        self._clock = clock
        self._disk = disk
        self._written: dict[str, _Written] = {}

    async def write(self) -> int:
        """Write each stream's receipt that says something new, or is old; returns how many were written.

        One that can't be written is told; the others are written nevertheless.
        """
        written = 0
        for stream in sorted({EVENTS_STREAM, *await asyncio.to_thread(lambda: list(self._streams()))}):
            try:
                written += await self._write(stream)
            except (HometapeError, OSError) as error:
                text = f"the receipt of {stream} can't be written: {error}"
                self._troubles.tell(About.RECEIPT, stream, text, _HINT)
        return written

    async def _write(self, stream: str) -> bool:
        content = await self._committer.receipt(self._agent, stream)
        if content is None:
            return False
        meaning, now, old = _meaning(content), self._clock.monotonic(), self._written.get(stream)
        if old is not None and old.meaning == meaning:
            if now - old.at < RENEW:
                return False
            content = await self._committer.receipt(self._agent, stream, anew=True) or content
        await asyncio.to_thread(self._folder.replace, f"{RECEIPTS}/{stream}.json", content, self._disk)
        self._written[stream] = _Written(meaning, now)
        self._troubles.over(About.RECEIPT, stream)
        return True


def _meaning(content: bytes) -> Any:
    """What a receipt says, without the time of its making; compared only."""
    try:
        return json.loads(content)["receipt"]["epochs"]
    except (ValueError, KeyError, TypeError):
        return content
