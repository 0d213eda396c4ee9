"""Files of a folder at their lowest: opened without following links, their bytes taken from the medium, digested.

Imports next to nothing, so that the child of `receiver.targets.worker` starts at once.
"""

import contextlib
import errno
import io
import os
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tape.digest import BLOCK, BothDigests, new_xxh3

T = TypeVar("T")
Digests = tuple[int, str, str]
"""Size in bytes, XXH3-128, SHA-256 of what was read."""

_JUNCTION = 0xA0000003  # Windows: a folder that is another one
_NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT: int = getattr(os, "O_NONBLOCK", 0)
_AHEAD = 16 * 2**20
_OPEN = 64


class _Buffer(threading.local):
    """One block for each thread: a fresh one for every read costs more than the digest of it."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(BLOCK))


_buffer = _Buffer()


def is_link(path: str | os.PathLike[str]) -> bool:
    """Whether it is a link, to a file or a folder."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISLNK(found.st_mode) or getattr(found, "st_reparse_tag", 0) == _JUNCTION


def not_following(path: str, flags: int) -> int:
    """An opener that refuses a link, a named pipe, a device or a socket: OSError ELOOP, and it waits for none of them.

    Where the system can't refuse a link, is_link says it before.
    """
    try:
        number = os.open(path, flags | _NO_FOLLOW | _NO_WAIT)
    except BlockingIOError:  # another machine holds it by way of a file server of this one, which has to ask it
        return os.open(path, flags | _NO_FOLLOW)
    except OSError as error:
        if error.errno == errno.ENXIO and stat.S_ISSOCK(os.lstat(path).st_mode):
            raise _no_file(path) from error
        raise
    if _NO_WAIT:
        mode = os.fstat(number).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a folder is refused as such
            os.close(number)
            raise _no_file(path)
        os.set_blocking(number, True)
    return number


def _no_file(path: str) -> OSError:
    return OSError(errno.ELOOP, "no plain file", path)


def drop_pages(number: int) -> None:
    """Ask the system to forget a file's clean pages, so that the next read comes from the medium."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # advice that a file system need not take
            os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)


def ask_medium(number: int) -> None:
    """Forget what memory holds of an open file, and have the medium asked for it meanwhile, where the system can."""
    if sys.platform == "linux":
        drop_pages(number)
        with contextlib.suppress(OSError):
            os.posix_fadvise(number, 0, _AHEAD, os.POSIX_FADV_WILLNEED)


def opened_ahead(
    items: Iterable[T], opening: Callable[[T], io.FileIO], failures: tuple[type[Exception], ...]
) -> Iterator[tuple[T, io.FileIO | Exception]]:
    """Items with their files, opened some way ahead and the medium asked for them: it fetches the next ones meanwhile.

    Not so far where no more may be open. Who takes a file closes it, before it asks for the next. One that can't be
    opened is given as its error, if that is among `failures`.
    """
    ahead: deque[tuple[T, io.FileIO | Exception]] = deque()
    try:
        for item in items:
            while True:
                try:
                    file = opening(item)
                    ask_medium(file.fileno())
                    ahead.append((item, file))
                except failures as error:
                    if ahead and _too_many(error):
                        yield ahead.popleft()
                        continue
                    ahead.append((item, error))
                break
            if len(ahead) >= _OPEN:
                yield ahead.popleft()
        while ahead:
            yield ahead.popleft()
    finally:
        for _, left in ahead:
            if isinstance(left, io.FileIO):
                left.close()


def _too_many(error: Exception) -> bool:
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in {errno.EMFILE, errno.ENFILE}


def digests(file: io.FileIO, known: str, *, again: bool, size: int, moved: Callable[[], None]) -> Digests:
    """What an open file holds. `known`: its SHA-256, where only XXH3-128 is asked for; `again`: it is read again
    soon, so that its pages may stay; `size`: how many bytes it should have, -1 where that is not known; `moved` is
    called after each block. Raises OSError.
    """
    both, fast, done = BothDigests(), new_xxh3(), 0
    taking = fast if known else both
    while count := file.readinto(_buffer.view):
        taking.update(_buffer.view[:count])
        done += count
        moved()
        if done == size and count < BLOCK:  # it gave all it has
            break
    if not again:
        drop_pages(file.fileno())
    return (done, fast.hexdigest(), known) if known else (done, both.digest, both.sha256)


def fill(file: io.FileIO, source: io.FileIO, most: int) -> tuple[int, str]:
    """Write what a source holds, and have it begin to be written out; size and XXH3-128. It ends soon after so many
    bytes, for a source that gives more is a wrong one. Raises OSError.
    """
    fast, done = new_xxh3(), 0
    while done <= most and (count := source.readinto(_buffer.view)):
        block = _buffer.view[:count]
        fast.update(block)
        done += count
        while block:
            block = block[file.write(block) :]
    drop_pages(file.fileno())
    return done, fast.hexdigest()
