"""What the catalog answers, as functions over an open connection: each costs by its answer, not by the archive."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from receiver import catalog_spans, gaps
from receiver.catalog_rows import read_held
from receiver.catalog_tables import COPIES, HELD, IDS
from receiver.model import Held
from tape.names import utc_day
from tape.receipt import Ranges

PAGE = 1000


@dataclass(frozen=True, slots=True)
class TargetTotals:
    """One stream at one target. `recv_last_ns`: the newest row that has a copy there.

    `point_ns` is the recovery point: every row the receiver holds that was received up to then has a
    verified copy there; None while not even the first one has.
    """

    segments: int = 0
    rows: int = 0
    bytes: int = 0
    recv_last_ns: int | None = None
    verified_ns: int | None = None
    point_ns: int | None = None


@dataclass(frozen=True, slots=True)
class StreamTotals:
    """One stream as held at home. `missing`: segments that are not held although later ones of their epoch are.

    `hole_bytes`: bytes of source files that no held segment covers although it covers later ones.
    """

    agent: str
    stream: str
    segments: int
    rows: int
    bytes: int
    source_bytes: int
    recv_first_ns: int | None
    recv_last_ns: int | None
    committed_ns: int | None
    epochs: int
    missing: int
    hole_bytes: int
    refused: int
    targets: dict[str, TargetTotals] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EpochState:
    """One epoch of a stream: how many segments are held, as ranges, and which are missing between them."""

    epoch: str
    segments: int
    held: Ranges
    missing: Ranges
    added_ns: int


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One life of a source file. `bytes` held of `end`; `final`: the agent says that nothing follows `end`."""

    file_id: str
    name: str
    kind: str
    segments: int
    rows: int
    bytes: int
    end: int
    final: bool
    recv_first_ns: int | None
    recv_last_ns: int | None


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that must not happen did. `times` since `at_ns`; open until `closed_ns`."""

    id: int
    at_ns: int
    last_ns: int
    times: int
    closed_ns: int | None
    kind: str
    agent: str
    stream: str
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An upload that broke a rule; `path` (relative to the state folder) holds its bytes, "" if they were not kept."""

    id: int
    at_ns: int
    agent: str
    stream: str
    name: str
    size: int
    reason: str
    path: str


def behind(base: sqlite3.Connection, target: int | None, *, after: int, limit: int) -> list[Held]:
    """Segments with id > `after` and no copy at the target, ascending: the gaps between ranges of ids."""
    if target is None:
        return read_held(base, "WHERE s.id>? ORDER BY s.id LIMIT ?", (after, limit))
    top = base.execute("SELECT max(id) FROM segment").fetchone()[0] or 0
    found: list[Held] = []
    while len(found) < limit and after < top:
        first, last = catalog_spans.next_gap(base, -target, IDS, after)
        after = top if last is None else last
        found += read_held(base, "WHERE s.id BETWEEN ? AND ? ORDER BY s.id LIMIT ?", (first, after, limit - len(found)))
    return found


def attested(base: sqlite3.Connection, segments: Sequence[int]) -> dict[int, str]:
    """The SHA-256 of those of these segments whose home bytes were read back."""
    found: dict[int, str] = {}
    for start in range(0, len(segments), PAGE):
        some = segments[start : start + PAGE]
        marks = ",".join("?" * len(some))
        query = f"SELECT id, hex(sha256) FROM segment WHERE sha256 IS NOT NULL AND id IN ({marks})"  # noqa: S608 - question marks only
        found |= {number: strong.lower() for number, strong in base.execute(query, some)}
    return found


