"""What changes the catalog, as functions inside the caller's transaction: rows and their sums, all or nothing."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from receiver import catalog_blocks, catalog_spans
from receiver.catalog_ids import Ids
from receiver.catalog_rows import INSERT_SEGMENT, NewSegment, facts_of, origin_of, row_of
from receiver.catalog_tables import ATTESTED, COPIES, HELD, IDS, WANTED
from receiver.model import Copy
from receiver.verdict import Link, breaks
from tape.errors import NotFound
from tape.names import SegmentName
from tape.receipt import to_ranges

# Kinds of incidents: a chain that contradicts, a second SHA-256, a bad copy, other bytes under a held identity,
# uploads that broke a rule, a segment without any good copy here, a target that is another one than before.
CHAIN, TAMPERED, LOST_COPY, CONFLICT, QUARANTINE, LOST = "chain", "tampered", "copy", "conflict", "quarantine", "lost"
REPLACED = "replaced"
_MOST_REFUSALS = 10_000  # remembered for an agent: a hostile one must not fill the catalog
_PLACE = """
SELECT s.id, s.stream, s.epoch, t.agent, t.name, e.name, s.seq, s.previous, s.sha256, s.broken
FROM segment s JOIN stream t ON t.id = s.stream JOIN epoch e ON e.id = s.epoch
"""
_BY_ID = _PLACE + "WHERE s.id=?"
_BY_SEQ = _PLACE + "WHERE s.epoch=? AND s.seq=?"
_BY_NAME = _PLACE + "WHERE t.agent=? AND t.name=? AND e.name=? AND s.seq=?"


@dataclass(frozen=True, slots=True)
class Attested:
    """What attesting a segment found. `ok`: it contradicts nothing known. `found`: every contradiction, in words."""

    segment: int
    ok: bool
    found: tuple[str, ...] = ()


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
class _Place:
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
        return f"{self.epoch_name}-{self.link.seq:012d}"


def add_segments(base: sqlite3.Connection, ids: Ids, new: Sequence[NewSegment], now: int) -> int:
    """Insert segments and every sum they change; returns the id of the first, the others follow."""
    top = base.execute("SELECT max(id) FROM segment").fetchone()[0] or 0
    by_stream: dict[int, list[NewSegment]] = {}
    by_epoch: dict[int, list[catalog_blocks.Entry]] = {}
    by_file: dict[int, list[NewSegment]] = {}
    for number, item in enumerate(new, top + 1):
        footer = item.footer
        stream = ids.stream(base, item.path.agent, item.path.stream)
        epoch = ids.epoch(base, stream, footer.epoch, now)
        file = ids.file(base, stream, item)
        shared = (ids.fact(base, origin_of(footer)), ids.fact(base, facts_of(item)))
        base.execute(INSERT_SEGMENT, row_of(item, (number, stream, epoch, file, *shared), now))
        base.execute("DELETE FROM refusal WHERE epoch=? AND seq=?", (epoch, footer.seq))
        by_stream.setdefault(stream, []).append(item)
        by_epoch.setdefault(epoch, []).append((footer.seq, bytes.fromhex(item.path.name.digest), item.size))
        by_file.setdefault(file, []).append(item)
    for stream, items in by_stream.items():
        _sum_stream(base, stream, items, now)
    for epoch, entries in by_epoch.items():
        numbers = [seq for seq, _, _ in entries]
        for first, last in to_ranges(sorted(numbers)):
            catalog_spans.add(base, epoch, HELD, first, last)
        catalog_blocks.add(base, epoch, entries, now)
        base.execute(
            "UPDATE epoch SET segments=segments+?, top=max(top,?) WHERE id=?", (len(numbers), max(numbers), epoch)
        )
    for file, items in by_file.items():
        _sum_file(base, file, items)
    return top + 1


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


def add_copies(base: sqlite3.Connection, ids: Ids, copies: Sequence[Copy]) -> set[tuple[str, str]]:
    """Record proven copies; one that is known already is verified anew. Returns the (agent, stream) touched."""
    touched: set[tuple[str, str]] = set()
    new_ids: dict[int, list[int]] = {}
    new_seqs: dict[tuple[int, int], list[int]] = {}
    sums: dict[tuple[int, int], list[int]] = {}
    for copy in copies:
        target = ids.target(base, copy.target)
        row = base.execute(
            "SELECT s.stream, s.epoch, s.seq, s.rows, s.size, s.recv_last, t.agent, t.name FROM segment s"
            " JOIN stream t ON t.id = s.stream WHERE s.id=?",
            (copy.segment,),
        ).fetchone()
        if row is None:
            raise NotFound(f"segment {copy.segment} is not in the catalog")
        stream, epoch, seq, rows, size, recv_last, *names = row
        touched.add((names[0], names[1]))
        fresh = base.execute(
            "INSERT OR IGNORE INTO copy VALUES (?,?,?,?)",
            (target, copy.segment, copy.verified_ns, ids.method(base, copy.method)),
        ).rowcount
        total = sums.setdefault((stream, target), [0, 0, 0, -1, -1])
        total[4] = max(total[4], copy.verified_ns)
        if not fresh:
            base.execute(
                "UPDATE copy SET verified=?, method=? WHERE target=? AND segment=?",
                (copy.verified_ns, ids.method(base, copy.method), target, copy.segment),
            )
            continue
        new_ids.setdefault(target, []).append(copy.segment)
        new_seqs.setdefault((epoch, target), []).append(seq)
        total[0] += 1
        total[1] += rows
        total[2] += size
        total[3] = max(total[3], -1 if recv_last is None else recv_last)
        close_incident(base, LOST_COPY, names[0], names[1], f"{copy.segment} at {copy.target}", copy.verified_ns)
    for target, numbers in new_ids.items():
        for first, last in to_ranges(sorted(numbers)):
            catalog_spans.add(base, -target, IDS, first, last)
    for (epoch, target), numbers in new_seqs.items():
        for first, last in to_ranges(sorted(numbers)):
            catalog_spans.add(base, epoch, COPIES + target, first, last)
        for seq in sorted(numbers) if catalog_spans.read(base, epoch, WANTED) else ():
            _found_again(base, epoch, seq, now=max(copy.verified_ns for copy in copies))
    for (stream, target), total in sums.items():
        base.execute(
            "INSERT INTO stream_target VALUES (?1,?2,?3,?4,?5,nullif(?6,-1),?7) ON CONFLICT DO UPDATE SET"
            " segments=segments+?3, rows=rows+?4, bytes=bytes+?5,"
            " recv_last=nullif(max(coalesce(recv_last,-1),?6),-1), verified=max(coalesce(verified,-1),?7)",
            (stream, target, *total),
        )
    for target in new_ids:
        _close_if_level(base, target, max(copy.verified_ns for copy in copies))
    return touched


def _close_if_level(base: sqlite3.Connection, target: int, now: int) -> None:
    """What was told of all copies of a target at once is over when it has every segment again."""
    (name,) = base.execute("SELECT name FROM target WHERE id=?", (target,)).fetchone()
    about = ((REPLACED, name), (LOST_COPY, f"many at {name}"))
    open_ones = [
        one
        for one in about
        if base.execute(
            "SELECT 1 FROM incident WHERE kind=? AND agent='' AND stream='' AND subject=? AND closed IS NULL", one
        ).fetchone()
    ]
    if not open_ones:
        return
    lacking = base.execute(
        "SELECT total(segments) - (SELECT total(segments) FROM stream_target WHERE target=?) FROM stream", (target,)
    ).fetchone()[0]
    for kind, subject in open_ones if lacking == 0 else ():
        close_incident(base, kind, "", "", subject, now)


def drop_copy(base: sqlite3.Connection, ids: Ids, segment: int, target_name: str, why: str, now: int) -> bool:
    """Forget a copy that is not what it should be, and record the incident; False if there was none."""
    target = ids.target(base, target_name)
    place = _place(base, _BY_ID, (segment,))
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


def attest(base: sqlite3.Connection, segment: int, sha256: str, now: int) -> tuple[Attested, _Place]:
    """Record the SHA-256 of a segment's home bytes and check the links on both sides of it."""
    mine = _place(base, _BY_ID, (segment,))
    if mine is None:
        raise NotFound(f"segment {segment} is not in the catalog")
    known = mine.link.sha256
    if known and known != sha256:
        text = f"segment {mine.subject} has another SHA-256 than when it was attested, under the same XXH3-128"
        _break(base, mine, TAMPERED, text, now)
        return Attested(segment, ok=False, found=(text,)), mine
    base.execute("UPDATE segment SET sha256=? WHERE id=?", (bytes.fromhex(sha256), segment))
    seq = mine.link.seq
    before = _place(base, _BY_SEQ, (mine.epoch, seq - 1))
    after = _place(base, _BY_SEQ, (mine.epoch, seq + 1))
    found = breaks(
        mine.agent,
        mine.stream_name,
        mine.epoch_name,
        Link(seq, mine.link.previous, sha256),
        before=before.link if before else None,
        after=after.link if after else None,
    )
    texts = []
    for blamed, reason in found:
        place = mine if blamed == seq else after
        assert place is not None
        texts.append(f"segment {place.subject}: {reason}")
        _break(base, place, CHAIN, texts[-1], now)
    ok = not mine.broken and all(blamed != seq for blamed, _ in found)
    if ok:
        catalog_spans.add(base, mine.epoch, ATTESTED, seq, seq)
    return Attested(segment, ok, tuple(texts)), mine


