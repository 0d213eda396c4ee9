"""Direct I/O: large writes that go past the page cache, for bytes that this machine won't read again soon.

A cached write costs a page of memory for each 4 KiB, the copy into it, and the kernel's later walk over it; for
segments of megabytes that is as much processor time as receiving them. What is durable when is the same: fsync.

Only on ext4, which keeps room ahead for a file that grows: XFS and Btrfs would leave files that grow side by side in
pieces of a write's size, a network file system would wait for its server at each. There, and for whatever is small or
crooked, the write is an ordinary one.
"""

import ctypes
import errno
import functools
import io
import mmap
import os
import sys
import threading
from typing import BinaryIO

ALIGN = 4096  # bytes: what place, size and memory must be multiples of, on disks of 512 and of 4096 bytes a block
SMALLEST = 1 << 18
"""Bytes below which a write is left to the cache: the disk would be waited for too often."""
_MOST = 1 << 20
_EXT = 0xEF53
_REFUSED = {errno.EINVAL, errno.EOPNOTSUPP}


def file_system(number: int) -> int:
    """The magic number of the file system that an open file lies in, as statfs(2) gives it; 0 if it gives none."""
    if sys.platform != "linux":
        return 0
    found = ctypes.create_string_buffer(512)
    if _libc().fstatfs(number, found) != 0:
        return 0
    return ctypes.c_long.from_buffer(found).value & 0xFFFFFFFF


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


class _Memory(threading.local):
    """Aligned memory, one piece for each thread: the kernel reads from it until the write returns."""

    def __init__(self) -> None:
        self.view = memoryview(mmap.mmap(-1, _MOST))


_memory = _Memory()


class DirectFile(io.RawIOBase):
    """An unbuffered file, written as said above. It owns the file it is given, and has its place and name.

    `able`: the magic numbers of file systems that are written so.
    """

    def __init__(self, file: BinaryIO, able: frozenset[int] = frozenset({_EXT})) -> None:
        self._file = file
        self.name = file.name
        self.direct = False
        """Whether the last write went past the cache."""
        self._able = able
        self._may: bool | None = None  # not asked yet

    def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]  # BinaryIO's own types
        """Write the first bytes, at least one; returns how many. Raises OSError."""
        size = min(len(data), _MOST) & -ALIGN
        if size >= SMALLEST and self._file.tell() % ALIGN == 0 and self._turn(direct=True):
            aligned = _memory.view[:size]
            aligned[:] = memoryview(data)[:size]
            try:
                return self._file.write(aligned)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                self._may = False
        self._turn(direct=False)
        return self._file.write(data)

    def _turn(self, *, direct: bool) -> bool:
        """Direct writes from now on, or ordinary ones; whether they are direct."""
        if direct and self._may is None:
            self._may = file_system(self._file.fileno()) in self._able
        wanted = direct and bool(self._may)
        if sys.platform == "linux" and wanted != self.direct:
            import fcntl

            flags = fcntl.fcntl(self._file.fileno(), fcntl.F_GETFL)
            try:
                fcntl.fcntl(self._file.fileno(), fcntl.F_SETFL, flags ^ os.O_DIRECT)
                self.direct = wanted
            except OSError:  # not there, whatever its kind promises: an encrypted folder, for one
                self._may = False
        return self.direct

    def fileno(self) -> int:
        """The number of the open file."""
        return self._file.fileno()

    def tell(self) -> int:
        """The place of the next write."""
        return self._file.tell()

    def truncate(self, size: int | None = None, /) -> int:
        """Cut it off there; the place stays."""
        return self._file.truncate(size)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
