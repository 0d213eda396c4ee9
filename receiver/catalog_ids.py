"""Small integer ids for what repeats in the catalog: streams, epochs, files, shared facts, targets, methods."""

import hashlib
import sqlite3
from typing import Any

from receiver.catalog_rows import NewSegment

_CACHE = 50_000
# Never an id that copies of a target that is gone may still be filed under.
_NEW_TARGET = (
    "INSERT INTO target (id, name) SELECT 1 + max(coalesce((SELECT max(id) FROM target), 0),"
    " coalesce((SELECT max(target) FROM gone), 0)), ?"
)


class Ids:
    """Finds an id or makes one, inside the caller's transaction; `forget` after a transaction that failed."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], int] = {}

    def forget(self) -> None:
        """Drop everything remembered: it may not have become durable."""
        self._known.clear()

    def stream(self, base: sqlite3.Connection, agent: str, name: str) -> int:
        """The id of an agent's stream."""
        return self._get(
            base,
            ("stream", agent, name),
            ("SELECT id FROM stream WHERE agent=? AND name=?", (agent, name)),
            ("INSERT INTO stream (agent, name) VALUES (?,?)", (agent, name)),
        )

    def epoch(self, base: sqlite3.Connection, stream: int, name: str, now: int) -> int:
        """The id of an epoch of a stream; `now` is kept for a new one."""
        return self._get(
            base,
            ("epoch", stream, name),
            ("SELECT id FROM epoch WHERE stream=? AND name=?", (stream, name)),
            ("INSERT INTO epoch (stream, name, added) VALUES (?,?,?)", (stream, name, now)),
        )

    def file(self, base: sqlite3.Connection, stream: int, new: NewSegment) -> int:
        """The id of the life of a source file that a segment covers a part of."""
        source = new.footer.source
        key = bytes.fromhex(source.file_id)
        name = source.file.encode("utf-8", "surrogatepass")
        return self._get(
            base,
            ("file", stream, key),
            ("SELECT id FROM file WHERE stream=? AND file_id=?", (stream, key)),
            ("INSERT INTO file (stream, file_id, name, kind) VALUES (?,?,?,?)", (stream, key, name, source.kind)),
        )

    def fact(self, base: sqlite3.Connection, json: str) -> int:
        """The id of a fact that many segments share."""
        digest = hashlib.sha256(json.encode("ascii")).digest()[:16]
        return self._get(
            base,
            ("fact", digest),
            ("SELECT id FROM fact WHERE digest=?", (digest,)),
            ("INSERT INTO fact (digest, json) VALUES (?,?)", (digest, json)),
        )

    def target(self, base: sqlite3.Connection, name: str) -> int:
        """The id of a target."""
        return self._get(
            base,
            ("target", name),
            ("SELECT id FROM target WHERE name=?", (name,)),
            (_NEW_TARGET, (name,)),
        )

    def method(self, base: sqlite3.Connection, name: str) -> int:
        """The id of a way to prove a copy."""
        return self._get(
            base,
            ("method", name),
            ("SELECT id FROM method WHERE name=?", (name,)),
            ("INSERT INTO method (name) VALUES (?)", (name,)),
        )

    def _get(
        self,
        base: sqlite3.Connection,
        key: tuple[Any, ...],
        find: tuple[str, tuple[Any, ...]],
        make: tuple[str, tuple[Any, ...]],
    ) -> int:
        known = self._known.get(key)
        if known is not None:
            return known
        row = base.execute(*find).fetchone()
        number = row[0] if row is not None else base.execute(*make).lastrowid
        assert isinstance(number, int)
        if len(self._known) >= _CACHE:
            self._known.clear()
        self._known[key] = number
        return number
