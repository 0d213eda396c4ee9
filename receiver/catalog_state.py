"""How things stand, from ranges and sums alone: receipts, coverage, sizes of parts of an epoch, growth."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from receiver import catalog_spans, gaps
from receiver.catalog_tables import ATTESTED, COPIES, HELD, WANTED
from receiver.placement import Rule, Where, satisfying
from receiver.standing import Lack, Looked
from tape.inventory import BLOCK, BLOCK_BITS
from tape.receipt import EpochReceipt, Ranges

_LOOKED = "looked"
_NEVER = 2**63 - 1
Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Coverage:
    """One epoch of a stream. `epoch`: its number for `range_sums`; `held`: every seq that was committed.

    `layers`: those with a verified copy, by target. `wanted`: those lost here and asked for again; no
    layer holds them.
    """

    agent: str
    stream: str
    epoch: int
    held: Ranges
    wanted: Ranges = ()
    layers: dict[str, Ranges] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sums:
    """Of some segments: how many, their bytes, and when the oldest was committed (None: there are none)."""

    segments: int = 0
    bytes: int = 0
    oldest_ns: int | None = None

    def __add__(self, other: "Sums") -> "Sums":
        times = [ns for ns in (self.oldest_ns, other.oldest_ns) if ns is not None]
        return Sums(self.segments + other.segments, self.bytes + other.bytes, min(times, default=None))


def held_and_safe(
    base: sqlite3.Connection, stream: int, *, rule: Rule, places: Mapping[str, Where]
) -> dict[str, EpochReceipt]:
    """A stream's receipt. A seq in conflict is neither held nor safe: other bytes claim it too."""
    found = {}
    names = _target_names(base)
    home = next((name for name, place in places.items() if place.home), "")
    for number, name in base.execute("SELECT id, name FROM epoch WHERE stream=? ORDER BY id", (stream,)).fetchall():
        spans = catalog_spans.read_all(base, number)
        refused = base.execute(
            "SELECT seq, reason FROM refusal WHERE epoch=? ORDER BY seq LIMIT 1000", (number,)
        ).fetchall()
        conflicts: Ranges = tuple(
            (seq, seq)
            for (seq,) in base.execute("SELECT seq FROM refusal WHERE epoch=? AND conflict=1 ORDER BY seq", (number,))
        )
        wanted = spans.get(WANTED, ())
        layers = _layers(spans, names)
        attested = gaps.intersect(layers.get(home, ()), spans.get(ATTESTED, ()))
        safe = satisfying(rule, places, attested, layers)
        found[name] = EpochReceipt(
            held=gaps.subtract(gaps.subtract(spans.get(HELD, ()), conflicts), wanted),
            safe=gaps.subtract(gaps.subtract(safe, conflicts), wanted),
            refused=tuple((seq, reason) for seq, reason in refused),
            resend=wanted,
        )
    return found


def coverage(base: sqlite3.Connection) -> Iterator[Coverage]:
    """Every epoch by stream and age, with what is held of it and where the copies are."""
    names = _target_names(base)
    epochs = base.execute(
        "SELECT t.agent, t.name, e.id FROM stream t JOIN epoch e ON e.stream=t.id ORDER BY t.agent, t.name, e.id"
    ).fetchall()
    for agent, stream, epoch in epochs:
        spans = catalog_spans.read_all(base, epoch)
        yield Coverage(agent, stream, epoch, spans.get(HELD, ()), spans.get(WANTED, ()), _layers(spans, names))


def _target_names(base: sqlite3.Connection) -> dict[int, str]:
    return dict(base.execute("SELECT id, name FROM target").fetchall())


def _layers(spans: Mapping[int, Ranges], names: Mapping[int, str]) -> dict[str, Ranges]:
    return {names[kind - COPIES]: ranges for kind, ranges in spans.items() if kind >= COPIES}


def part_sums(base: sqlite3.Connection, epoch: int, parts: Mapping[Key, Ranges]) -> dict[Key, Sums]:
    """The sums over each of the parts that an epoch's held segments fall into. Costs by ranges and whole blocks.

    The part with the most ranges is what is left of the epoch.
    """
    if not parts:
        return {}
    *others, largest = sorted(parts, key=lambda key: len(parts[key]))
    found = {key: range_sums(base, epoch, parts[key]) for key in others}
    size = base.execute("SELECT total(bytes) FROM block WHERE epoch=?", (epoch,)).fetchone()[0]
    rest = int(size) - sum(sums.bytes for sums in found.values())
    whole, edges = _cut(parts[largest])
    oldest = _oldest(base, epoch, edges, _whole(base, epoch, whole)[1])
    return {**found, largest: Sums(gaps.count(parts[largest]), rest, oldest)}


