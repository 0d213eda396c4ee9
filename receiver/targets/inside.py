"""What lies inside a folder of segments: files and folders of its own, nothing that a link leads to.

A link to another target's copy would pass every check of its bytes and still be no second copy of them.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from receiver.targets.contract import Entry, is_own
from receiver.targets.files import is_link
from tape.durable import TEMP_PREFIX, named
from tape.errors import NameRefused
from tape.names import SegmentName


class Ways:
    """The ways from a root to its files; each folder is looked at once in the life of this."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._own: set[str] = {""}

    def link(self, path: str) -> str:
        """The link on the way to a file of this relative path; "" if there is none."""
        folder = path.rpartition("/")[0]
        if folder in self._own:
            return ""
        found = self.link(folder) or (folder if is_link(f"{self._root}{os.sep}{folder}") else "")
        if not found:
            self._own.add(folder)
        return found


def walk(root: Path, prefix: str, guarded: Callable[[], AbstractContextManager[None]]) -> Iterator[Entry]:
    """Every stored file below a folder, one folder held in memory at a time, each look `guarded`."""
    with guarded(), named(root / prefix, "listing"):
        try:
            with os.scandir(root / prefix) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
    for entry in entries:
        path = f"{prefix}/{entry.name}" if prefix else entry.name
        if is_own(path) or entry.is_symlink():
            continue
        if entry.is_dir():
            if not is_link(root / path):
                yield from walk(root, path, guarded)
        elif entry.is_file():
            with guarded(), named(root / path, "looking at"):
                size = entry.stat().st_size
            yield Entry(path, size)


def segment_files(root: Path) -> Iterator[Path]:
    """Every file below a folder that is named as a segment, by name; hidden folders are left out."""
    with named(root, "listing"):
        entries = sorted(root.iterdir())
    for entry in entries:
        if entry.name.startswith((".", TEMP_PREFIX)) or entry.is_symlink():
            continue
        if entry.is_dir():
            yield from segment_files(entry)
        elif entry.suffix == ".parquet":
            with contextlib.suppress(NameRefused):
                SegmentName.parse(entry.name)
                yield entry
