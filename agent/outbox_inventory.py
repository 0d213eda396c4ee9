"""The outbox beside home: its own tree of digests, its blocks one by one, and sending again what home lost."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence

from agent import outbox_blocks
from agent import outbox_rows as rows
from agent.lifecycle import SegmentEvent
from agent.model import Spooled, State
from agent.outbox_moves import Moves
from agent.outbox_store import Store
from agent.resync_rules import Known, Row
from tape.inventory import BLOCK, BLOCK_BITS, LAST_BLOCK, Node, combined

_AT_ONCE = 1000


class OutboxInventory:
    """A `tape.inventory.Tree` over everything this outbox ever made, and what a resync needs besides. Thread-safe."""

    def __init__(self, store: Store, moves: Moves, epoch: str, streams: Callable[[str], bool] = lambda _: True) -> None:
        self._store = store
        self._moves = moves
        self._epoch = epoch
        self._wanted = streams

    def only(self, streams: Callable[[str], bool]) -> "OutboxInventory":
        """The same, of some streams only."""
        return OutboxInventory(self._store, self._moves, self._epoch, streams)

    def wants(self, stream: str) -> bool:
        """Whether a stream is one of those."""
        return self._wanted(stream)

    # ---- Tree

    def epochs(self) -> list[str]:
        """Every epoch of which something was made here or adopted."""
        with self._store.reading() as db:
            found = db.execute("SELECT DISTINCT epoch FROM blocks ORDER BY epoch").fetchall()
        return [row["epoch"] for row in found]

    def streams(self, epoch: str) -> Iterator[tuple[str, Node]]:
        """The streams of an epoch with the node of each."""
        with self._store.reading() as db:
            found = db.execute(
                "SELECT id, name FROM streams t WHERE EXISTS (SELECT 1 FROM blocks WHERE stream = t.id AND epoch = ?)"
                " ORDER BY name",
                (epoch,),
            ).fetchall()
        for row in found:
            if self.wants(row["name"]):
                with self._store.reading() as db:
                    yield row["name"], combined(made.node for made in outbox_blocks.read(db, row["id"], epoch))

    def blocks(self, stream: str, epoch: str, first: int = 0, last: int = LAST_BLOCK) -> list[tuple[int, Node]]:
        """The blocks of a stream's epoch."""
        return [(made.number, made.node) for made in self._made(stream, epoch, first, last)]

    def entries(self, stream: str, epoch: str, block: int) -> list[tuple[int, bytes]]:
        """The (seq, digest) of the rows that are left of a block; what was compacted has none."""
        return [(seq, row.digest) for seq, row in sorted(self._rows(stream, epoch, block).items())]

    # ---- what a resync needs besides

    def partly(self) -> list[str]:
        """Epochs of which only a part is known here: those of lost outboxes, and one begun in the first format."""
        with self._store.reading() as db:
            forgotten = db.execute(
                "SELECT 1 FROM streams t WHERE next_seq > (SELECT coalesce(sum(count), 0) FROM blocks"
                " WHERE stream = t.id AND epoch = ?)",
                (self._epoch,),
            ).fetchone()
        return [epoch for epoch in self.epochs() if epoch != self._epoch or forgotten]

    def known(self, stream: str, epoch: str, block: int) -> Known:
        """All there is to know of one block."""
        made = next(iter(self._made(stream, epoch, block, block)), outbox_blocks.Made(block))
        found = self._rows(stream, epoch, block)
        following = None
        if epoch == self._epoch:
            with self._store.reading() as db:
                row = db.execute("SELECT next_seq FROM streams WHERE name = ?", (stream,)).fetchone()
            following = row["next_seq"] if row else 0
        return Known(block, tuple(made.seqs()), made.node, found, following)

    @contextlib.contextmanager
    def watched(self) -> Iterator[set[int]]:
        """The ids of segments that change their state from now on, as they do."""
        moved: set[int] = set()
        self._moves.watches.append(moved)
        try:
            yield moved
        finally:
            self._moves.watches.remove(moved)

    def send_again(self, ids: Sequence[int]) -> tuple[int, int]:
        """Have segments sent again that home held once; (segments, bytes) of those that will be.

        One transaction for some hundred of them. What happened to them meanwhile stays.
        """
        count = size = 0
        for start in range(0, len(ids), _AT_ONCE):
            with self._moves.lock:
                found = self._held(ids[start : start + _AT_ONCE])
                self._moves.move([(one, SegmentEvent.RESEND, "") for one in found], again=True)
            count, size = count + len(found), size + sum(one.size for one in found)
        return count, size

    def newest(self) -> int:
        """The id of the newest segment; 0 if there is none."""
        with self._store.reading() as db:
            return int(db.execute("SELECT coalesce(max(id), 0) FROM segments").fetchone()[0])

    def unsent_since(self, newest: int) -> bool:
        """Whether home still lacks a segment that was to be sent and is not newer than this id."""
        with self._store.reading() as db:
            found = db.execute(
                "SELECT t.name FROM streams t WHERE EXISTS (SELECT 1 FROM segments s"
                " WHERE s.stream = t.id AND s.state = 'sealed' AND s.id <= ?)",
                (newest,),
            ).fetchall()
        return any(self.wants(row["name"]) for row in found)

    def to_send(self) -> tuple[int, int]:
        """Segments and bytes that are to be sent, whatever made here since included."""
        return self._moves.sealed

    def added(self) -> tuple[int, int]:
        """Segments and bytes sealed since the outbox was opened."""
        return self._moves.ever

    # ---- within

    def _made(self, stream: str, epoch: str, first: int, last: int) -> list[outbox_blocks.Made]:
        with self._store.reading() as db:
            number = _stream(db, stream)
            return list(outbox_blocks.read(db, number, epoch, first, last))

    def _rows(self, stream: str, epoch: str, block: int) -> dict[int, Row]:
        first = block << BLOCK_BITS
        with self._store.reading() as db:
            found = db.execute(
                "SELECT id, seq, digest, state, size FROM segments WHERE stream = ? AND epoch = ?"
                " AND seq BETWEEN ? AND ?",
                (_stream(db, stream), epoch, first, first + BLOCK - 1),
            ).fetchall()
        return {
            row["seq"]: Row(row["id"], bytes.fromhex(row["digest"]), State(row["state"]), row["size"]) for row in found
        }

    def _held(self, ids: Sequence[int]) -> list[Spooled]:
        marks = ",".join("?" * len(ids))
        with self._store.reading() as db:
            return rows.select(db, f"WHERE s.id IN ({marks}) AND s.state IN ('held', 'safe')", ids)


def _stream(db: sqlite3.Connection, name: str) -> int:
    row = db.execute("SELECT id FROM streams WHERE name = ?", (name,)).fetchone()
    return int(row["id"]) if row else -1
