"""The agent's nouns as plain values: origins, chunks, known files, sealed segments, events."""

from dataclasses import dataclass
from enum import StrEnum

from tape.names import SegmentName


@dataclass(frozen=True, slots=True)
class Origin:
    """One life of one file. A truncated or re-created file starts a new one; a renamed, copied-away or
    compressed file stays the same. `name` is the path as first seen (surrogate escapes kept).
    """

    file_id: str
    source: str
    stream: str
    name: str
    format: str = "auto"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes of an origin as they were read: any length, any alignment, gapless and ascending per origin.

    `start` is the offset of data[0] in the (decompressed) content, `recv_ns` the time it was read.
    """

    origin: Origin
    start: int
    data: bytes
    recv_ns: int


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What the outbox remembers of an origin of which something was sealed.

    `offset`: everything before it is in sealed segments. `head`/`tail`: XXH3-128 of the first, and of
    the last, min(offset, 4096) bytes before `offset`. `path`, `device`, `inode`: where it was last
    seen (device/inode 0 where the system has none). For the content of a compressed file they are those
    of that file, and `path` may end in `!<member>`.
    """

    origin: Origin
    path: str
    device: int
    inode: int
    offset: int
    head_length: int
    head: str
    tail_length: int
    tail: str
    finished: bool = False


class State(StrEnum):
    """The life of a segment in the outbox; the table of moves is in agent.lifecycle."""

    SEALED = "sealed"  # durable here, not yet held at home
    HELD = "held"  # durable at home, or left in the drop box of a plain server
    SAFE = "safe"  # as many copies as the policy demands; the spool file may go
    RELEASED = "released"  # the spool file is gone
    REFUSED = "refused"  # the receiver will not take it; kept until a person decides
    LOST = "lost"  # its spool file vanished or changed here before home called it safe


@dataclass(frozen=True, slots=True)
class Spooled:
    """A segment as the outbox knows it. `path` is relative to the spool. Sizes in bytes, times in ns.

    `again`: home held it once and lacks it now, so it is sent behind what is new. `delivered_ns`: when it was left with
    a plain server, as long as no receipt tells of it; else 0.
    """

    id: int
    stream: str
    name: SegmentName
    path: str
    size: int
    sha256: str
    chain: str
    rows: int
    sealed_ns: int
    state: State = State.SEALED
    reason: str = ""
    again: bool = False
    delivered_ns: int = 0


class EventKind(StrEnum):
    """What can go wrong or change around the ticks; recorded durably in the stream `hometape/events`."""

    ROTATED = "rotated"
    TRUNCATED = "truncated"
    RECREATED = "re-created"
    REWRITTEN = "rewritten"  # made anew again and again
    DELETED = "deleted"
    FINISHED = "finished"
    COMPRESSED = "compressed"
    UNREADABLE = "unreadable"
    GAP = "gap"
    SCHEMA = "schema"
    CLOCK = "clock"
    STARTED = "started"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `fault` is feed, agent, transport or storage for a gap, else empty; `detail` are plain facts."""

    kind: EventKind
    source: str
    stream: str
    file: str
    ns: int
    detail: dict[str, str | int | None]
    fault: str = ""
