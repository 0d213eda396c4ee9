"""The state of 3-2-1, computed: what is held, where its copies are, how old each recovery point is, what is wrong.

Costs by streams, targets and gaps, never by segments. A recovery point is the newest row up to which
every segment has a verified copy at a target. What alarms is its age, not a failed run.
"""

import json
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from receiver.catalog import Catalog, StreamTotals, TargetTotals
from receiver.catalog_queries import coverage
from receiver.copying import where_of
from receiver.placement import Lag, Rule, Standing, judge, partition, unsatisfiable, why_behind
from receiver.settings import ReceiverSettings
from receiver.targets.contract import Condition, State, Target
from tape.clock import Clock
from tape.errors import HometapeError

OK, WARNING, CRITICAL = 0, 1, 2
ANSWER_WITHIN = 5.0
_MOST_LISTED = 20
_GRAVE = frozenset({"lost", "chain", "tampered", "conflict"})
_OWN = "hometape/"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the exit code is what it is: level 1 or 2, the fact, and what to do."""

    level: int
    text: str
    hint: str = ""


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
class StreamReport:
    """One stream: what is held at home, what is missing in it, and how it stands at each target."""

    agent: str
    stream: str
    segments: int
    rows: int
    bytes: int
    source_bytes: int
    recv_first_ns: int | None
    recv_last_ns: int | None
    age_s: float | None
    epochs: int
    missing_segments: int
    hole_bytes: int
    refused: int
    targets: dict[str, StreamAtTarget]


@dataclass(frozen=True, slots=True)
class TargetReport:
    """One target. `recovery_point_ns`: the oldest of its streams that are behind, else the newest row there.

    None while a stream has nothing there that counts; `age_s` is then the age of the stream's first row.
    """

    id: str
    home: bool
    medium: str
    site: str
    condition: str
    reason: str
    hint: str
    segments: int
    rows: int
    bytes: int
    behind_segments: int
    behind_bytes: int
    why_behind: str
    recovery_point_ns: int | None
    age_s: float | None
    free_bytes: int | None
    last_verified_ns: int | None
    segments_s: float
    bytes_s: float
    level_in_s: float | None


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """The rule, and how many segments stand how against it. `lacking`: what how many segments are short of."""

    copies: int
    segments: int
    satisfied: int
    degraded: int
    at_risk: int
    unproven: int
    lacking: dict[str, int]


@dataclass(frozen=True, slots=True)
class StatusReport:
    """Everything `tape-receiver status` shows."""

    receiver: str
    now_ns: int
    exit_code: int
    reasons: tuple[Reason, ...]
    running: bool
    policy: PolicyReport
    targets: tuple[TargetReport, ...]
    streams: tuple[StreamReport, ...]
    incidents: tuple[dict[str, Any], ...]
    quarantined: tuple[dict[str, Any], ...]
    connected: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self), indent=2)


def status(
    settings: ReceiverSettings,
    catalog: Catalog,
    targets: Sequence[Target],
    *,
    clock: Clock,
    live: Mapping[str, Any] | None = None,
) -> StatusReport:
    """Compute the report. `live`: what the running service says of itself, empty if none runs. Raises StoreError."""
    now = clock.now_ns()
    live = live or {}
    lanes = {lane["target"]: lane for lane in live.get("lanes", ())}
    totals = catalog.streams()
    seen = probe(targets, within=ANSWER_WITHIN)
    streams = tuple(_stream(one, targets, now) for one in totals)
    at_targets = tuple(_target(t, totals, *seen[t.id], lanes.get(t.id, {}), now) for t in targets)
    rule = Rule(copies=settings.policy.copies)
    incidents = catalog.incidents(limit=_MOST_LISTED)
    quarantined = catalog.quarantined(limit=_MOST_LISTED)
    reasons = [
        *_about_targets(targets, at_targets, streams, running=bool(live)),
        *_about_streams(streams, settings.live_age),
        *(Reason(CRITICAL if i.kind in _GRAVE else WARNING, f"{i.kind}: {i.text}") for i in incidents),
        *_about_policy(rule, targets),
    ]
    if quarantined:
        count = f"{len(quarantined)}{'+' if len(quarantined) == _MOST_LISTED else ''}"
        reasons.append(Reason(WARNING, f"{count} uploads are in quarantine", "each has its reason beside it"))
    reasons += _about_service(live)
    return StatusReport(
        receiver=settings.name,
        now_ns=now,
        exit_code=max((reason.level for reason in reasons), default=OK),
        reasons=tuple(sorted(reasons, key=lambda reason: -reason.level)),
        running=bool(live),
        policy=_policy(rule, catalog, targets),
        targets=at_targets,
        streams=streams,
        incidents=tuple(asdict(incident) for incident in incidents),
        quarantined=tuple(asdict(item) for item in quarantined),
        connected=dict(live.get("connected", {})),
    )


def probe(targets: Sequence[Target], *, within: float) -> dict[str, tuple[State, int | None]]:
    """State and free bytes of each target; one that does not answer in time (seconds) is absent, and said to hang."""
    hanging = State(Condition.ABSENT, f"has not answered for {within:g} s", "is its disk or share hanging?")
    found: dict[str, tuple[State, int | None]] = {target.id: (hanging, None) for target in targets}

    def ask(target: Target) -> None:
        state = target.state()
        free = None
        if state.readable:
            try:
                free = target.free()
            except HometapeError:
                free = None
        found[target.id] = (state, free)

    threads = [threading.Thread(target=ask, args=(target,), daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(within)
    return dict(found)


def _age(now: int, then: int | None) -> float | None:
    return None if then is None else max(0.0, (now - then) / 1e9)


def _stream(one: StreamTotals, targets: Sequence[Target], now: int) -> StreamReport:
    return StreamReport(
        agent=one.agent,
        stream=one.stream,
        segments=one.segments,
        rows=one.rows,
        bytes=one.bytes,
        source_bytes=one.source_bytes,
        recv_first_ns=one.recv_first_ns,
        recv_last_ns=one.recv_last_ns,
        age_s=_age(now, one.recv_last_ns),
        epochs=one.epochs,
        missing_segments=one.missing,
        hole_bytes=one.hole_bytes,
        refused=one.refused,
        targets={target.id: _stream_at(one, one.targets.get(target.id, TargetTotals()), now) for target in targets},
    )


def _stream_at(one: StreamTotals, there: TargetTotals, now: int) -> StreamAtTarget:
    behind = one.segments - there.segments
    since = there.point_ns if there.point_ns is not None else one.recv_first_ns
    return StreamAtTarget(there.segments, there.rows, there.bytes, behind, there.point_ns, _age(now, since))


def _target(
    target: Target,
    totals: Sequence[StreamTotals],
    state: State,
    free: int | None,
    lane: Mapping[str, Any],
    now: int,
) -> TargetReport:
    there = [(one, one.targets.get(target.id, TargetTotals())) for one in totals]
    segments, size = sum(t.segments for _, t in there), sum(t.bytes for _, t in there)
    behind = sum(one.segments for one in totals) - segments
    behind_bytes = sum(one.bytes for one in totals) - size
    late = [(one, t) for one, t in there if t.segments < one.segments]
    since = [t.point_ns if t.point_ns is not None else (one.recv_first_ns or 0) for one, t in late]
    newest = max((t.recv_last_ns for _, t in there if t.recv_last_ns is not None), default=None)
    point = None if any(t.point_ns is None for _, t in late) else min(since) if late else newest
    rate = float(lane.get("segments_s", 0.0))
    lag = Lag(behind, state.condition.value, state.reason, str(lane.get("error", "")), int(lane.get("under_way", 0)))
    return TargetReport(
        id=target.id,
        home=target.place.home,
        medium=target.place.medium,
        site=target.place.site,
        condition=state.condition.value,
        reason=state.reason,
        hint=state.hint,
        segments=segments,
        rows=sum(t.rows for _, t in there),
        bytes=size,
        behind_segments=behind,
        behind_bytes=behind_bytes,
        why_behind=why_behind(lag),
        recovery_point_ns=point,
        age_s=_age(now, min(since) if late else newest),
        free_bytes=free,
        last_verified_ns=max((t.verified_ns for _, t in there if t.verified_ns is not None), default=None),
        segments_s=rate,
        bytes_s=float(lane.get("bytes_s", 0.0)),
        level_in_s=behind / rate if behind and rate else None,
    )


def _policy(rule: Rule, catalog: Catalog, targets: Sequence[Target]) -> PolicyReport:
    places = {target.id: where_of(target) for target in targets}
    sets: Counter[frozenset[str]] = Counter()
    for held, layers in catalog.ask(lambda base: list(coverage(base))):
        sets.update(partition(held, layers))
    standing: Counter[Standing] = Counter()
    lacking: Counter[str] = Counter()
    for copies, count in sets.items():
        judged = judge(rule, places, copies)
        standing[judged.standing] += count
        for what in judged.lacking:
            lacking[what] += count
    return PolicyReport(
        copies=rule.copies,
        segments=sum(standing.values()),
        satisfied=standing[Standing.SATISFIED],
        degraded=standing[Standing.DEGRADED],
        at_risk=standing[Standing.AT_RISK],
        unproven=standing[Standing.UNPROVEN],
        lacking=dict(lacking),
    )


def _about_targets(
    targets: Sequence[Target], reports: Sequence[TargetReport], streams: Sequence[StreamReport], *, running: bool
) -> Iterable[Reason]:
    for target, found in zip(targets, reports, strict=True):
        if found.condition != Condition.READY.value:
            level = CRITICAL if found.home else WARNING
            yield Reason(level, f"target {found.id} is {found.condition}: {found.reason}", found.hint)
        ages = {f"{s.agent}/{s.stream}": s.targets[found.id].age_s or 0 for s in streams if s.targets[found.id].behind}
        late = {name: age for name, age in ages.items() if age > target.place.max_age}
        if late:
            names = ", ".join(list(late)[:3]) + (" ..." if len(late) > 3 else "")
            why = found.why_behind
            if not running and found.condition == Condition.READY.value:
                why = "the service is not running"
            text = f"target {found.id} is behind by {duration(max(late.values()))} for {names}"
            yield Reason(WARNING, f"{text} ({found.behind_segments} segments): {why}", found.hint)


def _about_streams(streams: Sequence[StreamReport], live_age: float) -> Iterable[Reason]:
    for one in streams:
        name = f"{one.agent}/{one.stream}"
        if live_age and (one.age_s or 0) > live_age and not one.stream.startswith(_OWN):
            text = f"nothing newer than {duration(one.age_s or 0)} has come of {name}"
            yield Reason(WARNING, text, "see `tape-agent status` on the server; quiet on purpose? raise `live_age`")
        if one.missing_segments:
            yield Reason(WARNING, f"{one.missing_segments} segments of {name} are missing between others", "")
        if one.hole_bytes:
            yield Reason(WARNING, f"{one.hole_bytes} bytes of files of {name} are in no segment held here", "")
        if one.refused:
            yield Reason(WARNING, f"{one.refused} segments of {name} were refused", "see the quarantine")


def _about_service(live: Mapping[str, Any]) -> Iterable[Reason]:
    if not live:
        yield Reason(WARNING, "the service is not running", "tape-receiver run")
        return
    config = live.get("config", {})
    if config.get("error"):
        text = f"the service goes by the configuration before the last change: {config['error']}"
        yield Reason(WARNING, text, "mend the file; the service looks at it by itself")
    if config.get("restart"):
        yield Reason(WARNING, f"changed, but in use only after a restart: {', '.join(config['restart'])}", "")


def _about_policy(rule: Rule, targets: Sequence[Target]) -> Iterable[Reason]:
    never = unsatisfiable(rule, [where_of(target) for target in targets])
    if never:
        yield Reason(CRITICAL, f"the policy can't be satisfied by these targets: {'; '.join(never)}", "see `policy`")


def duration(seconds: float) -> str:
    """An age as people say it: `42 s`, `3 min`, `5.2 h`, `12 d`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} d"
