"""The targets in figures: what is there, how far each is behind and why, when it will be level, and full."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from receiver.catalog import StreamTotals, TargetTotals
from receiver.catalog_state import Sums
from receiver.placement import Lag, why_behind
from receiver.report_words import CRITICAL, WARNING, Reason, age
from receiver.targets.contract import Condition, State, Target
from tape.clock import SYSTEM
from tape.errors import HometapeError
from tape.sayings import duration, plural, size

T = TypeVar("T")
REMOVABLE, REMOTE = "removable", "remote"
FROM_SERVICE = (REMOVABLE, REMOTE)  # of these the running service knows more than a look: ejected, refused, its quota
FULL_SOON_DAYS = 7.0
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Seen:
    """A target as it was found: its state, free bytes (None: not known), and when it was last there (ns)."""

    state: State
    free: int | None = None
    last_ns: int | None = None


@dataclass(frozen=True, slots=True)
class StreamAtTarget:
    """One stream at one target. Times in ns, age in seconds; `behind`: segments without a verified copy there."""

    segments: int
    rows: int
    bytes: int
    behind: int
    recovery_point_ns: int | None
    age_s: float | None


@dataclass(frozen=True, slots=True)
class TargetReport:
    """One target; times in ns, ages in seconds. `segments`, `rows`, `bytes`: of the verified copies there.

    `recovery_point_ns`: the oldest of its streams that are behind, else the newest row there. None while
    a stream has nothing there that counts; `age_s` is then the age of the stream's first row.
    `behind_since_ns`: since when, at least, it has lacked what it lacks. `overdue`: a removable disk was
    away for longer than `max_age_s`. `growth_bytes_day`: what a day adds to the archive; `full_in_days`: until
    the free space is used up by what it lacks and by that growth (0: it does not even hold what it lacks).
    """

    id: str
    kind: str
    home: bool
    medium: str
    site: str
    condition: str
    reason: str
    hint: str
    note: str
    seen_ns: int | None
    seen_age_s: float | None
    max_age_s: float
    overdue: bool
    segments: int
    rows: int
    bytes: int
    behind_segments: int
    behind_bytes: int
    behind_since_ns: int | None
    behind_s: float | None
    why_behind: str
    recovery_point_ns: int | None
    age_s: float | None
    free_bytes: int | None
    growth_bytes_day: float | None
    full_in_days: float | None
    last_verified_ns: int | None
    segments_s: float
    bytes_s: float
    level_in_s: float | None

    @property
    def ready(self) -> bool:
        """Whether it is there and takes copies."""
        return self.condition == Condition.READY.value

    @property
    def away(self) -> bool:
        """Whether it is not there."""
        return self.condition == Condition.ABSENT.value


def ask_all(targets: Sequence[Target], question: Callable[[Target], T], *, within: float) -> dict[str, T]:
    """The answer of each target, asked side by side; those that do not answer in time (seconds) are left out."""
    found: dict[str, T] = {}

    def ask(target: Target) -> None:
        found[target.id] = question(target)

    threads = [threading.Thread(target=ask, args=(target,), daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    until = SYSTEM.monotonic() + within
    for thread in threads:
        thread.join(max(0.0, until - SYSTEM.monotonic()))
    return dict(found)


def hanging(within: float) -> State:
    """The state of a target that has not answered in time."""
    return State(Condition.ABSENT, f"has not answered for {within:g} s", "is its disk, share or network hanging?")


def probe(targets: Sequence[Target], *, within: float) -> dict[str, Seen]:
    """State and free bytes of each target; one that does not answer in time (seconds) is absent, and said to hang."""
    found = ask_all(targets, look_at, within=within)
    return {target.id: found.get(target.id) or Seen(hanging(within)) for target in targets}


def look_at(target: Target) -> Seen:
    """State and free bytes as the target itself tells them."""
    state = target.state()
    free = None
    if state.readable:
        with contextlib.suppress(HometapeError):
            free = target.free()
    return Seen(state, free)


def seen_by_service(lane: Mapping[str, Any]) -> Seen:
    """A target as the running service last saw it."""
    state = State(Condition(lane["condition"]), lane["reason"], lane.get("hint", ""))
    return Seen(state, lane.get("free_bytes"))


def target_report(
    target: Target,
    totals: Sequence[StreamTotals],
    seen: Seen,
    lacks: Sums,
    since_ns: int | None,
    lane: Mapping[str, Any],
    growth: float | None,
    now: int,
) -> TargetReport:
    """The report of one target. `lacks`: what it is behind by; `lane`: what the running service says of it."""
    place, state = target.place, seen.state
    there = [(one, one.targets.get(target.id, TargetTotals())) for one in totals]
    late = [(one, t) for one, t in there if t.segments < one.segments]
    oldest = [t.point_ns if t.point_ns is not None else (one.recv_first_ns or 0) for one, t in late]
    newest = max((t.recv_last_ns for _, t in there if t.recv_last_ns is not None), default=None)
    point = None if any(t.point_ns is None for _, t in late) else min(oldest) if late else newest
    last_ns = now if state.readable else seen.last_ns
    away_s = age(now, last_ns)
    rate = float(lane.get("segments_s", 0.0))
    return TargetReport(
        id=target.id,
        kind=place.kind,
        home=place.home,
        medium=place.medium,
        site=place.site,
        condition=state.condition.value,
        reason=state.reason,
        hint=state.hint,
        note=str(lane.get("note", "")),
        seen_ns=last_ns,
        seen_age_s=away_s,
        max_age_s=place.max_age,
        overdue=place.kind == REMOVABLE and not state.readable and away_s is not None and away_s > place.max_age,
        segments=sum(t.segments for _, t in there),
        rows=sum(t.rows for _, t in there),
        bytes=sum(t.bytes for _, t in there),
        behind_segments=lacks.segments,
        behind_bytes=lacks.bytes,
        behind_since_ns=since_ns if lacks.segments else None,
        behind_s=age(now, since_ns) if lacks.segments else None,
        why_behind=_why(target, state, lacks.segments, lane, away_s),
        recovery_point_ns=point,
        age_s=age(now, min(oldest) if late else newest),
        free_bytes=seen.free,
        growth_bytes_day=growth,
        full_in_days=full_in_days(seen.free, 0 if place.home else lacks.bytes, growth),  # at home it lies already
        last_verified_ns=max((t.verified_ns for _, t in there if t.verified_ns is not None), default=None),
        segments_s=rate,
        bytes_s=float(lane.get("bytes_s", 0.0)),
        level_in_s=lacks.segments / rate if lacks.segments and rate else None,
    )


def full_in_days(free: int | None, lacking: int, growth: float | None) -> float | None:
    """Days until it is full, from the free bytes, those still to come, those of a day; None if that can't be told."""
    if free is None:
        return None
    if lacking > free:
        return 0.0
    return (free - lacking) / growth if growth else None