def range_sums(base: sqlite3.Connection, epoch: int, ranges: Ranges) -> Sums:
    """The sums over ranges of an epoch's held segments. Every number in them must be held."""
    whole, edges = _cut(ranges)
    size, oldest = _whole(base, epoch, whole)
    return Sums(gaps.count(ranges), size + _edge_bytes(base, epoch, edges), _oldest(base, epoch, edges, oldest))


def _cut(ranges: Ranges) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Ranges as the blocks that lie wholly in them, by number, and what lies at the edges, each within one block."""
    whole: list[tuple[int, int]] = []
    edges: list[tuple[int, int]] = []
    for first, last in ranges:
        low, high = first >> BLOCK_BITS, last >> BLOCK_BITS
        if low == high:
            starts_block = ends_block = last - first == BLOCK - 1
        else:
            starts_block, ends_block = first % BLOCK == 0, last % BLOCK == BLOCK - 1
            if not starts_block:
                edges.append((first, (low + 1 << BLOCK_BITS) - 1))
            if not ends_block:
                edges.append((high << BLOCK_BITS, last))
        if low == high and not starts_block:
            edges.append((first, last))
        elif low + (not starts_block) <= high - (not ends_block):
            whole.append((low + (not starts_block), high - (not ends_block)))
    return whole, edges


_WHOLE = (
    "SELECT total(b.bytes), min(b.first_committed) FROM json_each(?1) r CROSS JOIN block b"
    " ON b.epoch=?2 AND b.number BETWEEN r.value->>0 AND r.value->>1"
)
_ENDS = (
    "SELECT r.value->>0, r.value->>1, z.ends FROM json_each(?1) r CROSS JOIN block_ends z"
    " ON z.id = (?2<<32) | ((r.value->>0)>>?3)"
)
# Rows are read only of edges whose block holds anything older than what is known.
_OLDER = (
    "SELECT min(s.committed) FROM json_each(?1) r CROSS JOIN block b ON b.epoch=?2"
    " AND b.number=(r.value->>0)>>?3 AND b.first_committed<?4"
    " CROSS JOIN segment s ON s.epoch=?2 AND s.seq BETWEEN r.value->>0 AND r.value->>1"
)


def _whole(base: sqlite3.Connection, epoch: int, blocks: list[tuple[int, int]]) -> tuple[int, int | None]:
    """Bytes and oldest commit of runs of whole blocks."""
    size, oldest = base.execute(_WHOLE, (json.dumps(blocks), epoch)).fetchone()
    return int(size), oldest


def _edge_bytes(base: sqlite3.Connection, epoch: int, edges: list[tuple[int, int]]) -> int:
    total = 0
    for first, last, ends in base.execute(_ENDS, (json.dumps(edges), epoch, BLOCK_BITS)):
        low, high = first % BLOCK * 8, last % BLOCK * 8
        total += int.from_bytes(ends[high : high + 8], "little") - int.from_bytes(ends[max(0, low - 8) : low], "little")
    return total


def _oldest(base: sqlite3.Connection, epoch: int, edges: list[tuple[int, int]], known: int | None) -> int | None:
    """The oldest commit of edges and of what is known already. The first edge is the likeliest."""
    for some in (edges[:1], edges[1:]):
        than = _NEVER if known is None else known
        older = base.execute(_OLDER, (json.dumps(some), epoch, BLOCK_BITS, than)).fetchone()[0]
        if older is not None and (known is None or older < known):
            known = older
    return known


def growth(base: sqlite3.Connection, *, today: int, days: int = 30) -> float | None:
    """Bytes a day that the home archive grew by, over the complete UTC days (ordinals) before `today`, at most `days`.

    An archive younger than that counts from its first day; None before its first complete day.
    """
    first = base.execute("SELECT min(day) FROM stream_day").fetchone()[0]
    if first is None or first >= today:
        return None
    start = max(first, today - days)
    total = base.execute(
        "SELECT coalesce(sum(bytes), 0) FROM stream_day WHERE day>=? AND day<?", (start, today)
    ).fetchone()[0]
    return float(total / (today - start))


def looked(base: sqlite3.Connection) -> Looked:
    """What the last look found lacking; see receiver.standing."""
    row = base.execute("SELECT value FROM meta WHERE key=?", (_LOOKED,)).fetchone()
    rows = base.execute("SELECT what, oldest, since FROM standing ORDER BY what")
    return Looked(row[0] if row else None, {what: Lack(oldest, since) for what, oldest, since in rows})


def keep_look(base: sqlite3.Connection, look: Looked) -> None:
    """Keep a look in place of the one before."""
    base.execute("DELETE FROM standing")
    base.executemany(
        "INSERT INTO standing VALUES (?,?,?)",
        [(what, lack.oldest_ns, lack.since_ns) for what, lack in look.lacks.items()],
    )
    base.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (_LOOKED, look.at_ns))
