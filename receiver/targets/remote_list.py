"""The listing of a remote in the order of names, however many objects it has: sorted runs in files, then merged."""

import heapq
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from tape.durable import named
from tape.errors import TargetError

_RUN = 50_000


def order(path: str) -> str:
    """The key by which listings of all targets are sorted: folder by folder, by name. No name holds a NUL."""
    return path.replace("/", "\0")


class Sorted:
    """Takes (path, size) in any order, gives them back in the order of names. `folder`: room for its runs."""

    def __init__(self, folder: Path, *, run: int = _RUN) -> None:
        self._folder = folder
        self._most = run
        self._held: list[tuple[str, int]] = []
        self._runs: list[Path] = []

    def add(self, path: str, size: int) -> None:
        """Take one in; raises DiskError."""
        self._held.append((order(path), size))
        if len(self._held) >= self._most:
            self._spill()

    def _spill(self) -> None:
        self._held.sort()
        run = self._folder / f"run-{len(self._runs)}"
        with named(run, "writing"), run.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{json.dumps([key, size])}\n" for key, size in self._held)
        self._runs.append(run)
        self._held = []

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """All of them, once; raises DiskError."""
        self._held.sort()
        runs = [self._read(run) for run in self._runs]
        for key, size in heapq.merge(*runs, iter(self._held)):
            yield key.replace("\0", "/"), size

    def _read(self, run: Path) -> Iterator[tuple[str, int]]:
        with named(run, "reading"), run.open(encoding="utf-8") as file:
            for line in file:
                key, size = json.loads(line)
                yield key, size


def parse_line(line: bytes) -> tuple[str, int, dict[str, str]] | None:
    """(path, size, checksums) from a line of `rclone lsjson`; None for its brackets. Raises TargetError."""
    text = line.strip().rstrip(b",")
    if text in (b"", b"[", b"]", b"[]"):
        return None
    try:
        plain = json.loads(text)
        hashes = {str(name): str(value) for name, value in (plain.get("Hashes") or {}).items()}
        return str(plain["Path"]), int(plain["Size"]), hashes
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TargetError(f"rclone's listing can't be read: {text[:200]!r}") from error


def taking(take: Callable[[str, int, dict[str, str]], None]) -> Callable[[bytes], None]:
    """A reader of `rclone lsjson`, line by line."""

    def line(data: bytes) -> None:
        parsed = parse_line(data)
        if parsed is not None:
            take(*parsed)

    return line
