"""Durable file operations: the only place that writes files that matter.

What holds after a power cut is what was fsynced: the file's bytes by `sync`, its name by `sync_dir`
of its folder (both folders when it moved). A failed fsync is final: the kernel may drop the pages
and answer the next one with success, so `SyncFailed` means stop, restart, recover. On Windows there
is no folder fsync; NTFS journals the name with the file's own flush.

Everything goes through a `Disk`, so that tests can make the disk fail, fill up or lose power.
"""

import contextlib
import errno
import io
import itertools
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from tape.clock import pause
from tape.direct import DirectFile, file_system
from tape.errors import AlreadyThere, DiskError, DiskFull, SyncFailed

WINDOWS = sys.platform == "win32"
_FULL = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}
_NO_LINK = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
# File systems of the kernel's own on a local disk: ext2-4, XFS, Btrfs, F2FS, tmpfs, overlay, exFAT, FAT, NTFS3, ZFS.
_OWN_KERNEL = {
    0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x01021994, 0x794C7630, 0x2011BAB0, 0x4D44, 0x7366746E, 0x2FC12FC1,
}  # fmt: skip
NEW_PREFIX = ".new-"
TEMP_PREFIX = ".tmp-"
SYNC_ALL_ABOVE = 8
_LIFE = secrets.token_hex(8)  # one draw for the process: of thousands
_TEMPS = itertools.count(1)
_IN_USE = {5, 32}  # Windows: access denied, sharing violation
_IN_USE_TRIES, _IN_USE_WAIT = 40, 0.025


@contextlib.contextmanager
def named(path: Path, doing: str) -> Iterator[None]:
    """Turn an OSError into DiskFull, AlreadyThere or DiskError that names the path."""
    try:
        yield
    except FileExistsError as error:
        raise AlreadyThere(f"{path} exists already and is never replaced") from error
    except OSError as error:
        raise _as_disk_error(error, path, doing) from error


def _as_disk_error(error: OSError, path: Path, doing: str) -> DiskError:
    if error.errno in _FULL:
        return DiskFull(f"no space left while {doing} {path}")
    return DiskError(f"{doing} {path} failed: {error.strerror or error}")


