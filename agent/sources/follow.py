"""Reading a plain file on as it grows: from the open handle, with a look at the last bytes each time."""

import asyncio
import os

from agent.identity import Content
from agent.sources.desk import Desk, Moved
from agent.sources.handles import KEEP_OPEN, read_at
from agent.sources.lives import Life

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
    size, last = status.st_size, life.last or b""
    if size < life.offset:
        return Content.SHORTER, False
    if size == life.offset and status.st_mtime_ns == life.mtime_ns:
        life.size = size
        return Content.SAME, False
    data, recv_ns = await _read(desk, life, fd, size)
    if not data.startswith(last):
        return (Content.SHORTER if len(data) < len(last) else Content.OTHER), False
    life.size = size
    fresh = data[len(last) :]
    if life.offset + len(fresh) >= size:
        life.mtime_ns = status.st_mtime_ns
    if fresh:
        desk.unreadable.pop(life.path, None)
        await desk.deliver(life, fresh, recv_ns)
    return Content.SAME, bool(fresh)


async def _read(desk: Desk, life: Life, fd: int, size: int) -> tuple[bytes, int]:
    """The last bytes again and up to 1 MiB behind them; a file cut meanwhile gives less."""
    again = len(life.last or b"")
    start = life.offset - again
    count = again + min(BLOCK, size - life.offset)
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
