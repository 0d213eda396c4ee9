"""Reading a plain file on as it grows: from the open handle, with a look at the last bytes each time."""

import asyncio
import os

from agent.identity import Content
from agent.sources.desk import Desk, Moved, filled
from agent.sources.handles import KEEP_OPEN, read_at
from agent.sources.lives import Life
from agent.sources.room import NEAR, is_over, written

BLOCK = 1 << 20
_SMALL = 1 << 17  # reads up to this are quicker than a change of thread
_BLOCKS_A_TURN = 8


async def follow(desk: Desk, life: Life) -> tuple[Content, bool]:
    """Read what there is, up to a bound. Returns what was found, and whether there is more.

    UNSEEN: it can't be read now, or its path leads elsewhere (a scan has to tell). SHORTER, OTHER: the
    content that was read is gone; nothing was delivered then. Never raises OSError.
    """
    if not life.there and desk.handles.get(life.key) is None:
        return Content.UNSEEN, False
    life.busy = True
    try:
        fd = desk.handle(life)
        found, more = (desk.compare(life, fd), True) if life.last is None else (Content.SAME, True)
        for _ in range(_BLOCKS_A_TURN):
            if found is not Content.SAME or not more:
                break
            found, more = await _step(desk, life, fd)
        return found, more and found is Content.SAME
    except (Moved, FileNotFoundError):
        return Content.UNSEEN, False
    except OSError as error:
        await desk.refused(life.path, life.origin, error)
        return Content.UNSEEN, False
    finally:
        life.busy = False
        if not KEEP_OPEN:
            desk.release(life)


async def _step(desk: Desk, life: Life, fd: int) -> tuple[Content, bool]:
    """One read and its delivery."""
    status = os.fstat(fd)
    size = status.st_size
    if size < life.offset:
        return Content.SHORTER, False
    if filled(life, fd):
        return Content.OTHER, False
    if size == life.offset and status.st_mtime_ns == life.mtime_ns:
        life.size = size
        return Content.SAME, False
    life.closing = is_over(desk, life, status.st_mtime_ns)
    life.room_to = min(life.room_to, size)
    most = BLOCK if life.room_to <= life.offset or life.closing else NEAR
    found, fresh, recv_ns = await _fresh(desk, life, fd, min(most, size - life.offset))
    if found is not Content.SAME:
        return found, False
    count = len(fresh) if life.closing else await written(life, fd, fresh, size)
    if b"\0" in fresh[:count]:
        # Bytes behind these NULs may have been written after these were read: now they are what they will be.
        found, fresh, recv_ns = await _fresh(desk, life, fd, count)
        if found is not Content.SAME or len(fresh) < count:
            return found, found is Content.SAME
    fresh = fresh[:count]
    life.size = size
    if fresh:
        desk.unreadable.pop(life.path, None)
        if life.closing and fresh.endswith(b"\0") and life.hollow is None:
            life.hollow = life.offset + len(fresh.rstrip(b"\0"))
        await desk.deliver(life, fresh, recv_ns)
    if life.offset >= size:
        life.mtime_ns, life.closing = status.st_mtime_ns, False
    return Content.SAME, bool(fresh) or 0 < life.room_to < size


async def _fresh(desk: Desk, life: Life, fd: int, count: int) -> tuple[Content, bytes, int]:
    """What follows a life's offset, if the bytes before it are still there; and when it was read."""
    last = life.last or b""
    data, recv_ns = await _read(desk, fd, life.offset - len(last), len(last) + count)
    if not data.startswith(last):
        return (Content.SHORTER if len(data) < len(last) else Content.OTHER), b"", recv_ns
    return Content.SAME, data[len(last) :], recv_ns


async def _read(desk: Desk, fd: int, start: int, count: int) -> tuple[bytes, int]:
    """Bytes of a file and when they were read; a file cut meanwhile gives less."""
    if count <= _SMALL:
        return read_at(fd, start, count), desk.clock.now_ns()
    return await asyncio.to_thread(_read_all, fd, start, count), desk.clock.now_ns()


def _read_all(fd: int, start: int, count: int) -> bytes:
    data = read_at(fd, start, count)
    while len(data) < count:
        more = read_at(fd, start + len(data), count - len(data))
        if not more:
            break
        data += more
    return data
