"""Resync toward the targets: one look at everything, a plan, and everything brought level again.

With the service running its fan-out makes the copies and this only hands over what was found and watches;
without, it does the work itself, with the same parts. Nothing but facts is kept: cut off anywhere, the
next run finds what is left to do.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from receiver import catalog_walk as walk
from receiver.catalog import Catalog
from receiver.fanout import Fanout
from receiver.ingest import Ingest
from receiver.live import read_live
from receiver.resync_compare import Finding, Kind
from receiver.resync_plan import Findings, Plan, read_findings
from receiver.resync_rates import remember
from receiver.resync_repair import Repair, Repaired
from receiver.resync_requests import answer_to, committing, leave
from receiver.resync_survey import Survey, Told
from receiver.settings import ReceiverSettings
from receiver.targets.contract import Target
from receiver.verify import Progress, Verify
from receiver.verify_record import Finding as Checked
from tape.clock import Clock
from tape.durable import DISK, Disk
from tape.errors import HometapeError, StoreLocked, TargetError
from tape.receipt import new_key

_LOOK = 0.5
_STALLED, _PATIENT = 20.0, 180.0  # seconds without progress: where a target says why, and where none does
_TELLING = 16 * 2**20  # bytes from which on a rate means something
Moved = Callable[[int, int], None]


@dataclass(slots=True)
class Left:
    """What a target still lacks of what was held when the resync began, and why, as far as it is known."""

    target: str
    segments: int
    bytes: int
    why: str = ""


@dataclass(slots=True)
class Ending:
    """How it ended. Exit code: 0 level, 1 not level yet, 2 something is gone or was refused."""

    left: list[Left] = field(default_factory=list)
    repaired: Repaired = field(default_factory=Repaired)
    gone: int = 0
    unread: int = 0  # targets that could not be looked at
    unadopted: int = 0
    seconds: float = 0.0
    bytes: int = 0

    @property
    def exit_code(self) -> int:
        """0, 1 or 2."""
        if self.gone or self.repaired.refused:
            return 2
        unfinished = any(one.segments for one in self.left) or self.unread or self.unadopted
        return 1 if unfinished or self.repaired.failed else 0

    def to_plain(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "exit_code": self.exit_code}


class Resync:
    """One resync: `look`, then `repair` (or not). `alone`: the catalog is ours to write, no service runs.

    `only`: ids of targets; the home archive is always part of a repair. Raises StoreError, SyncFailed, DiskError.
    """

    def __init__(
        self,
        settings: ReceiverSettings,
        catalog: Catalog,
        targets: Sequence[Target],
        *,
        alone: bool,
        clock: Clock,
        only: Collection[str] = (),
        adopt: bool = True,
        disk: Disk = DISK,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._targets = targets
        self._chosen = [target for target in targets if not only or target.id in only or target.place.home]
        self._only = only
        self._alone = alone
        self._adopt = adopt
        self._clock = clock
        self._disk = disk
        self._views: dict[str, str] = {}

    def look(
        self,
        findings: Findings,
        began_ns: int,
        *,
        progress: Told | None = None,
        verify: bool = False,
        reading: Moved = lambda _done, _total: None,
    ) -> Plan:
        """Compare what the targets list with the catalog; with `verify` also the bytes of every copy."""
        survey = Survey(self._catalog, self._targets, findings, clock=self._clock, began_ns=began_ns, progress=progress)
        plan = survey.run(self._only, sums=verify)
        if verify:
            self._verify(survey, plan, reading)
        survey.gone(plan)
        findings.close()
        return plan

    def _verify(self, survey: Survey, plan: Plan, reading: Moved) -> None:
        """Read every copy that counts at the targets that were listed."""
        by_target = {one.target: one for one in plan.targets if not one.error}
        seen: dict[str, tuple[int, int]] = {}

        def told(now: Progress) -> None:
            seen[now.target] = (now.bytes, now.of_bytes)
            reading(sum(done for done, _ in seen.values()), sum(total for _, total in seen.values()))

        verify = Verify(self._catalog, self._targets, _Bad(survey, plan), clock=self._clock, progress=told)
        for result in verify.run(only=by_target).targets if by_target else ():
            if result.error:
                by_target[result.target].error, by_target[result.target].hint = result.error, result.hint

    # ---------------------------------------------------------------------------------------- repairing

    def newest(self) -> int:
        """The largest segment id."""
        return self._catalog.ask(walk.newest)

    def repair(self, plan: Plan, findings: Path, *, moved: Moved = lambda _done, _total: None) -> Ending:
        """Bring level what the plan says; `moved` is told bytes copied and bytes to copy."""
        began = self._clock.monotonic()
        ending = Ending(gone=plan.gone.segments, unread=plan.unread)
        ending.unadopted = 0 if self._adopt else plan.count(Kind.FOREIGN)
        progress = _Level(self, moved, away={one.target for one in plan.targets if one.error})
        if self._alone:
            ending.repaired = asyncio.run(self._work(plan, findings, progress))
        else:
            before = self.behind()
            ending.repaired = self._ask(findings)
            lost = _lost(plan, ending.repaired)
            self._follow(progress, {name: left.bytes + lost.get(name, 0) for name, left in before.items()})
        ending.left = progress.rest()
        ending.seconds = self._clock.monotonic() - began
        ending.bytes = sum(progress.done.values())
        rates = {name: size / ending.seconds for name, size in progress.done.items() if size >= _TELLING}
        if rates:
            remember(self._settings.state, rates, disk=self._disk)
        return ending

    async def _work(self, plan: Plan, findings: Path, progress: "_Level") -> Repaired:
        """Without the service: act on the findings, then let the fan-out run dry."""
        for target in self._chosen:
            with suppress(HometapeError):  # one that is away says so in the plan
                self._catalog.know_target(target.id, target.instance(), self._clock.now_ns())
        repaired = await self._act(plan, findings)
        progress.begin()
        before = -1
        while (left := progress.left()) and left != before:
            before = left
            fanout = Fanout(self._catalog, self._chosen, clock=self._clock)
            task = asyncio.create_task(fanout.drain())
            while not (await asyncio.wait({task}, timeout=_LOOK))[0]:
                progress.tell()
            self._views = {view.target: view.error or view.state.reason for view in task.result()}
            progress.tell()
        for target in self._chosen:
            with suppress(HometapeError):
                await asyncio.to_thread(target.settle)
        return repaired

    async def _act(self, plan: Plan, findings: Path) -> Repaired:
        began, lines = read_findings(findings)
        foreign = self._adopt and plan.count(Kind.FOREIGN)
        free = [entry.model_copy(update={"quota_bytes": 0}) for entry in self._settings.agent]
        settings = self._settings.model_copy(update={"agent": free})  # a quota is for what a server sends
        ingest = Ingest(settings, self._catalog, new_key(), clock=self._clock, disk=self._disk) if foreign else None
        trouble: HometapeError | None = None
        try:
            if ingest is not None:
                await ingest.start()
        except TargetError as error:  # home is away: what is found elsewhere can't be brought in now
            trouble = error
        try:
            able = ingest if trouble is None else None
            commit = None if able is None else committing(able, asyncio.get_running_loop())
            repair = Repair(
                self._catalog, self._targets, self._settings.state, commit=commit, clock=self._clock, disk=self._disk
            )
            repaired = await asyncio.to_thread(repair.run, began, lines)
        finally:
            if ingest is not None:
                await ingest.stop()
        if trouble is not None:
            repaired.failed.append((self._settings.home.id, "", str(trouble)))
        return repaired

    def _ask(self, findings: Path) -> Repaired:
        """With the service: hand the findings over and wait until it has acted on them."""
        name = leave(self._settings.state, findings, clock=self._clock, disk=self._disk)
        while True:
            answer = answer_to(self._settings.state, name, disk=self._disk)
            if answer is not None:
                return answer
            self._must_run()
            self._clock.wait(_LOOK)

    def _follow(self, progress: "_Level", lacked: Mapping[str, int]) -> None:
        """Watch the service at its work until nothing is left, or nothing moves any more. `lacked`: bytes by target
        that it had to copy when it began; some of them are there by now.
        """
        progress.begin(lacked)
        still, since = progress.left(), self._clock.monotonic()
        while left := progress.left():
            progress.tell()
            now = self._clock.monotonic()
            if left != still:
                still, since = left, now
            if now - since > (_STALLED if all(self.why().get(name) for name in self._lagging()) else _PATIENT):
                return
            self._must_run()
            self._clock.wait(_LOOK)
        progress.tell()

    def _lagging(self) -> list[str]:
        return [name for name, left in self.behind().items() if left.segments]

    def _must_run(self) -> None:
        if not read_live(self._settings.state, clock=self._clock):
            raise StoreLocked(
                "the service that has the catalog open does not report any more",
                hint="see `tape-receiver status`; run resync again once it runs, or without it",
            )

    # ---------------------------------------------------------------------------------------- measuring

    def behind(self) -> dict[str, Left]:
        """What each target lacks now of all that is held."""
        totals = self._catalog.streams()
        found = {}
        for target in self._chosen:
            left = Left(target.id, 0, 0)
            for one in totals:
                there = one.targets.get(target.id)
                left.segments += one.segments - (there.segments if there else 0)
                left.bytes += one.bytes - (there.bytes if there else 0)
            found[target.id] = left
        return found

    def lacks(self, target: str, top: int) -> bool:
        """Whether a target lacks something of what was held up to an id."""
        first = self._catalog.behind(target, limit=1)
        return bool(first) and first[0].id <= top

    def why(self) -> dict[str, str]:
        """Why each target may be behind, as far as anybody says."""
        if self._alone:
            return self._views
        lanes = read_live(self._settings.state, clock=self._clock).get("lanes", [])
        return {lane["target"]: lane["error"] or lane["reason"] for lane in lanes}


def _lost(plan: Plan, repaired: Repaired) -> dict[str, int]:
    """Bytes by target that count no more since the service acted; none where it did less than was planned."""
    kinds = (Kind.MISSING, Kind.WRONG_SIZE, Kind.WRONG_BYTES)
    if repaired.dropped + repaired.aside < sum(plan.count(kind) for kind in kinds):
        return {}
    return {one.target: sum(one.found[kind].bytes for kind in kinds) for one in plan.targets}


class _Level:
    """How far a repair is, by the catalog. Segments that were committed after it began don't count.

    `away`: targets that could not be looked at; nobody waits for them.
    """

    def __init__(self, resync: Resync, moved: Moved, away: Collection[str]) -> None:
        self._resync = resync
        self._away = away
        self._moved = moved
        self._start: dict[str, Left] = {}
        self._top = 0
        self.done: dict[str, int] = {}

    def begin(self, lacked: Mapping[str, int] | None = None) -> None:
        """What lacks now is what there is to do, and what lacked a moment ago."""
        self._start = self._resync.behind()
        for name, size in (lacked or {}).items():
            self._start[name].bytes = max(self._start[name].bytes, size)
        self._top = self._resync.newest()

    def tell(self) -> None:
        """Bytes copied so far, of those that lacked at the beginning."""
        now = self._resync.behind()
        total = sum(left.bytes for name, left in self._start.items() if name not in self._away)
        for name, left in self._start.items():
            self.done[name] = max(self.done.get(name, 0), left.bytes - now[name].bytes)
        self._moved(sum(self.done.values()), total)

    def left(self) -> int:
        """How many segments lack somewhere, of those held at the beginning; 0: level."""
        lacking = [name for name in self._start if name not in self._away and self._resync.lacks(name, self._top)]
        now = self._resync.behind()
        return sum(max(1, now[name].segments) for name in lacking)

    def rest(self) -> list[Left]:
        """What each target still lacks, and why."""
        why, now = self._resync.why(), self._resync.behind()
        names = [name for name in self._start if self._resync.lacks(name, self._top)]
        return [Left(name, max(1, now[name].segments), now[name].bytes, why.get(name, "")) for name in names]


class _Bad:
    """Takes down the bad copies that reading finds; what is good needs no repair."""

    def __init__(self, survey: Survey, plan: Plan) -> None:
        self._survey = survey
        self._plan = plan

    def record(self, findings: Sequence[Checked]) -> None:
        """See Recorder."""
        for found in findings:
            if found.proof is None:
                finding = Finding(Kind.WRONG_BYTES, str(found.held.path), found.held.size, found.held.id)
                self._survey.bad_bytes(self._plan, found.target, finding)
