"""What is proven of segments and their copies, as functions inside the caller's transaction: many in one go."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from receiver import catalog_blocks, catalog_spans
from receiver.catalog_ids import Ids
from receiver.catalog_tables import ATTESTED, COPIES, IDS, WANTED
from receiver.catalog_writes import (
    BY_SEQ,
    CHAIN,
    LOST,
    LOST_COPY,
    PLACE,
    REPLACED,
    TAMPERED,
    Place,
    add_incident,
    close_incident,
    many_at,
    place_from,
    place_of,
)
from receiver.model import Copy
from receiver.verdict import Link, breaks
from tape.errors import NotFound
from tape.receipt import to_ranges


@dataclass(frozen=True, slots=True)
class Attested:
    """What attesting a segment found. `ok`: it contradicts nothing known. `found`: every contradiction, in words."""

    segment: int
    ok: bool
    found: tuple[str, ...] = ()


def add_copies(base: sqlite3.Connection, ids: Ids, copies: Sequence[Copy]) -> set[tuple[str, str]]:
    """Record proven copies; one that is known already is verified anew. Returns the (agent, stream) touched."""
    if not copies:
        return set()
    now = max(copy.verified_ns for copy in copies)
    segments = _segments(base, {copy.segment for copy in copies})
    targets = {name: ids.target(base, name) for name in sorted({copy.target for copy in copies})}
    known = {(target, number) for target in targets.values() for number in _known(base, target, segments)}
    incidents = base.execute("SELECT 1 FROM incident WHERE kind=? AND closed IS NULL LIMIT 1", (LOST_COPY,)).fetchone()
    fresh: dict[int, list[int]] = {}
    sums: dict[tuple[int, int], list[int]] = {}
    for copy in copies:
        target = targets[copy.target]
        if copy.segment not in segments:
            raise NotFound(f"segment {copy.segment} is not in the catalog")
        stream, _, _, rows, size, recv_last, *names = segments[copy.segment]
        total = sums.setdefault((stream, target), [0, 0, 0, -1, -1])
        total[4] = max(total[4], copy.verified_ns)
        if (target, copy.segment) in known:
            continue
        known.add((target, copy.segment))
        fresh.setdefault(target, []).append(copy.segment)
        total[0] += 1
        total[1] += rows
        total[2] += size
        total[3] = max(total[3], -1 if recv_last is None else recv_last)
        if incidents:
            close_incident(base, LOST_COPY, names[0], names[1], f"{copy.segment} at {copy.target}", copy.verified_ns)
    base.executemany(
        "INSERT INTO copy VALUES (?1,?2,?3,?4) ON CONFLICT DO UPDATE SET verified=?3, method=?4",
        [(targets[copy.target], copy.segment, copy.verified_ns, ids.method(base, copy.method)) for copy in copies],
    )
    for target, numbers in fresh.items():
        _add_to_sets(base, target, numbers, segments, now)
    for (stream, target), total in sums.items():
        base.execute(
            "INSERT INTO stream_target VALUES (?1,?2,?3,?4,?5,nullif(?6,-1),?7) ON CONFLICT DO UPDATE SET"
            " segments=segments+?3, rows=rows+?4, bytes=bytes+?5,"
            " recv_last=nullif(max(coalesce(recv_last,-1),?6),-1), verified=max(coalesce(verified,-1),?7)",
            (stream, target, *total),
        )
    for target in fresh:
        _close_if_level(base, target, now)
    return {(row[6], row[7]) for row in segments.values()}


def _segments(base: sqlite3.Connection, numbers: Iterable[int]) -> dict[int, tuple[Any, ...]]:
    """Stream, epoch, seq, rows, size, recv_last, and the names of agent and stream, by id."""
    found = {}
    for first, last in to_ranges(sorted(numbers)):
        for number, *row in base.execute(
            "SELECT s.id, s.stream, s.epoch, s.seq, s.rows, s.size, s.recv_last, t.agent, t.name FROM segment s"
            " JOIN stream t ON t.id = s.stream WHERE s.id BETWEEN ? AND ?",
            (first, last),
        ):
            found[number] = tuple(row)
    return found


def _known(base: sqlite3.Connection, target: int, numbers: Iterable[int]) -> Iterator[int]:
    """Which of these segments have a copy at a target."""
    for first, last in to_ranges(sorted(numbers)):
        rows = base.execute(
            "SELECT segment FROM copy WHERE target=? AND segment BETWEEN ? AND ?", (target, first, last)
        )
        yield from (number for (number,) in rows)


def _add_to_sets(
    base: sqlite3.Connection, target: int, numbers: list[int], segments: dict[int, tuple[Any, ...]], now: int
) -> None:
    """New copies at a target, in its set of ids and in the set of each epoch."""
    for first, last in to_ranges(sorted(numbers)):
        catalog_spans.add(base, -target, IDS, first, last)
    by_epoch: dict[int, list[int]] = {}
    for number in numbers:
        by_epoch.setdefault(segments[number][1], []).append(segments[number][2])
    for epoch, seqs in by_epoch.items():
        for first, last in to_ranges(sorted(seqs)):
            catalog_spans.add(base, epoch, COPIES + target, first, last)
        for seq in sorted(seqs) if catalog_spans.read(base, epoch, WANTED) else ():
            _found_again(base, epoch, seq, now=now)


def _found_again(base: sqlite3.Connection, epoch: int, seq: int, *, now: int) -> None:
    """A proven copy has turned up: nobody needs to send the segment again."""
    place = place_of(base, BY_SEQ, (epoch, seq))
    if place is not None and catalog_spans.holds(base, epoch, WANTED, seq):
        catalog_blocks.unwant(base, epoch, seq)
        close_incident(base, LOST, place.agent, place.stream_name, place.subject, now)


def _close_if_level(base: sqlite3.Connection, target: int, now: int) -> None:
    """What was told of all copies of a target at once is over when it has every segment again."""
    (name,) = base.execute("SELECT name FROM target WHERE id=?", (target,)).fetchone()
    about = ((REPLACED, name), (LOST_COPY, many_at(name)))
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


def attest_many(
    base: sqlite3.Connection, items: Sequence[tuple[int, str]], now: int
) -> tuple[list[Attested], set[tuple[str, str]]]:
    """Record the SHA-256 of segments' home bytes and check the links on both sides of each.

    Returns what was found, in order, and the (agent, stream) touched.
    """
    chains = _Chains(base, now, [segment for segment, _ in items])
    found = [chains.attest(segment, sha256) for segment, sha256 in items]
    chains.write()
    return found, {chains.owner(segment) for segment, _ in items}


class _Chains:
    """The places of some segments and of their neighbours, as the transaction changes them."""

    def __init__(self, base: sqlite3.Connection, now: int, segments: Sequence[int]) -> None:
        self._base = base
        self._now = now
        self._where: dict[int, tuple[int, int]] = {}  # epoch and seq of the segments
        self._at: dict[tuple[int, int], Place] = {}  # by epoch and seq
        self._hashes: dict[int, str] = {}
        self._good: dict[int, set[int]] = {}  # seqs that contradict nothing, by epoch
        around: dict[int, set[int]] = {}
        for first, last in to_ranges(sorted(set(segments))):
            for number, epoch, seq in base.execute(
                "SELECT id, epoch, seq FROM segment WHERE id BETWEEN ? AND ?", (first, last)
            ):
                self._where[number] = (epoch, seq)
                around.setdefault(epoch, set()).update((seq - 1, seq, seq + 1))
        for epoch, numbers in around.items():
            for first, last in to_ranges(sorted(numbers)):
                for row in base.execute(PLACE + "WHERE s.epoch=? AND s.seq BETWEEN ? AND ?", (epoch, first, last)):
                    place = place_from(row)
                    self._at[epoch, place.link.seq] = place

    def attest(self, segment: int, sha256: str) -> Attested:
        """Take note of a SHA-256 and check the links on both sides; raises NotFound."""
        if segment not in self._where:
            raise NotFound(f"segment {segment} is not in the catalog")
        epoch, seq = self._where[segment]
        mine = self._at[epoch, seq]
        if mine.link.sha256 not in ("", sha256):
            text = f"segment {mine.subject} has another SHA-256 than when it was attested, under the same XXH3-128"
            self._break(mine, TAMPERED, text)
            return Attested(segment, ok=False, found=(text,))
        mine = self._at[epoch, seq] = replace(mine, link=Link(seq, mine.link.previous, sha256))
        self._hashes[segment] = sha256
        before, after = self._at.get((epoch, seq - 1)), self._at.get((epoch, seq + 1))
        found = breaks(
            mine.agent,
            mine.stream_name,
            mine.epoch_name,
            mine.link,
            before=before.link if before else None,
            after=after.link if after else None,
        )
        texts = []
        for blamed, reason in found:
            place = mine if blamed == seq else after
            assert place is not None
            texts.append(f"segment {place.subject}: {reason}")
            self._break(place, CHAIN, texts[-1])
        ok = not mine.broken and all(blamed != seq for blamed, _ in found)
        if ok:
            self._good.setdefault(epoch, set()).add(seq)
        return Attested(segment, ok, tuple(texts))

    def owner(self, segment: int) -> tuple[str, str]:
        """The agent and stream of one of the segments."""
        place = self._at[self._where[segment]]
        return place.agent, place.stream_name

    def _break(self, place: Place, kind: str, text: str) -> None:
        """A segment that contradicts: marked for good, out of what may be safe, and an incident."""
        seq = place.link.seq
        self._base.execute("UPDATE segment SET broken=1 WHERE id=?", (place.id,))
        self._at[place.epoch, seq] = replace(place, broken=True)
        self._good.get(place.epoch, set()).discard(seq)
        catalog_spans.remove(self._base, place.epoch, ATTESTED, seq, seq)
        add_incident(self._base, kind, place.agent, place.stream_name, place.subject, text, self._now)

    def write(self) -> None:
        """Into the catalog."""
        self._base.executemany(
            "UPDATE segment SET sha256=? WHERE id=?",
            [(bytes.fromhex(sha256), segment) for segment, sha256 in self._hashes.items()],
        )
        for epoch, numbers in self._good.items():
            for first, last in to_ranges(sorted(numbers)):
                catalog_spans.add(self._base, epoch, ATTESTED, first, last)