class Disk:
    """File operations with their durability. Raises DiskError and its children; nothing else."""

    def write_all(self, file: BinaryIO, data: bytes | memoryview) -> None:
        """Write every byte at the current place of an unbuffered file, whatever `write` returns.

        On an error the file is cut back to the length it had, as far as the disk lets us.
        """
        view = memoryview(data)
        done = 0
        try:
            while view:
                written = file.write(view)
                view = view[written:]
                done += written
        except OSError as error:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                file.truncate(file.tell() - done)
            raise _as_disk_error(error, Path(str(file.name)), "writing") from error

    def sync(self, file: BinaryIO) -> None:
        """Fsync an open file; raises SyncFailed."""
        try:
            os.fsync(file.fileno())
        except OSError as error:
            raise SyncFailed(f"fsync of {file.name} failed: {error.strerror or error}") from error

    def sync_path(self, path: Path) -> None:
        """Fsync a file by its path; raises SyncFailed, DiskError."""
        with named(path, "opening"):
            file = path.open("r+b", buffering=0)
        with file:
            self.sync(file)

    def sync_dir(self, path: Path) -> None:
        """Fsync a folder, so that the names in it are durable; nothing to do on Windows."""
        if WINDOWS:
            return
        with named(path, "opening"):
            number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        except OSError as error:
            raise SyncFailed(f"fsync of folder {path} failed: {error.strerror or error}") from error
        finally:
            os.close(number)

    def sync_many(self, files: Iterable[Path], folders: Iterable[Path]) -> None:
        """Make many files and folders durable: one file-system sync where that is cheaper."""
        each, dirs = list(files), list(folders)
        if len(each) + len(dirs) > SYNC_ALL_ABOVE and not WINDOWS:
            homes = {os.path.dirname(path) for path in each} | {str(path) for path in dirs}  # noqa: PTH120 - of thousands
            if _syncfs_all(sorted(homes)):  # a file lies where its folder lies
                return
        for path in each:
            self.sync_path(path)
        for folder in dirs:
            self.sync_dir(folder)

    def sync_system(self, path: Path) -> None:
        """Write out all that the file system of a folder still holds in memory, as far as the system can say so."""
        if WINDOWS or not _syncfs_all([str(path)]):
            self.sync_dir(path)

    def make_dirs(self, path: Path) -> None:
        """Create a folder and its parents durably."""
        missing = []
        here = path
        while not here.exists():
            missing.append(here)
            here = here.parent
        for folder in reversed(missing):
            with named(folder, "creating folder"), contextlib.suppress(FileExistsError):
                folder.mkdir()
            self.sync_dir(folder.parent)

    def make_dirs_below(self, root: Path, path: Path, *, by: Path) -> None:
        """Create a folder and its parents below `root` durably, each made in the folder `by` and moved to its place.

        Where a disk went away under the root, `by` went with it: nothing is made in the empty mount point.
        """
        missing = []
        here = path
        while here != root and not here.exists():
            missing.append(here)
            here = here.parent
        for folder in reversed(missing):
            made = by / f"{NEW_PREFIX}{secrets.token_hex(8)}"
            with named(folder, "creating folder"):
                made.mkdir()
                try:
                    made.rename(folder)
                except OSError:
                    made.rmdir()
                    if not folder.is_dir():  # else another thread was first
                        raise
            self.sync_dir(folder.parent)

    def create(self, path: Path) -> BinaryIO:
        """Create a file that must not exist, unbuffered for reading and writing."""
        with named(path, "creating"):
            return cast("BinaryIO", io.FileIO(path, "x+b"))

    def create_large(self, path: Path) -> BinaryIO:
        """The same, for much that won't be read again soon: large writes go past the page cache."""
        return cast("BinaryIO", DirectFile(self.create(path)))

    def temp_path(self, folder: Path) -> Path:
        """A new random temporary name in a folder; `is_temp` knows it again."""
        return folder / f"{TEMP_PREFIX}{_LIFE}{os.getpid():x}-{next(_TEMPS):x}"

    def place(self, temp: Path, final: Path) -> None:
        """Give a file its final name without ever replacing one; raises AlreadyThere.

        Neither file nor folder is fsynced here: `publish` does both.
        """
        with named(final, "naming"):
            if WINDOWS:
                when_free(lambda: temp.rename(final))  # refuses an existing name there
                return
            try:
                os.link(temp, final, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                if final.exists():
                    raise FileExistsError(errno.EEXIST, "exists", str(final)) from None
                temp.rename(final)
                return
            temp.unlink()

    def publish(self, temp: Path, final: Path) -> None:
        """A written temporary file becomes `final`, durably and without replacing: fsync, name, fsync folders."""
        self.sync_path(temp)
        self.place(temp, final)
        self.sync_dir(final.parent)
        if temp.parent != final.parent:
            self.sync_dir(temp.parent)

    def write_new(self, final: Path, data: bytes) -> None:
        """Create a file with these bytes, durably, all or nothing; raises AlreadyThere."""
        temp = self._write_temp(final.parent, data)
        try:
            self.publish(temp, final)
        except (DiskError, AlreadyThere):
            self.remove(temp)
            raise

    def replace(self, final: Path, data: bytes, *, like: Path | None = None) -> None:
        """Replace a small file (a receipt, a generated page) durably, all or nothing. Never for segments.

        like: a file whose mode and owner the new one gets.
        """
        temp = self._write_temp(final.parent, data)
        try:
            with named(final, "replacing"):
                if like is not None:
                    _look_like(temp, like)
                when_free(lambda: temp.replace(final))
        except DiskError:
            self.remove(temp)
            raise
        self.sync_dir(final.parent)

    def replace_loosely(self, final: Path, data: bytes) -> None:
        """Replace a file that is rewritten all the time and worth nothing after a crash: whole, but not fsynced."""
        temp = self.temp_path(final.parent)
        with self.create(temp) as file:
            self.write_all(file, data)
        with named(final, "replacing"):
            temp.replace(final)

    def append(self, path: Path, data: bytes) -> None:
        """Append to a file (created when missing) and fsync it."""
        fresh = not path.exists()
        with named(path, "opening"):
            file = path.open("ab", buffering=0)
        with file:
            self.write_all(file, data)
            self.sync(file)
        if fresh:
            self.sync_dir(path.parent)

    def remove(self, path: Path, *, durable: bool = False) -> None:
        """Delete a file; it is fine if it is gone already."""
        with named(path, "deleting"):
            path.unlink(missing_ok=True)
        if durable:
            self.sync_dir(path.parent)

    def clear_temps(self, folder: Path) -> list[Path]:
        """Delete leftover temporary files of a folder (not deeper) and return their paths."""
        there = list(folder.iterdir()) if folder.is_dir() else []
        found = [path for path in there if is_temp(path)]
        for path in found:
            self.remove(path)
        for path in there:
            if path.name.startswith(NEW_PREFIX):
                with named(path, "deleting"):
                    path.rmdir()
        return found

    def _write_temp(self, folder: Path, data: bytes) -> Path:
        temp = self.temp_path(folder)
        with self.create(temp) as file:
            try:
                self.write_all(file, data)
                self.sync(file)
            except DiskError:
                file.close()
                self.remove(temp)
                raise
        return temp


def when_free(rename: Callable[[], object]) -> None:
    """Rename; on Windows, where an open file can't be, again for a second while another program holds it."""
    for _ in range(_IN_USE_TRIES):
        try:
            rename()
        except PermissionError as error:
            if getattr(error, "winerror", None) not in _IN_USE:
                raise
        else:
            return
        pause(_IN_USE_WAIT)
    rename()


def _look_like(path: Path, like: Path) -> None:
    shutil.copymode(like, path)
    if not WINDOWS:
        owner = like.stat()
        if (owner.st_uid, owner.st_gid) != (path.stat().st_uid, path.stat().st_gid):
            shutil.chown(path, owner.st_uid, owner.st_gid)


def is_temp(path: Path) -> bool:
    """Whether a name is one of `Disk.temp_path`: never a stored file."""
    return path.name.startswith(TEMP_PREFIX)


def _syncfs_all(paths: list[str]) -> bool:
    """One syncfs(2) per file system that holds these paths; False where one has none that reaches its medium."""
    syncfs = _libc_syncfs()
    if syncfs is None:
        return False
    done: set[int] = set()
    for path in paths:
        with named(Path(path), "opening"):
            number = os.open(path, os.O_RDONLY)
        try:
            device = os.fstat(number).st_dev
            if device not in done:
                if not _syncs_whole(number):
                    return False
                if syncfs(number) != 0:
                    raise SyncFailed(f"sync of the file system that holds {path} failed")
                done.add(device)
        finally:
            os.close(number)
    return True


def _syncs_whole(number: int) -> bool:
    """Whether syncfs(2) is as good as an fsync of each file there. A share or a FUSE program need not hear of it."""
    return file_system(number) in _OWN_KERNEL


def _libc_syncfs() -> Callable[[int], int] | None:
    import ctypes

    if not sys.platform.startswith("linux"):
        return None
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    return found


DISK = Disk()
