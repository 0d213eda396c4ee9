"""The policy in figures: which segments stand how against their rule, since when, and what they wait for.

Costs by streams, epochs and ranges, never by segments. What is normal for a moment is no fault: a part of
the archive may wait as long as the targets that it waits for may lag (`max_age`).
"""

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from receiver import gaps
from receiver.catalog_state import Sums, Tally, coverage
from receiver.placement import Rule, Standing, Where, judge, sweep, unsatisfiable
from receiver.policy import Rules, StreamRule
from receiver.report_words import CRITICAL, OK, WARNING, Reason, age
from receiver.standing import Looked
from tape.sayings import duration, plural, size

PROMPT = 5 * 60.0  # unproven for longer: a warning
GRAVE = 3600.0  # unproven for longer: critical; a single copy for longer: a warning
_BAD = (Standing.AT_RISK, Standing.UNPROVEN, Standing.DEGRADED)


@dataclass(frozen=True, slots=True)
class Part:
    """Segments that stand alike: under one rule (its `match`), with verified copies at the same targets."""

    match: str
    names: frozenset[str]
    sums: Sums

    @property
    def key(self) -> str:
        """How the part is called from one look to the next."""
        return f"{self.match} at {'+'.join(sorted(self.names)) or 'none'}"


@dataclass(frozen=True, slots=True)
class Survey:
    """All parts, and what is lost: held once, without a copy anywhere, asked for again."""

    parts: tuple[Part, ...]
    lost: Sums
    streams: Mapping[str, int]  # how many go by each rule


@dataclass(frozen=True, slots=True)
class Waiting:
    """A target that a part waits for, and why it is not there yet."""

    target: str
    why: str


@dataclass(frozen=True, slots=True)
class GroupReport:
    """Segments short of the same. `lacking`: what of the rule is not met; `since_ns`: since when at least.

    `patience_s`: how long that may last before it is a warning. `level`: what it adds to the exit code.
    """

    match: str
    standing: str
    lacking: tuple[str, ...]
    copies_at: tuple[str, ...]
    segments: int
    bytes: int
    since_ns: int
    age_s: float
    patience_s: float
    waiting_for: tuple[Waiting, ...]
    level: int


@dataclass(frozen=True, slots=True)
class RuleReport:
    """One rule, and how many of its segments stand how. `release`: when the server may free them, in words."""

    match: str
    copies: int
    media: int
    sites: int
    release: str
    streams: int
    segments: int
    bytes: int
    satisfied: int
    degraded: int
    at_risk: int
    unproven: int


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """The standard rule, and all segments by how they stand. `rules`: overrides first, the standard one last.

    `lacking`: what how many segments are short of. `lost`: without a copy anywhere, asked for again.
    """

    copies: int
    media: int
    sites: int
    release: str
    segments: int
    bytes: int
    satisfied: int
    degraded: int
    at_risk: int
    unproven: int
    lost: int
    lacking: dict[str, int]
    groups: tuple[GroupReport, ...]
    rules: tuple[RuleReport, ...]


def survey(base: sqlite3.Connection, rules: Rules, configured: Collection[str]) -> Survey:
    """Every part of the archive, from ranges and running sums."""
    everywhere = frozenset(configured)
    tally: Tally[tuple[str, frozenset[str] | None]] = Tally(base)
    streams: dict[str, set[tuple[str, str]]] = {one.match: set() for one in rules.streams}
    for one in coverage(base):
        match = rules.of(one.agent, one.stream).match
        streams[match].add((one.agent, one.stream))
        ranges: dict[frozenset[str] | None, list[tuple[int, int]]] = {None: list(one.wanted)} if one.wanted else {}
        layers = {name: layer for name, layer in one.layers.items() if name in everywhere}
        for first, end, names in sweep(gaps.subtract(one.held, one.wanted), layers):
            ranges.setdefault(names, []).append((first, end))
        tally.add(one.epoch, {(match, names): tuple(some) for names, some in ranges.items()})
    lost, parts = Sums(), []
    for (match, where), found in tally.sums().items():
        if where is None:
            lost += found
        else:
            parts.append(Part(match, where, found))
    return Survey(tuple(parts), lost, {match: len(some) for match, some in streams.items()})


