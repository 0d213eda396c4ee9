"""The sums over 256 numbers of an epoch each, and the nodes of the inventory's tree, kept beside the segments."""

import sqlite3
from collections.abc import Iterable
from itertools import groupby

from receiver import catalog_spans
from receiver.catalog_tables import NO_ENDS, WANTED, ends_id, ends_with
from tape.inventory import BLOCK_BITS, entry_hash

Entry = tuple[int, bytes, int]  # seq, digest, size


def add(base: sqlite3.Connection, epoch: int, entries: Iterable[Entry], now: int) -> None:
    """Count new segments of an epoch."""
    count = xor = 0
    for number, group in groupby(sorted(entries), key=lambda entry: entry[0] >> BLOCK_BITS):
        some = list(group)
        segments = len(some)
        size = sum(length for _, _, length in some)
        node = 0
        for seq, digest, _ in some:
            node ^= entry_hash(seq, digest)
        _add_ends(base, ends_id(epoch, number), some)
        base.execute(
            "INSERT INTO block VALUES (?1,?2,?3,?4,?5,?3,?6) ON CONFLICT DO UPDATE SET segments=segments+?3,"
            " bytes=bytes+?4, first_committed=min(first_committed,?5), there=there+?3, node=?6",
            (epoch, number, segments, size, now, (_node(base, epoch, number) ^ node).to_bytes(16, "big")),
        )
        count += segments
        xor ^= node
    _change_epoch(base, epoch, count, xor)


def _add_ends(base: sqlite3.Connection, number: int, some: Iterable[Entry]) -> None:
    row = base.execute("SELECT ends FROM block_ends WHERE id=?", (number,)).fetchone()
    ends = ends_with(NO_ENDS if row is None else row[0], ((seq, length) for seq, _, length in some))
    base.execute("INSERT OR REPLACE INTO block_ends VALUES (?,?)", (number, ends))


def want(base: sqlite3.Connection, epoch: int, seq: int) -> None:
    """A segment is wanted again: it is not there any more; nothing to do if it is wanted already."""
    if not catalog_spans.holds(base, epoch, WANTED, seq):
        catalog_spans.add(base, epoch, WANTED, seq, seq)
        _change(base, epoch, seq, -1)


def unwant(base: sqlite3.Connection, epoch: int, seq: int) -> None:
    """A segment is there again; nothing to do if it was not wanted."""
    if catalog_spans.holds(base, epoch, WANTED, seq):
        catalog_spans.remove(base, epoch, WANTED, seq, seq)
        _change(base, epoch, seq, 1)


def _change(base: sqlite3.Connection, epoch: int, seq: int, count: int) -> None:
    (digest,) = base.execute("SELECT digest FROM segment WHERE epoch=? AND seq=?", (epoch, seq)).fetchone()
    number, xor = seq >> BLOCK_BITS, entry_hash(seq, digest)
    base.execute(
        "UPDATE block SET there=there+?, node=? WHERE epoch=? AND number=?",
        (count, (_node(base, epoch, number) ^ xor).to_bytes(16, "big"), epoch, number),
    )
    _change_epoch(base, epoch, count, xor)


def _change_epoch(base: sqlite3.Connection, epoch: int, count: int, xor: int) -> None:
    (node,) = base.execute("SELECT node FROM epoch WHERE id=?", (epoch,)).fetchone()
    changed = (int.from_bytes(node, "big") ^ xor).to_bytes(16, "big")
    base.execute("UPDATE epoch SET there=there+?, node=? WHERE id=?", (count, changed, epoch))


def _node(base: sqlite3.Connection, epoch: int, number: int) -> int:
    row = base.execute("SELECT node FROM block WHERE epoch=? AND number=?", (epoch, number)).fetchone()
    return 0 if row is None else int.from_bytes(row[0], "big")
