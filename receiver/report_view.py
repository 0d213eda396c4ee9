"""A status report as tables for a terminal."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from receiver.report import CRITICAL, StatusReport, TargetReport, duration

_WORDS = {0: ("all is well", "green"), 1: ("needs attention", "yellow"), 2: ("critical", "bold red")}


def render(report: StatusReport) -> Group:
    """The page: verdict, policy, targets, streams, and the reasons for anything that is not well."""
    word, style = _WORDS[report.exit_code]
    parts: list[RenderableType] = [Text(f"{report.receiver}: {word}", style=style), _policy(report), _targets(report)]
    if report.streams:
        parts.append(_streams(report))
    for reason in report.reasons:
        parts.append(Text(f"- {reason.text}", style="red" if reason.level == CRITICAL else "yellow"))
        if reason.hint:
            parts.append(Text(f"  hint: {reason.hint}", style="dim"))
    return Group(*parts)


def _policy(report: StatusReport) -> Text:
    policy = report.policy
    text = f"policy {policy.copies} copies: {policy.satisfied:,} of {policy.segments:,} segments satisfied"
    for count, what in (
        (policy.degraded, "degraded"),
        (policy.at_risk, "with one copy only"),
        (policy.unproven, "not proven yet"),
    ):
        if count:
            text += f", {count:,} {what}"
    return Text(text, style="green" if policy.satisfied == policy.segments else "yellow")


def _targets(report: StatusReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("target", "medium", "site", "state"):
        table.add_column(name)
    for name in ("segments", "rows", "size", "behind", "newest", "checked", "free"):
        table.add_column(name, justify="right")
    for one in report.targets:
        table.add_row(
            f"{one.id} (home)" if one.home else one.id,
            one.medium,
            one.site,
            Text(one.condition, style="green" if one.condition == "ready" else "red"),
            f"{one.segments:,}",
            f"{one.rows:,}",
            size(one.bytes),
            _behind(one),
            _ago(one.age_s),
            _ago(None if one.last_verified_ns is None else (report.now_ns - one.last_verified_ns) / 1e9),
            "?" if one.free_bytes is None else size(one.free_bytes),
        )
    return table


def _behind(one: TargetReport) -> str:
    if not one.behind_segments:
        return "level"
    text = f"{one.behind_segments:,} ({size(one.behind_bytes)})"
    return text if one.level_in_s is None else f"{text}, {duration(one.level_in_s)} left"


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


def size(count: int) -> str:
    """Bytes as people say them: `512 B`, `3.4 MB`, `1.2 TB`."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
