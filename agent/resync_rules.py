"""What a comparison with home says of each segment: pure, values in, decisions out.

A block is judged whole, beside what home holds of it. Of segments whose rows were compacted after their release only
the numbers and the node over all of them are known: that they are all there and all right can be told, and which are
missing; of several of which one is wrong, not which.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from agent.model import State
from tape.inventory import BLOCK_BITS, Node, entry_hash, node_of
from tape.receipt import Ranges

MOST_RANGES = 10_000


class Fate(StrEnum):
    """What is wrong with a segment, seen from here."""

    MISSING = "missing"  # home lacks it, it is still here: sent again
    WAITING = "waiting"  # never delivered yet, on its way
    REFUSED = "refused"  # home would not take it; a person decides
    WRONG = "wrong"  # home has other bytes under its number
    FOREIGN = "foreign"  # home has a number of this epoch that this outbox never made
    GONE = "gone"  # neither here nor at home


_ABSENT = {
    State.SEALED: Fate.WAITING,
    State.HELD: Fate.MISSING,
    State.SAFE: Fate.MISSING,
    State.RELEASED: Fate.GONE,
    State.REFUSED: Fate.REFUSED,
    State.LOST: Fate.GONE,
}


@dataclass(frozen=True, slots=True)
class Row:
    """A segment as the outbox still knows it. `digest`: 16 bytes."""

    id: int
    digest: bytes
    state: State
    size: int


@dataclass(frozen=True, slots=True)
class Known:
    """What the outbox knows of one block: all numbers ever made, the node over them, and the rows that are left.

    `next_seq`: the first number not made yet, None for an epoch of which this outbox knows only a part.
    """

    number: int
    seqs: tuple[int, ...]
    node: Node
    rows: Mapping[int, Row]
    next_seq: int | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """One segment that is not as it should be. `row`: None where it is compacted, or foreign.

    `among`: of these numbers at least one is wrong, and which one can't be told any more; then `seq` is the first.
    """

    fate: Fate
    seq: int
    row: Row | None = None
    among: tuple[int, ...] = ()


def _nobody(_row: Row) -> bool:
    return False


def judge(
    known: Known, there: Mapping[int, bytes | None], *, skip: Callable[[Row], bool] = _nobody
) -> Iterator[Verdict]:
    """Everything of a block that is not level. `there`: what home holds, digests None where only numbers are told.

    `skip`: rows that moved while the two sides were compared; they are judged another time.
    """
    folded: list[int] = []
    complete = True
    for seq in known.seqs:
        row = known.rows.get(seq)
        if row is None:
            complete = complete and seq in there
            folded.append(seq)
            if seq not in there:
                yield Verdict(Fate.GONE, seq)
        elif skip(row):
            continue
        elif seq not in there:
            yield Verdict(_ABSENT[row.state], seq, row)
        elif there[seq] not in (None, row.digest):
            yield Verdict(Fate.WRONG, seq, row)
    if folded and complete and not _as_made(known, folded, there):
        yield Verdict(Fate.WRONG, folded[0], among=tuple(folded))
    if known.next_seq is not None:
        made = set(known.seqs)
        for seq in sorted(seq for seq in there if seq not in made and seq >= known.next_seq):
            yield Verdict(Fate.FOREIGN, seq)


def _as_made(known: Known, folded: list[int], there: Mapping[int, bytes | None]) -> bool:
    """Whether the compacted segments of a block are at home as they were made; nothing speaks against it if unknown."""
    live = node_of((seq, row.digest) for seq, row in known.rows.items())
    xor = 0
    for seq in folded:
        digest = there[seq]
        if digest is None:
            return True
        xor ^= entry_hash(seq, digest)
    return xor == known.node.xor ^ live.xor


class Told:
    """What home holds of an epoch by its receipt: numbers without digests."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = sorted(ranges)
        self._firsts = [first for first, _ in self._ranges]

    def of(self, block: int) -> dict[int, bytes | None]:
        """The numbers of one block."""
        first = block << BLOCK_BITS
        last = first + (1 << BLOCK_BITS) - 1
        found: dict[int, bytes | None] = {}
        for low, high in self._ranges[max(0, bisect_right(self._firsts, first) - 1) :]:
            if low > last:
                break
            found.update(dict.fromkeys(range(max(low, first), min(high, last) + 1)))
        return found

    @property
    def last_block(self) -> int:
        """The highest block of which home holds something; -1 if there is none."""
        return self._ranges[-1][1] >> BLOCK_BITS if self._ranges else -1