def streams(base: sqlite3.Connection) -> list[StreamTotals]:
    """Every stream with its totals here and at each target, by agent and name."""
    targets: dict[int, str] = dict(base.execute("SELECT id, name FROM target").fetchall())
    at_targets: dict[int, list[tuple[Any, ...]]] = {}
    for row in base.execute("SELECT stream, target, segments, rows, bytes, recv_last, verified FROM stream_target"):
        at_targets.setdefault(row[0], []).append(row[1:])
    epochs = _by_stream(base, "SELECT stream, count(*), sum(top + 1 - segments) FROM epoch GROUP BY stream")
    hole = _by_stream(
        base, "SELECT stream, CAST(total(stop - bytes) AS INTEGER) FROM file WHERE bytes <> stop GROUP BY stream"
    )
    refused = _by_stream(
        base, "SELECT e.stream, count(*) FROM refusal r JOIN epoch e ON e.id = r.epoch GROUP BY e.stream"
    )
    found = []
    rows = base.execute(
        "SELECT id, agent, name, segments, rows, bytes, source_bytes, recv_first, recv_last, committed"
        " FROM stream ORDER BY agent, name"
    ).fetchall()
    for number, *facts in rows:
        there = {}
        for target, *sums in at_targets.get(number, []):
            point = _point(base, number, target, held=facts[2], copied=sums[0], newest=facts[7])
            there[targets[target]] = TargetTotals(*(*sums, point))
        gap_facts = (*epochs.get(number, (0, 0)), *hole.get(number, (0,)), *refused.get(number, (0,)))
        found.append(StreamTotals(*(*facts, *gap_facts, there)))
    return found


def _by_stream(base: sqlite3.Connection, query: str) -> dict[int, tuple[Any, ...]]:
    return {row[0]: row[1:] for row in base.execute(query)}


def _point(
    base: sqlite3.Connection, stream: int, target: int, *, held: int, copied: int, newest: int | None
) -> int | None:
    """The recovery point: the newest row if nothing is missing, else just before the first row without a copy."""
    if held == copied:
        return newest
    first_missing: list[int] = []
    for (epoch,) in base.execute("SELECT id FROM epoch WHERE stream=?", (stream,)).fetchall():
        lacking = gaps.subtract(catalog_spans.read(base, epoch, HELD), catalog_spans.read(base, epoch, COPIES + target))
        if lacking:
            row = base.execute(
                "SELECT coalesce(recv_first, sealed) FROM segment WHERE epoch=? AND seq=?", (epoch, lacking[0][0])
            ).fetchone()
            first_missing.append(row[0])
    if not first_missing:
        return newest
    oldest = base.execute("SELECT recv_first FROM stream WHERE id=?", (stream,)).fetchone()[0]
    point = min(first_missing) - 1
    return point if oldest is not None and point >= oldest else None


def epochs(base: sqlite3.Connection, stream: int) -> list[EpochState]:
    """The epochs of a stream, oldest first."""
    rows = base.execute("SELECT id, name, segments, added FROM epoch WHERE stream=? ORDER BY id", (stream,)).fetchall()
    found = []
    for number, name, count, added in rows:
        held = catalog_spans.read(base, number, HELD)
        found.append(EpochState(name, count, held, gaps.missing(held), added))
    return found


def files(base: sqlite3.Connection, stream: int) -> list[SourceFile]:
    """The lives of a stream's source files, in the order they were first seen here."""
    rows = base.execute(
        "SELECT file_id, name, kind, segments, rows, bytes, stop, final, recv_first, recv_last FROM file"
        " WHERE stream=? ORDER BY id",
        (stream,),
    )
    found = []
    for file_id, name, *sums, final, first, last in rows:
        facts = (file_id.hex(), name.decode("utf-8", "surrogatepass"), *sums, bool(final), first, last)
        found.append(SourceFile(*facts))
    return found


def extents(base: sqlite3.Connection, stream: int, file_id: str) -> Iterator[tuple[int, int]]:
    """The byte ranges `[start, end)` of one file life that are held, by start."""
    rows = base.execute(
        "SELECT s.start, s.stop FROM segment s JOIN file f ON f.id = s.file"
        " WHERE f.stream=? AND f.file_id=? ORDER BY s.start",
        (stream, bytes.fromhex(file_id)),
    )
    yield from rows


