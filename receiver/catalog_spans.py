"""Sets of numbers kept as ranges in the catalog's `span` table: adding and removing touch only neighbours.

`owner` and `kind` name the set (see catalog_schema). Ranges are inclusive, ascending, never touching.
"""

import sqlite3

from tape.receipt import Ranges


def add(base: sqlite3.Connection, owner: int, kind: int, first: int, last: int) -> None:
    """Put `first`..`last` into a set, merging what it touches."""
    for low, high in _touching(base, owner, kind, first - 1, last + 1):
        base.execute("DELETE FROM span WHERE owner=? AND kind=? AND first=?", (owner, kind, low))
        first, last = min(first, low), max(last, high)
    base.execute("INSERT INTO span VALUES (?,?,?,?)", (owner, kind, first, last))


def remove(base: sqlite3.Connection, owner: int, kind: int, first: int, last: int) -> None:
    """Take `first`..`last` out of a set, splitting what surrounds it."""
    for low, high in _touching(base, owner, kind, first, last):
        base.execute("DELETE FROM span WHERE owner=? AND kind=? AND first=?", (owner, kind, low))
        if low < first:
            base.execute("INSERT INTO span VALUES (?,?,?,?)", (owner, kind, low, first - 1))
        if high > last:
            base.execute("INSERT INTO span VALUES (?,?,?,?)", (owner, kind, last + 1, high))


def holds(base: sqlite3.Connection, owner: int, kind: int, number: int) -> bool:
    """Whether a number is in a set."""
    return bool(_touching(base, owner, kind, number, number))


def read(base: sqlite3.Connection, owner: int, kind: int) -> Ranges:
    """A whole set."""
    rows = base.execute("SELECT first, last FROM span WHERE owner=? AND kind=? ORDER BY first", (owner, kind))
    return tuple(rows.fetchall())


def read_all(base: sqlite3.Connection, owner: int) -> dict[int, Ranges]:
    """All sets of an owner, by kind."""
    found: dict[int, list[tuple[int, int]]] = {}
    rows = base.execute("SELECT kind, first, last FROM span WHERE owner=? ORDER BY kind, first", (owner,))
    for kind, first, last in rows:
        found.setdefault(kind, []).append((first, last))
    return {kind: tuple(ranges) for kind, ranges in found.items()}


def next_gap(base: sqlite3.Connection, owner: int, kind: int, after: int) -> tuple[int, int | None]:
    """The first run of numbers > `after` that are not in the set: its first and last (None: no end)."""
    here = after + 1
    around = base.execute(
        "SELECT last FROM span WHERE owner=? AND kind=? AND first<=? ORDER BY first DESC LIMIT 1", (owner, kind, here)
    ).fetchone()
    if around is not None and around[0] >= here:
        here = around[0] + 1  # ranges never touch: the number after a range is outside
    following = base.execute(
        "SELECT min(first) FROM span WHERE owner=? AND kind=? AND first>?", (owner, kind, here)
    ).fetchone()[0]
    return here, None if following is None else following - 1


def _touching(base: sqlite3.Connection, owner: int, kind: int, low: int, high: int) -> list[tuple[int, int]]:
    found = []
    rows = base.execute(
        "SELECT first, last FROM span WHERE owner=? AND kind=? AND first<=? ORDER BY first DESC", (owner, kind, high)
    )
    for first, last in rows:
        if last < low:
            break
        found.append((first, last))
    rows.close()
    return found
