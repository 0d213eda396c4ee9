"""The inventory's nodes and pages: how they are named, summed, written and read back within strict bounds.

See `tape.inventory` for what they are for. Pages are big-endian binary: a magic, a version, the level, the
count of items, then the items in order.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby

import xxhash

from tape.errors import InventoryError, NameRefused
from tape.names import check_epoch, check_stream

FOLDER = ".inventory"
VERSION = 1
BLOCK_BITS = 8
SPAN_BITS = 16
BLOCK = 1 << BLOCK_BITS
LAST_SEQ = 10**12 - 1  # as names allow
LAST_BLOCK = LAST_SEQ >> BLOCK_BITS
MAX_PAGE = 4 * 2**20
_MAGIC = b"tinv"
_HEAD = struct.Struct(">4sBBI")  # magic, version, level, count of items
_PART = struct.Struct(">II16s")  # number, segments below it, XOR
_ROOT = struct.Struct(">8s16s")  # epoch, digest over its streams
_STREAM = struct.Struct(">BQ16s")  # length of the name that follows, segments, XOR


class Level(IntEnum):
    """What a page of the inventory holds."""

    ROOT = 0
    INDEX = 1
    SPANS = 2
    BLOCKS = 3
    ENTRIES = 4


@dataclass(frozen=True, slots=True, order=True)
class Page:
    """A page: its level, and whose it is. `number`: a span's for BLOCKS, a block's for ENTRIES."""

    level: Level
    epoch: str = ""
    stream: str = ""
    number: int = 0

    def __str__(self) -> str:
        """Its path in the agent's view."""
        match self.level:
            case Level.ROOT:
                return f"/{FOLDER}/root"
            case Level.INDEX:
                return f"/{FOLDER}/index-{self.epoch}"
            case Level.SPANS:
                return f"/{FOLDER}/{self.stream}/{self.epoch}"
            case Level.BLOCKS:
                return f"/{FOLDER}/{self.stream}/{self.epoch}/{self.number}"
            case Level.ENTRIES:
                return f"/{FOLDER}/{self.stream}/{self.epoch}/b{self.number}"

    @classmethod
    def parse(cls, path: str) -> "Page":
        """Read a path in its one spelling; raises NameRefused."""
        page = cls._read(path)
        if page is None or str(page) != path:
            raise NameRefused(f"{path[:120]!r} is not a page of the inventory")
        return page

    @classmethod
    def _read(cls, path: str) -> "Page | None":
        parts = path.split("/")
        if len(parts) < 3 or parts[:2] != ["", FOLDER]:
            return None
        *front, last = parts[2:]
        if not front:
            if last == "root":
                return ROOT
            return cls(Level.INDEX, check_epoch(last.removeprefix("index-")))
        if len(last) == 16:
            return cls(Level.SPANS, check_epoch(last), check_stream("/".join(front)))
        digits = last.removeprefix("b")
        if len(front) < 2 or not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
            return None
        level = Level.BLOCKS if digits == last else Level.ENTRIES
        highest = LAST_SEQ >> SPAN_BITS if level is Level.BLOCKS else LAST_BLOCK
        if int(digits) > highest:
            return None
        return cls(level, check_epoch(front[-1]), check_stream("/".join(front[:-1])), int(digits))


ROOT = Page(Level.ROOT)


@dataclass(frozen=True, slots=True)
class Node:
    """What lies below a point of the tree: how many segments, and the XOR of their hashes."""

    count: int = 0
    xor: int = 0


Parts = dict[int, Node]  # numbers of spans or blocks, ascending, none empty


def entry_hash(seq: int, digest: bytes) -> int:
    """The hash of one segment: XXH3-128 of its seq (8 bytes, big-endian) and its digest (16 bytes)."""
    return xxhash.xxh3_128_intdigest(seq.to_bytes(8, "big") + digest)


def node_of(entries: Iterable[tuple[int, bytes]]) -> Node:
    """The node over (seq, digest) of distinct segments, in any order."""
    count = xor = 0
    for seq, digest in entries:
        count += 1
        xor ^= entry_hash(seq, digest)
    return Node(count, xor)


def combined(nodes: Iterable[Node]) -> Node:
    """The node above other nodes."""
    count = xor = 0
    for node in nodes:
        count += node.count
        xor ^= node.xor
    return Node(count, xor)


def spans_of(blocks: Iterable[tuple[int, Node]]) -> Parts:
    """The spans above blocks that come in ascending order."""
    shift = SPAN_BITS - BLOCK_BITS
    return {
        number: combined(node for _, node in group)
        for number, group in groupby(blocks, key=lambda block: block[0] >> shift)
    }


def blocks_of(span: int) -> tuple[int, int]:
    """The first and last block of a span."""
    first = span << (SPAN_BITS - BLOCK_BITS)
    return first, first + (1 << (SPAN_BITS - BLOCK_BITS)) - 1


# ---------------------------------------------------------------------------------------- pages as bytes


def epoch_digest(streams: Iterable[tuple[str, Node]]) -> bytes:
    """The digest over an epoch's streams: equal if and only if both sides hold the same of it."""
    return xxhash.xxh3_128_digest(encode_index(dict(streams)))


