"""Room: NULs that reach to the end of a file are taken for bytes not yet written.

Writers make a file large first (`truncate`, `fallocate`, a map that grows ahead of its data) and fill it from the
start. So such a run is not read, and looked at again near the place where reading stopped, for as long as it is
the tail. NULs that other bytes follow are content like any others. What ends the waiting is `is_over`; what was
taken for content then is watched (`Life.hollow`), since a writer may come back all the same.
"""

import asyncio
import errno
import os

from agent.sources.desk import Desk
from agent.sources.handles import read_at
from agent.sources.lives import Life

NEAR = 1 << 14  # where room is known, so much is read to see whether something was written
_LETTER = 4  # bytes of a letter at the most: text of two or four bytes a letter ends in NULs all the time
_AT_ONCE = 1 << 24
_BLOCK = 1 << 20


async def written(life: Life, fd: int, fresh: bytes, size: int) -> int:
    """How many of the bytes read behind a life's offset are content; the rest may be room. Raises OSError.

    `life.room_to` tells how far NULs were seen behind them: less than `size` if there is more to look through.
    """
    text = len(fresh.rstrip(b"\0"))
    reach = life.offset + len(fresh)
    if text == len(fresh) or life.written_at >= reach:
        return len(fresh)
    if reach == size and len(fresh) - text < _LETTER and b"\0" in (life.last or b"") + fresh[:text]:
        return len(fresh)
    start = min(max(reach, life.room_to), size)
    if size - start > NEAR:
        at, found = await asyncio.to_thread(_look, fd, start, size)
    else:
        at, found = _look(fd, start, size)
    if found:
        life.written_at, life.room_to = at, 0
        return len(fresh)
    life.room_to = at
    return text


def is_over(desk: Desk, life: Life, mtime_ns: int) -> bool:
    """Whether NULs at the end are to be read as they are: the life ends, or nobody has written for long."""
    settle = desk.settings.room_settle
    quiet = desk.draining or desk.clock.monotonic() - life.since >= settle
    return life.closing or (quiet and desk.clock.now_ns() - mtime_ns >= settle * 1e9)


def _look(fd: int, start: int, end: int) -> tuple[int, bool]:
    """The offset of the first byte in a range that is no NUL; else how far was looked. Holes cost nothing."""
    read = 0
    while start < end and read < _AT_ONCE:
        start = min(_behind_hole(fd, start, end), end)
        block = read_at(fd, start, min(_BLOCK, end - start))
        rest = len(block.lstrip(b"\0"))
        if rest:
            return start + len(block) - rest, True
        if not block:
            return end, False
        start += len(block)
        read += len(block)
    return start, False


def _behind_hole(fd: int, start: int, end: int) -> int:
    if not hasattr(os, "SEEK_DATA"):
        return start
    try:
        return os.lseek(fd, start, os.SEEK_DATA)
    except OSError as error:
        return end if error.errno == errno.ENXIO else start
