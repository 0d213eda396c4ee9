r"""Bundles: many small segments in one upload, so that a long link and an fsync are paid for once.

Format, version 2, all numbers big-endian:

    magic   8 bytes   b"HTBNDL2\n"
    count   u32       number of items, 1 to MAX_ITEMS
    index   count times:
        length  u16   of the path in bytes
        path          upload path `/<stream>/<segment name>`, ASCII
        size    u64   of the segment in bytes, at least 1
    bytes             the segments one behind the other, in the order of the index, nothing after them

All before the segments' bytes is the head. The file's name is `<epoch>-<XXH3-128 of the head>.bundle`; every item is
of that epoch, and no path comes twice. An item's own digest stands in its path, so the head, and with it the
file's name, covers every byte, and a bundle has its name before its segments are read. The head is at the front: a
reader knows all names and sizes before it copies a byte, and can take a bundle apart while it arrives.

Writing needs one block of memory whatever the size; so does reading, beside the index.
"""

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from tape.digest import BLOCK, new_xxh3, xxh3
from tape.errors import BundleError, NameRefused
from tape.names import BundleName, SegmentName, check_stream, upload_path

MAGIC = b"HTBNDL2\n"
MAX_ITEMS = 4096
MAX_BYTES = 256 * 2**20
MAX_PATH = 512
_HEAD_BLOCK = 64 << 10
_COUNT = struct.Struct(">I")
_LENGTH = struct.Struct(">H")
_SIZE = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Item:
    """One segment in a bundle. `size` in bytes."""

    stream: str
    name: SegmentName
    size: int

    @property
    def path(self) -> str:
        """Its upload path, as if it had come alone."""
        return upload_path(self.stream, self.name)


class Sink(Protocol):
    """Where an item's bytes go, block by block: an open file, a hasher's wrapper."""

    def write(self, data: bytes, /) -> object:
        """Take all these bytes."""


def overhead(stream: str, name: SegmentName) -> int:
    """Bytes an item adds to a bundle beside its own."""
    return _LENGTH.size + len(upload_path(stream, name)) + _SIZE.size


class Bundle:
    """A bundle to be sent, read from the spool files as it goes; nothing is written here.

    `entries`: the items with the files that hold them. Raises BundleError if they break the limits.
    """

    def __init__(self, entries: Sequence[tuple[Item, Path]]) -> None:
        self.entries = tuple(entries)
        paths = [item.path for item, _ in self.entries]
        _check([item for item, _ in self.entries], paths, "bundle to be sent")
        self._head = _index([item for item, _ in self.entries], paths)
        self.size = len(self._head) + sum(item.size for item, _ in self.entries)

    @property
    def name(self) -> BundleName:
        """Its file name."""
        return BundleName(self.entries[0][0].name.epoch, xxh3(self._head))

    def blocks(self) -> Iterator[bytes]:
        """All its bytes in order, at most BLOCK at a time; raises BundleError, OSError."""
        yield self._head
        for item, path in self.entries:
            left, fast = item.size, new_xxh3()
            with io.FileIO(path) as file:
                while left > 0 and (block := file.read(min(left + 1, BLOCK))):  # one more: a file that grew shows
                    left -= len(block)
                    fast.update(block)
                    yield block
                if left:
                    size = file.seek(0, io.SEEK_END)
                    raise BundleError(f"{path} holds {size} bytes, not the {item.size} on record")
            if fast.hexdigest() != item.name.digest:
                raise BundleError(f"{path} does not have the bytes that were sealed")

    def open(self) -> "BundleStream":
        """Its bytes as a readable stream."""
        return BundleStream(self)