# ------------------------------------------------------------------------------------------- summed up


@dataclass(slots=True)
class Count:
    """Segments of one fate in a stream: how many, and how large (0 where unknown)."""

    segments: int = 0
    bytes: int = 0
    _found: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def add(self, epoch: str, verdict: Verdict) -> None:
        """One more."""
        self.segments += 1
        self.bytes += verdict.row.size if verdict.row is not None else 0
        ranges = self._found.setdefault(epoch, [])
        for seq in verdict.among or (verdict.seq,):
            if ranges and ranges[-1][1] == seq - 1:
                ranges[-1] = (ranges[-1][0], seq)
            elif len(ranges) < MOST_RANGES:
                ranges.append((seq, seq))

    @property
    def ranges(self) -> dict[str, list[tuple[int, int]]]:
        """Which, as ranges of numbers by epoch, ascending; the first found of very many."""
        joined: dict[str, list[tuple[int, int]]] = {}
        for epoch, found in sorted(self._found.items()):
            ranges = joined.setdefault(epoch, [])
            for first, last in sorted(found):
                if ranges and first <= ranges[-1][1] + 1:
                    ranges[-1] = (ranges[-1][0], max(last, ranges[-1][1]))
                else:
                    ranges.append((first, last))
        return joined


@dataclass(slots=True)
class StreamPlan:
    """One stream: `made` segments as the outbox remembers, and what is not level."""

    stream: str
    made: int = 0
    counts: dict[Fate, Count] = field(default_factory=lambda: {fate: Count() for fate in Fate})

    @property
    def level(self) -> bool:
        """Whether home holds exactly what was made."""
        return not any(count.segments for count in self.counts.values())


@dataclass(slots=True)
class Plan:
    """All streams that were compared. `others`: epochs home holds of which this outbox knows nothing.

    `by_receipts`: home has no inventory, so only numbers were compared, not digests.
    """

    streams: dict[str, StreamPlan] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    by_receipts: bool = False

    def add(self, stream: str, epoch: str, verdicts: Iterable[Verdict]) -> None:
        """What was found in one block."""
        one = self.streams.setdefault(stream, StreamPlan(stream))
        for verdict in verdicts:
            one.counts[verdict.fate].add(epoch, verdict)

    def total(self, *fates: Fate) -> tuple[int, int]:
        """(segments, bytes) of these fates over all streams."""
        counts = [one.counts[fate] for one in self.streams.values() for fate in fates]
        return sum(count.segments for count in counts), sum(count.bytes for count in counts)

    def to_plain(self, *, ranges: bool) -> dict[str, Any]:
        """For JSON; `ranges`: name every segment, by epoch and first and last number."""
        streams = [
            {
                "stream": one.stream,
                "made": one.made,
                "level": one.level,
                **{
                    fate.value: {"segments": count.segments, "bytes": count.bytes}
                    | ({"ranges": count.ranges} if ranges else {})
                    for fate, count in one.counts.items()
                },
            }
            for _, one in sorted(self.streams.items())
        ]
        return {
            "streams": streams,
            "other_epochs": list(self.others),
            "by_receipts": self.by_receipts,
            "level": not self.exit_code,
        }

    @property
    def exit_code(self) -> int:
        """0 level, 1 not level yet, 2 something is gone, wrong, foreign or refused."""
        if self.total(Fate.GONE, Fate.WRONG, Fate.FOREIGN, Fate.REFUSED)[0]:
            return 2
        return 1 if self.total(Fate.MISSING, Fate.WAITING)[0] else 0
