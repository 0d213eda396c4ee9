"""Open files: a bounded number, the least recently used closed first, and open so that the owner of a
file may rename or delete it (which Windows allows only where every reader asked for it).
"""

import os
import sys
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice

_TRIED = 16  # those that may not be closed are few, and no reason to look through all the others each time

# Where a deleted file keeps its name until the last reader closes it, a kept handle would stop the owner
# from writing it anew: there files are opened for each read.
KEEP_OPEN = sys.platform != "win32"

if sys.platform == "win32":
    import ctypes
    import msvcrt

    def open_shared(path: str) -> int:
        """A file descriptor for reading that lets others write, rename and delete; raises OSError."""
        create = ctypes.WinDLL("kernel32", use_last_error=True).CreateFileW
        create.restype = ctypes.c_void_p
        create.argtypes = [ctypes.c_wchar_p] + [ctypes.c_uint32] * 2 + [ctypes.c_void_p] + [ctypes.c_uint32] * 2
        create.argtypes += [ctypes.c_void_p]
        # GENERIC_READ; FILE_SHARE_READ | WRITE | DELETE; OPEN_EXISTING; FILE_ATTRIBUTE_NORMAL
        handle = create(path, 0x80000000, 0x7, None, 3, 0x80, None)
        if handle is None or handle == ctypes.c_void_p(-1).value:
            raise ctypes.WinError(ctypes.get_last_error())
        return msvcrt.open_osfhandle(handle, os.O_RDONLY | os.O_BINARY)

    def read_at(fd: int, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`; raises OSError. One reader per descriptor at a time."""
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, count)

    def raise_limit() -> int:
        """How many files may be open at once."""
        return 2048

else:
    import resource

    def open_shared(path: str) -> int:
        """A file descriptor for reading; raises OSError. Never waits: a pipe in place of a file is refused later."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)

    def read_at(fd: int, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`; raises OSError."""
        return os.pread(fd, count, offset)

    def raise_limit() -> int:
        """Lift this process's soft limit of open files to the hard one (65,536 at the most) and return it."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                soft = wanted
            except (OSError, ValueError):  # forbidden here: live with what there is
                pass
        return wanted if soft == resource.RLIM_INFINITY else soft


class Handles:
    """Descriptors by key (a file id), at most `limit`; `on_close` is told which key was closed to make room."""

    def __init__(self, limit: int, on_close: Callable[[str], bool]) -> None:
        self._limit = max(8, limit)
        self._open: OrderedDict[str, int] = OrderedDict()
        self._on_close = on_close

    def __len__(self) -> int:
        return len(self._open)

    def get(self, key: str) -> int | None:
        """The descriptor, if it is open; it becomes the most recently used."""
        fd = self._open.get(key)
        if fd is not None:
            self._open.move_to_end(key)
        return fd

    def put(self, key: str, fd: int) -> None:
        """Keep a descriptor. Others are closed for it, oldest first, unless `on_close(key)` refuses."""
        self.close(key)
        self._open[key] = fd
        if len(self._open) > self._limit:
            for old in list(islice(self._open, _TRIED)):
                if len(self._open) <= self._limit:
                    break
                if old != key and self._on_close(old):
                    self.close(old)

    def close(self, key: str) -> None:
        """Close one, if it is open."""
        fd = self._open.pop(key, None)
        if fd is not None:
            os.close(fd)

    def close_all(self) -> None:
        """Close every descriptor."""
        for key in list(self._open):
            self.close(key)
