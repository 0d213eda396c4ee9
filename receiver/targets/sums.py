"""SHA256SUMS: one line a file, `<sha256>  <name>`, so that `sha256sum -c` checks a folder without Hometape.

Lines are appended, but for those that are there already: a copy may be proven again. A crash may leave a torn
last line or a name that is there twice: that is put right before the next append by a new life of the service.
"""

import re
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from receiver.targets.contract import SUMS
from tape.durable import Disk, named
from tape.errors import DiskError

_KNOWN_FOLDERS = 4096
_KNOWN_LINES = 100_000  # over all folders; of a larger one none is remembered
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


def repair(folder: Path, disk: Disk, *, without: Collection[str] = ()) -> list[tuple[str, str]]:
    """Rewrite a folder's SHA256SUMS if a line is torn, malformed or there twice, or names one of `without`.

    Gives what it holds then.
    """
    found, clean = read_sums(folder)
    kept = sorted((name, sha256) for name, sha256 in found.items() if name not in without)
    if not clean or len(kept) < len(found):
        disk.replace(folder / SUMS, format_lines(kept))
    return kept


@dataclass(slots=True)
class _Known:
    """How long a clean file is, and the hashes of its lines; none of a very long one."""

    size: int
    lines: set[int]


class SumsFiles:
    """The SHA256SUMS of the folders of a target. Thread-safe. Raises DiskError."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._known: dict[Path, _Known] = {}  # folders whose file is known to be clean
        self._lock = threading.Lock()

    def note(self, sums: Iterable[tuple[Path, str]]) -> None:
        """Append (file, SHA-256) to the SHA256SUMS beside each file, all made durable together."""
        by_folder: dict[Path, list[tuple[str, str]]] = {}
        for file, sha256 in sums:
            by_folder.setdefault(file.parent, []).append((file.name, sha256))
        with self._lock:
            try:
                fresh = [folder for folder, lines in by_folder.items() if self._append(folder, lines)]
                self._disk.sync_many([folder / SUMS for folder in by_folder], fresh)
            except DiskError:
                for folder in by_folder:
                    self._known.pop(folder, None)
                raise

    def drop(self, file: Path) -> None:
        """Take the line of a file out."""
        with self._lock:
            self._known.pop(file.parent, None)
            repair(file.parent, self._disk, without={file.name})

    def mend(self, folder: Path, right: Mapping[str, str]) -> None:
        """Put these lines right, and take out those of files that are not there."""
        with self._lock:
            self._known.pop(folder, None)
            mend(folder, self._disk, right)

    def forget(self) -> None:
        """Another disk may lie there now: look again before the next append."""
        self._known.clear()

    def _append(self, folder: Path, lines: Sequence[tuple[str, str]]) -> bool:
        """Append what is not there yet, without sync; whether the file is new."""
        path = folder / SUMS
        with named(path, "reading"):
            size = path.stat().st_size if path.exists() else None
        known = self._known.get(folder)
        if known is None or known.size != size:
            known = self._know(folder)
        new = [line for line in lines if hash(line) not in known.lines]
        if new:
            data = format_lines(new)
            with named(path, "opening"):
                file = path.open("ab", buffering=0)
            with file:
                self._disk.write_all(file, data)
            known.size += len(data)
            known.lines.update(map(hash, new))
            if len(known.lines) > _KNOWN_LINES:
                known.lines.clear()
        return size is None

    def _know(self, folder: Path) -> _Known:
        """Put the file right, and remember its lines within bounds."""
        lines = repair(folder, self._disk)
        self._known.pop(folder, None)
        total = len(lines) + sum(len(known.lines) for known in self._known.values())
        while self._known and (len(self._known) >= _KNOWN_FOLDERS or total > _KNOWN_LINES):
            total -= len(self._known.pop(next(iter(self._known))).lines)
        path = folder / SUMS
        with named(path, "reading"):
            size = path.stat().st_size if path.exists() else 0
        hashes = set(map(hash, lines)) if len(lines) <= _KNOWN_LINES else set()
        known = self._known[folder] = _Known(size, hashes)
        return known