class BundleStream:
    """Reads a bundle's bytes like an unbuffered file, but always as many as asked for until the end."""

    def __init__(self, bundle: Bundle) -> None:
        self._blocks = bundle.blocks()
        self._rest = memoryview(b"")

    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer only at the end; raises BundleError, OSError."""
        parts = [self._rest[:count]]
        self._rest = self._rest[count:]
        left = count - len(parts[0])
        while left and (block := next(self._blocks, None)) is not None:
            view = memoryview(block)
            parts.append(view[:left])
            self._rest = view[left:]
            left -= len(parts[-1])
        return b"".join(parts)

    def close(self) -> None:
        """Close the file that is being read."""
        getattr(self._blocks, "close", lambda: None)()


class Head:
    """What stands before the segments' bytes, taken in as it comes; nothing is believed that was not checked.

    `epoch`, if given, is the one in the bundle's name. Once `done`, `items` is the whole index, `length` how long
    the head is, `size` how long the bundle has to be, in bytes, and `digest` what its name has to hold.
    """

    def __init__(self, *, where: str = "bundle", epoch: str | None = None) -> None:
        self.count = 0
        """Items it claims to have; 0 until that is known."""
        self.done = False
        self.items: tuple[Item, ...] = ()
        self.length = self.size = 0
        self.digest = ""
        self._where = where
        self._epoch = epoch
        self._data = bytearray()
        self._at = 0
        self._found: list[tuple[str, Item]] = []

    def feed(self, data: bytes | memoryview) -> int:
        """Take the next bytes; how many of them are the head's. Raises BundleError, and is of no use after that."""
        before = len(self._data)
        self._data += data
        if not self.count and not self._begin():
            return len(data)
        while len(self._found) < self.count:
            if not self._entry():
                return len(data)
        self._end()
        return self.length - before

    def _begin(self) -> bool:
        start = len(MAGIC) + _COUNT.size
        if not MAGIC.startswith(self._data[: len(MAGIC)]):
            raise BundleError(f"{self._where}: does not start like a bundle of a known version")
        if len(self._data) < start:
            return False
        (self.count,) = _COUNT.unpack_from(self._data, len(MAGIC))
        if not 1 <= self.count <= MAX_ITEMS:
            raise BundleError(f"{self._where}: claims {self.count} items; 1 to {MAX_ITEMS} are allowed")
        self._at = start
        return True

    def _entry(self) -> bool:
        """The next path and item of the index, if all of it is here; a path has but one spelling."""
        if len(self._data) < self._at + _LENGTH.size:
            return False
        (length,) = _LENGTH.unpack_from(self._data, self._at)
        if not 1 <= length <= MAX_PATH:
            raise BundleError(f"{self._where}: a path of {length} bytes; 1 to {MAX_PATH} are allowed")
        start = self._at + _LENGTH.size
        if len(self._data) < start + length + _SIZE.size:
            return False
        (size,) = _SIZE.unpack_from(self._data, start + length)
        try:
            text = self._data[start : start + length].decode("ascii")
            slash, _, rest = text.partition("/")
            stream, _, name = rest.rpartition("/")
            if slash:
                raise NameRefused(f"upload path {text[:120]!r} does not start with '/'")
            self._found.append((text, Item(check_stream(stream), SegmentName.parse(name), size)))
        except (UnicodeDecodeError, NameRefused) as error:
            raise BundleError(f"{self._where}: {error}") from error
        self._at = start + length + _SIZE.size
        return True

    def _end(self) -> None:
        items = tuple(item for _, item in self._found)
        _check(items, [path for path, _ in self._found], self._where, self._epoch)
        self.items, self.length = items, self._at
        self.size = self.length + sum(item.size for item in items)
        self.digest = xxh3(memoryview(self._data)[: self.length])
        self.done = True
        self._data, self._found = bytearray(), []

    def check_size(self, size: int) -> None:
        """Raises BundleError if a bundle with this head, which is `done`, is not so many bytes long."""
        if size != self.size:
            promised, held = self.size - self.length, size - self.length
            raise BundleError(f"{self._where}: the index promises {promised} bytes of segments, the file holds {held}")


class BundleReader:
    """Reads a bundle that somebody else wrote.

    `file` is open for reading at its start; `size` is its length in bytes; `epoch`, if given, is the one in
    the bundle's name. On return `head` is proven against `size`; the items' bytes are then taken in order
    by `copy` (or `skip`). Raises BundleError, here and there; OSError if reading fails.
    """

    def __init__(
        self, file: BinaryIO, size: int, *, where: str = "bundle", epoch: str | None = None, max_bytes: int = MAX_BYTES
    ) -> None:
        self._file = file
        self._where = where
        self._next = 0
        if size > max_bytes:
            raise BundleError(f"{where}: {size} bytes are more than the {max_bytes} allowed")
        self.head = Head(where=where, epoch=epoch)
        while not self.head.done:
            block = file.read(_HEAD_BLOCK)
            if not block:
                raise BundleError(f"{where}: ends within its index")
            self.head.feed(block)
        self.head.check_size(size)
        file.seek(self.head.length)

    @property
    def items(self) -> tuple[Item, ...]:
        """The whole index."""
        return self.head.items

    def copy(self, sink: Sink) -> tuple[Item, str]:
        """Hand the next item's bytes to `sink`; returns the item and the XXH3-128 of what was read.

        Whether that digest is the one in the item's name is the caller's verdict to give.
        """
        item = self._advance()
        left = item.size
        if left <= BLOCK:
            block = self._exactly(left)
            sink.write(block)
            return item, xxh3(block)
        fast = new_xxh3()
        while left:
            block = self._exactly(min(left, BLOCK))
            fast.update(block)
            sink.write(block)
            left -= len(block)
        return item, fast.hexdigest()

    def skip(self) -> Item:
        """Pass over the next item's bytes."""
        item = self._advance()
        self._file.seek(item.size, 1)
        return item

    def _advance(self) -> Item:
        if self._next >= len(self.items):
            raise BundleError(f"{self._where}: has no more than {len(self.items)} items")
        self._next += 1
        return self.items[self._next - 1]

    def _exactly(self, count: int) -> bytes:
        found = self._file.read(count)
        while len(found) < count:
            block = self._file.read(count - len(found))
            if not block:
                raise BundleError(f"{self._where}: ends {count - len(found)} bytes too early")
            found += block
        return found


def _index(items: Sequence[Item], paths: Sequence[str]) -> bytes:
    parts = [MAGIC, _COUNT.pack(len(items))]
    for item, path in zip(items, paths, strict=True):
        parts += [_LENGTH.pack(len(path)), path.encode("ascii"), _SIZE.pack(item.size)]
    return b"".join(parts)


def _check(items: Sequence[Item], paths: Sequence[str], where: str, epoch: str | None = None) -> None:
    """The rules both sides keep; `paths`: of the items. Raises BundleError."""
    if not 1 <= len(items) <= MAX_ITEMS:
        raise BundleError(f"{where}: {len(items)} items; 1 to {MAX_ITEMS} are allowed")
    wanted = items[0].name.epoch if epoch is None else epoch
    seen: set[str] = set()
    total = 0
    for item, path in zip(items, paths, strict=True):
        total += item.size
        if item.size < 1:
            raise BundleError(f"{where}: {path} is empty, which no segment is")
        if path in seen:
            raise BundleError(f"{where}: {path} is in it twice")
        if item.name.epoch != wanted:
            raise BundleError(f"{where}: {path} is not of epoch {wanted}")
        seen.add(path)
    if total > MAX_BYTES:
        raise BundleError(f"{where}: {total} bytes of segments are more than the {MAX_BYTES} allowed")
