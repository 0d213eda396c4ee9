"""How much the agent takes of the server: memory, spool, disk. Pure: values in, decisions out."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

FRAGMENT = 4 * 2**20  # a line is kept whole up to this many bytes; longer ones become fragments of this size
PIECE = 2**20  # text is handed to an open writer in pieces of at least this many bytes
BIG_PIECE = 2 * 2**20  # and of at most this many, but for one line
BIG_ROWS = 2**17  # and of at most so many rows: parsing a row takes memory even where it is empty


class Pause(StrEnum):
    """Why sealing waits. Nothing is dropped: files wait unread, and work resumes by itself."""

    NONE = ""
    SPOOL_FULL = "the spool has reached spool.max_bytes"
    DISK_LOW = "the file system has less free than spool.keep_free"
    DISK_FULL = "the disk is full"
    DISK_ERROR = "the disk refuses"


@dataclass(frozen=True, slots=True)
class Load:
    """What one origin holds in memory, bytes. `whole`: text up to its last line end, not yet in a writer;
    `partial`: an unfinished last line; `kept`: packed text of its open segment, kept until that is sealed.
    """

    key: str
    whole: int
    partial: int
    kept: int


class Relief(StrEnum):
    """What to do with an origin so that memory becomes free."""

    SEAL = "seal"
    CUT = "cut its unfinished line into a fragment, then seal"


def may_seal(*, spooled: int, max_bytes: int, free: int, keep_free: int) -> Pause:
    """Whether a new segment may be started: spool size, its limit, free space, its reserve, all in bytes."""
    if free < keep_free:
        return Pause.DISK_LOW
    if spooled >= max_bytes:
        return Pause.SPOOL_FULL
    return Pause.NONE


def relieve(loads: Iterable[Load], excess: int) -> list[tuple[str, Relief]]:
    """Which origins to seal early so that `excess` bytes become free: the largest first.

    Whole lines and open segments go first; unfinished lines are cut only if that is not enough.
    """
    if excess <= 0:
        return []
    chosen: list[tuple[str, Relief]] = []
    ranked = sorted(loads, key=lambda load: (load.whole + load.kept, load.partial), reverse=True)
    for load in ranked:
        if excess <= 0 or not load.whole + load.kept:
            break
        chosen.append((load.key, Relief.SEAL))
        excess -= load.whole + load.kept
    if excess > 0:
        for load in sorted(ranked, key=lambda load: load.partial, reverse=True):
            if excess <= 0 or not load.partial:
                break
            chosen = [(key, relief) for key, relief in chosen if key != load.key]
            chosen.append((load.key, Relief.CUT))
            excess -= load.partial
    return chosen