def encode_root(roots: Mapping[str, bytes]) -> bytes:
    """The root page from each epoch's digest."""
    return _page(Level.ROOT, [_ROOT.pack(bytes.fromhex(epoch), roots[epoch]) for epoch in sorted(roots)])


def decode_root(data: bytes) -> dict[str, bytes]:
    """Each epoch's digest; raises InventoryError."""
    count, body = _opened(ROOT, data)
    if len(body) != count * _ROOT.size:
        raise _broken(ROOT, "its length is not that of its items")
    found = {epoch.hex(): digest for epoch, digest in _ROOT.iter_unpack(body)}
    if len(found) != count or list(found) != sorted(found):
        raise _broken(ROOT, "its epochs are not in order")
    return found


def encode_index(streams: Mapping[str, Node]) -> bytes:
    """The index page of an epoch from the node of each of its streams."""
    items = []
    for stream in sorted(streams):
        name, node = stream.encode("ascii"), streams[stream]
        items.append(_STREAM.pack(len(name), node.count, node.xor.to_bytes(16, "big")) + name)
    return _page(Level.INDEX, items)


def decode_index(data: bytes) -> dict[str, Node]:
    """The node of each stream of an epoch; raises InventoryError."""
    page = Page(Level.INDEX)
    count, body = _opened(page, data)
    found: dict[str, Node] = {}
    here = 0
    last = ""
    for _ in range(count):
        if here + _STREAM.size > len(body):
            raise _broken(page, "it ends in the middle of an item")
        length, segments, xor = _STREAM.unpack_from(body, here)
        here += _STREAM.size + length
        stream = _stream(page, body[here - length : here], length)
        if stream <= last or not 0 < segments <= LAST_SEQ + 1:
            raise _broken(page, "its streams are not in order, or one holds an impossible number of segments")
        found[stream] = Node(segments, int.from_bytes(xor, "big"))
        last = stream
    if here != len(body):
        raise _broken(page, "something follows its last item")
    return found


def _stream(page: Page, name: bytes, length: int) -> str:
    try:
        if len(name) == length:
            return check_stream(name.decode("ascii"))
    except (UnicodeDecodeError, NameRefused):
        pass
    raise _broken(page, "it names a stream that the grammar does not allow")


def encode_parts(level: Level, parts: Mapping[int, Node]) -> bytes:
    """A page of spans or blocks."""
    return _page(level, [_PART.pack(n, parts[n].count, parts[n].xor.to_bytes(16, "big")) for n in sorted(parts)])


def decode_parts(page: Page, data: bytes) -> Parts:
    """The nodes of a page of spans or blocks; raises InventoryError."""
    count, body = _opened(page, data)
    if len(body) != count * _PART.size:
        raise _broken(page, "its length is not that of its items")
    first, last, most = 0, LAST_SEQ >> SPAN_BITS, 1 << SPAN_BITS
    if page.level is Level.BLOCKS:
        (first, last), most = blocks_of(page.number), BLOCK
    found: Parts = {}
    for number, segments, xor in _PART.iter_unpack(body):
        if not first <= number <= last or not 0 < segments <= most:
            raise _broken(page, "a number in it is out of bounds")
        found[number] = Node(segments, int.from_bytes(xor, "big"))
        first = number + 1
    return found


def encode_entries(block: int, entries: Mapping[int, bytes]) -> bytes:
    """A block's page: a bitmap of the numbers held, then their digests in order."""
    bits = sum(1 << (seq - (block << BLOCK_BITS)) for seq in entries)
    return _page(Level.ENTRIES, [bits.to_bytes(BLOCK // 8, "little"), *(entries[seq] for seq in sorted(entries))])


def decode_entries(block: int, data: bytes) -> dict[int, bytes]:
    """The digest of each seq of a block; raises InventoryError."""
    page = Page(Level.ENTRIES, number=block)
    count, body = _opened(page, data)
    bits = int.from_bytes(body[: BLOCK // 8], "little")
    held = [(block << BLOCK_BITS) + bit for bit in range(BLOCK) if bits >> bit & 1]
    if count != len(held) + 1 or len(body) != BLOCK // 8 + 16 * len(held):
        raise _broken(page, "its length is not that of its items")
    digests = body[BLOCK // 8 :]
    return {seq: digests[16 * n : 16 * n + 16] for n, seq in enumerate(held)}


def _page(level: Level, items: list[bytes]) -> bytes:
    data = b"".join([_HEAD.pack(_MAGIC, VERSION, level, len(items)), *items])
    if len(data) > MAX_PAGE:
        raise InventoryError(f"a page of the inventory would have {len(data)} bytes: its numbers are too sparse")
    return data


def _opened(page: Page, data: bytes) -> tuple[int, bytes]:
    """The count of items and the bytes of a page of that level."""
    if len(data) > MAX_PAGE:
        raise _broken(page, f"it has {len(data)} bytes")
    if len(data) < _HEAD.size:
        raise _broken(page, "it is cut short")
    magic, version, level, count = _HEAD.unpack_from(data)
    if magic != _MAGIC or level != page.level:
        raise _broken(page, "it is something else")
    if version != VERSION:
        raise InventoryError(f"the inventory has version {version}, which is not known here", hint="update hometape")
    return count, data[_HEAD.size :]


def _broken(page: Page, why: str) -> InventoryError:
    return InventoryError(f"a page of the inventory ({page.level.name.lower()}) can't be read: {why}")
