"""Scratch space of a remote in the state folder: what waits to be sent, what was fetched, what is under way.

Everything here may be deleted at any time; `clear` does so when a new life begins.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from receiver.targets import pulse
from receiver.targets.contract import Parcel
from receiver.targets.rclone_kinds import new_hash
from tape.digest import BLOCK, BothDigests
from tape.durable import named
from tape.errors import DigestMismatch

_UNDER_WAY = ".list"


@dataclass(frozen=True, slots=True)
class Known:
    """What the good bytes of a segment are: size, both digests, and the checksum that the remote can be asked for."""

    size: int
    digest: str
    sha256: str
    hash: str = ""
    value: str = ""


def know(parcel: Parcel, hash_name: str, sink: Callable[[bytes], object] | None = None) -> Known:
    """Read the known good bytes of a parcel; raises DigestMismatch and what reading them raises."""
    both = BothDigests()
    other = new_hash(hash_name) if hash_name else None
    for block in parcel.read():
        both.update(block)
        if other is not None:
            other.update(block)
        if sink is not None:
            sink(block)
        pulse.moved()
    if (both.size, both.digest) != (parcel.size, parcel.digest):
        raise DigestMismatch(
            f"{parcel.path}: the source gave {both.size} bytes with digest {both.digest}, not {parcel.size} bytes"
        )
    return Known(both.size, both.digest, both.sha256, hash_name, other.hexdigest() if other is not None else "")


def blocks_of(path: Path) -> Iterator[bytes]:
    """The bytes of a file of ours; raises DiskError."""
    with named(path, "reading"), path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            yield block


def digests_of(path: Path) -> BothDigests:
    """Both digests of a file of ours; raises DiskError."""
    both = BothDigests()
    for block in blocks_of(path):
        both.update(block)
        pulse.moved()
    return both


def common_root(parcels: Sequence[Parcel]) -> Path | None:
    """The folder below which all of them lie on this machine, if there is one."""
    root: Path | None = None
    for parcel in parcels:
        if parcel.local is None or not parcel.local.is_file():
            return None
        depth = parcel.path.count("/")
        mine = parcel.local.absolute().parents[depth]
        if mine / parcel.path != parcel.local.absolute() or (root is not None and mine != root):
            return None
        root = mine
    return root


class Stage:
    """Temporary folders and lists below one folder of the state folder. Raises DiskError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mine = folder / str(os.getpid())

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Path]:
        """A new empty folder, removed at the end with all in it."""
        path = self._mine / secrets.token_hex(8)
        with named(path, "creating folder"):
            path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def write_list(self, folder: Path, paths: Iterable[str], name: str = "files") -> Path:
        """A file with these lines, as rclone takes them."""
        path = folder / name
        with named(path, "writing"), path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{line}\n" for line in paths)
        return path

    @contextlib.contextmanager
    def under_way(self, paths: Sequence[str]) -> Iterator["UnderWay"]:
        """A note of what is being stored, which outlives a crash; it goes when the step came to a clean end."""
        with named(self._folder, "creating folder"):
            self._folder.mkdir(parents=True, exist_ok=True)
        note = self.write_list(self._folder, paths, f"{secrets.token_hex(8)}{_UNDER_WAY}")
        step = UnderWay()
        yield step
        if step.clean:
            with named(note, "deleting"):
                note.unlink(missing_ok=True)

    def left_under_way(self) -> dict[Path, list[str]]:
        """The notes of steps that did not end cleanly: note -> paths."""
        found = {}
        for note in sorted(self._folder.glob(f"*{_UNDER_WAY}")):
            with named(note, "reading"):
                found[note] = note.read_text(encoding="utf-8").splitlines()
        return found

    def clear(self) -> None:
        """Delete what processes that are gone left, but for notes of what was under way."""
        import psutil

        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.is_dir() and not (path.name.isdecimal() and psutil.pid_exists(int(path.name))):
                    shutil.rmtree(path, ignore_errors=True)


@dataclass(slots=True)
class UnderWay:
    """A step that stores files. `clean`: nothing half-written can have been left."""

    clean: bool = False
