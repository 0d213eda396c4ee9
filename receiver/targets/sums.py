"""SHA256SUMS: one line a file, `<sha256>  <name>`, so that `sha256sum -c` checks a folder without Hometape.

Lines are appended. A crash may leave a torn last line or a name that is there twice: that is put right
before the next append by a new life of the service.
"""

import re
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from receiver.targets.contract import SUMS
from tape.durable import Disk, named
from tape.errors import DiskError

_KNOWN_FOLDERS = 4096
_LINE = re.compile(rb"([0-9a-f]{64}) [ *]([^\r\n/\\]{1,255})\r?\Z")


def format_lines(sums: Iterable[tuple[str, str]]) -> bytes:
    """(file name, SHA-256) pairs as lines."""
    return b"".join(f"{sha256}  {name}\n".encode() for name, sha256 in sums)


def parse_lines(data: bytes) -> tuple[dict[str, str], bool]:
    """File name -> SHA-256, and whether every line was whole and well formed and no name there twice."""
    found: dict[str, str] = {}
    clean = not data or data.endswith(b"\n")
    lines = data.split(b"\n")
    for line in lines[:-1]:
        match = _LINE.match(line)
        if match is None:
            clean = False
            continue
        name = match[2].decode("utf-8", "replace")
        clean = clean and name not in found
        found[name] = match[1].decode("ascii")
    return found, clean


def read_sums(folder: Path) -> tuple[dict[str, str], bool]:
    """The sums of a folder, and whether the file is clean; empty and clean where there is none. Raises DiskError."""
    path = folder / SUMS
    with named(path, "reading"):
        try:
            return parse_lines(path.read_bytes())
        except FileNotFoundError:
            return {}, True


def mend(folder: Path, disk: Disk, right: Mapping[str, str]) -> None:
    """Rewrite a folder's SHA256SUMS with these lines right, and without those of files that are not there."""
    found, _ = read_sums(folder)
    with named(folder, "listing"):
        there = {path.name for path in folder.iterdir()}
    kept = sorted((name, sha256) for name, sha256 in {**found, **right}.items() if name in there)
    disk.replace(folder / SUMS, format_lines(kept))


def repair(folder: Path, disk: Disk, *, without: Collection[str] = ()) -> None:
    """Rewrite a folder's SHA256SUMS if a line is torn, malformed or there twice, or names one of `without`."""
    found, clean = read_sums(folder)
    if clean and not any(name in found for name in without):
        return
    kept = sorted((name, sha256) for name, sha256 in found.items() if name not in without)
    disk.replace(folder / SUMS, format_lines(kept))


class SumsFiles:
    """The SHA256SUMS of the folders of a target. Thread-safe. Raises DiskError."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._whole: dict[Path, None] = {}  # folders whose file is known to end well
        self._lock = threading.Lock()

    def note(self, sums: Iterable[tuple[Path, str]]) -> None:
        """Append (file, SHA-256) to the SHA256SUMS beside each file, all made durable together."""
        by_folder: dict[Path, list[tuple[str, str]]] = {}
        for file, sha256 in sums:
            by_folder.setdefault(file.parent, []).append((file.name, sha256))
        with self._lock:
            fresh = [folder for folder, lines in by_folder.items() if self._append(folder, lines)]
            self._disk.sync_many([folder / SUMS for folder in by_folder], fresh)

    def drop(self, file: Path) -> None:
        """Take the line of a file out."""
        with self._lock:
            repair(file.parent, self._disk, without={file.name})

    def mend(self, folder: Path, right: Mapping[str, str]) -> None:
        """Put these lines right, and take out those of files that are not there."""
        with self._lock:
            mend(folder, self._disk, right)

    def forget(self) -> None:
        """Another disk may lie there now: look again before the next append."""
        self._whole.clear()

    def _append(self, folder: Path, lines: Sequence[tuple[str, str]]) -> bool:
        """Append without sync; whether the file is new."""
        path = folder / SUMS
        if folder not in self._whole:
            repair(folder, self._disk)
            while len(self._whole) >= _KNOWN_FOLDERS:
                del self._whole[next(iter(self._whole))]
            self._whole[folder] = None
        fresh = not path.exists()
        try:
            with named(path, "opening"):
                file = path.open("ab", buffering=0)
            with file:
                self._disk.write_all(file, format_lines(lines))
        except DiskError:
            self._whole.pop(folder, None)
            raise
        return fresh
