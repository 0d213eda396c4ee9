"""What changes the catalog, as functions inside the caller's transaction: rows and their sums, all or nothing."""

import marshal
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from receiver import catalog_blocks, catalog_spans
from receiver.catalog_ids import Ids
from receiver.catalog_rows import INSERT_SEGMENT, NewSegment, facts_of, origin_of, row_of, shared_facts
from receiver.catalog_tables import ASKED, COPIES, HELD, IDS
from receiver.verdict import Link
from tape.errors import NotFound
from tape.names import SegmentName
from tape.receipt import to_ranges

# Kinds of incidents: a chain that contradicts, a second SHA-256, a bad copy, other bytes under a held identity,
# uploads that broke a rule, a segment without any good copy here, a target that is another one than before, a catalog
# that knew nothing of what home holds, a segment that came damaged where its sender hears no answer.
CHAIN, TAMPERED, LOST_COPY, CONFLICT, QUARANTINE, LOST = "chain", "tampered", "copy", "conflict", "quarantine", "lost"
REPLACED, EMPTY, DAMAGED = "replaced", "catalog", "damaged"
_MOST_REFUSALS = 10_000  # remembered for an agent: a hostile one must not fill the catalog
PLACE = """
SELECT s.id, s.stream, s.epoch, t.agent, t.name, e.name, s.seq, s.previous, s.sha256, s.broken
FROM segment s JOIN stream t ON t.id = s.stream JOIN epoch e ON e.id = s.epoch
"""
BY_ID = PLACE + "WHERE s.id=?"
BY_SEQ = PLACE + "WHERE s.epoch=? AND s.seq=?"
_BY_NAME = PLACE + "WHERE t.agent=? AND t.name=? AND e.name=? AND s.seq=?"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An upload that is not taken, with its reason; `path` (below the state folder) holds its bytes, "" if not kept."""

    agent: str
    stream: str
    name: SegmentName
    size: int
    reason: str
    path: str
    conflict: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where a segment stands: ids, names, and its link in the chain."""

    id: int
    stream: int
    epoch: int
    agent: str
    stream_name: str
    epoch_name: str
    link: Link
    broken: bool

    @property
    def subject(self) -> str:
        """What an incident about it is kept under."""
        return f"{self.epoch_name}-{self.link.seq:012d}"


def add_segments(base: sqlite3.Connection, ids: Ids, new: Sequence[NewSegment], now: int) -> int:
    """Insert segments and every sum they change; returns the id of the first, the others follow."""
    top = base.execute("SELECT max(id) FROM segment").fetchone()[0] or 0
    by_stream: dict[int, list[NewSegment]] = {}
    by_epoch: dict[int, list[catalog_blocks.Entry]] = {}
    by_file: dict[int, list[NewSegment]] = {}
    shared = _Shared(base, ids, now)
    rows = []
    for number, item in enumerate(new, top + 1):
        stream, epoch, file, origin, facts = shared.of(item)
        rows.append(row_of(item, (number, stream, epoch, file, origin, facts), now))
        by_stream.setdefault(stream, []).append(item)
        by_epoch.setdefault(epoch, []).append((item.footer.seq, bytes.fromhex(item.path.name.digest), item.size))
        by_file.setdefault(file, []).append(item)
    base.executemany(INSERT_SEGMENT, rows)
    for stream, items in by_stream.items():
        _sum_stream(base, stream, items, now)
    for epoch, entries in by_epoch.items():
        numbers = [seq for seq, _, _ in entries]
        if base.execute("SELECT 1 FROM refusal WHERE epoch=? LIMIT 1", (epoch,)).fetchone():
            base.executemany("DELETE FROM refusal WHERE epoch=? AND seq=?", [(epoch, seq) for seq in numbers])
        _answered(base, epoch, numbers, now)
        for first, last in to_ranges(sorted(numbers)):
            catalog_spans.add(base, epoch, HELD, first, last)
        catalog_blocks.add(base, epoch, entries, now)
        base.execute(
            "UPDATE epoch SET segments=segments+?, top=max(top,?) WHERE id=?", (len(numbers), max(numbers), epoch)
        )
    for file, items in by_file.items():
        _sum_file(base, file, items)
    return top + 1


