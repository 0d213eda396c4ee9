"""A status report as a page for a terminal: the policy in one glance, the targets, the streams, what is wrong."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from receiver.placement import Rule
from receiver.report import StatusReport, StreamReport
from receiver.report_policy import GroupReport, RuleReport, group_text, rule_text
from receiver.report_targets import REMOVABLE, StreamAtTarget, TargetReport
from receiver.report_words import CRITICAL, OK, WARNING
from tape.fitting import Fitting
from tape.sayings import duration, plural, size

_WORDS = {OK: ("all is well", "green"), WARNING: ("needs attention", "yellow"), CRITICAL: ("critical", "bold red")}
_LONG = 38  # a name of a stream that is longer is folded where the terminal is narrow
_STYLES = {OK: "green", WARNING: "yellow", CRITICAL: "red"}


def render(report: StatusReport) -> Group:
    """The page: verdict, policy, targets, streams, and the reasons for anything that is not well."""
    word, style = _WORDS[report.exit_code]
    parts: list[RenderableType] = [Text(f"{report.receiver}: {word}", style=style), *_policy(report)]
    parts.append(Fitting(_targets(report), Group(_safety(report), _places(report))))
    parts += _not_there(report)
    if report.streams:
        parts.append(Fitting(_streams(report), _streams_short(report)))
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
    """All of the targets in one table, where the terminal is wide enough for it."""
    words, figures = ("target", "kind", "medium", "site", "state"), ("copies", "rows", "size", "recovery point")
    table = _table(words, (*figures, "behind", "checked", "free"))
    for one in report.targets:
        held = (f"{one.segments:,}", f"{one.rows:,}", size(one.bytes))
        place = (_name(one), one.kind, one.medium, one.site)
        table.add_row(*place, _state(one), *held, _point(one), _behind(one), _checked(one, report), _free(one))
    return table


def _safety(report: StatusReport) -> Table:
    """On a narrow terminal: first how safe it is at each target ..."""
    table = _table(("target", "state"), ("recovery point", "behind", "checked"), give_way=("state", "behind"))
    for one in report.targets:
        table.add_row(_name(one), _state(one), _point(one), _behind(one), _checked(one, report))
    return table


def _places(report: StatusReport) -> Table:
    """... then what each target is, and how much it holds."""
    words = ("target", "kind", "medium", "site")
    table = _table(words, ("copies", "size", "free"), give_way=("medium", "site", "free"))
    for one in report.targets:
        held = (f"{one.segments:,}", size(one.bytes), _free(one))
        table.add_row(_name(one), one.kind, one.medium, one.site, *held)
    return table


def _table(words: Sequence[str], figures: Sequence[str], *, give_way: Sequence[str] | None = None) -> Table:
    """An empty table. `give_way`: columns that wrap where it is too wide, all if None; what wraps is never cut."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (*words, *figures):
        stays = give_way is not None and name not in give_way
        table.add_column(name, justify="right" if name in figures else "left", no_wrap=stays, overflow="fold")
    return table


def _not_there(report: StatusReport) -> Iterator[Text]:
    """Why a target takes nothing, where no reason below says it: it may be away for a while, but never silently."""
    told = " ".join(reason.text for reason in report.reasons)
    for one in report.targets:
        drawer = one.away and one.kind == REMOVABLE
        if one.ready or drawer or not one.reason or one.reason in told:
            continue
        yield Text(f"  {one.id} is {one.condition}: {one.reason}", style="yellow")
        if one.hint:
            yield Text(f"  hint: {one.hint}", style="dim")


def _name(one: TargetReport) -> str:
    return f"{one.id} (home)" if one.home else one.id


def _point(one: TargetReport) -> str:
    return "never" if one.recovery_point_ns is None else _ago(one.age_s)


def _checked(one: TargetReport, report: StatusReport) -> str:
    return _ago(None if one.last_verified_ns is None else (report.now_ns - one.last_verified_ns) / 1e9)


def _state(one: TargetReport) -> Text:
    if one.away and one.kind == REMOVABLE:
        when = "never seen" if one.seen_age_s is None else f"away, seen {_ago(one.seen_age_s)}"
        return Text(f"{when}, overdue" if one.overdue else when, style="yellow" if one.overdue else "")
    text = one.note if one.ready and one.note else one.condition
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
    """The streams with a column for each target, where the terminal is wide enough for it."""
    table = _table(("stream",), ("segments", "rows", "size", "newest", *(target.id for target in report.targets)))
    for one in report.streams:
        cells = [_lag(one.targets[target.id]) or "level" for target in report.targets]
        table.add_row(f"{one.agent}/{one.stream}", f"{one.segments:,}", f"{one.rows:,}", *_end(one), *cells)
    return table


def _streams_short(report: StatusReport) -> Table:
    """On a narrow terminal, or with many targets: each stream names only those that are behind."""
    long = any(len(one.agent) + len(one.stream) > _LONG for one in report.streams)
    yielding = ("stream", "behind") if long else ("behind",)
    table = _table(("stream",), ("segments", "size", "newest", "behind"), give_way=yielding)
    for one in report.streams:
        late = [f"{name} {lag}" for name, at in one.targets.items() if (lag := _lag(at))]
        behind = "\n".join(late) or "level"
        table.add_row(f"{one.agent}/{one.stream}", f"{one.segments:,}", *_end(one), behind)
    return table


def _end(one: StreamReport) -> tuple[str, str]:
    return size(one.bytes), _ago(one.age_s)


def _lag(there: StreamAtTarget) -> str:
    return f"-{there.behind:,} ({_ago(there.age_s)})" if there.behind else ""


def _ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{duration(max(0.0, seconds))} ago"
