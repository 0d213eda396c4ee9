"""Which files the patterns reach now, and in which folders new ones could appear.

Patterns are absolute. `*`, `?` and `[...]` match within one name and, as in a shell, never a leading dot
(temporary files of rsync and editors stay out); `**` stands for any number of folders. Symbolic links are
followed, each folder once per way into it, so that loops end. A pattern of `exclude` without a
separator is compared with the name, any other with the whole path (`*` crosses folders there).
"""

import fnmatch
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import NamedTuple

_MAGIC = re.compile(r"[*?\[]")
_FOLD = sys.platform == "win32"


class Seen(NamedTuple):
    """A file as a scan saw it; `link`: reached through a symbolic link."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    link: bool


@dataclass(slots=True)
class Scan:
    """The result: regular files by path, folders to watch with their identity, and what could not be read."""

    files: dict[str, Seen] = field(default_factory=dict)
    folders: dict[str, tuple[int, int]] = field(default_factory=dict)
    denied: dict[str, str] = field(default_factory=dict)


def _compiled(part: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(part), re.IGNORECASE if _FOLD else 0)


class Patterns:
    """Compiled patterns of one source. `scan` may run in any thread."""

    def __init__(self, paths: Sequence[str], exclude: Sequence[str] = ()) -> None:
        self._roots: list[tuple[str, tuple[re.Pattern[str] | str | None, ...]]] = []
        for text in paths:
            absolute = Path(text).expanduser().absolute()  # no resolve(): patterns mean what they say
            parts = PurePath(absolute).parts
            fixed = next((i for i, part in enumerate(parts) if _MAGIC.search(part)), len(parts) - 1)
            rest = tuple(
                None if part == "**" else _compiled(part) if _MAGIC.search(part) else part for part in parts[fixed:]
            )
            self._roots.append((str(PurePath(*parts[:fixed])), rest))
        self._names = [_compiled(text) for text in exclude if not re.search(r"[/\\]", text)]
        self._whole = [_compiled(text) for text in exclude if re.search(r"[/\\]", text)]

    def reaches(self, path: str) -> bool:
        """Whether a path may be a file the patterns reach, or a folder on the way to one. Only a hint."""
        parts = PurePath(path).parts
        return any(_may_reach(PurePath(root).parts, rest, parts) for root, rest in self._roots)

    def excluded(self, path: str, name: str) -> bool:
        """Whether `exclude` names this file."""
        return any(p.match(name) for p in self._names) or any(p.match(path) for p in self._whole)

    def scan(self) -> Scan:
        """Look at all that the patterns reach. Never raises OSError: see Scan.denied."""
        result = Scan()
        done: set[tuple[str, int, int]] = set()
        for number, (root, rest) in enumerate(self._roots):
            self._walk(result, root, number, rest, 0, done)
        return result

    def _walk(
        self,
        result: Scan,
        folder: str,
        number: int,
        rest: tuple[re.Pattern[str] | str | None, ...],
        at: int,
        done: set[tuple[str, int, int]],
        above: tuple[tuple[int, int], ...] = (),
    ) -> None:
        if (folder, number, at) in done:
            return
        done.add((folder, number, at))
        try:
            status = os.stat(folder)  # noqa: PTH116 - a Path per file of 10,000 costs more than the scan
        except OSError as error:
            self._absent(result, folder, error)
            return
        identity = (status.st_dev, status.st_ino)
        if not stat.S_ISDIR(status.st_mode) or (above.count(identity) and rest[at] is None):
            return
        result.folders[folder] = identity
        if rest[at] is None and at + 1 < len(rest):
            self._walk(result, folder, number, rest, at + 1, done, above)
        above = (*above, identity)
        for entry in self._entries(result, folder, rest[at]):
            try:
                is_dir = entry.is_dir()
                if is_dir and rest[at] is None:
                    self._walk(result, entry.path, number, rest, at, done, above)
                elif is_dir and at + 1 < len(rest):
                    self._walk(result, entry.path, number, rest, at + 1, done, above)
                if not is_dir and at + 1 == len(rest):
                    self._file(result, entry)
            except OSError as error:
                result.denied[entry.path] = error.strerror or str(error)

    def _entries(self, result: Scan, folder: str, part: re.Pattern[str] | str | None) -> Iterator["os.DirEntry[str]"]:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if part is None or isinstance(part, re.Pattern):
                        if not name.startswith(".") and (part is None or part.match(name)):
                            yield entry
                    elif name == part or (_FOLD and name.lower() == part.lower()):
                        yield entry
        except OSError as error:
            result.denied[folder] = error.strerror or str(error)

    def _file(self, result: Scan, entry: "os.DirEntry[str]") -> None:
        if self.excluded(entry.path, entry.name):
            return
        link = entry.is_symlink()
        try:
            status = os.stat(entry.path) if _FOLD else entry.stat()  # noqa: PTH116 - see above; DirEntry lacks inodes there
        except FileNotFoundError:
            return  # a dangling link, or gone since
        if not stat.S_ISREG(status.st_mode):
            return
        result.files[entry.path] = Seen(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, link)
        if link:
            target = os.path.realpath(entry.path)
            self._watch(result, os.path.dirname(target))  # noqa: PTH120 - text in, text out

    @staticmethod
    def _watch(result: Scan, folder: str) -> None:
        if folder not in result.folders:
            try:
                status = os.stat(folder)  # noqa: PTH116 - see above
            except OSError:
                return
            result.folders[folder] = (status.st_dev, status.st_ino)

    def _absent(self, result: Scan, folder: str, error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            result.denied[folder] = error.strerror or str(error)
        for parent in PurePath(folder).parents:  # the nearest folder that exists shows when it appears
            if Path(parent).is_dir():
                self._watch(result, str(parent))
                return


def _may_reach(root: tuple[str, ...], rest: tuple[re.Pattern[str] | str | None, ...], parts: tuple[str, ...]) -> bool:
    if len(parts) <= len(root):
        return parts == root[: len(parts)]
    if parts[: len(root)] != root:
        return False
    for at, part in enumerate(parts[len(root) :]):
        if at >= len(rest):
            return False
        want = rest[at]
        if want is None:
            return True
        if not (want.match(part) if isinstance(want, re.Pattern) else want == part):
            return False
    return True
