"""Verify a bare folder: any one copy, on any machine, with nothing but its files.

Each segment's bytes are compared with the digest in its name and the line in SHA256SUMS, its rows with
the source bytes its footer promises, and its place with the chain: who replaced, removed or reordered a
segment would have to redo every one after it. Files are met day by day, and a day is that of the ticks: where
older files or a clock put back brought an earlier day after a later one, that is not the order of the chain.
"""

import contextlib
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from receiver.targets.inside import segment_files
from receiver.targets.sums import read_sums
from tape.digest import BothDigests, digests_of, genesis, link
from tape.durable import named
from tape.errors import DiskError, HometapeError, NotFound
from tape.footer import Footer
from tape.names import SegmentName
from tape.segment import read_footer
from tape.segment import verify as verify_segment


@dataclass(slots=True)
class FolderResult:
    """What was found. `bad`: (file, why) of segments that fail; `gaps`: missing segments; `notes`: what else is odd.

    Exit code: 2 for a bad segment, 1 for gaps and oddities, else 0.
    """

    segments: int = 0
    rows: int = 0
    bytes: int = 0
    streams: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0, 1 or 2."""
        return 2 if self.bad else 1 if self.gaps or self.notes else 0

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps({"exit_code": self.exit_code, **asdict(self)}, indent=2)


@dataclass(slots=True)
class _Run:
    """Segments of one epoch without a hole: what the first says came before it, and the chain's value after the last.

    "" for both beside a bad segment. `file`: that of the first.
    """

    first: int
    last: int
    previous: str
    chain: str
    file: Path


class VerifyFolder:
    """One pass over a folder. `rows`: also decode every segment and rebuild its source bytes (slower, complete).

    `stream`: only this AGENT/STREAM. `files`: those below the folder to check, by name, where they come one
    after the other. `progress` is told segments and bytes so far. Raises NotFound, DiskError.
    """

    def __init__(
        self,
        root: Path,
        *,
        rows: bool = True,
        stream: str = "",
        files: Iterable[Path] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._root = root
        self._given = files
        self._rows = rows
        self._stream = stream.strip("/")
        self._progress = progress or (lambda _segments, _bytes: None)
        self._result = FolderResult()
        self._runs: dict[tuple[str, str, str], list[_Run]] = {}  # by agent, stream, epoch; ascending
        self._failed: list[tuple[str, SegmentName]] = []
        self._folder: Path | None = None
        self._sums: dict[str, str] = {}

    def run(self) -> FolderResult:
        """Check every segment below the folder."""
        if not self._root.is_dir():
            raise NotFound(f"{self._root} is not a folder")
        for file in self._files() if self._given is None else self._given:
            self._enter(file.parent)
            self._one(file)
            self._progress(self._result.segments, self._result.bytes)
        self._leave()
        self._holes()
        if not self._result.segments and not self._result.bad:
            raise NotFound(f"{self._root} holds no segments", hint="give the root of a target, or a folder below it")
        self._result.streams = len({key[:2] for key in self._runs})
        return self._result

    def _files(self) -> Iterator[Path]:
        for file in segment_files(self._root):
            relative = file.relative_to(self._root).as_posix()
            if not self._stream or relative.startswith(f"{self._stream}/date="):
                yield file

    def _one(self, file: Path) -> None:
        name = SegmentName.parse(file.name)
        noted = self._sums.pop(file.name, None)
        try:
            with named(file, "reading"):
                both = digests_of(file)
        except DiskError as error:
            self._bad(file, name, str(error))
            return
        self._result.segments += 1
        self._result.bytes += both.size
        why = self._wrong(name, both, noted)
        footer: Footer | None = None
        if not why:
            try:
                footer = verify_segment(file) if self._rows else read_footer(file)
            except HometapeError as error:
                why = str(error)
        if footer is not None and (name.epoch, name.seq) != (footer.epoch, footer.seq):
            why = f"it says inside that it is segment {footer.seq} of epoch {footer.epoch}"
        if why or footer is None:
            self._bad(file, name, why)
            return
        if noted is None:
            self._result.notes.append(f"{file} has no line in SHA256SUMS")
        self._result.rows += footer.rows
        self._chain(file, footer, both.sha256)

    @staticmethod
    def _wrong(name: SegmentName, both: BothDigests, noted: str | None) -> str:
        if both.digest != name.digest:
            return f"its {both.size} bytes have digest {both.digest}"
        if noted is not None and noted != both.sha256:
            return f"its SHA-256 is {both.sha256}, SHA256SUMS says {noted}"
        return ""

    def _chain(self, file: Path, footer: Footer, sha256: str) -> None:
        key = (footer.agent, footer.stream, footer.epoch)
        after = link(footer.previous, *key, footer.seq, sha256)
        if footer.seq == 0 and footer.previous != genesis(*key):
            self._broken(file)
        if not self._add(key, _Run(footer.seq, footer.seq, footer.previous, after, file)):
            self._result.bad.append((str(file), f"segment {footer.seq} is there twice"))

    def _add(self, key: tuple[str, str, str], new: _Run) -> bool:
        """Take a segment's place, and join it with its neighbours; False if the place is taken."""
        runs = self._runs.setdefault(key, [])
        at = bisect_right(runs, new.first, key=lambda run: run.first)
        if at and new.first <= runs[at - 1].last:
            return False
        if at < len(runs) and runs[at].first == new.last + 1:
            after = runs.pop(at)
            if new.chain and after.previous and after.previous != new.chain:
                self._broken(after.file)
            new = _Run(new.first, after.last, new.previous, after.chain, new.file)
        if at and runs[at - 1].last + 1 == new.first:
            before = runs[at - 1]
            if before.chain and new.previous and new.previous != before.chain:
                self._broken(new.file)
            before.last, before.chain = new.last, new.chain
        else:
            runs.insert(at, new)
        return True

    def _broken(self, file: Path) -> None:
        self._result.bad.append((str(file), "it does not follow the segment before it: the chain is broken"))

    def _bad(self, file: Path, name: SegmentName, why: str) -> None:
        self._result.bad.append((str(file), why))
        self._failed.append((f"{file.as_posix()}/", name))

    def _holes(self) -> None:
        """What no segment was met of is missing. A bad segment is no hole: the next one is not asked to follow it."""
        holes = []
        for key, runs in self._runs.items():
            for path, name in self._failed:
                if key[2] == name.epoch and f"{key[0]}/{key[1]}/" in path:
                    self._add(key, _Run(name.seq, name.seq, "", "", Path(path)))
            first = 0
            for run in runs:
                if run.first > first:
                    numbers = f"segment {first}" if run.first == first + 1 else f"segments {first} to {run.first - 1}"
                    holes.append(f"{numbers} of epoch {key[2]} of {key[0]}/{key[1]}")
                first = run.last + 1
        self._result.gaps = holes + self._result.gaps

    def _enter(self, folder: Path) -> None:
        if folder != self._folder:
            self._leave()
            self._folder = folder
            with contextlib.suppress(DiskError):
                self._sums, clean = read_sums(folder)
                if not clean:
                    self._result.notes.append(f"{folder}: SHA256SUMS has a line that is torn or there twice")

    def _leave(self) -> None:
        """What SHA256SUMS names and nobody met is missing."""
        self._result.gaps += [f"{self._folder}: {name} is in SHA256SUMS and not there" for name in sorted(self._sums)]
        self._sums = {}
