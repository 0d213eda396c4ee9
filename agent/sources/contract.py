"""What a source needs from the agent, and what it promises."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from agent.model import Chunk, Event, KnownFile, Origin


class Positions(Protocol):
    """The durable side of a source's place, kept by the outbox."""

    def known_files(self, source: str) -> Iterable[KnownFile]:
        """Every origin of a source of which something was sealed, finished ones included."""

    def moved(self, file_id: str, path: str, device: int, inode: int) -> None:
        """Record durably that a known origin now lies elsewhere. Unknown ids are ignored."""


class Intake(Protocol):
    """Takes chunks. Awaiting `take` is the only back-pressure: it returns when there is room."""

    async def take(self, chunk: Chunk, *, path: str, device: int, inode: int) -> None:
        """Accept bytes. They are durable only once sealed; after a restart the source starts again at
        the known offset. `path`, `device`, `inode`: where the origin lies now.
        """

    async def finish(self, origin: Origin) -> None:
        """Nothing will follow for this origin: seal what is left, a partial last line included."""

    async def event(self, event: Event) -> None:
        """Record an event durably, in order with the chunks taken before it."""


@dataclass(frozen=True, slots=True)
class Unread:
    """Archives that wait to be read: how many, bytes on disk, for how many seconds, and which one for that long."""

    archives: int = 0
    size: int = 0
    waits_s: float = 0.0
    oldest: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """What of a source is to be told in status. `rewritten`: paths of files that are made anew again and again."""

    unread: Unread = Unread()
    rewritten: tuple[str, ...] = ()


class Source(Protocol):
    """A running source."""

    async def run(self, intake: Intake, positions: Positions) -> None:
        """Read until cancelled. A file that can't be read is an event and a log line, never an exception."""

    async def drain(self, intake: Intake, positions: Positions) -> None:
        """Read everything that is there now, finish nothing that may still grow, then return."""
