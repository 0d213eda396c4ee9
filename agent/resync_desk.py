"""The desk between `tape-agent resync` and whoever has the outbox open: what is asked for, and how far it is.

An ask is a small durable file; it goes only after its last word is on the desk. So a command or a service may die
at any time: whoever opens the outbox next does it from the start, and a comparison starts from facts alone.
"""

import contextlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tape.clock import Clock
from tape.durable import Disk
from tape.errors import HometapeError
from tape.log import get_logger

FOLDER = "resync"
_ASK, _TOLD = ".ask", ".json"
_FORGET_NS = 86_400 * 10**9
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ask:
    """One resync. `streams`: patterns, none for all. `bandwidth`: bytes a second of what is sent again, 0: any."""

    id: str
    asked_ns: int
    streams: tuple[str, ...] = ()
    dry_run: bool = False
    bandwidth: int = 0

    def same(self, other: "Ask") -> bool:
        """Whether the other asks for the same."""
        return (self.streams, self.dry_run, self.bandwidth) == (other.streams, other.dry_run, other.bandwidth)


class Desk:
    """The folder `resync` of a state folder. Raises DiskError where something can't be written."""

    def __init__(self, state: Path, *, clock: Clock, disk: Disk) -> None:
        self._folder = state / FOLDER
        self._clock = clock
        self._disk = disk

    def put(self, streams: Sequence[str], *, dry_run: bool, bandwidth: int) -> tuple[Ask, bool]:
        """Ask for a resync, durably; one that asks for the same and waits already is joined.

        Returns it, and whether it is new.
        """
        ask = Ask(secrets.token_hex(8), self._clock.now_ns(), tuple(sorted(streams)), dry_run, bandwidth)
        for waiting in self.waiting():
            if waiting.same(ask):
                return waiting, False
        self._disk.make_dirs(self._folder)
        self._disk.write_new(self._ask(ask), json.dumps(asdict(ask)).encode("ascii"))
        return ask, True

    def waiting(self) -> list[Ask]:
        """What is asked for and not done, oldest first. A file that can't be read is put out of the way."""
        found = []
        for path in sorted(self._folder.glob(f"*{_ASK}")):
            try:
                plain = json.loads(path.read_text(encoding="ascii"))
                found.append(Ask(**{**plain, "streams": tuple(plain["streams"])}))
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("a request for a resync can't be read and is dropped", file=str(path), error=str(error))
                with contextlib.suppress(HometapeError):
                    self._disk.remove(path)
        return sorted(found, key=lambda ask: (ask.asked_ns, ask.id))

    def tell(self, ask: Ask, facts: dict[str, Any]) -> None:
        """How far it is; worth nothing after a crash."""
        self._disk.make_dirs(self._folder)
        self._disk.replace_loosely(self._told(ask), _json({**facts, "written_ns": self._clock.now_ns()}))

    def finish(self, ask: Ask, facts: dict[str, Any]) -> None:
        """The last word on it."""
        self._disk.make_dirs(self._folder)
        self._disk.replace(self._told(ask), _json({**facts, "written_ns": self._clock.now_ns(), "done": True}))
        self.withdraw(ask)

    def withdraw(self, ask: Ask) -> None:
        """Nobody wants it any more."""
        self._disk.remove(self._ask(ask))

    def told(self, ask: Ask) -> dict[str, Any]:
        """What was told of it last; empty if nothing was."""
        try:
            facts: dict[str, Any] = json.loads(self._told(ask).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return facts

    def forget(self, ask: Ask) -> None:
        """It was read to its end."""
        self._disk.remove(self._told(ask))

    def tidy(self) -> None:
        """Delete last words that nobody has read for a day."""
        kept = {self._told(ask) for ask in self.waiting()}
        for path in sorted(self._folder.glob(f"*{_TOLD}")):
            if path not in kept and self._clock.now_ns() - path.stat().st_mtime_ns > _FORGET_NS:
                self._disk.remove(path)
        if self._folder.is_dir():
            self._disk.clear_temps(self._folder)

    def _ask(self, ask: Ask) -> Path:
        return self._folder / f"{ask.id}{_ASK}"

    def _told(self, ask: Ask) -> Path:
        return self._folder / f"{ask.id}{_TOLD}"


def _json(facts: dict[str, Any]) -> bytes:
    return json.dumps(facts).encode("utf-8")
