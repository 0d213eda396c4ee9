"""One target's listing against the catalog: what is missing, wrong, foreign or stray there. Reads, changes nothing.

Both sides are walked folder by folder and, within one, in the order of names, so that memory holds a
page and not an archive. A copy proven after the comparison began was there then, whatever an older
listing says: live segments never look like trouble. A time that is still to come is that of a clock which
was wrong, and says nothing.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from receiver import catalog_walk as walk
from receiver.catalog import Catalog
from receiver.catalog_queries import next_day
from receiver.targets.contract import Entry, Target
from tape.clock import Clock
from tape.errors import NameRefused, TargetError
from tape.names import SegmentPath

_DAY = re.compile(r"[^/]+/(?:[^/]+/)+?date=[^/]+(?=/)")
_EPOCH = date(1970, 1, 1).toordinal()


class Kind(StrEnum):
    """What a comparison can find of one file or segment."""

    MISSING = "missing"  # counted there, and gone
    LACKING = "to copy"  # never was there: the fan-out's backlog
    UNPROVEN = "to prove"  # there, in the right size, and not counted yet
    WRONG_SIZE = "wrong size"
    WRONG_BYTES = "wrong bytes"  # found by reading them
    FOREIGN = "foreign"  # a segment that the catalog does not know
    STRAY = "stray"  # no segment at all
    SUMS = "sums"  # no line, or a wrong one, in SHA256SUMS


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `segment`: its id, 0 where the catalog knows none. `size`: bytes it should have, else has."""

    kind: Kind
    path: str
    size: int
    segment: int = 0
    sha256: str = ""


