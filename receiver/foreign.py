"""Files in a folder that somebody else can write to, at the very moment we work there.

Nothing is followed: every folder on the way is opened from the one above it and refused if it is a link,
so that a path can't be bent to another place between a look and a deletion. Where the system can't open
relative to a folder (Windows), every step is looked at just before instead; the gap that leaves is small,
and making links there takes a privilege.
"""

import contextlib
import functools
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tape.durable import TEMP_PREFIX, Disk, named, when_free
from tape.errors import DiskError

_RELATIVE = os.open in os.supports_dir_fd and os.scandir in os.supports_fd
_PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _PLAIN
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _PLAIN
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | _PLAIN


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells one state of a file from another."""

    device: int
    inode: int
    size: int
    changed_ns: int

    @classmethod
    def of(cls, facts: os.stat_result) -> Self:
        """From what stat says."""
        return cls(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Found:
    """Something in the folder: its path with `/`, relative to the root, and what it is."""

    path: str
    folder: bool
    regular: bool


class _Place:
    """One folder, held open where the system can do that."""

    def __init__(self, path: Path, number: int | None) -> None:
        self.path = path
        self.number = number

    def at(self, name: str) -> tuple[Any, dict[str, Any]]:
        """How to name an entry to the functions of `os`."""
        return (name, {"dir_fd": self.number}) if self.number is not None else (self.path / name, {})

    def open(self, name: str, flags: int, mode: int = 0o666) -> int:
        """Open an entry, never through a link."""
        where, options = self.at(name)
        if not _PLAIN & getattr(os, "O_NOFOLLOW", 0) and not flags & os.O_CREAT and _is_link(os.lstat(where)):
            raise OSError(f"{self.path / name} is a link")
        return os.open(where, flags, mode, **options)

    def stat(self, name: str) -> os.stat_result:
        """What an entry is, itself."""
        where, options = self.at(name)
        return os.stat(where, follow_symlinks=False, **options)  # noqa: PTH116 - pathlib can't look in an open folder

    def close(self) -> None:
        """Let go of it."""
        if self.number is not None:
            os.close(self.number)


class ForeignFolder:
    """The root of such a folder. OSErrors of single entries reach the caller; they are no surprise here."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def walk(self, depth: int) -> Iterator[Found]:
        """Everything below the root, folders before what is in them, down to `depth` folders."""
        with self._place([]) as root:
            yield from self._walk(root, "", depth)

    def _walk(self, place: _Place, prefix: str, depth: int) -> Iterator[Found]:
        folders = []
        with os.scandir(place.number if place.number is not None else place.path) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    facts = entry.stat(follow_symlinks=False)
                    is_folder = stat.S_ISDIR(facts.st_mode) and not _is_link(facts)
                    yield Found(prefix + entry.name, is_folder, stat.S_ISREG(facts.st_mode) and not _is_link(facts))
                    if is_folder:
                        folders.append(entry.name)
        for name in folders if depth > 0 else []:
            with contextlib.suppress(OSError), self._child(place, name) as child:
                yield from self._walk(child, f"{prefix}{name}/", depth - 1)

    def open(self, path: str) -> int:
        """A descriptor to read a regular file; raises OSError where it is anything else."""
        *folders, name = path.split("/")
        with self._place(folders) as place:
            number = place.open(name, _READ)
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise OSError(f"{path} is not a regular file")
        return number

    def stamp(self, path: str) -> Stamp:
        """The state a file is in, itself and nothing it leads to. Raises OSError."""
        *folders, name = path.split("/")
        with self._place(folders) as place:
            return Stamp.of(place.stat(name))

    def remove(self, path: str, stamp: Stamp) -> bool:
        """Delete a file durably if it is still the one that was read; returns whether it is gone."""
        *folders, name = path.split("/")
        try:
            with self._place(folders) as place:
                if Stamp.of(place.stat(name)) != stamp:
                    return False
                where, options = place.at(name)
                os.unlink(where, **options)
                if place.number is not None:
                    os.fsync(place.number)
        except FileNotFoundError:
            pass
        return True

    def replace(self, path: str, data: bytes, disk: Disk) -> None:
        """Write a small file whole, in place of an older one, with the folders it needs. Raises DiskError."""
        *folders, name = path.split("/")
        temp = f"{TEMP_PREFIX}{secrets.token_hex(8)}"
        with named(self.root / path, "writing"), self._place(folders, create=True) as place:
            source, options = place.at(temp)
            number = place.open(temp, _CREATE, 0o644)
            try:
                with os.fdopen(number, "r+b", buffering=0) as file:
                    disk.write_all(file, data)
                target, _ = place.at(name)
                moving = {"src_dir_fd": place.number, "dst_dir_fd": place.number} if options else {}
                # pathlib can't rename within an open folder
                when_free(functools.partial(os.replace, source, target, **moving))
            except (OSError, DiskError):
                with contextlib.suppress(OSError):
                    os.unlink(source, **options)
                raise

    @contextlib.contextmanager
    def _place(self, folders: list[str], *, create: bool = False) -> Iterator[_Place]:
        with contextlib.ExitStack() as held:
            number = os.open(self.root, _FOLDER & ~getattr(os, "O_NOFOLLOW", 0)) if _RELATIVE else None
            place = _Place(self.root, number)
            held.callback(place.close)
            for name in folders:
                if create:
                    where, options = place.at(name)
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(where, **options)  # noqa: PTH102 - pathlib can't do it in an open folder
                place = held.enter_context(self._child(place, name))
            yield place

    @contextlib.contextmanager
    def _child(self, place: _Place, name: str) -> Iterator[_Place]:
        if place.number is None:
            facts = place.stat(name)
            if not stat.S_ISDIR(facts.st_mode) or _is_link(facts):
                raise OSError(f"{place.path / name} is a link or no folder")
            yield _Place(place.path / name, None)
            return
        child = _Place(place.path / name, place.open(name, _FOLDER))
        try:
            yield child
        finally:
            child.close()


def _is_link(facts: os.stat_result) -> bool:
    """A symbolic link, or what Windows uses as one (junctions and other reparse points)."""
    return stat.S_ISLNK(facts.st_mode) or bool(
        getattr(facts, "st_file_attributes", 0) & getattr(stat, "FILE_ATTRIBUTE_REPARSE_POINT", 0)
    )
