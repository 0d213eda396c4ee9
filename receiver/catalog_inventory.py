"""The inventory of one agent's segments as the catalog keeps it: see tape.inventory. Lost ones are left out."""

import sqlite3
from collections.abc import Iterator

from receiver.catalog_tables import WANTED
from tape.inventory import BLOCK_BITS, Node


class CatalogTree:
    """A `Tree` over what is held of an agent, read within one transaction."""

    def __init__(self, base: sqlite3.Connection, agent: str) -> None:
        self._base = base
        self._agent = agent

    def epochs(self) -> list[str]:
        """See Tree."""
        rows = self._base.execute(
            "SELECT DISTINCT e.name FROM stream t JOIN epoch e ON e.stream=t.id WHERE t.agent=? AND e.there>0"
            " ORDER BY e.name",
            (self._agent,),
        )
        return [name for (name,) in rows]

    def streams(self, epoch: str) -> Iterator[tuple[str, Node]]:
        """See Tree."""
        rows = self._base.execute(
            "SELECT t.name, e.there, e.node FROM stream t JOIN epoch e ON e.stream=t.id AND e.name=?"
            " WHERE t.agent=? AND e.there>0 ORDER BY t.name",
            (epoch, self._agent),
        )
        for stream, there, node in rows:
            yield stream, Node(there, int.from_bytes(node, "big"))

    def blocks(self, stream: str, epoch: str, first: int, last: int) -> Iterator[tuple[int, Node]]:
        """See Tree."""
        rows = self._base.execute(
            "SELECT number, there, node FROM block WHERE epoch=? AND number BETWEEN ? AND ? AND there>0"
            " ORDER BY number",
            (self._epoch(stream, epoch), first, last),
        )
        for number, there, node in rows:
            yield number, Node(there, int.from_bytes(node, "big"))

    def entries(self, stream: str, epoch: str, block: int) -> Iterator[tuple[int, bytes]]:
        """See Tree."""
        number, first = self._epoch(stream, epoch), block << BLOCK_BITS
        yield from self._base.execute(
            "SELECT seq, digest FROM segment s WHERE epoch=?1 AND seq BETWEEN ?2 AND ?3 AND NOT EXISTS (SELECT 1"
            " FROM span WHERE owner=?1 AND kind=?4 AND first<=s.seq AND last>=s.seq) ORDER BY seq",
            (number, first, first + (1 << BLOCK_BITS) - 1, WANTED),
        )

    def _epoch(self, stream: str, epoch: str) -> int:
        row = self._base.execute(
            "SELECT e.id FROM stream t JOIN epoch e ON e.stream=t.id WHERE t.agent=? AND t.name=? AND e.name=?",
            (self._agent, stream, epoch),
        ).fetchone()
        return -1 if row is None else int(row[0])
