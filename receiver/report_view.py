"""A status report as a page for a terminal: the policy in one glance, the targets, the streams, what is wrong."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from receiver.placement import Rule
from receiver.report import StatusReport
from receiver.report_policy import GroupReport, RuleReport, group_text, rule_text
from receiver.report_targets import REMOVABLE, TargetReport
from receiver.report_words import CRITICAL, OK, WARNING
from tape.sayings import duration, plural, size

_WORDS = {OK: ("all is well", "green"), WARNING: ("needs attention", "yellow"), CRITICAL: ("critical", "bold red")}
_STYLES = {OK: "green", WARNING: "yellow", CRITICAL: "red"}


def render(report: StatusReport) -> Group:
    """The page: verdict, policy, targets, streams, and the reasons for anything that is not well."""
    word, style = _WORDS[report.exit_code]
    parts: list[RenderableType] = [Text(f"{report.receiver}: {word}", style=style), *_policy(report), _targets(report)]
    if report.streams:
        parts.append(_streams(report))
    for reason in report.reasons:
        parts.append(Text(f"- {reason.text}", style="red" if reason.level == CRITICAL else "yellow"))
        if reason.hint:
            parts.append(Text(f"  hint: {reason.hint}", style="dim"))
    return Group(*parts)


def _policy(report: StatusReport) -> Iterator[Text]:
    """One line that says it all; where more than one group stands alike, each of them below; then the rules."""
    policy = report.policy
    text = f"3-2-1: {policy.satisfied:,} of {plural(policy.segments, 'segment')} satisfied"
    below: list[GroupReport] = []
    for count, standing, word in (
        (policy.degraded, "degraded", "degraded"),
        (policy.at_risk, "at risk", "at risk"),
        (policy.unproven, "unproven", "not proven yet"),
    ):
        groups = [group for group in policy.groups if group.standing == standing]
        if count:
            text += f", {count:,} {word} ({_facts(groups)})"
            below += groups if len(groups) > 1 else []
    if policy.lost:
        text += f", {policy.lost:,} lost here and asked for again"
    worst = max((group.level for group in policy.groups), default=OK)
    yield Text(text, style=_STYLES[CRITICAL if policy.lost else worst])
    for group in below:
        line = f"  {group.segments:,} {group.standing} by {group.match} ({group_text(group)})"
        yield Text(line, style=_STYLES[group.level])
    for rule in policy.rules:
        if rule.streams or rule is policy.rules[-1]:
            yield Text(_rule(rule, alone=len(policy.rules) == 1), style="dim")


def _facts(groups: Sequence[GroupReport]) -> str:
    if len(groups) == 1:
        return group_text(groups[0])
    oldest = max(group.age_s for group in groups)
    return f"{size(sum(group.bytes for group in groups))}, since {duration(oldest)}"


def _rule(rule: RuleReport, *, alone: bool) -> str:
    text = f"  {rule_text(Rule(rule.copies, rule.media, rule.sites))}; the server may free it at {rule.release}"
    if alone:
        return text
    return f"{text} [{rule.match}: {plural(rule.streams, 'stream')}, {rule.satisfied:,} of {rule.segments:,} satisfied]"


def _targets(report: StatusReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("target", "kind", "medium", "site", "state"):
        table.add_column(name)
    for name in ("copies", "rows", "size", "recovery point", "behind", "checked", "free"):
        table.add_column(name, justify="right")
    for one in report.targets:
        table.add_row(
            f"{one.id} (home)" if one.home else one.id,
            one.kind,
            one.medium,
            one.site,
            _state(one),
            f"{one.segments:,}",
            f"{one.rows:,}",
            size(one.bytes),
            _ago(one.age_s) if one.recovery_point_ns is not None else "never",
            _behind(one),
            _ago(None if one.last_verified_ns is None else (report.now_ns - one.last_verified_ns) / 1e9),
            _free(one),
        )
    return table


def _state(one: TargetReport) -> Text:
    if one.away and one.kind == REMOVABLE:
        when = "never seen" if one.seen_age_s is None else f"away, seen {_ago(one.seen_age_s)}"
        return Text(f"{when}, overdue" if one.overdue else when, style="yellow" if one.overdue else "")
    text = one.condition if not one.note else f"{one.condition}: {one.note}"
    return Text(text, style="green" if one.ready else "red")


def _behind(one: TargetReport) -> str:
    if not one.behind_segments:
        return "level"
    text = f"{one.behind_segments:,} ({size(one.behind_bytes)})"
    return text if one.level_in_s is None else f"{text}, {duration(one.level_in_s)} left"


def _free(one: TargetReport) -> str:
    if one.free_bytes is None:
        return "?"
    if one.full_in_days is None:
        return size(one.free_bytes)
    if not one.full_in_days:
        return f"{size(one.free_bytes)}, too little"
    days = one.full_in_days
    return f"{size(one.free_bytes)}, full in {'years' if days > 3650 else duration(days * 86400)}"


def _streams(report: StatusReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stream")
    for name in ("segments", "rows", "size", "newest", *(target.id for target in report.targets)):
        table.add_column(name, justify="right")
    for one in report.streams:
        cells = []
        for target in report.targets:
            there = one.targets[target.id]
            cells.append("level" if not there.behind else f"-{there.behind:,} ({_ago(there.age_s)})")
        newest = _ago(one.age_s)
        name = f"{one.agent}/{one.stream}"
        table.add_row(name, f"{one.segments:,}", f"{one.rows:,}", size(one.bytes), newest, *cells)
    return table


def _ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{duration(max(0.0, seconds))} ago"
