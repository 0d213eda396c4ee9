"""Where an arrival's bytes go: into one private file, or, of a bundle, into one for each of its segments.

A bundle that is taken apart while it arrives is written once and never read again for it. Whatever is odd about one is
left to the commit, which has an answer for it: a bundle whose head can't be read, or for whose segments there is
no room now, is kept as one file. All of this runs in the thread that writes an arrival.
"""

import contextlib
import threading
from pathlib import Path
from typing import BinaryIO, Protocol

from receiver.model import Piece, Pieces
from tape.bundle import Head, Item
from tape.digest import Hasher, new_xxh3, xxh3
from tape.durable import Disk
from tape.errors import BundleError
from tape.names import BundleName

MOST_PIECES = 16_384
"""Segments of bundles under way that may have files of their own; each costs an inode and a little memory."""


class Room:
    """Counts them, for all agents together. Thread-safe."""

    def __init__(self, most: int = MOST_PIECES) -> None:
        self._lock = threading.Lock()
        self._left = most

    def take(self, count: int) -> bool:
        """Whether there is room for so many more; then it is theirs."""
        with self._lock:
            if count > self._left:
                return False
            self._left -= count
            return True

    def give_back(self, count: int) -> None:
        """So many are gone, or somebody else's."""
        with self._lock:
            self._left += count


class Store(Protocol):
    """Takes bytes in their order. Raises DiskError and its children."""

    path: Path

    def write(self, content: memoryview) -> None:
        """The next bytes."""

    def sync(self) -> None:
        """Fsync what was written."""

    def end(self) -> None:
        """There are no more bytes."""

    def close(self) -> None:
        """Close what is open, after the end or a failure."""

    def delete(self) -> None:
        """Remove everything."""

    def pieces(self) -> Pieces | None:
        """After the end: the segments of a bundle that was taken apart."""

    def let_go(self) -> None:
        """What was written is somebody else's from here on."""


class Whole:
    """One file."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self.path = path
        self._disk = disk
        self._file: BinaryIO | None = None

    def write(self, content: memoryview) -> None:
        """See `Store`."""
        self._disk.write_all(self._opened(), content)

    def sync(self) -> None:
        """See `Store`."""
        self._disk.sync(self._opened())

    def end(self) -> None:
        """See `Store`: an upload without bytes is a file too."""
        self._opened()
        self.close()

    def close(self) -> None:
        """See `Store`."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def delete(self) -> None:
        """See `Store`."""
        self.close()
        self._disk.remove(self.path)

    def pieces(self) -> None:
        """It is no bundle that was taken apart."""

    def let_go(self) -> None:
        """Nothing was kept for it."""

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._file = self._disk.create_large(self.path)
            with contextlib.suppress(OSError):  # a file system without modes; the folder is private anyway
                self.path.chmod(0o600)
        return self._file


class Split:
    """A bundle, taken apart. `path`: where it is kept if it can't be; its segments' names begin like it."""

    def __init__(self, path: Path, disk: Disk, name: BundleName, room: Room) -> None:
        self.path = path
        self._disk = disk
        self._room = room
        self._whole: Whole | None = None
        self._digest = name.digest
        self._head = Head(where=str(name), epoch=name.epoch)
        self._early: list[memoryview] = []  # until the head is read
        self._reserved: list[int] = []  # of the room; taken out of it once, whichever thread comes first
        self._pieces: list[Piece] = []
        self._synced = 0
        self._size = 0
        self._open: _OpenPiece | None = None

    def write(self, content: memoryview) -> None:
        """See `Store`."""
        self._size += len(content)
        if self._whole is None and not self._head.done:
            content = self._begin(content)
        if self._whole is not None:
            self._whole.write(content)
        elif self._head.done:
            self._cut(content)

    def _begin(self, content: memoryview) -> memoryview:
        """Feed the head; what is left of the content to be written."""
        self._early.append(content)
        try:
            used = self._head.feed(content)
        except BundleError:
            self._keep_whole()
            return memoryview(b"")
        if self._head.count and not self._reserved:
            if not self._room.take(self._head.count):
                self._keep_whole()
                return memoryview(b"")
            self._reserved.append(self._head.count)
        if self._head.done:
            self._early.clear()
        return content[used:]

    def _keep_whole(self) -> None:
        """Write all that came so far into one file, as what comes next."""
        whole = self._whole = Whole(self.path, self._disk)
        early, self._early = self._early, []
        for content in early:
            whole.write(content)

    def _cut(self, content: memoryview) -> None:
        while content and len(self._pieces) < len(self._head.items):
            if self._open is None:
                number = len(self._pieces)
                path = self.path.with_name(f"{self.path.name}.{number}")
                self._open = _OpenPiece(self._head.items[number], path, self._disk)
            content = self._open.write(content)
            if not self._open.left:
                self._pieces.append(self._open.end())
                self._open = None

    def sync(self) -> None:
        """See `Store`."""
        if self._whole is not None:
            self._whole.sync()
            return
        for piece in self._pieces[self._synced :]:
            self._disk.sync_path(piece.path)
        self._synced = len(self._pieces)
        if self._open is not None:
            self._disk.sync(self._open.file)

    def end(self) -> None:
        """See `Store`."""
        if self._whole is None and not self._head.done:
            self._keep_whole()
        if self._whole is not None:
            self._whole.end()
        if self._open is not None:  # a segment that is cut short is nobody's
            self.close()
            self._disk.remove(self._open.path)
            self._open = None

    def close(self) -> None:
        """See `Store`."""
        if self._whole is not None:
            self._whole.close()
        if self._open is not None:
            self._open.file.close()

    def delete(self) -> None:
        """See `Store`."""
        self.close()
        paths = [piece.path for piece in self._pieces]
        if self._open is not None:
            paths.append(self._open.path)
        if self._whole is not None:
            paths.append(self._whole.path)
        for path in paths:
            self._disk.remove(path)
        self.let_go()

    def pieces(self) -> Pieces | None:
        """See `Store`."""
        if self._whole is not None:
            return None
        problem = ""
        try:
            self._head.check_size(self._size)
        except BundleError as error:
            problem = str(error)
        return Pieces(self._head.digest, tuple(self._pieces), problem)

    def index(self) -> tuple[Item, ...]:
        """The segments that it was to hold, if its head is what the bundle's name says; else none are known."""
        return self._head.items if self._head.done and self._head.digest == self._digest else ()

    def let_go(self) -> None:
        """See `Store`."""
        with contextlib.suppress(IndexError):
            self._room.give_back(self._reserved.pop())


class _OpenPiece:
    """The file of the segment whose bytes are arriving. `left`: how many are still to come."""

    def __init__(self, item: Item, path: Path, disk: Disk) -> None:
        self.path = path
        self.left = item.size
        self.file = disk.create(path)
        self._item = item
        self._disk = disk
        self._hash: Hasher | None = None
        self._digest = ""

    def write(self, content: memoryview) -> memoryview:
        """Take what is its own; the rest is returned."""
        own = content[: self.left]
        self._disk.write_all(self.file, own)
        if len(own) == self._item.size:
            self._digest = xxh3(own)
        else:
            self._hash = self._hash or new_xxh3()
            self._hash.update(own)
        self.left -= len(own)
        return content[len(own) :]

    def end(self) -> Piece:
        """Close the file, which has all its bytes."""
        self.file.close()
        digest = self._digest if self._hash is None else self._hash.hexdigest()
        return Piece(self._item.stream, self._item.name, self._item.size, self.path, digest)
