"""What a pass over copies found, made durable: in the catalog, or as notes for the service that has it open."""

import contextlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from receiver.catalog import Catalog
from receiver.checking import CatalogStopped, Checker, cataloguing
from receiver.model import Copy, Held
from receiver.targets.contract import Proof, Target
from tape.clock import Clock
from tape.durable import DISK, Disk, named
from tape.errors import AlreadyThere, HometapeError
from tape.log import get_logger

NOTES = "verified"
_SUFFIX = ".jsonl"
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: `proof` of a good copy, or why it is bad."""

    target: str
    held: Held
    checked_ns: int
    proof: Proof | None
    why: str = ""


class Recorder(Protocol):
    """Takes what was found. Called from several threads."""

    def record(self, findings: Sequence[Finding]) -> None:
        """Make it durable."""


class Direct:
    """Records in the catalog of this process, and puts right what SHA256SUMS lacks."""

    def __init__(
        self, catalog: Catalog, targets: Sequence[Target], *, clock: Clock, changed: Callable[[], None] | None = None
    ) -> None:
        self._catalog = catalog
        self._checker = Checker(catalog, targets, clock=clock)
        self._changed = changed or (lambda: None)
        self._sums: dict[tuple[str, str], dict[str, str]] = {}
        self._lock = threading.Lock()

    def record(self, findings: Sequence[Finding]) -> None:
        """Good copies are verified anew, bad ones dropped. Raises CatalogStopped; targets that fail are passed over."""
        good = [(finding, finding.proof) for finding in findings if finding.proof is not None]
        with cataloguing():
            self._catalog.add_copies([Copy(f.held.id, f.target, f.checked_ns, proof.method) for f, proof in good])
        for target in {finding.target for finding, _ in good}:
            with contextlib.suppress(HometapeError):
                self._note_missing(target, [(f.held, proof) for f, proof in good if f.target == target])
        bad = [finding for finding in findings if finding.proof is None]
        for finding in bad:
            with contextlib.suppress(HometapeError):
                self._checker.reject(self._checker.targets[finding.target], finding.held, finding.why)
        if bad:
            self._changed()

    def _note_missing(self, name: str, proven: list[tuple[Held, Proof]]) -> None:
        target = self._checker.targets[name]
        if not target.capabilities.sums:
            return
        lacking = []
        with self._lock:
            for held, proof in proven:
                key = (name, held.path.folder)
                if key not in self._sums:
                    if len(self._sums) >= 64:
                        self._sums.clear()
                    self._sums[key] = target.sums(held.path.folder)
                if self._sums[key].get(str(held.path.name)) != proof.sha256:
                    self._sums[key][str(held.path.name)] = proof.sha256
                    lacking.append((str(held.path), proof.sha256))
        if lacking:
            target.note_sums(lacking)


class Notes:
    """Leaves findings in the state folder for the running service to take in."""

    def __init__(self, state: Path, *, clock: Clock, disk: Disk = DISK) -> None:
        self._folder = state / NOTES
        self._clock = clock
        self._disk = disk
        self._lock = threading.Lock()

    def record(self, findings: Sequence[Finding]) -> None:
        """One small file; raises DiskError."""
        if not findings:
            return
        lines = [_line(finding) for finding in findings]
        data = ("\n".join(lines) + "\n").encode("ascii")
        with self._lock:
            self._disk.make_dirs(self._folder)
            number = self._clock.now_ns()
            while True:
                try:
                    self._disk.write_new(self._folder / f"{number:020d}{_SUFFIX}", data)
                    return
                except AlreadyThere:
                    number += 1


def _line(finding: Finding) -> str:
    proof = None if finding.proof is None else asdict(finding.proof)
    facts = {
        "target": finding.target,
        "segment": finding.held.id,
        "path": str(finding.held.path),
        "checked_ns": finding.checked_ns,
        "proof": proof,
        "why": finding.why,
    }
    return json.dumps(facts, ensure_ascii=True)


def take_notes(
    state: Path,
    catalog: Catalog,
    targets: Sequence[Target],
    *,
    clock: Clock,
    disk: Disk = DISK,
    changed: Callable[[], None] | None = None,
) -> int:
    """Record what `verify` commands found while this service ran; how many checks. Blocking: call it in a thread.

    A copy that a note calls bad is read again here before it is dropped. `changed` is called after one was.
    Raises StoreError or SyncFailed if the catalog can't be written, DiskError if the notes can't be read.
    """
    folder = state / NOTES
    if not folder.is_dir():
        return 0
    try:
        return _take(folder, catalog, targets, clock, disk, changed)
    except CatalogStopped as stopped:
        raise stopped.error from stopped


def _take(
    folder: Path,
    catalog: Catalog,
    targets: Sequence[Target],
    clock: Clock,
    disk: Disk,
    changed: Callable[[], None] | None,
) -> int:
    direct = Direct(catalog, targets, clock=clock, changed=changed)
    checker = Checker(catalog, targets, clock=clock)
    count = 0
    with named(folder, "listing"):
        files = sorted(path for path in folder.iterdir() if path.suffix == _SUFFIX)
    for file in files:
        findings = []
        with named(file, "reading"):
            text = file.read_text(encoding="ascii", errors="replace")
        for line in text.splitlines():
            finding = _finding(line, catalog, checker, clock)
            if finding is not None:
                findings.append(finding)
        direct.record(findings)
        disk.remove(file)
        count += len(findings)
    return count


def _finding(line: str, catalog: Catalog, checker: Checker, clock: Clock) -> Finding | None:
    """A line of a note, if it still speaks of a copy that is known here."""
    try:
        plain = json.loads(line)
        target = checker.targets[plain["target"]]
        held = catalog.get(int(plain["segment"]))
        if held is None or str(held.path) != plain["path"]:
            return None
        if plain["proof"] is not None:
            return Finding(target.id, held, int(plain["checked_ns"]), Proof(**plain["proof"]))
        proof, why = checker.check(target, held)
        return Finding(target.id, held, clock.now_ns(), proof, why)
    except HometapeError as error:
        log.warning("a note about a copy can't be followed now", error=str(error))
    except (ValueError, KeyError, TypeError) as error:
        log.warning("a note about a copy can't be read", error=str(error))
    return None
