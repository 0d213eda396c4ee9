"""Giving a private file its place in another folder, on the same file system or not, without replacing anything."""

import errno
from pathlib import Path

from tape.digest import BLOCK
from tape.durable import Disk, named
from tape.errors import AlreadyThere, DiskError


def move_new(disk: Disk, source: Path, final: Path, temp_folder: Path) -> None:
    """Give `source` the name `final`; neither is fsynced here. Raises AlreadyThere, DiskFull, DiskError.

    On another file system the bytes are copied through a temporary file in `temp_folder`, which must
    be on the file system of `final`, and `source` is deleted.
    """
    try:
        disk.place(source, final)
    except DiskError as error:
        if getattr(error.__cause__, "errno", None) != errno.EXDEV:
            raise
    else:
        return
    temp = disk.temp_path(temp_folder)
    try:
        with named(source, "reading"), source.open("rb", buffering=0) as old, disk.create(temp) as new:
            while block := old.read(BLOCK):
                disk.write_all(new, block)
        disk.place(temp, final)
    except (DiskError, AlreadyThere):
        disk.remove(temp)
        raise
    disk.remove(source)