class _Shared:
    """The ids of what many segments of a batch share, each found once."""

    def __init__(self, base: sqlite3.Connection, ids: Ids, now: int) -> None:
        self._base = base
        self._ids = ids
        self._now = now
        self._places: dict[tuple[str, ...], tuple[int, int, int]] = {}
        self._origins: dict[tuple[str | int, ...], int] = {}
        self._facts: dict[bytes, int] = {}

    def of(self, item: NewSegment) -> tuple[int, int, int, int, int]:
        """Stream, epoch, file, origin, facts."""
        footer, source = item.footer, item.footer.source
        names = (item.path.agent, item.path.stream, footer.epoch, source.file_id)
        place = self._places.get(names)
        if place is None:
            stream = self._ids.stream(self._base, item.path.agent, item.path.stream)
            epoch = self._ids.epoch(self._base, stream, footer.epoch, self._now)
            place = self._places[names] = (stream, epoch, self._ids.file(self._base, stream, item))
        of_origin = (source.file, source.kind, source.head.length, source.head.xxh3)
        origin = self._origins.get(of_origin)
        if origin is None:
            origin = self._origins[of_origin] = self._ids.fact(self._base, origin_of(footer))
        of_facts = marshal.dumps(shared_facts(item), 2)  # tells True from 1, as JSON does; version 2: no references
        facts = self._facts.get(of_facts)
        if facts is None:
            facts = self._facts[of_facts] = self._ids.fact(self._base, facts_of(item))
        return (*place, origin, facts)


def _sum_stream(base: sqlite3.Connection, stream: int, items: Sequence[NewSegment], now: int) -> None:
    by_day: dict[int, list[NewSegment]] = {}
    for item in items:
        by_day.setdefault(item.footer.day.toordinal(), []).append(item)
    base.executemany(
        "INSERT INTO stream_day VALUES (?1,?2,?3,?4,?5) ON CONFLICT DO UPDATE SET segments=segments+?3, rows=rows+?4,"
        " bytes=bytes+?5",
        [
            (day, stream, len(some), sum(item.footer.rows for item in some), sum(item.size for item in some))
            for day, some in by_day.items()
        ],
    )
    first, last = _received(items)
    base.execute(
        "UPDATE stream SET segments=segments+:segments, rows=rows+:rows, bytes=bytes+:bytes,"
        " source_bytes=min(source_bytes+:source,4000000000000000000), committed=:now,"
        " recv_first=min(coalesce(recv_first,:first),coalesce(:first,recv_first)),"
        " recv_last=max(coalesce(recv_last,:last),coalesce(:last,recv_last)) WHERE id=:id",
        {
            "segments": len(items),
            "rows": sum(item.footer.rows for item in items),
            "bytes": sum(item.size for item in items),
            "source": _source_bytes(items),
            "now": now,
            "first": first,
            "last": last,
            "id": stream,
        },
    )


def _sum_file(base: sqlite3.Connection, file: int, items: Sequence[NewSegment]) -> None:
    first, last = _received(items)
    base.execute(
        "UPDATE file SET segments=segments+:segments, rows=rows+:rows, bytes=bytes+:bytes, stop=max(stop,:stop),"
        " final=max(final,:final), recv_first=min(coalesce(recv_first,:first),coalesce(:first,recv_first)),"
        " recv_last=max(coalesce(recv_last,:last),coalesce(:last,recv_last)) WHERE id=:id",
        {
            "segments": len(items),
            "rows": sum(item.footer.rows for item in items),
            "bytes": _source_bytes(items),
            "stop": max(item.footer.source.end for item in items),
            "final": max(item.footer.source.final for item in items),
            "first": first,
            "last": last,
            "id": file,
        },
    )