def _why(target: Target, state: State, behind: int, lane: Mapping[str, Any], away_s: float | None) -> str:
    if behind and state.condition is Condition.ABSENT and target.place.kind == REMOVABLE:
        return "has never been seen" if away_s is None else f"away for {duration(away_s)}"
    lag = Lag(
        behind,
        state.condition.value,
        state.reason,
        str(lane.get("error", "")),
        int(lane.get("under_way", 0)),
        float(lane.get("silent_s", 0.0)),
    )
    return why_behind(lag)


def about_targets(
    reports: Sequence[TargetReport], streams: Mapping[str, Mapping[str, StreamAtTarget]], *, running: bool
) -> Iterator[Reason]:
    """What of the targets needs attention. `streams`: by name, how each stands at each target.

    The home archive must be there: anything else is critical. Another target that is away is a matter of
    how long it may be: only what it lacks for longer than its `max_age` counts, and a removable disk that
    has not come by then. One that is there and takes nothing (full, read-only, refused) is told at once.
    """
    for one in reports:
        if one.home and not one.ready:
            yield Reason(CRITICAL, f"target {one.id} is {one.condition}: {one.reason}", one.hint)
        elif not one.ready and not one.away:
            yield Reason(WARNING, f"target {one.id} is {one.condition}: {one.reason}", one.hint)
        if one.overdue:
            text = f"target {one.id} is overdue: last seen {duration(one.seen_age_s or 0)} ago"
            due = f"due every {duration(one.max_age_s)}, behind by {plural(one.behind_segments, 'segment')}"
            yield Reason(WARNING, f"{text}, {due}", "plug it in; it catches up by itself")
        elif one.behind_s is not None and one.behind_s > one.max_age_s:
            yield _late(one, streams, running=running)
        yield from _about_space(one)


def _late(one: TargetReport, streams: Mapping[str, Mapping[str, StreamAtTarget]], *, running: bool) -> Reason:
    names = [name for name, at in streams.items() if at[one.id].behind]
    listed = ", ".join(names[:_NAMED]) + (" ..." if len(names) > _NAMED else "")
    why = "the service is not running" if one.ready and not running else one.why_behind
    text = f"target {one.id} is behind by {duration(one.behind_s or 0)} for {listed}"
    return Reason(
        WARNING, f"{text} ({plural(one.behind_segments, 'segment')}, {size(one.behind_bytes)}): {why}", one.hint
    )


def _about_space(one: TargetReport) -> Iterator[Reason]:
    days = one.full_in_days
    if days is None or one.condition == Condition.FULL.value or days >= FULL_SOON_DAYS:
        return
    hint = "make room, or move the target to a larger place"
    if not days:
        text = f"target {one.id} lacks {size(one.behind_bytes)} and has room for {size(one.free_bytes or 0)}"
    else:
        text = f"target {one.id} will be full in {duration(days * 86400)}, as the archive grows now"
    yield Reason(WARNING, text, hint)