def lacks_of(found: Survey, rules: Rules, places: Mapping[str, Where]) -> dict[str, int]:
    """What a look finds lacking, for `receiver.standing`: each part short of its rule, and each target behind."""
    by_match = {one.match: one.rule for one in reversed(rules.streams)}
    lacks = {}
    for part in found.parts:
        if part.sums.oldest_ns is None:
            continue
        if judge(by_match[part.match], places, part.names).standing is not Standing.SATISFIED:
            lacks[part.key] = part.sums.oldest_ns
    for target in places:
        oldest = behind(found, target).oldest_ns
        if oldest is not None:
            lacks[behind_key(target)] = oldest
    return lacks


def behind(found: Survey, target: str) -> Sums:
    """What a target lacks of all that is held."""
    return sum((part.sums for part in found.parts if target not in part.names), Sums())


def behind_key(target: str) -> str:
    """What it is called that a target is behind, from one look to the next."""
    return f"target {target}"


def waits_for(
    rule: Rule, places: Mapping[str, Where], names: Collection[str], max_ages: Mapping[str, float]
) -> tuple[tuple[str, ...], float]:
    """Which targets segments with these copies wait for, and how long that may take (seconds).

    The targets that may lag least are waited for first, and none that the rule could do without.
    """
    chosen: list[str] = []
    for name in sorted(places, key=lambda name: (max_ages[name], name)):
        if name in names:
            continue
        chosen.append(name)
        if not unsatisfiable(rule, [places[n] for n in places if n in names or n in chosen]):
            break
    for name in list(chosen):
        rest = [n for n in chosen if n != name]
        if rest and not unsatisfiable(rule, [places[n] for n in places if n in names or n in rest]):
            chosen = rest
    return tuple(chosen), max((max_ages[name] for name in chosen), default=0.0)


def level_of(standing: Standing, age_s: float, patience_s: float) -> int:
    """What a part short of its rule is worth after so many seconds; `patience_s`: how long its targets may lag.

    Degraded: a warning past the patience. One copy only: critical past the patience, a warning after an hour
    where that is longer. No proven copy: a warning after five minutes, critical after an hour.
    """
    if standing is Standing.UNPROVEN:
        return CRITICAL if age_s > GRAVE else WARNING if age_s > PROMPT else OK
    if standing is Standing.AT_RISK:
        return CRITICAL if age_s > patience_s else WARNING if age_s > GRAVE else OK
    return WARNING if standing is Standing.DEGRADED and age_s > patience_s else OK


def policy(
    found: Survey,
    seen: Looked,
    rules: Rules,
    places: Mapping[str, Where],
    *,
    max_ages: Mapping[str, float],
    why: Mapping[str, str],
    now_ns: int,
) -> PolicyReport:
    """The report. `seen`: the look of now; `why`: of each target, why it is behind."""
    groups: list[GroupReport] = []
    lacking: dict[str, int] = {}
    reports: list[RuleReport] = []
    for one in rules.streams:
        counts = dict.fromkeys(Standing, 0)
        first = all(report.match != one.match for report in reports)
        parts = [part for part in found.parts if part.match == one.match and first]
        for part in parts:
            judged = judge(one.rule, places, part.names)
            counts[judged.standing] += part.sums.segments
            if judged.standing is Standing.SATISFIED:
                continue
            for text in judged.lacking:
                lacking[text] = lacking.get(text, 0) + part.sums.segments
            groups.append(_group(part, one, judged.standing, judged.lacking, seen, places, max_ages, why, now_ns))
        reports.append(_rule(one, parts, counts, found.streams[one.match] if first else 0))
    order = {standing.value: number for number, standing in enumerate(_BAD)}
    groups.sort(key=lambda group: (order[group.standing], -group.segments))
    standard = reports[-1]
    return PolicyReport(
        copies=standard.copies,
        media=standard.media,
        sites=standard.sites,
        release=standard.release,
        segments=sum(one.segments for one in reports) + found.lost.segments,
        bytes=sum(one.bytes for one in reports) + found.lost.bytes,
        satisfied=sum(one.satisfied for one in reports),
        degraded=sum(one.degraded for one in reports),
        at_risk=sum(one.at_risk for one in reports),
        unproven=sum(one.unproven for one in reports),
        lost=found.lost.segments,
        lacking=lacking,
        groups=tuple(groups),
        rules=tuple(reports),
    )