def _source_bytes(items: Iterable[NewSegment]) -> int:
    return sum(item.footer.source.end - item.footer.source.start for item in items)


def _received(items: Iterable[NewSegment]) -> tuple[int | None, int | None]:
    firsts = [item.footer.recv_first_ns for item in items]
    lasts = [item.footer.recv_last_ns for item in items]
    return (
        min((ns for ns in firsts if ns is not None), default=None),
        max((ns for ns in lasts if ns is not None), default=None),
    )


def drop_copy(base: sqlite3.Connection, ids: Ids, segment: int, target_name: str, why: str, now: int) -> bool:
    """Forget a copy that is not what it should be, and record the incident; False if there was none."""
    target = ids.target(base, target_name)
    place = place_of(base, BY_ID, (segment,))
    if place is None:
        raise NotFound(f"segment {segment} is not in the catalog")
    if not base.execute("DELETE FROM copy WHERE target=? AND segment=?", (target, segment)).rowcount:
        return False
    catalog_spans.remove(base, -target, IDS, segment, segment)
    catalog_spans.remove(base, place.epoch, COPIES + target, place.link.seq, place.link.seq)
    base.execute(
        "UPDATE stream_target AS n SET segments=n.segments-1, rows=n.rows-s.rows, bytes=n.bytes-s.size"
        " FROM segment s WHERE s.id=? AND n.stream=s.stream AND n.target=?",
        (segment, target),
    )
    text = f"the copy of segment {place.subject} at {target_name} is no longer good: {why}"
    add_incident(base, LOST_COPY, place.agent, place.stream_name, f"{segment} at {target_name}", text, now)
    return True


def place_of(base: sqlite3.Connection, query: str, values: tuple[int, ...]) -> Place | None:
    """The one place a query of PLACE finds; None if it finds none."""
    row = base.execute(query, values).fetchone()
    return None if row is None else place_from(row)


def place_from(row: Sequence[Any]) -> Place:
    """A row of PLACE as a value."""
    *ids_and_names, seq, previous, sha256, broken = row
    strong = sha256.hex() if sha256 is not None else ""
    return Place(*(*ids_and_names, Link(seq, previous.hex(), strong), bool(broken)))


def many_at(target: str) -> str:
    """The subject of the one incident that tells of many copies lost at a target."""
    return f"many at {target}"


def refuse(base: sqlite3.Connection, ids: Ids, refusal: Refusal, now: int) -> None:
    """Record what was refused: for the receipt, for the operator, and as an incident."""
    known = base.execute("SELECT count(*) FROM quarantine WHERE agent=?", (refusal.agent,)).fetchone()[0]
    subject = f"{refusal.name.epoch}-{refusal.name.seq:012d}" if refusal.conflict else ""
    kind = CONFLICT if refusal.conflict else QUARANTINE
    if known < _MOST_REFUSALS:
        stream = ids.stream(base, refusal.agent, refusal.stream)
        epoch = ids.epoch(base, stream, refusal.name.epoch, now)
        base.execute(
            "INSERT INTO refusal VALUES (?1,?2,?3,?4) ON CONFLICT DO UPDATE SET reason=?3, conflict=max(conflict,?4)",
            (epoch, refusal.name.seq, refusal.reason[:500], int(refusal.conflict)),
        )
        _answered(base, epoch, [refusal.name.seq], now)
        base.execute(
            "INSERT INTO quarantine (at, agent, stream, name, size, reason, path) VALUES (?1,?2,?3,?4,?5,?6,?7)"
            " ON CONFLICT DO UPDATE SET at=?1, reason=?6, path=iif(?7='', path, ?7)",
            (now, refusal.agent, refusal.stream, str(refusal.name), refusal.size, refusal.reason[:500], refusal.path),
        )
        add_incident(base, kind, refusal.agent, refusal.stream, subject, refusal.reason[:500], now)
    else:
        add_incident(base, kind, refusal.agent, "", "", f"more refusals than are kept; {refusal.reason[:400]}", now)


