"""What the errors of a medium mean, and how to ask the medium itself instead of the memory before it."""

import errno
from pathlib import Path

from tape.durable import Disk
from tape.errors import HometapeError

_WRITE_PROTECTED, _SHARING = 19, {32, 33}
_FORBIDDEN = {errno.EACCES, errno.EPERM}
# A share whose server went away, a disk that was pulled; on Windows: network path or name gone, connection aborted,
# device not ready, not connected, removed.
_GONE = {
    getattr(errno, name)
    for name in (
        "ENOTCONN", "ESTALE", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ETIMEDOUT",
        "ECONNABORTED", "ECONNRESET", "ESHUTDOWN", "ENODEV", "ENXIO", "ENOMEDIUM", "ENOLINK",
    )
    if hasattr(errno, name)
}  # fmt: skip
_GONE_WINDOWS = {21, 53, 55, 59, 64, 67, 121, 433, 1006, 1112, 1167, 1231, 1236}
_SHAKY, _SHAKY_WINDOWS = {errno.EIO, getattr(errno, "EREMOTEIO", errno.EIO)}, {23, 1117}
GONE_HINT = "check its cable, power and network and mount it again; it catches up by itself"


def is_forbidden(error: OSError, root: Path, disk: Disk) -> bool:
    """Whether the place takes no writes (from us). A single file may be refused: another program holds it."""
    code = getattr(error, "winerror", None)
    if code == _WRITE_PROTECTED or error.errno == errno.EROFS:
        return True
    return error.errno in _FORBIDDEN and code not in _SHARING and not takes_writes(root, disk)


def is_gone(error: OSError) -> bool:
    """Whether the share or disk itself went away."""
    code = getattr(error, "winerror", None)
    return code in _GONE_WINDOWS if code is not None else error.errno in _GONE


def is_shaky(error: OSError) -> bool:
    """Whether either one file or the whole disk can't be read or written: asking for another file tells which."""
    code = getattr(error, "winerror", None)
    return code in _SHAKY_WINDOWS if code is not None else error.errno in _SHAKY


def takes_writes(folder: Path, disk: Disk) -> bool:
    """Whether a file can be made there: a disk that went read-only by itself may still say that it can be written."""
    probe = disk.temp_path(folder)
    try:
        disk.create(probe).close()
        disk.remove(probe)
    except (HometapeError, OSError):
        return False
    return True
