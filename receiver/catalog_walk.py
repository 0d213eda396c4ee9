"""The catalog in the order of names: what a target's folders must hold, day by day, for comparing with a listing.

Within a day folder names sort as (epoch, seq), so both sides can be walked together without holding a
folder in memory; the order of the folders does not matter to who asks for one day at a time.
"""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from receiver.catalog_queries import PAGE, one
from tape.names import SegmentName


@dataclass(frozen=True, slots=True)
class Expected:
    """A held segment as a listing would show it. `verified_ns`: when its copy there was proven, None if not counted.

    `sha256`: hex, "" while not attested.
    """

    id: int
    name: str
    size: int
    committed_ns: int
    verified_ns: int | None
    sha256: str


def stream_numbers(base: sqlite3.Connection) -> dict[tuple[str, str], int]:
    """Every stream's id by (agent, stream)."""
    return {(agent, name): number for number, agent, name in base.execute("SELECT id, agent, name FROM stream")}


def target_number(base: sqlite3.Connection, target: str) -> int:
    """A target's id; -1 while nothing was ever copied there."""
    number = one(base, "SELECT id FROM target WHERE name=?", (target,))
    return -1 if number is None else int(number)


def newest(base: sqlite3.Connection) -> int:
    """The largest segment id; 0 where nothing is held."""
    return int(one(base, "SELECT coalesce(max(id), 0) FROM segment", ()))


def epochs_of_day(base: sqlite3.Connection, stream: int, day: int) -> list[tuple[str, int]]:
    """(name, id) of the epochs that have segments on a day, by name."""
    found: list[tuple[str, int]] = []
    number = -1
    while True:
        number = one(base, "SELECT min(epoch) FROM segment WHERE stream=? AND day=? AND epoch>?", (stream, day, number))
        if number is None:
            return sorted(found)
        found.append((one(base, "SELECT name FROM epoch WHERE id=?", (number,)), number))


def page_by_name(
    base: sqlite3.Connection, stream: int, day: int, epoch: tuple[str, int], after: int, target: int
) -> list[tuple[int, Expected]]:
    """The next page of one day's segments of one epoch by seq, after a seq: (seq, what must be there)."""
    rows = base.execute(
        "SELECT s.id, s.seq, s.digest, s.size, s.committed, s.sha256, c.verified, json_extract(x.json, '$.suffix')"
        " FROM segment s JOIN fact x ON x.id=s.facts LEFT JOIN copy c ON c.target=?1 AND c.segment=s.id"
        " WHERE s.stream=?2 AND s.day=?3 AND s.epoch=?4 AND s.seq>?5 ORDER BY s.seq LIMIT ?6",
        (target, stream, day, epoch[1], after, PAGE),
    )
    found = []
    for number, seq, digest, size, committed, sha256, verified, suffix in rows:
        name = str(SegmentName(epoch[0], seq, digest.hex(), suffix))
        strong = sha256.hex() if sha256 is not None else ""
        found.append((seq, Expected(number, name, size, committed, verified, strong)))
    return found


def without_copy(
    base: sqlite3.Connection, segments: Sequence[int], targets: Collection[int]
) -> Iterator[tuple[int, int]]:
    """Those of these segments that have no copy at any of these targets: (id, size)."""
    marks = ",".join("?" * len(segments))
    nowhere = "".join(
        f" AND NOT EXISTS (SELECT 1 FROM copy WHERE target={int(number)} AND segment=s.id)"  # noqa: S608 - integers
        for number in targets
    )
    yield from base.execute(f"SELECT id, size FROM segment s WHERE id IN ({marks}){nowhere} ORDER BY id", segments)  # noqa: S608 - question marks and integers


def existing(base: sqlite3.Connection, first: int, last: int) -> list[int]:
    """The segment ids from `first` to `last`."""
    return [number for (number,) in base.execute("SELECT id FROM segment WHERE id BETWEEN ? AND ?", (first, last))]