def page_of_file(base: sqlite3.Connection, stream: int, file_id: str, after: tuple[int, int]) -> list[Held]:
    """The next page of one file life's segments by start, after a (start, id)."""
    return read_held(
        base,
        "WHERE f.stream=? AND f.file_id=? AND s.start>=? AND (s.start, s.id) > (?,?) ORDER BY s.start, s.id LIMIT ?",
        (stream, bytes.fromhex(file_id), after[0], *after, PAGE),
    )


def next_day(base: sqlite3.Connection, stream: int, after: int) -> int | None:
    """The first day (ordinal) after another on which the stream has segments."""
    day: int | None = base.execute("SELECT min(day) FROM segment WHERE stream=? AND day>?", (stream, after)).fetchone()[
        0
    ]
    return day


def page_of_day(base: sqlite3.Connection, stream: int, day: int, after: tuple[int, int]) -> list[Held]:
    """The next page of one day's segments in the order of their sealing, after an (epoch id, seq)."""
    return read_held(
        base,
        "WHERE s.stream=? AND s.day=? AND (s.epoch, s.seq) > (?,?) ORDER BY s.epoch, s.seq LIMIT ?",
        (stream, day, *after, PAGE),
    )


def day_bounds(first_ns: int | None, last_ns: int | None) -> tuple[int, int]:
    """Ordinals of the days that may hold rows received in a time range, its day before included."""
    low = 0 if first_ns is None else utc_day(first_ns).toordinal() - 1
    high = 4_000_000 if last_ns is None else utc_day(last_ns).toordinal() + 1
    return low, high


def copies_by_age(
    base: sqlite3.Connection,
    target: str,
    *,
    before_ns: int,
    now_ns: int,
    after: tuple[int, int] = (-1, -1),
    stream: tuple[str, str] | None = None,
    limit: int,
) -> list[tuple[int, Held]]:
    """The copies at a target that were last checked before a time, longest ago first: (checked, segment).

    `after`: the (checked, segment id) to go on from; `stream`: only those of this (agent, stream). A scan,
    but only `limit` of them are ever sorted. What was checked after `now_ns`, by a clock that was wrong, counts as
    checked at 0.
    """
    rows = base.execute(
        "SELECT at, segment FROM (SELECT iif(c.verified>?8, 0, c.verified) AS at, c.segment FROM target t"
        " JOIN copy c ON c.target=t.id WHERE t.name=?1) WHERE at<?2 AND (at, segment) > (?3,?4)"
        " AND (?5 IS NULL OR (SELECT s.stream FROM segment s WHERE s.id=segment)="
        " (SELECT id FROM stream WHERE agent=?5 AND name=?6)) ORDER BY at, segment LIMIT ?7",
        (target, before_ns, *after, *(stream or (None, None)), limit, now_ns),
    ).fetchall()
    held = {}
    for start in range(0, len(rows), PAGE):
        numbers = [segment for _, segment in rows[start : start + PAGE]]
        for item in read_held(base, f"WHERE s.id IN ({','.join('?' * len(numbers))})", numbers):
            held[item.id] = item
    return [(checked, held[segment]) for checked, segment in rows]


def incidents(base: sqlite3.Connection, *, closed: bool, limit: int) -> list[Incident]:
    """Incidents, newest first; the closed ones only when asked for."""
    rows = base.execute(
        "SELECT id, at, last, times, closed, kind, agent, stream, subject, text FROM incident"
        " WHERE closed IS NULL OR ? ORDER BY last DESC, id DESC LIMIT ?",
        (int(closed), limit),
    )
    return [Incident(*row) for row in rows]


def quarantined(base: sqlite3.Connection, *, limit: int) -> list[Quarantined]:
    """What is in quarantine, newest first."""
    rows = base.execute(
        "SELECT id, at, agent, stream, name, size, reason, path FROM quarantine ORDER BY id DESC LIMIT ?", (limit,)
    )
    return [Quarantined(*row) for row in rows]


def one(base: sqlite3.Connection, query: str, values: Sequence[Any]) -> Any:
    """The first column of the first row, or None."""
    row = base.execute(query, values).fetchone()
    return None if row is None else row[0]
