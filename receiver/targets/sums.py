"""SHA256SUMS: one line a file, `<sha256>  <name>`, so that `sha256sum -c` checks a folder without Hometape.

Lines are appended. A crash may leave a torn last line or a name that is there twice: that is put right
before the next append by a new life of the service.
"""

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from receiver.targets.contract import SUMS
from tape.durable import Disk, named

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


def repair(folder: Path, disk: Disk, *, without: Collection[str] = ()) -> None:
    """Rewrite a folder's SHA256SUMS if a line is torn, malformed or there twice, or names one of `without`."""
    found, clean = read_sums(folder)
    if clean and not any(name in found for name in without):
        return
    kept = sorted((name, sha256) for name, sha256 in found.items() if name not in without)
    disk.replace(folder / SUMS, format_lines(kept))