def _rule(one: StreamRule, parts: Sequence[Part], counts: Mapping[Standing, int], streams: int) -> RuleReport:
    return RuleReport(
        match=one.match,
        copies=one.rule.copies,
        media=one.rule.media,
        sites=one.rule.sites,
        release=rule_text(one.release),
        streams=streams,
        segments=sum(part.sums.segments for part in parts),
        bytes=sum(part.sums.bytes for part in parts),
        satisfied=counts[Standing.SATISFIED],
        degraded=counts[Standing.DEGRADED],
        at_risk=counts[Standing.AT_RISK],
        unproven=counts[Standing.UNPROVEN],
    )


def _group(
    part: Part,
    rule: StreamRule,
    standing: Standing,
    lacking: tuple[str, ...],
    seen: Looked,
    places: Mapping[str, Where],
    max_ages: Mapping[str, float],
    why: Mapping[str, str],
    now_ns: int,
) -> GroupReport:
    since = seen.lacks[part.key].since_ns
    lasted = age(now_ns, since) or 0.0
    targets, patience = waits_for(rule.rule, places, part.names, max_ages)
    if standing is Standing.UNPROVEN:  # the read-back at home comes first
        targets = tuple(name for name in places if places[name].home)
    return GroupReport(
        match=part.match,
        standing=standing.value,
        lacking=lacking,
        copies_at=tuple(sorted(part.names)),
        segments=part.sums.segments,
        bytes=part.sums.bytes,
        since_ns=since,
        age_s=lasted,
        patience_s=patience,
        waiting_for=tuple(Waiting(name, why.get(name, "")) for name in targets),
        level=level_of(standing, lasted, patience),
    )


def rule_text(rule: Rule) -> str:
    """A rule as a sentence's part: `3 copies on 2 media at 2 sites, one of them at home`."""
    text = plural(rule.copies, "copy").replace("copys", "copies")
    if rule.media > 1:
        text += f" on {rule.media} media"
    if rule.sites > 1:
        text += f" at {rule.sites} sites"
    return f"{text}, one of them at home" if rule.copies > 1 else f"{text}, at home"


def group_text(group: GroupReport) -> str:
    """What a group is short of: `12.0 MB, 1 of 2 media, since 3.0 h: waiting for usb-a (away for 3 d)`."""
    names = [f"{one.target} ({one.why})" if one.why else one.target for one in group.waiting_for]
    waits = f": waiting for {', '.join(names)}" if names else ""
    lacking = [] if group.standing == Standing.UNPROVEN.value else group.lacking
    return f"{', '.join([size(group.bytes), *lacking])}, since {duration(group.age_s)}{waits}"


def about_policy(report: PolicyReport) -> Iterator[Reason]:
    """What of it needs attention."""
    for group in report.groups:
        if group.level:
            rule = "" if group.match == report.rules[-1].match else f" of {group.match}"
            yield Reason(
                group.level,
                f"{plural(group.segments, 'segment')}{rule} {group.standing} ({group_text(group)})",
                _HINTS[group.standing],
            )


_HINTS = {
    Standing.DEGRADED.value: "bring the target back; it catches up by itself",
    Standing.AT_RISK.value: "one more failure loses them here: bring a target back, or `tape-receiver resync`",
    Standing.UNPROVEN.value: "they are read back from the home archive first: see its state, and the service's log",
}


def about_rule(rules: Rules, places: Iterable[Where]) -> Iterator[Reason]:
    """A policy that can never be satisfied."""
    known = list(places)
    for one in rules.streams:
        never = unsatisfiable(one.rule, known)
        if never:
            text = f"the policy of {one.match} can't be satisfied by these targets: {'; '.join(never)}"
            yield Reason(CRITICAL, text, "add a target, or lower `policy`")