def _break(base: sqlite3.Connection, place: _Place, kind: str, text: str, now: int) -> None:
    """A segment that contradicts: marked for good, out of what may be safe, and an incident."""
    base.execute("UPDATE segment SET broken=1 WHERE id=?", (place.id,))
    catalog_spans.remove(base, place.epoch, ATTESTED, place.link.seq, place.link.seq)
    add_incident(base, kind, place.agent, place.stream_name, place.subject, text, now)


def _place(base: sqlite3.Connection, query: str, values: tuple[int, ...]) -> _Place | None:
    row = base.execute(query, values).fetchone()
    if row is None:
        return None
    *ids_and_names, seq, previous, sha256, broken = row
    strong = sha256.hex() if sha256 is not None else ""
    return _Place(*(*ids_and_names, Link(seq, previous.hex(), strong), bool(broken)))


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
    place = _place(base, _BY_ID, (segment,))
    if place is None:
        raise NotFound(f"segment {segment} is not in the catalog")
    catalog_blocks.want(base, place.epoch, place.link.seq)
    text = f"segment {place.subject} is lost here and wanted again: {why}"
    add_incident(base, LOST, place.agent, place.stream_name, place.subject, text, now)
    return place.agent, place.stream_name


def renew(base: sqlite3.Connection, agent: str, stream: str, epoch: str, seq: int, now: int) -> None:
    """A segment that was wanted lies in the home archive again."""
    row = base.execute(_BY_NAME, (agent, stream, epoch, seq)).fetchone()
    if row is None:
        raise NotFound(f"segment {epoch}-{seq:012d} of {agent}/{stream} is not in the catalog")
    catalog_blocks.unwant(base, row[2], seq)
    close_incident(base, LOST, agent, stream, f"{epoch}-{seq:012d}", now)


def _found_again(base: sqlite3.Connection, epoch: int, seq: int, *, now: int) -> None:
    """A proven copy has turned up: nobody needs to send the segment again."""
    place = _place(base, _BY_SEQ, (epoch, seq))
    if place is not None and catalog_spans.holds(base, epoch, WANTED, seq):
        catalog_blocks.unwant(base, epoch, seq)
        close_incident(base, LOST, place.agent, place.stream_name, place.subject, now)


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
