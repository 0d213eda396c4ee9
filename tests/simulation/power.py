"""A disk that loses power: what was not fsynced may be gone, torn or back again.

The fault model, in prose. Every operation of the program under test passes through `PowerDisk`, which
counts them; the power fails before a chosen one. After the cut a file holds what it held at its last
fsync, or any prefix of what was written since, or zeros in place of what was written since; a name that
was created, moved or deleted since the last fsync of its folder may be there or not. Which of these
happens is drawn from a seed. SQLite runs on the real disk, and each of its commits is taken to be
durable (WAL with synchronous=FULL, measured elsewhere); what it had not committed is gone.

Not modelled: a disk that lies about fsync, and bits that rot.
"""

import random
import shutil
from pathlib import Path
from typing import BinaryIO

from tape.durable import Disk

Content = bytes


class PowerCutError(BaseException):
    """The power failed. No handler of the program may survive it, so it is no Exception."""


class PowerDisk(Disk):
    """Counts operations, remembers what is durable, and fails before operation number `cut_at`.

    `forget`: kinds of calls that are not remembered as durable, as if the program had left them out.
    """

    def __init__(self, root: Path, *, cut_at: int = -1, forget: frozenset[str] = frozenset()) -> None:
        self.root = root
        self.operations = 0
        self._cut_at = cut_at
        self._forget = forget
        self._contents: dict[int, Content] = {}  # by inode: bytes at the last fsync
        self._names: dict[Path, dict[str, int]] = {}  # by folder: names at its last fsync
        self._known: dict[int, Path] = {}  # inodes that ever were here, and a place to read them from
        for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
            self._names[folder] = self._listing(folder)
        for path in root.rglob("*"):
            if path.is_file():
                self._contents[path.stat().st_ino] = path.read_bytes()

    def _step(self) -> None:
        if self.operations == self._cut_at:
            raise PowerCutError
        self.operations += 1

    def _listing(self, folder: Path) -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in folder.iterdir() if path.is_file()} if folder.exists() else {}

    def create(self, path: Path) -> BinaryIO:
        """A new file, its name not durable yet."""
        self._step()
        return super().create(path)

    def write_all(self, file: BinaryIO, data: bytes | memoryview) -> None:
        """Written, not durable yet; the power may fail halfway."""
        if self.operations == self._cut_at:
            file.write(bytes(data)[: len(data) // 2])
        self._step()
        super().write_all(file, data)

    def sync(self, file: BinaryIO) -> None:
        """From now on these bytes survive."""
        self._step()
        if "sync" not in self._forget:
            path = Path(str(file.name))
            self._contents[path.stat().st_ino] = path.read_bytes()

    def sync_dir(self, path: Path) -> None:
        """From now on the names in this folder survive."""
        self._step()
        if "sync_dir" not in self._forget:
            self._names[path] = self._listing(path)

    def place(self, temp: Path, final: Path) -> None:
        """Named, not durable yet; the power may fail with both names there."""
        self._step()
        super().place(temp, final)

    def remove(self, path: Path, *, durable: bool = False) -> None:
        """Deleted, perhaps not for ever. The file is moved aside, so that a cut can bring it back."""
        self._step()
        if path.exists():
            aside = self.root.with_name(f"{self.root.name}-deleted")
            aside.mkdir(exist_ok=True)
            inode = path.stat().st_ino
            self._known[inode] = path.replace(aside / str(inode))
        if durable:
            self.sync_dir(path.parent)

    def after_cut(self, into: Path, seed: int) -> None:
        """Write the state folder as it is found after the power came back. SQLite's files are taken as they are."""
        rng = random.Random(seed)
        into.mkdir()
        for path in self.root.glob("outbox.db*"):
            shutil.copy2(path, into / path.name)
        spool = self.root / "spool"
        folders = {folder for folder in self._names if spool in [folder, *folder.parents]}
        folders |= {path for path in spool.rglob("*") if path.is_dir()}
        for folder in sorted(folders):
            new = into / folder.relative_to(self.root)
            new.mkdir(parents=True, exist_ok=True)
            durable, now = self._names.get(folder, {}), self._listing(folder)
            for name in sorted(set(durable) | set(now)):
                if name in durable and durable.get(name) == now.get(name):
                    inode = durable[name]
                elif rng.random() < 0.5 and name in now:
                    inode = now[name]
                elif name in durable:
                    inode = durable[name]
                else:
                    continue
                (new / name).write_bytes(self._survives(inode, folder / name, rng))

    def _survives(self, inode: int, path: Path, rng: random.Random) -> Content:
        durable = self._contents.get(inode)
        there = self._known.get(inode, path)
        now = there.read_bytes() if there.exists() else (durable or b"")
        if durable == now:
            return now
        kept = durable or b""
        kind = rng.randrange(4)
        if kind == 0:
            return kept
        if kind == 1:
            return now[: rng.randint(0, len(now))]
        if kind == 2:
            return kept + bytes(max(0, len(now) - len(kept)))
        return now