class Present:
    """The segments that lie somewhere: one bit each, so that a million cost an eighth of a megabyte."""

    def __init__(self, top: int) -> None:
        self.top = top
        self.bits = bytearray(top // 8 + 1)

    def put(self, segment: int, *, there: bool = True) -> None:
        """Note that a segment is there, or that it is not after all; ids above `top` are not asked about."""
        if 0 < segment <= self.top:
            if there:
                self.bits[segment >> 3] |= 1 << (segment & 7)
            else:
                self.bits[segment >> 3] &= ~(1 << (segment & 7)) & 0xFF

    def has(self, segment: int) -> bool:
        """Whether it was noted."""
        return segment <= self.top and bool(self.bits[segment >> 3] >> (segment & 7) & 1)

    def take(self, other: "Present") -> None:
        """Add what another one has."""
        for place, bits in enumerate(other.bits):
            self.bits[place] |= bits

    def absent(self, chunk: int = 4096) -> Iterator[tuple[int, int]]:
        """Runs of ids, first and last, in which something was not noted."""
        for start in range(0, len(self.bits), chunk // 8):
            piece = self.bits[start : start + chunk // 8]
            if piece.count(0xFF) < len(piece) and start * 8 <= self.top:
                yield max(1, start * 8), min(self.top, start * 8 + chunk - 1)


class Comparison:
    """One target. `began_ns`: the receiver's time before the first look; `progress` is told files listed so far."""

    def __init__(
        self,
        catalog: Catalog,
        target: Target,
        *,
        clock: Clock,
        began_ns: int,
        present: Present,
        sums: bool,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._catalog = catalog
        self._target = target
        self._clock = clock
        self._began = began_ns
        self._present = present
        self._sums = sums and target.capabilities.sums
        self._progress = progress
        self._number = catalog.ask(lambda base: walk.target_number(base, target.id))
        self._streams = catalog.ask(walk.stream_numbers)
        self._seen: dict[int, int] = {}  # stream -> its days that were listed, one bit a day since 1970
        self._listed = 0

    def run(self) -> Iterator[Finding]:
        """Every finding. Raises TargetError and its kind where the target can't be listed."""
        for folder, entries in itertools.groupby(self._target.list(), key=lambda entry: _folder(entry.path)):
            yield from self._folder(folder, self._counted(entries))
        self._progress(self._listed)
        for stream, number in sorted(self._streams.items()):
            yield from self._unlisted(stream, number)

    def _counted(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        for entry in entries:
            self._listed += 1
            if not self._listed % 1000:
                self._progress(self._listed)
            yield entry

    def _folder(self, folder: str, entries: Iterator[Entry]) -> Iterator[Finding]:
        """One folder as listed."""
        place = _place(folder)
        number = None if place is None else self._stream(place.agent, place.stream)
        if place is None:
            yield from (Finding(Kind.STRAY, entry.path, entry.size) for entry in entries)
            return
        day = place.day.toordinal()
        if number is not None and self._catalog.ask(lambda base: walk.epochs_of_day(base, number, day)):
            self._see(number, day, folder)
            rows = self._rows(number, day)
        else:
            rows = iter(())
        yield from self._day(folder, rows, entries)

    def _see(self, stream: int, day: int, folder: str) -> None:
        bit = 1 << day - _EPOCH
        if self._seen.get(stream, 0) & bit:
            raise TargetError(f"target {self._target.id} lists the folder {folder} twice: its listing has no order")
        self._seen[stream] = self._seen.get(stream, 0) | bit

    def _stream(self, agent: str, stream: str) -> int | None:
        if (agent, stream) not in self._streams:
            known = self._catalog.ask(walk.stream_numbers)  # a stream that began meanwhile
            self._streams.update({key: known[key] for key in {(agent, stream)} & known.keys()})
        return self._streams.get((agent, stream))

    def _day(self, folder: str, rows: Iterator[walk.Expected], entries: Iterator[Entry]) -> Iterator[Finding]:
        """One day: what must be there beside what is, both by name."""
        noted = self._target.sums(folder) if self._sums else {}
        row, entry = next(rows, None), next(entries, None)
        before = ""
        while row is not None or entry is not None:
            name = "" if entry is None else entry.path[len(folder) + 1 :]
            if entry is not None and "/" in name:
                yield Finding(Kind.STRAY, entry.path, entry.size)
                entry = next(entries, None)
                continue
            if name and name < before:
                raise TargetError(f"target {self._target.id} lists {folder} in no order: {name} after {before}")
            before = name
            if entry is not None and row is not None and name == row.name:
                yield from self._beside(row, entry, noted)
                row, entry = next(rows, None), next(entries, None)
            elif row is not None and (entry is None or row.name < name):
                yield from self._absent(folder, row)
                row = next(rows, None)
            elif entry is not None:
                yield self._unknown(entry)
                entry = next(entries, None)

    def _absent(self, folder: str, row: walk.Expected) -> Iterator[Finding]:
        path = f"{folder}/{row.name}"
        if row.verified_ns is None:
            if not self._since(row.committed_ns):
                yield Finding(Kind.LACKING, path, row.size, row.id)
        elif not self._since(row.verified_ns):
            yield Finding(Kind.MISSING, path, row.size, row.id)
        else:
            self._present.put(row.id)

    def _beside(self, row: walk.Expected, entry: Entry, noted: dict[str, str]) -> Iterator[Finding]:
        if entry.size != row.size:
            if row.verified_ns is None or not self._since(row.verified_ns):
                yield Finding(Kind.WRONG_SIZE, entry.path, row.size, row.id)
            return
        self._present.put(row.id)
        if row.verified_ns is None:
            if not self._since(row.committed_ns):
                yield Finding(Kind.UNPROVEN, entry.path, row.size, row.id)
        elif self._sums and row.sha256 and noted.get(row.name) != row.sha256 and not self._since(row.verified_ns):
            yield Finding(Kind.SUMS, entry.path, row.size, row.id, row.sha256)

    def _since(self, at_ns: int) -> bool:
        """Whether that happened after the comparison began."""
        return self._began <= at_ns <= self._clock.now_ns()

    def _unknown(self, entry: Entry) -> Finding:
        """A file that no row asks for: a segment, by its name; or something else, a held segment's second name too."""
        try:
            place = SegmentPath.parse(entry.path)
        except NameRefused:
            return Finding(Kind.STRAY, entry.path, entry.size)
        (known,) = self._catalog.known([(place.agent, place.stream, place.name.epoch, place.name.seq)])
        held = known.digest == place.name.digest and not known.wanted
        return Finding(Kind.STRAY if held else Kind.FOREIGN, entry.path, entry.size)

    def _unlisted(self, stream: tuple[str, str], number: int) -> Iterator[Finding]:
        """The days of a stream of which the target has nothing."""
        seen, day = self._seen.get(number, 0), 0
        while True:
            following = self._after(number, day)
            if following is None:
                return
            day = following
            if not seen >> day - _EPOCH & 1:
                folder = f"{stream[0]}/{stream[1]}/date={date.fromordinal(day).isoformat()}"
                for row in self._rows(number, day):
                    yield from self._absent(folder, row)

    def _after(self, stream: int, day: int) -> int | None:
        return self._catalog.ask(lambda base: next_day(base, stream, day))

    def _rows(self, stream: int, day: int) -> Iterator[walk.Expected]:
        """What a day's folder must hold, by name, a page at a time."""
        for epoch in self._catalog.ask(lambda base: walk.epochs_of_day(base, stream, day)):
            after = -1
            while page := self._page(stream, day, epoch, after):
                yield from (row for _, row in page)
                after = page[-1][0]

    def _page(self, stream: int, day: int, epoch: tuple[str, int], after: int) -> list[tuple[int, walk.Expected]]:
        return self._catalog.ask(lambda base: walk.page_by_name(base, stream, day, epoch, after, self._number))


def _folder(path: str) -> str:
    """The day's folder that a file lies in, however deep; else the folder it lies in."""
    found = _DAY.match(path)
    return found[0] if found else path.rpartition("/")[0]


def _place(folder: str) -> SegmentPath | None:
    """The stream and day of a folder of segments; None for any other."""
    try:
        return SegmentPath.parse(f"{folder}/{'0' * 16}-{'0' * 12}-{'0' * 32}.parquet")
    except NameRefused:
        return None
