"""Verify: re-read copies from their media and compare, those checked longest ago first, within a budget.

A good copy's time of check moves on. A bad one is read a second time; if it is still bad it no longer
counts, an incident says so, and the fan-out makes it anew from a good one. Targets are read side by side.
Only one process may write the catalog: while the service runs, a command leaves what it found as notes
in the state folder, and the service takes them in (a bad copy only after reading it itself).
"""

import itertools
import json
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

from receiver.catalog import Catalog
from receiver.catalog_queries import copies_by_age
from receiver.checking import CatalogStopped, Checker
from receiver.model import Held
from receiver.placement import batches
from receiver.targets.contract import Target
from receiver.verify_record import NOTES, Direct, Finding, Notes, Recorder, take_notes
from tape.clock import Clock
from tape.errors import HometapeError

__all__ = [
    "NOTES",
    "Bad",
    "Budget",
    "Direct",
    "Finding",
    "Notes",
    "Progress",
    "Recorder",
    "Result",
    "TargetResult",
    "Verify",
    "take_notes",
]

_PAGE = 4096
_GROUP = 256
_GROUP_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Budget:
    """What a pass may cost: seconds and bytes over all targets; None: no limit."""

    seconds: float | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Bad:
    """A copy that failed its check."""

    target: str
    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pass is at one target."""

    target: str
    copies: int
    of_copies: int
    bytes: int
    of_bytes: int


@dataclass(slots=True)
class TargetResult:
    """What a pass found at one target. `left`: copies the budget did not reach; `error`: why it had to stop."""

    target: str
    copies: int = 0
    bytes: int = 0
    left: int = 0
    error: str = ""
    hint: str = ""
    bad: list[Bad] = field(default_factory=list)


@dataclass(slots=True)
class Result:
    """What a pass found. Exit code: 2 for a bad copy, 1 where a target could not be read, else 0."""

    targets: list[TargetResult]
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0, 1 or 2."""
        if any(found.bad for found in self.targets):
            return 2
        return 1 if any(found.error for found in self.targets) else 0

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps({"exit_code": self.exit_code, **asdict(self)}, indent=2)


class Verify:
    """One pass over copies that the catalog knows. `stop` ends it early; what was checked stays recorded."""

    def __init__(
        self,
        catalog: Catalog,
        targets: Sequence[Target],
        recorder: Recorder,
        *,
        clock: Clock,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._catalog = catalog
        self._targets = targets
        self._recorder = recorder
        self._clock = clock
        self._progress = progress or (lambda _: None)
        self._checker = Checker(catalog, targets, clock=clock)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._spent = 0

    def stop(self) -> None:
        """End the pass after the copy under way; may be called from anywhere."""
        self._stopped.set()

    def run(
        self,
        *,
        only: Collection[str] = (),
        stream: tuple[str, str] | None = None,
        budget: Budget | None = None,
    ) -> Result:
        """Check copies at all targets (or `only` these), of all streams or one (agent, stream).

        Raises StoreError or SyncFailed if the catalog fails, DiskError if notes can't be written.
        """
        began = self._clock.monotonic()
        limit = budget or Budget()
        until = None if limit.seconds is None else began + limit.seconds
        chosen = [target for target in self._targets if not only or target.id in only]
        results = [TargetResult(target.id) for target in chosen]
        fatal: list[BaseException] = []

        def work(target: Target, result: TargetResult) -> None:
            try:
                self._one_target(target, result, stream, until, limit.bytes)
            except HometapeError as error:
                result.error, result.hint = str(error), error.hint
            except BaseException as error:  # noqa: BLE001 - raised in the caller's thread below
                fatal.append(error)
                self.stop()

        threads = [
            threading.Thread(target=work, args=pair, name=f"verify-{pair[0].id}", daemon=True)
            for pair in zip(chosen, results, strict=True)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            self.stop()
            raise
        if fatal:
            raise fatal[0].error if isinstance(fatal[0], CatalogStopped) else fatal[0]
        return Result(results, self._clock.monotonic() - began)

    def _one_target(
        self,
        target: Target,
        result: TargetResult,
        stream: tuple[str, str] | None,
        until: float | None,
        most: int | None,
    ) -> None:
        start = self._clock.now_ns()
        total, total_bytes = self._extent(target.id, stream)
        after = (-1, -1)
        while page := self._page(target.id, start, after, stream):
            after = (page[-1][0], page[-1][1].id)
            for group in batches([held for _, held in page], files=_GROUP, size=_GROUP_BYTES):
                told = Progress(target.id, 0, total, 0, total_bytes)
                if not self._group(target, group, result, told, lambda held: self._over(until, most, held.size)):
                    result.left = total - result.copies
                    return

    def _group(
        self,
        target: Target,
        group: Sequence[Held],
        result: TargetResult,
        told: Progress,
        over: Callable[[Held], bool],
    ) -> bool:
        """Check copies and have it recorded, those far away many at a time; False once the budget is used up."""
        findings: list[Finding] = []
        try:
            for batch in batches(group, files=1 if target.capabilities.local else _GROUP, size=_GROUP_BYTES):
                within = list(itertools.takewhile(lambda held: not over(held), batch))
                findings += self._check(target, within)
                result.copies += len(within)
                result.bytes += sum(held.size for held in within)
                self._progress(replace(told, copies=result.copies, bytes=result.bytes))
                if len(within) < len(batch):
                    return False
            return True
        finally:
            self._recorder.record(findings)
            result.bad += [Bad(target.id, str(f.held.path), f.why) for f in findings if f.proof is None]

    def _check(self, target: Target, batch: Sequence[Held]) -> Iterator[Finding]:
        for held, checked in zip(batch, self._checker.check_many(target, batch), strict=True):
            if checked.fault is not None:
                raise checked.fault
            proof, why = checked.proof, checked.why
            if proof is None:
                proof, why = self._checker.check(target, held)  # a passing fault of a cable must not cost a copy
            yield Finding(target.id, held, self._clock.now_ns(), proof, why)

    def _over(self, until: float | None, most: int | None, size: int) -> bool:
        """Whether the budget is used up; one copy is always checked, so that small budgets get on."""
        with self._lock:
            spent, self._spent = self._spent, self._spent + size
        late = until is not None and self._clock.monotonic() >= until
        return self._stopped.is_set() or (spent > 0 and (late or (most is not None and spent + size > most)))

    def _page(
        self, target: str, before_ns: int, after: tuple[int, int], stream: tuple[str, str] | None
    ) -> list[tuple[int, Held]]:
        now = self._clock.now_ns()
        return self._catalog.ask(
            lambda base: copies_by_age(
                base, target, before_ns=before_ns, now_ns=now, after=after, stream=stream, limit=_PAGE
            )
        )

    def _extent(self, target: str, stream: tuple[str, str] | None) -> tuple[int, int]:
        copies = size = 0
        for totals in self._catalog.streams():
            if target in totals.targets and stream in (None, (totals.agent, totals.stream)):
                copies += totals.targets[target].segments
                size += totals.targets[target].bytes
        return copies, size
