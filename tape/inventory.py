"""The inventory: a tree of digests over the segments one side holds, so that two sides find what differs.

An entry is a segment's seq and digest; its hash is XXH3-128 of both. A node is a count and the XOR of
the hashes below it: a block covers 256 numbers, a span 65,536, then the epoch of a stream, then the
epoch over all streams. A node can be kept by adding and taking away, and equal nodes need no look inside.

The tree is read page by page, each a small file below `/.inventory`: `root` (a digest for each epoch),
`index-<epoch>` (its streams), `<stream>/<epoch>` (its spans), `<stream>/<epoch>/<span>` (its blocks),
`<stream>/<epoch>/b<block>` (its entries). `answer` makes a page of one side's tree, `Comparison` walks
the other side's. Pure: no I/O, no clock.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Protocol

from tape.errors import InventoryError
from tape.inventory_pages import (
    BLOCK,
    BLOCK_BITS,
    FOLDER,
    LAST_BLOCK,
    MAX_PAGE,
    ROOT,
    Level,
    Node,
    Page,
    blocks_of,
    combined,
    decode_entries,
    decode_index,
    decode_parts,
    decode_root,
    encode_entries,
    encode_index,
    encode_parts,
    encode_root,
    entry_hash,
    epoch_digest,
    node_of,
    spans_of,
)

__all__ = [
    "BLOCK",
    "BLOCK_BITS",
    "FOLDER",
    "LAST_BLOCK",
    "MAX_PAGE",
    "ROOT",
    "Comparison",
    "Difference",
    "Kind",
    "Level",
    "Node",
    "Page",
    "Tree",
    "answer",
    "combined",
    "entry_hash",
    "node_of",
]


class Tree(Protocol):
    """One side's segments of one agent. Nothing empty is listed."""

    def epochs(self) -> Iterable[str]:
        """Every epoch, ascending."""

    def streams(self, epoch: str) -> Iterable[tuple[str, Node]]:
        """The streams of an epoch, by name, each with the node over all its segments of that epoch."""

    def blocks(self, stream: str, epoch: str, first: int, last: int) -> Iterable[tuple[int, Node]]:
        """The blocks `first`..`last` of a stream's epoch, ascending."""

    def entries(self, stream: str, epoch: str, block: int) -> Iterable[tuple[int, bytes]]:
        """The (seq, digest) of a block, ascending."""


def answer(tree: Tree, page: Page) -> bytes | None:
    """A page of a tree as it is served; None if nothing lies below it. Raises InventoryError if it were too long."""
    if page.level is Level.ROOT:
        roots = {epoch: epoch_digest(tree.streams(epoch)) for epoch in tree.epochs()}
        return encode_root(roots)
    if page.level is Level.INDEX:
        streams = dict(tree.streams(page.epoch))
        return encode_index(streams) if streams else None
    if page.level is Level.ENTRIES:
        entries = dict(tree.entries(page.stream, page.epoch, page.number))
        return encode_entries(page.number, entries) if entries else None
    if page.level is Level.SPANS:
        parts = spans_of(tree.blocks(page.stream, page.epoch, 0, LAST_BLOCK))
    else:
        parts = dict(tree.blocks(page.stream, page.epoch, *blocks_of(page.number)))
    return encode_parts(page.level, parts) if parts else None


# ------------------------------------------------------------------------------------------ what differs


class Kind(StrEnum):
    """How the two sides differ about one segment."""

    MISSING = "missing"  # held here, not there
    FOREIGN = "foreign"  # held there, not here
    DIFFERENT = "different"  # other bytes under the same identity


@dataclass(frozen=True, slots=True)
class Difference:
    """One segment the sides differ about. `own` and `there`: its digest on each side, empty where it is not held."""

    stream: str
    epoch: str
    seq: int
    own: bytes
    there: bytes

    @property
    def kind(self) -> Kind:
        """What the difference is, seen from the own side."""
        if not self.there:
            return Kind.MISSING
        return Kind.DIFFERENT if self.own else Kind.FOREIGN


