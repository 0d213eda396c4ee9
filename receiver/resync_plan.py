"""What a resync found and means to do: sums for people, and a file of findings for whoever repairs.

The findings lie in a file, one JSON line each, so that a target that lost a million segments costs no
memory; the plan itself is sums and a few examples.
"""

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from receiver.resync_compare import Finding, Kind
from tape.durable import named

_MOST_NAMED = 5
_AT_ONCE = 1000
REPAIRED = (Kind.MISSING, Kind.WRONG_SIZE, Kind.WRONG_BYTES, Kind.FOREIGN, Kind.SUMS)  # what a repair must be told
_MOVED = (Kind.MISSING, Kind.LACKING, Kind.WRONG_SIZE, Kind.WRONG_BYTES)  # what has to be copied


@dataclass(slots=True)
class Tally:
    """How many, how large together, and a few of them by path."""

    segments: int = 0
    bytes: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, path: str, size: int) -> None:
        """One more."""
        self.segments += 1
        self.bytes += size
        if len(self.named) < _MOST_NAMED:
            self.named.append(path)


@dataclass(slots=True)
class TargetPlan:
    """One target. `error`: why it could not be listed. `replaced`: another place stands there under its id.

    `rate`: bytes a second it is expected to take, None if nothing is known.
    """

    target: str
    found: dict[Kind, Tally] = field(default_factory=lambda: {kind: Tally() for kind in Kind})
    files: int = 0
    error: str = ""
    hint: str = ""
    replaced: bool = False
    rate: float | None = None

    @property
    def bytes(self) -> int:
        """What has to be copied there."""
        return sum(self.found[kind].bytes for kind in _MOVED)

    @property
    def seconds(self) -> float | None:
        """How long that takes; None if nobody knows."""
        return None if self.rate is None or self.rate <= 0 else self.bytes / self.rate

    @property
    def level(self) -> bool:
        """Whether nothing is to be done; strays are nobody's business."""
        return not self.error and not any(self.found[kind].segments for kind in Kind if kind is not Kind.STRAY)


@dataclass(slots=True)
class Plan:
    """All of it. `gone`: segments of which no readable copy was found anywhere; `held`: segments catalogued."""

    targets: list[TargetPlan]
    gone: Tally = field(default_factory=Tally)
    held: int = 0

    @property
    def level(self) -> bool:
        """Whether nothing is to be done."""
        return not self.gone.segments and all(target.level for target in self.targets)

    @property
    def exit_code(self) -> int:
        """0 level, 1 not level yet, 2 something is gone everywhere."""
        return 2 if self.gone.segments else 0 if self.level else 1

    def count(self, kind: Kind) -> int:
        """How many of a kind over all targets."""
        return sum(target.found[kind].segments for target in self.targets)

    @property
    def unread(self) -> int:
        """How many targets could not be looked at."""
        return sum(bool(target.error) for target in self.targets)

    def to_plain(self) -> dict[str, object]:
        """For JSON."""
        targets = [
            {
                "target": one.target,
                "files": one.files,
                "error": one.error,
                "hint": one.hint,
                "replaced": one.replaced,
                "bytes": one.bytes,
                "seconds": one.seconds,
                "found": {kind.value: asdict(tally) for kind, tally in one.found.items()},
            }
            for one in self.targets
        ]
        return {"level": self.level, "held": self.held, "gone": asdict(self.gone), "targets": targets}


@dataclass(frozen=True, slots=True)
class Line:
    """Findings of one kind at one target, as the file holds them. `segments`: ids only, for what is missing."""

    target: str
    kind: Kind
    segments: tuple[int, ...] = ()
    path: str = ""
    size: int = 0
    segment: int = 0
    sha256: str = ""


class Findings:
    """The file of findings: written by the comparisons (from several threads), then read. `began_ns` heads it."""

    def __init__(self, path: Path, began_ns: int) -> None:
        self.path = path
        self.count = 0
        self._lock = threading.Lock()
        self._missing: dict[str, list[int]] = {}
        with named(path, "creating"):
            self._file: BinaryIO = path.open("wb")
        self._write({"began_ns": began_ns})

    def add(self, target: str, finding: Finding) -> None:
        """One more; what needs no repair but the fan-out's own work is not written."""
        if finding.kind not in REPAIRED:
            return
        with self._lock:
            self.count += 1
            if finding.kind is Kind.MISSING:
                group = self._missing.setdefault(target, [])
                group.append(finding.segment)
                if len(group) >= _AT_ONCE:
                    self._flush(target)
                return
            facts = {"path": finding.path, "size": finding.size, "segment": finding.segment, "sha256": finding.sha256}
            self._write({"target": target, "kind": finding.kind.value, **facts})

    def close(self) -> None:
        """No more findings; may be called twice."""
        with self._lock:
            for target in list(self._missing):
                self._flush(target)
            self._file.close()

    def _flush(self, target: str) -> None:
        segments = self._missing.pop(target)
        self._write({"target": target, "kind": Kind.MISSING.value, "segments": segments})

    def _write(self, facts: dict[str, object]) -> None:
        with named(self.path, "writing"):
            self._file.write(json.dumps(facts).encode("ascii") + b"\n")


def read_findings(path: Path) -> tuple[int, Iterator[Line]]:
    """When the comparison began, and what it found. Raises DiskError; a line that can't be read raises ValueError."""
    with named(path, "reading"):
        file = path.open("rb")
    try:
        began = int(json.loads(file.readline())["began_ns"])
    except (ValueError, KeyError, TypeError):
        file.close()
        raise ValueError(f"{path} is no file of findings") from None
    return began, _lines(file, path)


def _lines(file: BinaryIO, path: Path) -> Iterator[Line]:
    with file, named(path, "reading"):
        for text in file:
            plain = json.loads(text)
            segments = tuple(int(number) for number in plain.pop("segments", ()))
            yield Line(**{**plain, "kind": Kind(plain["kind"]), "segments": segments})
