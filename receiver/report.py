"""The state of 3-2-1, computed: what is held, where its copies are, how old each recovery point is, what is wrong.

Costs by streams, targets and gaps, never by segments. A recovery point is the newest row up to which
every segment has a verified copy at a target. What alarms is its age, not a failed run.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from receiver.catalog import Catalog, StreamTotals, TargetTotals
from receiver.catalog_state import growth
from receiver.dropbox_troubles import About
from receiver.policy import Rules, rules_of, wheres
from receiver.report_policy import (
    GRAVE,
    PolicyReport,
    Survey,
    about_policy,
    about_rule,
    behind,
    behind_key,
    lacks_of,
    policy,
    survey,
)
from receiver.report_targets import (
    FROM_SERVICE,
    REMOTE,
    Seen,
    StreamAtTarget,
    TargetReport,
    about_targets,
    probe,
    seen_by_service,
    target_report,
)
from receiver.report_words import CRITICAL, OK, WARNING, Reason, age
from receiver.settings import ReceiverSettings
from receiver.standing import Looked, observe
from receiver.targets.contract import Target
from tape.clock import Clock
from tape.names import utc_day
from tape.sayings import duration, plural

ANSWER_WITHIN = 5.0
GROWTH_DAYS = 14
_MOST_LISTED = 20
_GRAVE = frozenset({"lost", "chain", "tampered", "conflict", "catalog"})
_OWN = "hometape/"


@dataclass(frozen=True, slots=True)
class StreamReport:
    """One stream: what is held at home, what is missing in it, and how it stands at each target.

    `policy`: the `match` of the rule that holds for it.
    """

    agent: str
    stream: str
    policy: str
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

    def to_json(self, *, indent: int | None = 2) -> str:
        """One JSON object; on one line without `indent`."""
        return json.dumps(asdict(self), indent=indent)


def status(
    settings: ReceiverSettings,
    catalog: Catalog,
    targets: Sequence[Target],
    *,
    clock: Clock,
    live: Mapping[str, Any] | None = None,
) -> StatusReport:
    """Compute the report. `live`: what the running service says of itself, empty if none runs. Raises StoreError."""
    live = live or {}
    lanes = {lane["target"]: lane for lane in live.get("lanes", ())}
    found_there = _seen(targets, lanes, catalog)
    now = clock.now_ns()
    totals = catalog.streams()
    rules, places = rules_of(settings), wheres(settings)
    found = catalog.ask(lambda base: survey(base, rules, places))
    look = observe(catalog.looked(), now, lacks_of(found, rules, places))
    added = catalog.ask(lambda base: growth(base, today=utc_day(now).toordinal(), days=GROWTH_DAYS))
    streams = tuple(_stream(one, rules, targets, now) for one in totals)
    at_targets = tuple(
        _target(target, totals, found_there[target.id], found, look, lanes.get(target.id, {}), added, now)
        for target in targets
    )
    ruled = policy(
        found,
        look,
        rules,
        places,
        max_ages={target.id: target.place.max_age for target in targets},
        why={one.id: one.why_behind for one in at_targets},
        now_ns=now,
    )
    incidents = catalog.incidents(limit=_MOST_LISTED)
    quarantined = catalog.quarantined(limit=_MOST_LISTED)
    by_name = {f"{one.agent}/{one.stream}": one.targets for one in streams}
    reasons = [
        *about_targets(at_targets, by_name, running=bool(live)),
        *about_policy(ruled),
        *_about_streams(streams, rules),
        *(Reason(CRITICAL if i.kind in _GRAVE else WARNING, f"{i.kind}: {i.text}") for i in incidents),
        *about_rule(rules, places.values()),
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
        policy=ruled,
        targets=at_targets,
        streams=streams,
        incidents=tuple(asdict(incident) for incident in incidents),
        quarantined=tuple(asdict(item) for item in quarantined),
        connected=dict(live.get("connected", {})),
    )


def _seen(targets: Sequence[Target], lanes: Mapping[str, Mapping[str, Any]], catalog: Catalog) -> dict[str, Seen]:
    """How each target is, looked at now; what the running service knows better or sooner is taken from it."""
    told = {t.id: seen_by_service(lanes[t.id]) for t in targets if t.place.kind in FROM_SERVICE and t.id in lanes}
    asked = [target for target in targets if target.id not in told or target.place.kind != REMOTE]
    looked = probe(asked, within=ANSWER_WITHIN)
    last = {known.name: known.seen_ns for known in catalog.targets()}
    found = {}
    for name in (target.id for target in targets):
        state, free = told.get(name) or looked[name], looked.get(name) or told[name]
        found[name] = Seen(state.state, free.free, last.get(name))
    return found


def _stream(one: StreamTotals, rules: Rules, targets: Sequence[Target], now: int) -> StreamReport:
    return StreamReport(
        agent=one.agent,
        stream=one.stream,
        policy=rules.of(one.agent, one.stream).match,
        segments=one.segments,
        rows=one.rows,
        bytes=one.bytes,
        source_bytes=one.source_bytes,
        recv_first_ns=one.recv_first_ns,
        recv_last_ns=one.recv_last_ns,
        age_s=age(now, one.recv_last_ns),
        epochs=one.epochs,
        missing_segments=one.missing,
        hole_bytes=one.hole_bytes,
        refused=one.refused,
        targets={target.id: _stream_at(one, one.targets.get(target.id, TargetTotals()), now) for target in targets},
    )


def _stream_at(one: StreamTotals, there: TargetTotals, now: int) -> StreamAtTarget:
    lacking = one.segments - there.segments
    since = there.point_ns if there.point_ns is not None else one.recv_first_ns
    return StreamAtTarget(there.segments, there.rows, there.bytes, lacking, there.point_ns, age(now, since))


def _target(
    target: Target,
    totals: Sequence[StreamTotals],
    seen: Seen,
    found: Survey,
    look: Looked,
    lane: Mapping[str, Any],
    added: float | None,
    now: int,
) -> TargetReport:
    lack = look.lacks.get(behind_key(target.id))
    since = None if lack is None else lack.since_ns
    return target_report(target, totals, seen, behind(found, target.id), since, lane, added, now)


def _about_streams(streams: Sequence[StreamReport], rules: Rules) -> Iterable[Reason]:
    for one in streams:
        name = f"{one.agent}/{one.stream}"
        live_age = rules.of(one.agent, one.stream).live_age
        if live_age and (one.age_s or 0) > live_age and not one.stream.startswith(_OWN):
            text = f"nothing newer than {duration(one.age_s or 0)} has come of {name}"
            hint = "see `tape-agent status` on the server; quiet, or old, on purpose? see `live_age` in docs/policy.md"
            yield Reason(WARNING, text, hint)
        if one.missing_segments:
            verb = "is" if one.missing_segments == 1 else "are"
            text = f"{plural(one.missing_segments, 'segment')} of {name} {verb} missing between others"
            yield Reason(WARNING, text, "`tape-agent resync` on the server sends what it still has")
        if one.hole_bytes:
            text = f"{plural(one.hole_bytes, 'byte')} of files of {name} are in no segment held here"
            yield Reason(WARNING, text, "")
        if one.refused:
            verb = "was" if one.refused == 1 else "were"
            yield Reason(WARNING, f"{plural(one.refused, 'segment')} of {name} {verb} refused", "see the quarantine")


def _about_boxes(live: Mapping[str, Any]) -> Iterable[Reason]:
    """What is wrong with drop boxes: a folder or a receipt for longer than an hour is critical."""
    for box in live.get("boxes", ()):
        for one in box["troubles"]:
            grave = one["about"] in (About.BOX.value, About.RECEIPT.value) and one["since_s"] > GRAVE
            text = f"drop box of {box['agent']} ({box['folder']}): {one['text']}"
            yield Reason(CRITICAL if grave else WARNING, text, one["hint"])
        if more := box["count"] - len(box["troubles"]):
            yield Reason(WARNING, f"drop box of {box['agent']}: {more:,} more troubles", "see the service's log")


def _about_service(live: Mapping[str, Any]) -> Iterable[Reason]:
    if not live:
        yield Reason(WARNING, "the service is not running", "tape-receiver run")
        return
    yield from _about_boxes(live)
    config = live.get("config", {})
    if config.get("error"):
        text = f"the service goes by the configuration before the last change: {config['error']}"
        yield Reason(WARNING, text, "mend the file; the service looks at it by itself")
    if config.get("restart"):
        yield Reason(WARNING, f"changed, but in use only after a restart: {', '.join(config['restart'])}", "")