class Comparison:
    """Walks the other side's tree beside the own one and yields exactly what differs. Memory by the width of the walk.

        walk = Comparison(own, epochs)
        while pages := walk.wanted():
            for difference in walk.take({page: fetched(page) for page in pages}): ...

    `epochs`: those that are compared; others that the other side holds are only named, in `others`. `partly`: those
    of them of which the own side knows only a part, so that it does not ask for what it can't judge. The pages of one
    `wanted` are independent and are best fetched together. Both sides may change meanwhile: a difference is to be
    looked at again before anything is done about it.
    """

    def __init__(self, own: Tree, epochs: Collection[str], *, partly: Collection[str] = ()) -> None:
        self._own = own
        self._epochs = tuple(sorted(set(epochs)))
        self._partly = frozenset(partly)
        self._queue: list[Page] = [ROOT]
        self.others: tuple[str, ...] = ()

    def wanted(self, most: int = 256) -> list[Page]:
        """The pages to fetch next, at most so many, the deepest first; empty when the walk is over."""
        pages, self._queue = self._queue[-most:], self._queue[:-most]
        return pages

    def take(self, answers: Mapping[Page, bytes | None]) -> Iterator[Difference]:
        """What the answers to `wanted` show; None: there is no such page. Raises InventoryError at once.

        What the walk needs next is known when this returns; the differences are read while they are taken.
        """
        found: list[Iterable[Difference]] = []
        for page, data in answers.items():
            found.extend(self._look(page, data))
        return chain.from_iterable(found)

    def _look(self, page: Page, data: bytes | None) -> Iterable[Iterable[Difference]]:
        if page.level is Level.ROOT:
            return self._root(data)
        if page.level is Level.INDEX:
            return self._index(page, data)
        if page.level is Level.ENTRIES:
            return [self._entries(page, data)]
        return self._parts(page, data)

    def _root(self, data: bytes | None) -> list[Iterator[Difference]]:
        if data is None:
            raise InventoryError("the other side serves no inventory", hint="update hometape there")
        roots = decode_root(data)
        self.others = tuple(sorted(set(roots) - set(self._epochs)))
        absent = []
        for epoch in reversed(self._epochs):
            streams = dict(self._own.streams(epoch))
            if epoch not in roots:
                absent += [self._missing(stream, epoch, 0, LAST_BLOCK) for stream in streams]
            elif roots[epoch] != epoch_digest(streams.items()):
                self._queue.append(Page(Level.INDEX, epoch))
        return absent

    def _index(self, page: Page, data: bytes | None) -> list[Iterator[Difference]]:
        own = dict(self._own.streams(page.epoch))
        there = {} if data is None else decode_index(data)
        for stream in sorted(there, reverse=True):
            if own.get(stream) != there[stream] and (stream in own or page.epoch not in self._partly):
                self._queue.append(Page(Level.SPANS, page.epoch, stream))
        return [self._missing(stream, page.epoch, 0, LAST_BLOCK) for stream in own if stream not in there]

    def _parts(self, page: Page, data: bytes | None) -> list[Iterator[Difference]]:
        there = {} if data is None else decode_parts(page, data)
        if page.level is Level.SPANS:
            own = spans_of(self._own.blocks(page.stream, page.epoch, 0, LAST_BLOCK))
            below = Level.BLOCKS
        else:
            own = dict(self._own.blocks(page.stream, page.epoch, *blocks_of(page.number)))
            below = Level.ENTRIES
        for number in sorted(there, reverse=True):
            if own.get(number) != there[number] and (number in own or page.epoch not in self._partly):
                self._queue.append(Page(below, page.epoch, page.stream, number))
        absent = []
        for number in own:
            if number not in there:
                first, last = blocks_of(number) if below is Level.BLOCKS else (number, number)
                absent.append(self._missing(page.stream, page.epoch, first, last))
        return absent

    def _entries(self, page: Page, data: bytes | None) -> Iterable[Difference]:
        there = {} if data is None else decode_entries(page.number, data)
        return self.differing(page.stream, page.epoch, page.number, there)

    def differing(self, stream: str, epoch: str, block: int, there: Mapping[int, bytes]) -> Iterable[Difference]:
        """What differs in one block, of which the other side holds `there`.

        A side that no longer knows all of its own digests overrides this and judges for itself.
        """
        own = dict(self._own.entries(stream, epoch, block))
        return [
            Difference(stream, epoch, seq, own.get(seq, b""), there.get(seq, b""))
            for seq in sorted(own.keys() | there.keys())
            if own.get(seq) != there.get(seq)
        ]

    def _missing(self, stream: str, epoch: str, first: int, last: int) -> Iterator[Difference]:
        for number, _ in self._own.blocks(stream, epoch, first, last):
            yield from self.differing(stream, epoch, number, {})
