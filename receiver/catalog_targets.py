"""What is known of each target, and how all its copies are forgotten at once when it is another one than before.

The copies of a target that is gone stop to count in one short transaction: its id is given up, with its
ranges and sums. The rows filed under that id are then deleted a piece at a time, and the id is not
given out again before the last of them is.
"""

import sqlite3
from dataclasses import dataclass

from receiver import catalog_writes
from receiver.catalog_ids import Ids
from receiver.catalog_tables import COPIES, IDS

_SEEN_EVERY_NS = 60_000_000_000
_PIECE = 20_000


@dataclass(frozen=True, slots=True)
class KnownTarget:
    """A target as the catalog knows it. `instance`: of its marker, "" if that states none; `seen_ns`: when last."""

    name: str
    instance: str = ""
    seen_ns: int | None = None


def read(base: sqlite3.Connection) -> list[KnownTarget]:
    """Every target that ever was there, by name."""
    return [KnownTarget(*row) for row in base.execute("SELECT name, instance, seen FROM target ORDER BY name")]


def find(base: sqlite3.Connection, name: str) -> KnownTarget | None:
    """What is known of a target; None if it never was there."""
    return next((one for one in read(base) if one.name == name), None)


def is_news(known: KnownTarget | None, instance: str, seen_ns: int) -> bool:
    """Whether seeing a target with that instance at that time is worth writing down."""
    if known is None or known.seen_ns is None or (instance and instance != known.instance):
        return True
    return seen_ns >= known.seen_ns + _SEEN_EVERY_NS


def replaced(known: KnownTarget | None, instance: str) -> bool:
    """Whether a target that says it is `instance` is another one than it was; one that states none is the same."""
    return known is not None and bool(instance) and bool(known.instance) and instance != known.instance


def keep(base: sqlite3.Connection, ids: Ids, name: str, instance: str, seen_ns: int) -> None:
    """Write down that a target was there."""
    base.execute(
        "UPDATE target SET instance=iif(?1='', instance, ?1), seen=max(coalesce(seen, ?2), ?2) WHERE id=?3",
        (instance, seen_ns, ids.target(base, name)),
    )


def forget(base: sqlite3.Connection, ids: Ids, name: str) -> tuple[int, set[tuple[str, str]]]:
    """No copy of a target counts any more. Returns how many did, and the (agent, stream) they were of."""
    number = ids.target(base, name)
    touched = set(
        base.execute(
            "SELECT t.agent, t.name FROM stream_target n JOIN stream t ON t.id=n.stream"
            " WHERE n.target=? AND n.segments>0",
            (number,),
        ).fetchall()
    )
    count = base.execute("SELECT coalesce(sum(segments), 0) FROM stream_target WHERE target=?", (number,)).fetchone()[0]
    base.execute("DELETE FROM span WHERE owner=? AND kind=?", (-number, IDS))
    base.execute("DELETE FROM span WHERE owner IN (SELECT id FROM epoch) AND kind=?", (COPIES + number,))
    base.execute("DELETE FROM stream_target WHERE target=?", (number,))
    base.execute("DELETE FROM target WHERE id=?", (number,))
    base.execute("INSERT INTO gone VALUES (?)", (number,))
    ids.forget()
    return count, touched


def tell_replaced(base: sqlite3.Connection, name: str, count: int, now: int) -> None:
    """Record that a target was replaced, with how many copies that cost."""
    text = f"target {name} is another one than before, or was prepared again: its {count} copies are made again"
    catalog_writes.add_incident(base, catalog_writes.REPLACED, "", "", name, text, now)


def close_about(base: sqlite3.Connection, name: str, now: int) -> None:
    """Close what is open about the copies at a target that is configured no more."""
    catalog_writes.close_incident(base, catalog_writes.REPLACED, "", "", name, now)
    base.execute(
        "UPDATE incident SET closed=?1 WHERE closed IS NULL AND kind=?2 AND substr(subject, -length(?3))=?3",
        (now, catalog_writes.LOST_COPY, f" at {name}"),
    )


def clear_piece(base: sqlite3.Connection) -> bool:
    """Delete some rows of targets that are gone; False when there are none left."""
    row = base.execute("SELECT target FROM gone").fetchone()
    if row is None:
        return False
    last = base.execute(
        "SELECT segment FROM copy WHERE target=? ORDER BY segment LIMIT 1 OFFSET ?", (row[0], _PIECE)
    ).fetchone()
    if last is None:
        base.execute("DELETE FROM copy WHERE target=?", row)
        base.execute("DELETE FROM gone WHERE target=?", row)
    else:
        base.execute("DELETE FROM copy WHERE target=? AND segment<?", (row[0], last[0]))
    return True
