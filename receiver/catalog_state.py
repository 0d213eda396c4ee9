"""How things stand, from ranges and sums alone: receipts, coverage, sizes of parts of an epoch, growth."""

import sqlite3
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Generic, TypeVar

from receiver import catalog_spans, gaps
from receiver.catalog_tables import ASKED, ATTESTED, COPIES, HELD, WANTED, ends_id
from receiver.placement import Rule, Where, satisfying
from receiver.standing import Lack, Looked
from tape.inventory import BLOCK, BLOCK_BITS
from tape.receipt import EpochReceipt, Ranges

_LOOKED = "looked"
_MOST_LOADED = 256
Key = TypeVar("Key")
_Edge = tuple[int, int, int, int]  # oldest commit of the block it lies in, epoch, first, last


@dataclass(frozen=True, slots=True)
class Coverage:
    """One epoch of a stream. `epoch`: its number for `Tally`; `held`: every seq that was committed.

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
        asked = gaps.subtract(spans.get(ASKED, ()), spans.get(HELD, ()))
        layers = _layers(spans, names)
        attested = gaps.intersect(layers.get(home, ()), spans.get(ATTESTED, ()))
        safe = satisfying(rule, places, attested, layers)
        found[name] = EpochReceipt(
            held=gaps.subtract(gaps.subtract(spans.get(HELD, ()), conflicts), wanted),
            safe=gaps.subtract(gaps.subtract(safe, conflicts), wanted),
            refused=tuple((seq, reason) for seq, reason in refused),
            resend=tuple(sorted((*wanted, *asked))),
        )
    return found


def coverage(base: sqlite3.Connection) -> Iterator[Coverage]:
    """Every epoch in the order they came, with what is held of it and where the copies are; one at a time in memory."""
    names = _target_names(base)
    epochs = base.execute("SELECT e.id, t.agent, t.name FROM epoch e JOIN stream t ON t.id=e.stream")
    owners = {epoch: (agent, stream) for epoch, agent, stream in epochs}
    rows = base.execute("SELECT owner, kind, first, last FROM span WHERE owner>0 ORDER BY owner, kind, first")
    for epoch, group in groupby(rows, key=itemgetter(0)):
        spans = {
            kind: tuple((first, last) for _, _, first, last in some) for kind, some in groupby(group, itemgetter(1))
        }
        yield Coverage(*owners[epoch], epoch, spans.get(HELD, ()), spans.get(WANTED, ()), _layers(spans, names))


def _target_names(base: sqlite3.Connection) -> dict[int, str]:
    return dict(base.execute("SELECT id, name FROM target").fetchall())


def _layers(spans: Mapping[int, Ranges], names: Mapping[int, str]) -> dict[str, Ranges]:
    return {names[kind - COPIES]: ranges for kind, ranges in spans.items() if kind >= COPIES}


class Tally(Generic[Key]):
    """Adds up parts of many epochs by their key. Costs by ranges and blocks; the rows of a few edges are read."""

    def __init__(self, base: sqlite3.Connection) -> None:
        self._base = base
        self._sums: dict[Key, Sums] = {}
        self._edges: dict[Key, list[_Edge]] = {}

    def add(self, epoch: int, parts: Mapping[Key, Ranges]) -> None:
        """The parts that the held segments of an epoch fall into: together they are all of them."""
        blocks = _Blocks(self._base, epoch)
        rest = blocks.ends[-1]
        for left, key in enumerate(sorted(parts, key=lambda key: len(parts[key])), 1 - len(parts)):
            edges = self._edges.setdefault(key, [])
            found = blocks.sums(parts[key], edges, size=None if left else rest)  # the last is what the others leave
            rest -= found.bytes
            self._sums[key] = self._sums.get(key, Sums()) + found

    def sums(self) -> dict[Key, Sums]:
        """What was added, by key."""
        return {key: replace(sums, oldest_ns=self._older(key, sums.oldest_ns)) for key, sums in self._sums.items()}

    def _older(self, key: Key, oldest: int | None) -> int | None:
        """The oldest commit of a part; the rows of an edge are read while its block may hold an older one."""
        for bound, epoch, first, last in sorted(self._edges[key]):
            if oldest is not None and bound >= oldest:
                break
            found: int = self._base.execute(
                "SELECT min(committed) FROM segment WHERE epoch=? AND seq BETWEEN ? AND ?", (epoch, first, last)
            ).fetchone()[0]
            oldest = found if oldest is None else min(oldest, found)
        return oldest


class _Blocks:
    """An epoch's blocks: sums of whole ones from memory, bytes of what is cut from their running sums."""

    def __init__(self, base: sqlite3.Connection, epoch: int) -> None:
        self._base = base
        self._epoch = epoch
        rows = base.execute(
            "SELECT number, bytes, first_committed FROM block WHERE epoch=? ORDER BY number", (epoch,)
        ).fetchall()
        self._numbers = [number for number, _, _ in rows]
        self._firsts = [first for _, _, first in rows]
        self.ends = [0, *accumulate(size for _, size, _ in rows)]
        self._loaded: dict[int, bytes] = {}

    def sums(self, ranges: Ranges, edges: list[_Edge], *, size: int | None) -> Sums:
        """The sums over ranges, but for the ages of their edges within blocks, which are noted in `edges`.

        `size`: their bytes, where they are known.
        """
        total = 0
        oldest = None
        for first, last in ranges:
            here = first
            while here <= last:
                number = here >> BLOCK_BITS
                index = bisect_left(self._numbers, number)
                until = min(last, (number + 1 << BLOCK_BITS) - 1)
                if until - here < BLOCK - 1:
                    edges.append((self._firsts[index], self._epoch, here, until))
                    total += 0 if size is not None else self._edge(number, here, until)
                    here = until + 1
                    continue
                after = bisect_left(self._numbers, last + 1 >> BLOCK_BITS)
                total += self.ends[after] - self.ends[index]
                young = min(self._firsts[index:after])
                oldest = young if oldest is None else min(oldest, young)
                here = last + 1 >> BLOCK_BITS << BLOCK_BITS
        return Sums(gaps.count(ranges), total if size is None else size, oldest)

    def _edge(self, number: int, first: int, last: int) -> int:
        """The bytes of a run of numbers within one block."""
        if number not in self._loaded:
            row = self._base.execute("SELECT ends FROM block_ends WHERE id=?", (ends_id(self._epoch, number),))
            if len(self._loaded) >= _MOST_LOADED:
                self._loaded.clear()
            self._loaded[number] = row.fetchone()[0]
        ends = self._loaded[number]
        low, high = first % BLOCK * 8, last % BLOCK * 8
        before = int.from_bytes(ends[low - 8 : low], "little") if low else 0
        return int.from_bytes(ends[high : high + 8], "little") - before


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
