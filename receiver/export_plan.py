"""What an export consists of, from the catalog's facts alone: files, their parts in order, and what is missing.

A file life is the run of segments that cover one life of one source file. An agent that lost its outbox
reads the files that are still there again, under a new epoch and a new `file_id`: such lives are one
file, told by the name (or what rotation makes of it) or the head fingerprint, and proven by comparing every
byte that both cover. Parts of one file may then overlap; what is covered already is skipped, so no byte comes
out twice.
"""

import heapq
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta

from receiver.catalog import Catalog, SourceFile
from receiver.model import Held
from tape.digest import xxh3
from tape.filenames import kin
from tape.names import SegmentPath

FULL_HEAD = 4096
Runs = list[tuple[int, int]]
_ARCHIVE = re.compile(r"(?<=.)\.(gz|zst|zip)\Z", re.IGNORECASE)
_BAD = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9]|lpt[0-9])(\..*)?\Z", re.IGNORECASE)
_MEMBER = "!"


@dataclass(frozen=True, slots=True)
class Window:
    """Receive times [first, until) in ns; None: no bound."""

    first_ns: int | None = None
    until_ns: int | None = None

    @property
    def open(self) -> bool:
        """Whether it takes everything."""
        return self.first_ns is None and self.until_ns is None

    def touches(self, first: int | None, last: int | None) -> bool:
        """Whether something received from `first` to `last` (None: unknown) may lie inside."""
        late = self.first_ns is not None and last is not None and last < self.first_ns
        early = self.until_ns is not None and first is not None and first >= self.until_ns
        return not late and not early


EVERYTHING = Window()


@dataclass(frozen=True, slots=True)
class Part:
    """What a segment adds to a file: its source bytes from `low` to `high`, counted from the start of the file."""

    held: Held
    low: int
    high: int

    @property
    def whole(self) -> bool:
        """Whether all of the segment is wanted."""
        return (self.low, self.high) == extent(self.held)


@dataclass(frozen=True, slots=True)
class Hole:
    """Something that is missing, in words, with the bytes of the file if they are known."""

    file: str
    text: str
    start: int = 0
    end: int = 0


@dataclass(slots=True)
class FilePlan:
    """One file to write: its lives, oldest first, and the name that is free for it.

    `overlaps`: some bytes are in more than one segment (known once its parts were gone through).
    """

    name: str
    lives: list[SourceFile]
    epochs: set[str] = field(default_factory=set)
    overlaps: bool = False

    @property
    def bytes(self) -> int:
        """Bytes it has at least."""
        return max(life.bytes for life in self.lives)

    @property
    def first_ns(self) -> int:
        """When its first row was received; 0 if unknown."""
        return min((life.recv_first_ns for life in self.lives if life.recv_first_ns is not None), default=0)


Same = Callable[[SourceFile, SourceFile], bool]
Prefix = Callable[[SourceFile], bytes]


def safe_name(path: str) -> str:
    r"""A file name that every system takes, from the path of a source file: its last part, cleaned.

    A member of an archive has its own name; the suffix of a compressed file goes, since what comes out is not.
    """
    text = path.rpartition(_MEMBER)[2] if re.search(r"\.zip!", path, re.IGNORECASE) else path
    name = re.split(r"[/\\]", text)[-1]
    name = _ARCHIVE.sub("", name)
    name = _BAD.sub("_", name).rstrip(". ")
    if not name or _DEVICE.match(name):
        name = f"_{name}"
    return name[:200]


def plan_files(
    catalog: Catalog, agent: str, stream: str, window: Window, *, same: Same, prefix: Prefix
) -> list[FilePlan]:
    """The files of a stream that may have rows in the window, by time; lives of one file are together."""
    lives = [life for life in catalog.files(agent, stream) if window.touches(life.recv_first_ns, life.recv_last_ns)]
    order = {life.file_id: number for number, life in enumerate(lives)}
    lives.sort(key=lambda life: (life.recv_first_ns or 0, order[life.file_id]))
    plans = _grouped(catalog, agent, stream, lives, same=same, prefix=prefix)
    used: set[str] = set()
    for plan in plans:
        plan.name = _free_name(safe_name(plan.lives[0].name), used)
    return plans


def _free_name(name: str, used: set[str]) -> str:
    free, number = name, 1
    while free.casefold() in used:
        number += 1
        free = f"{name}.{number}"
    used.add(free.casefold())
    return free


def _grouped(
    catalog: Catalog, agent: str, stream: str, lives: Sequence[SourceFile], *, same: Same, prefix: Prefix
) -> list[FilePlan]:
    if len(catalog.epochs(agent, stream)) < 2:
        return [FilePlan("", [life]) for life in lives]
    plans: list[FilePlan] = []
    by_head: dict[tuple[int, str], list[FilePlan]] = {}
    for life in lives:
        first = next(catalog.segments_of_file(agent, stream, life.file_id), None)
        if first is None or first.footer is None:
            continue
        epoch = first.footer.epoch
        start = prefix(life)
        plan = _match(life, epoch, start, by_head, same)
        if plan is None:
            plan = FilePlan("", [])
            plans.append(plan)
        plan.lives.append(life)
        plan.epochs.add(epoch)
        if start:
            known = by_head.setdefault((len(start), xxh3(start)), [])
            if plan not in known:
                known.append(plan)
    return plans


