"""What this outbox ever made, summed over blocks of 256 numbers: kept when the rows themselves are compacted away.

A block knows which numbers it holds (a bitmap) and their node, as `tape.inventory` defines it. Both only ever
grow, in the transaction that records a segment, so a comparison with home needs no row of what was released
long ago: 52 bytes stand for 256 segments.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from tape.inventory import BLOCK, BLOCK_BITS, LAST_BLOCK, Node, entry_hash

_EMPTY = Node()
TABLES = """
CREATE TABLE blocks (
    stream INTEGER NOT NULL REFERENCES streams (id),
    epoch TEXT NOT NULL,
    number INTEGER NOT NULL,
    count INTEGER NOT NULL,
    node BLOB NOT NULL,
    seqs BLOB NOT NULL,
    PRIMARY KEY (stream, epoch, number)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Made:
    """One block as this outbox made it: bit n of `bitmap` stands for the n-th number of the block."""

    number: int
    node: Node = _EMPTY
    bitmap: int = 0

    def __contains__(self, seq: int) -> bool:
        return seq >> BLOCK_BITS == self.number and bool(self.bitmap >> (seq & (BLOCK - 1)) & 1)

    def seqs(self) -> Iterator[int]:
        """The numbers, ascending."""
        first, bits = self.number << BLOCK_BITS, self.bitmap
        while bits:
            low = bits & -bits
            yield first + low.bit_length() - 1
            bits ^= low

    def and_one(self, seq: int, digest: str) -> "Made":
        """The block with one more segment; the same if it is counted already."""
        if seq in self:
            return self
        node = Node(self.node.count + 1, self.node.xor ^ entry_hash(seq, bytes.fromhex(digest)))
        return Made(self.number, node, self.bitmap | 1 << (seq & (BLOCK - 1)))


def note(db: sqlite3.Connection, stream: int, epoch: str, seq: int, digest: str) -> None:
    """Within a transaction: one more segment was made. One that is counted already (adopted again) changes nothing."""
    number = seq >> BLOCK_BITS
    made = next(read(db, stream, epoch, number, number), Made(number))
    _write(db, stream, epoch, made.and_one(seq, digest))


def fill(db: sqlite3.Connection) -> None:
    """Within a transaction: sum up the rows there are, for an outbox of a format that kept no blocks."""
    owner: tuple[int, str] | None = None
    made = Made(-1)
    for stream, epoch, seq, digest in db.execute(
        "SELECT stream, epoch, seq, digest FROM segments ORDER BY stream, epoch, seq"
    ):
        if owner != (stream, epoch) or made.number != seq >> BLOCK_BITS:
            if owner is not None:
                _write(db, *owner, made)
            owner, made = (stream, epoch), Made(seq >> BLOCK_BITS)
        made = made.and_one(seq, digest)
    if owner is not None:
        _write(db, *owner, made)


def read(db: sqlite3.Connection, stream: int, epoch: str, first: int = 0, last: int = LAST_BLOCK) -> Iterator[Made]:
    """The blocks of an epoch from a number to another, ascending."""
    rows = db.execute(
        "SELECT number, count, node, seqs FROM blocks WHERE stream = ? AND epoch = ? AND number BETWEEN ? AND ?"
        " ORDER BY number",
        (stream, epoch, first, last),
    )
    for number, count, node, seqs in rows:
        yield Made(number, Node(count, int.from_bytes(node)), int.from_bytes(seqs))


def _write(db: sqlite3.Connection, stream: int, epoch: str, made: Made) -> None:
    db.execute(
        "INSERT INTO blocks (stream, epoch, number, count, node, seqs) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (stream, epoch, number) DO UPDATE SET count = excluded.count, node = excluded.node,"
        " seqs = excluded.seqs",
        (stream, epoch, made.number, made.node.count, made.node.xor.to_bytes(16), made.bitmap.to_bytes(BLOCK // 8)),
    )