def want(base: sqlite3.Connection, segment: int, why: str, now: int) -> tuple[str, str]:
    """Ask the agent for a segment again: all its copies here are bad. Returns its (agent, stream)."""
    place = place_of(base, BY_ID, (segment,))
    if place is None:
        raise NotFound(f"segment {segment} is not in the catalog")
    catalog_blocks.want(base, place.epoch, place.link.seq)
    text = f"segment {place.subject} is lost here and wanted again: {why}"
    add_incident(base, LOST, place.agent, place.stream_name, place.subject, text, now)
    return place.agent, place.stream_name


def ask(base: sqlite3.Connection, ids: Ids, agent: str, stream: str, name: SegmentName, why: str, now: int) -> None:
    """Ask for a segment that came damaged; nothing to do if it is held, or if too much is asked for already."""
    open_now = "SELECT count(*) FROM incident WHERE kind=? AND agent=? AND closed IS NULL"
    if base.execute(open_now, (DAMAGED, agent)).fetchone()[0] >= _MOST_REFUSALS:
        return
    epoch = ids.epoch(base, ids.stream(base, agent, stream), name.epoch, now)
    if catalog_spans.holds(base, epoch, HELD, name.seq):
        return
    catalog_spans.add(base, epoch, ASKED, name.seq, name.seq)
    subject = f"{name.epoch}-{name.seq:012d}"
    text = f"segment {subject} of {agent}/{stream} came damaged and is asked for again: {why}"
    add_incident(base, DAMAGED, agent, stream, subject, text[:500], now)


def _answered(base: sqlite3.Connection, epoch: int, numbers: Iterable[int], now: int) -> None:
    """Segments came, to be held or refused: those among them that were asked for are so no more."""
    asked = [seq for seq in numbers if catalog_spans.holds(base, epoch, ASKED, seq)] if _asks(base, epoch) else []
    for seq in asked:
        catalog_spans.remove(base, epoch, ASKED, seq, seq)
        agent, stream, name = base.execute(
            "SELECT t.agent, t.name, e.name FROM epoch e JOIN stream t ON t.id=e.stream WHERE e.id=?", (epoch,)
        ).fetchone()
        close_incident(base, DAMAGED, agent, stream, f"{name}-{seq:012d}", now)


def _asks(base: sqlite3.Connection, epoch: int) -> bool:
    query = "SELECT 1 FROM span WHERE owner=? AND kind=? LIMIT 1"
    return base.execute(query, (epoch, ASKED)).fetchone() is not None


def renew(base: sqlite3.Connection, agent: str, stream: str, epoch: str, seq: int, now: int) -> None:
    """A segment that was wanted lies in the home archive again."""
    row = base.execute(_BY_NAME, (agent, stream, epoch, seq)).fetchone()
    if row is None:
        raise NotFound(f"segment {epoch}-{seq:012d} of {agent}/{stream} is not in the catalog")
    catalog_blocks.unwant(base, row[2], seq)
    close_incident(base, LOST, agent, stream, f"{epoch}-{seq:012d}", now)


def add_incident(
    base: sqlite3.Connection, kind: str, agent: str, stream: str, subject: str, text: str, now: int
) -> None:
    """Record an incident; the same one again, while it is open, is counted and brought up to date."""
    base.execute(
        "INSERT INTO incident (at, last, times, kind, agent, stream, subject, text) VALUES (?1,?1,1,?2,?3,?4,?5,?6)"
        " ON CONFLICT (kind, agent, stream, subject) WHERE closed IS NULL DO UPDATE SET last=?1, times=times+1,"
        " text=?6",
        (now, kind, agent, stream, subject, text),
    )


def close_incident(base: sqlite3.Connection, kind: str, agent: str, stream: str, subject: str, now: int) -> None:
    """Close an open incident whose cause is gone; nothing to do if there is none."""
    base.execute(
        "UPDATE incident SET closed=? WHERE kind=? AND agent=? AND stream=? AND subject=? AND closed IS NULL",
        (now, kind, agent, stream, subject),
    )