def _match(
    life: SourceFile,
    epoch: str,
    start: bytes,
    by_head: dict[tuple[int, str], list[FilePlan]],
    same: Same,
) -> FilePlan | None:
    """The file that this life reads again, if there is one: told by its first bytes, proven by all that overlap."""
    for length in sorted({size for size, _ in by_head if size <= len(start)}, reverse=True):
        for plan in by_head.get((length, xxh3(start[:length])), ()):
            if epoch in plan.epochs:
                continue
            full = length == FULL_HEAD
            longer = life.end >= max(known.end for known in plan.lives)
            if (full or (longer and _akin(life, plan.lives))) and all(same(known, life) for known in plan.lives):
                return plan
    return None


def _akin(life: SourceFile, known: Sequence[SourceFile]) -> bool:
    """Whether a name is that of a known reading, or what rotation makes of it while the file was not finished."""
    for one in known:
        if safe_name(life.name) == safe_name(one.name):
            return True
        if kin(life.name, one.name) and (not one.final or life.end == one.end):
            return True
    return False


def extent(held: Held) -> tuple[int, int]:
    """The source bytes that a segment covers: (start, end) in its file."""
    assert held.footer is not None
    return held.footer.source.start, held.footer.source.end


def parts_of(catalog: Catalog, agent: str, stream: str, plan: FilePlan, window: Window) -> Iterator[Part | Hole]:
    """A file's parts that may have rows in the window, by their place in it, and the holes between them.

    Of lives that cover the same bytes the oldest is taken. A hole outside the window's time does not count.
    """
    covered: Runs = []
    found = []
    plan.overlaps |= len(plan.lives) > 1
    for life in plan.lives:
        found.append(_new_parts(catalog, agent, stream, life, covered))
        if len(plan.lives) > 1:
            covered = joined([*covered, *runs_of(catalog, agent, stream, life)])
    here = 0
    before: int | None = None
    for part in heapq.merge(*found, key=lambda part: (part.low, part.held.id)):
        held = part.held
        if part.low > here and window.touches(before, held.recv_first_ns):
            yield Hole(plan.name, f"bytes {here} to {part.low} of {plan.name}", here, part.low)
        low = max(part.low, here)
        plan.overlaps |= low > part.low or not part.whole
        here = max(here, part.high)
        before = held.recv_last_ns
        if low < part.high and window.touches(held.recv_first_ns, held.recv_last_ns):
            yield replace(part, low=low)


def _new_parts(catalog: Catalog, agent: str, stream: str, life: SourceFile, covered: Runs) -> Iterator[Part]:
    """What a life has beyond what is covered, by place."""
    for held in catalog.segments_of_file(agent, stream, life.file_id):
        low, high = extent(held)
        for start, end in covered[max(0, bisect_left(covered, (low, low)) - 1) :]:
            if start >= high:
                break
            if low < start:
                yield Part(held, low, start)
            low = max(low, end)
        if low < high:
            yield Part(held, low, high)


def runs_of(catalog: Catalog, agent: str, stream: str, life: SourceFile) -> Runs:
    """The byte ranges of a file life that are held, neighbours joined."""
    return joined(extent(held) for held in catalog.segments_of_file(agent, stream, life.file_id))


def joined(extents: Iterable[tuple[int, int]]) -> Runs:
    """Ranges `[start, end)` in order, those that touch joined."""
    runs: Runs = []
    for start, end in sorted(extents):
        if runs and start <= runs[-1][1]:
            runs[-1] = (runs[-1][0], max(end, runs[-1][1]))
        else:
            runs.append((start, end))
    return runs


def missing_segments(catalog: Catalog, agent: str, stream: str, window: Window) -> Iterator[Hole]:
    """Runs of segments that are not held although later ones of their epoch are, as far as the window may want them."""
    for state in catalog.epochs(agent, stream):
        for first, last in state.missing:
            before = catalog.find(agent, stream, state.epoch, first - 1) if first else None
            after = catalog.find(agent, stream, state.epoch, last + 1)
            earliest = before.recv_last_ns if before else None
            latest = after.recv_first_ns if after else None
            if window.touches(earliest, latest):
                numbers = f"segment {first}" if first == last else f"segments {first} to {last}"
                yield Hole("", f"{numbers} of epoch {state.epoch}")


def missing_newest(
    catalog: Catalog, listed: Iterable[SegmentPath], agent: str, stream: str, window: Window
) -> Iterator[Hole]:
    """Of segments that are named and not there, those behind the newest that is: nothing else tells of them."""
    ends = {state.epoch: max((last for _, last in state.held), default=-1) for state in catalog.epochs(agent, stream)}
    for path in listed:
        first = datetime.combine(path.day, time(), UTC)
        day = (int(first.timestamp()) * 10**9, int((first + timedelta(days=2)).timestamp()) * 10**9)
        behind = path.name.seq > ends.get(path.name.epoch, -1)
        if (path.agent, path.stream) == (agent, stream) and behind and window.touches(*day):
            yield Hole("", f"{path}, which SHA256SUMS names")
