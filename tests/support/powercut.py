"""A disk that loses power: what was not fsynced may be gone, torn, or there again.

Fault model. A file's bytes survive for certain once the file was fsynced after the last write; else they
may be whole, cut short, or zeros. A name (of a file or folder) survives for certain once its folder was
fsynced; else it may be gone, and a deleted one may be back. Each choice is drawn from the seed, apart for each
file and name, as if the system had written back in any order. SQLite's own commits are taken as durable.
Power fails before, in, or after any single operation. A killed process loses nothing, but what it had
not fsynced stays at risk until somebody fsyncs it.
"""

import os
import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from tape.durable import Disk


class PowerCut(BaseException):
    """The machine is off: nothing below may catch this."""


class PowerDisk(Disk):
    """Counts operations, cuts power at a chosen one, and knows what is at risk. One per machine, over restarts."""

    def __init__(self, root: Path, draw: random.Random) -> None:
        self.root = root
        self.draw = draw
        self.steps = 0
        self.cut_at: int | None = None
        self.off = False
        self.lost = self.torn = self.back = 0
        self._unsynced: set[int] = set()  # inodes whose bytes are at risk
        self._names: set[Path] = set()  # names at risk of being gone
        self._ghosts: dict[Path, Path] = {}  # deleted names at risk of being back, and where their bytes are
        self._graves = root / "graves"
        self._graves.mkdir()

    # ---- the moment

    def step(self) -> None:
        """One operation begins or ends: the place where power may fail."""
        if self.off:
            raise PowerCut
        self.steps += 1
        if self.cut_at is not None and self.steps >= self.cut_at:
            self.off = True
            raise PowerCut

    def restart(self, *, power_lost: bool) -> None:
        """The machine comes back; with `power_lost`, what was at risk is decided now."""
        self.off = False
        self.cut_at = None
        if not power_lost:
            return
        for path, grave in sorted(self._ghosts.items()):
            if self.draw.random() < 0.5 and path.parent.is_dir() and not path.exists():
                os.link(grave, path)
                self.back += 1
            grave.unlink()
        for path in sorted(self._names, key=lambda p: (len(p.parts), p), reverse=True):
            if path.exists() and self.draw.random() < 0.5:
                self.lost += 1
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        for path in sorted(self.root.rglob("*")):
            if path.is_file() and path.stat().st_ino in self._unsynced:
                self._tear(path)
        self._unsynced.clear()
        self._names.clear()
        self._ghosts.clear()

    def _tear(self, path: Path) -> None:
        data = path.read_bytes()
        choice = self.draw.randrange(4)
        if choice == 0 or not data:
            return
        self.torn += 1
        cut = self.draw.randrange(len(data))
        damaged = {1: b"", 2: data[:cut], 3: data[:cut] + bytes(len(data) - cut)}[choice]
        path.write_bytes(damaged)

    def wrote(self, path: Path) -> None:
        """Somebody else (the ingress) wrote a file and did not fsync it."""
        self._unsynced.add(path.stat().st_ino)
        self._names.add(path)

    # ---- the operations

    def write_all(self, file: BinaryIO, data: bytes | memoryview) -> None:
        """As in Disk; the bytes are at risk."""
        self.step()
        super().write_all(file, data)
        self._unsynced.add(os.fstat(file.fileno()).st_ino)
        self.step()

    def sync(self, file: BinaryIO) -> None:
        """The file's bytes are safe."""
        self.step()
        self._unsynced.discard(os.fstat(file.fileno()).st_ino)
        self.step()

    def sync_path(self, path: Path) -> None:
        """The file's bytes are safe."""
        self.step()
        self._unsynced.discard(path.stat().st_ino)
        self.step()

    def sync_dir(self, path: Path) -> None:
        """The names in the folder are safe, and so is their absence."""
        self.step()
        self._names = {name for name in self._names if name.parent != path}
        for name in [name for name in self._ghosts if name.parent == path]:
            self._ghosts.pop(name).unlink()
        self.step()

    def sync_many(self, files: Iterable[Path], folders: Iterable[Path]) -> None:
        """One after the other, in any order: a cut in the middle leaves any part of it done."""
        work = [(self.sync_path, path) for path in files] + [(self.sync_dir, path) for path in folders]
        self.draw.shuffle(work)
        for sync, path in work:
            sync(path)

    def make_dirs(self, path: Path) -> None:
        """As in Disk: each new folder's name is at risk until its parent is fsynced."""
        missing = []
        while not path.exists():
            missing.append(path)
            path = path.parent
        for folder in reversed(missing):
            self.step()
            folder.mkdir()
            self._names.add(folder)
            self.sync_dir(folder.parent)

    def create(self, path: Path) -> BinaryIO:
        """As in Disk; the name is at risk."""
        self.step()
        file = super().create(path)
        self._names.add(path)
        return file

    def place(self, temp: Path, final: Path) -> None:
        """As in Disk; the new name and the absence of the old one are at risk."""
        self.step()
        super().place(temp, final)
        self._names.discard(temp)
        self._names.add(final)
        self._bury(temp, final)
        self.step()

    def remove(self, path: Path, *, durable: bool = False) -> None:
        """As in Disk; the name may be back after a cut."""
        self.step()
        if path.exists():
            if path in self._names:
                self._names.discard(path)
                path.unlink()
            else:
                self._bury(path, path)
                path.unlink()
        if durable:
            self.sync_dir(path.parent)

    def _bury(self, name: Path, source: Path) -> None:
        grave = self._graves / str(self.steps)
        if not grave.exists():
            os.link(source, grave)
            self._ghosts[name] = grave
