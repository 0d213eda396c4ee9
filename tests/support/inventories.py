"""A side of an inventory kept as a plain dictionary: what trees kept cleverly are held against."""

from collections import defaultdict
from collections.abc import Iterator

from tape.inventory import BLOCK_BITS, Comparison, Difference, Node, Tree, answer, node_of

Held = dict[tuple[str, str, int], bytes]  # (stream, epoch, seq) -> digest


class PlainTree:
    """A tree over a dictionary."""

    def __init__(self, held: Held) -> None:
        self._blocks: dict[tuple[str, str], dict[int, dict[int, bytes]]] = defaultdict(lambda: defaultdict(dict))
        for (stream, epoch, seq), digest in sorted(held.items()):
            self._blocks[stream, epoch][seq >> BLOCK_BITS][seq] = digest

    def epochs(self) -> list[str]:
        return sorted({epoch for _, epoch in self._blocks})

    def streams(self, epoch: str) -> Iterator[tuple[str, Node]]:
        for (stream, name), blocks in sorted(self._blocks.items()):
            if name == epoch:
                yield stream, node_of(entry for block in blocks.values() for entry in block.items())

    def blocks(self, stream: str, epoch: str, first: int, last: int) -> Iterator[tuple[int, Node]]:
        for number, entries in self._blocks.get((stream, epoch), {}).items():
            if first <= number <= last:
                yield number, node_of(entries.items())

    def entries(self, stream: str, epoch: str, block: int) -> list[tuple[int, bytes]]:
        return list(self._blocks.get((stream, epoch), {}).get(block, {}).items())


def compared(own: Tree, there: Tree, epochs: list[str], *, most: int = 256) -> tuple[list[Difference], int, int]:
    """What differs, and the pages and bytes it took to find out."""
    walk = Comparison(own, epochs)
    found: list[Difference] = []
    pages = size = 0
    while wanted := walk.wanted(most):
        answers = {page: answer(there, page) for page in wanted}
        pages += len(answers)
        size += sum(len(data) for data in answers.values() if data is not None)
        found += walk.take(answers)
    return found, pages, size
