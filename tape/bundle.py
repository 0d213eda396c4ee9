r"""Bundles: many small segments in one upload, so that a long link and an fsync are paid for once.

Format, version 1, all numbers big-endian:

    magic   8 bytes   b"HTBNDL1\n"
    count   u32       number of items, 1 to MAX_ITEMS
    index   count times:
        length  u16   of the path in bytes
        path          upload path `/<stream>/<segment name>`, ASCII
        size    u64   of the segment in bytes, at least 1
    bytes             the segments one behind the other, in the order of the index, nothing after them

The file's name is `<epoch>-<XXH3-128 of the whole file>.bundle`; every item is of that epoch, and no path
comes twice. An item's own digest stands in its name and is the item's proof; the bundle's digest is the
upload's. The index is at the front, so a reader knows all names and sizes before it copies a byte.

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

MAGIC = b"HTBNDL1\n"
MAX_ITEMS = 4096
MAX_BYTES = 256 * 2**20
MAX_PATH = 512
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

    def name(self) -> BundleName:
        """Its file name: reads all files once; raises BundleError if one is not what was sealed, OSError."""
        fast = new_xxh3()
        for block in self.blocks():
            fast.update(block)
        return BundleName(self.entries[0][0].name.epoch, fast.hexdigest())

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


class BundleReader:
    """Reads a bundle that somebody else wrote: every number and name is checked before it is believed.

    `file` is open for reading at its start; `size` is its length in bytes; `epoch`, if given, is the one in
    the bundle's name. On return `items` is the whole index, proven against `size`; the items' bytes are
    then taken in order by `copy` (or `skip`). Raises BundleError, here and there; OSError if reading fails.
    """

    def __init__(
        self, file: BinaryIO, size: int, *, where: str = "bundle", epoch: str | None = None, max_bytes: int = MAX_BYTES
    ) -> None:
        self._file = file
        self._where = where
        self._next = 0
        if size > max_bytes:
            raise BundleError(f"{where}: {size} bytes are more than the {max_bytes} allowed")
        self._left = size
        if self._exactly(len(MAGIC)) != MAGIC:
            raise BundleError(f"{where}: does not start like a bundle of a known version")
        (count,) = _COUNT.unpack(self._exactly(_COUNT.size))
        if not 1 <= count <= MAX_ITEMS:
            raise BundleError(f"{where}: claims {count} items; 1 to {MAX_ITEMS} are allowed")
        paths = []
        items = []
        for _ in range(count):
            path, item = self._entry()
            paths.append(path)
            items.append(item)
        self.items = tuple(items)
        _check(self.items, paths, where, epoch)
        total = sum(item.size for item in self.items)
        if total != self._left:
            raise BundleError(f"{where}: the index promises {total} bytes of segments, the file holds {self._left}")
        self.start = size - total
        """Where the first item's bytes begin in the file; the others follow without gaps."""

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
        self._left -= item.size
        return item

    def _advance(self) -> Item:
        if self._next >= len(self.items):
            raise BundleError(f"{self._where}: has no more than {len(self.items)} items")
        self._next += 1
        return self.items[self._next - 1]

    def _entry(self) -> tuple[str, Item]:
        """The next path and item of the index; a path has but one spelling."""
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if not 1 <= length <= MAX_PATH:
            raise BundleError(f"{self._where}: a path of {length} bytes; 1 to {MAX_PATH} are allowed")
        raw = self._exactly(length)
        (size,) = _SIZE.unpack(self._exactly(_SIZE.size))
        try:
            text = raw.decode("ascii")
            slash, _, rest = text.partition("/")
            stream, _, name = rest.rpartition("/")
            if slash:
                raise NameRefused(f"upload path {text[:120]!r} does not start with '/'")
            return text, Item(check_stream(stream), SegmentName.parse(name), size)
        except (UnicodeDecodeError, NameRefused) as error:
            raise BundleError(f"{self._where}: {error}") from error

    def _exactly(self, count: int) -> bytes:
        if count > self._left:
            raise BundleError(f"{self._where}: ends {count - self._left} bytes too early")
        found = self._file.read(count)
        while len(found) < count:
            block = self._file.read(count - len(found))
            if not block:
                raise BundleError(f"{self._where}: ends {count - len(found)} bytes too early")
            found += block
        self._left -= count
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
