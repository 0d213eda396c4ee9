"""What `tape-agent status` shows: facts of the outbox and of delivery, and whether they are fine.

The outbox is open in one process only, so the running service writes its facts beside it every second or two;
a status command that finds the service stopped opens the outbox itself.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from agent.model import State
from agent.outbox import Outbox
from agent.push import Progress
from agent.settings import AgentSettings
from agent.sources.contract import Standing, Unread
from agent.sources.rewrites import HINT
from agent.space import Collecting
from tape import __version__
from tape.clock import Clock
from tape.durable import DISK, Disk
from tape.names import EVENTS_STREAM

FILE = "status.json"
_SHOWN = 3  # files of one kind that are named in full
STALE_AFTER_NS = 30_000_000_000
GAPS_TOLD_NS = 24 * 3600 * 10**9
"""A gap stays a warning for a day; in the stream of events it stays for ever."""


def collect(
    settings: AgentSettings,
    outbox: Outbox,
    *,
    clock: Clock,
    progress: Progress | None = None,
    collecting: Collecting | None = None,
    sources: Sequence[Standing] = (),
) -> dict[str, Any]:
    """All facts as plain JSON values. Times in ns, sizes in bytes. `collecting`: what the running service reads,
    `sources`: what its sources have to tell.
    """
    running = collecting is not None
    now = clock.now_ns()
    waiting = outbox.waiting()
    streams: list[dict[str, Any]] = []
    for total in outbox.totals():
        counts = {state.value: total.states.get(state, (0, 0))[0] for state in State if state is not State.RELEASED}
        oldest, unseen = total.oldest_unsent_ns, total.oldest_unconfirmed_ns
        streams.append(
            {
                "stream": total.stream,
                "segments": total.segments,
                "rows": total.rows,
                "bytes": total.bytes,
                "source_bytes": total.source_bytes,
                "newest_ns": total.newest_ns,
                "states": counts,
                "oldest_unsent_s": None if oldest is None else round(max(0, now - oldest) / 1e9, 3),
                "unconfirmed": total.unconfirmed,
                "oldest_unconfirmed_s": None if unseen is None else round(max(0, now - unseen) / 1e9, 3),
                "reasons": list(total.reasons),
            }
        )
    facts: dict[str, Any] = {
        "version": __version__,
        "agent": settings.agent,
        "epoch": outbox.epoch,
        "written_ns": now,
        "running": running,
        "pid": os.getpid() if running else None,
        "waiting_segments": waiting[0],
        "waiting_bytes": waiting[1],
        "unreleased_segments": sum(sum(s["states"].values()) for s in streams),
        "sealed_bytes": sum(s["source_bytes"] for s in streams if s["stream"] != EVENTS_STREAM),
        "events_waiting": outbox.events_waiting(),
        "gaps": [gap._asdict() for gap in outbox.gaps() if now - gap.ns < GAPS_TOLD_NS],
        "spool_bytes": outbox.spooled_bytes(),
        "spool_max_bytes": settings.spool.max_bytes,
        "paused": "" if collecting is None else collecting.pause.value,
        "stuck": [] if collecting is None else list(collecting.stuck),
        "reading": None if collecting is None else _reading(collecting, settings, sources),
        "link": _link(progress) if progress is not None else None,
        "streams": streams,
    }
    facts["problems"] = [{"level": level, "text": text} for level, text in judge(facts, settings)]
    return facts


def _reading(collecting: Collecting, settings: AgentSettings, sources: Sequence[Standing]) -> dict[str, Any]:
    waiting = [source.unread for source in sources if source.unread.archives]
    oldest = max(waiting, key=lambda unread: unread.waits_s, default=Unread())
    return {
        "files": collecting.origins,
        "held_bytes": collecting.held_bytes,
        "waiting_s": round(collecting.waiting_s, 3),
        "max_age_s": settings.seal.max_age,
        "archives": {
            "unread": sum(unread.archives for unread in waiting),
            "bytes": sum(unread.size for unread in waiting),
            "waiting_s": round(oldest.waits_s, 3),
            "oldest": oldest.oldest,
        },
        "rewritten": [path for source in sources for path in source.rewritten],
    }


def _link(progress: Progress) -> dict[str, Any]:
    return {
        "connections": progress.connections,
        "server": progress.server,
        "rate_bytes_s": round(progress.rate),
        "sending": progress.sending,
        "held": progress.held,
        "released": progress.released,
        "refused": progress.refused,
        "last_ok_ns": progress.last_ok_ns,
        "last_error": progress.last_error,
        "last_error_ns": progress.last_error_ns,
        "last_receipt_ns": progress.last_receipt_ns,
        "receipt_errors": dict(progress.receipt_errors),
    }


def judge(facts: dict[str, Any], settings: AgentSettings) -> Iterable[tuple[int, str]]:
    """(exit code, text) for each thing that is not fine: 1 a warning, 2 critical."""
    alarm = settings.alarm
    if not facts["running"]:
        yield 2, "the service does not run: nothing is read or sent; start `tape-agent run`"
    for stream in facts["streams"]:
        for state, meaning in ((State.REFUSED, "refused by home"), (State.LOST, "lost from the spool")):
            if count := stream["states"].get(state.value, 0):
                yield 2, f"{stream['stream']}: {count} segments {meaning}: {'; '.join(stream['reasons'])}"
        waits = stream["oldest_unsent_s"]
        if waits is not None and waits >= alarm.warn_after:
            level = 2 if waits >= alarm.critical_after else 1
            yield level, f"{stream['stream']}: a segment has been waiting for home for {waits:.0f} s"
        waits = stream["oldest_unconfirmed_s"]
        if waits is not None and waits >= alarm.warn_after:
            level = 2 if waits >= alarm.critical_after else 1
            text = f"{stream['unconfirmed']} segments left with a plain server, and no receipt confirms them"
            hint = "the receiver must look into that folder: see `tape-receiver status` and docs/drop-box.md"
            yield level, f"{stream['stream']}: {text} after {waits:.0f} s; {hint}"
    yield from _judge_reading(facts["reading"], settings)
    used = facts["spool_bytes"] / max(1, facts["spool_max_bytes"])
    for text in facts["stuck"]:
        yield 2, f"can't be sealed: {text}"
    if facts["paused"]:
        yield 2, f"sealing is paused: {facts['paused']}"
    elif used >= alarm.warn_spool:
        yield 1, f"the spool is {used:.0%} full: segments are not released fast enough"
    if gaps := facts["gaps"]:
        newest = gaps[-1]
        more = f"; {len(gaps)} such events in a day" if len(gaps) > 1 else ""
        yield 1, f"not read whole: {newest['file']}: {newest['why']}{more}; see docs/incidents.md"
    if facts["link"] is not None:
        yield from _judge_link(facts["link"], waiting=facts["waiting_segments"])


def _judge_link(link: dict[str, Any], *, waiting: int) -> Iterable[tuple[int, str]]:
    if link["connections"] == 0:
        yield 1, f"no connection to home: {link['last_error'] or 'not yet tried'}"
    elif waiting and link["last_error_ns"] > link["last_ok_ns"]:
        yield 1, f"nothing has been delivered since an error: {link['last_error']}"
    for stream, text in link["receipt_errors"].items():
        yield 2, f"{stream}: {text}"


def _judge_reading(reading: dict[str, Any] | None, settings: AgentSettings) -> Iterable[tuple[int, str]]:
    if reading is None:
        return
    archives, rewritten = reading["archives"], reading["rewritten"]
    waits = archives["waiting_s"]
    if waits >= settings.alarm.warn_after:
        text = f"{archives['oldest']}: not read for {waits:.0f} s, {archives['unread']:,} archives wait"
        hint = "an archive is read once it was left alone for `archive_settle`"
        yield 2 if waits >= settings.alarm.critical_after else 1, f"{text}; hint: {hint}"
    for path in rewritten[:_SHOWN]:
        yield 1, f"{path}: made anew again and again, and sent as a whole each time; hint: {HINT}"
    if len(rewritten) > _SHOWN:
        yield 1, f"{len(rewritten) - _SHOWN:,} more files are made anew again and again"


def write(state: Path, facts: dict[str, Any], *, disk: Disk = DISK) -> None:
    """Leave the facts for `tape-agent status`; raises DiskError. Not made durable: a crash makes them stale anyway."""
    disk.replace_loosely(state / FILE, json.dumps(facts).encode("utf-8"))


def read(state: Path, *, clock: Clock) -> dict[str, Any]:
    """What the running service left; empty if there is none. Judged anew, stale facts as such."""
    try:
        facts: dict[str, Any] = json.loads((state / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    age = clock.now_ns() - facts["written_ns"]
    if age > STALE_AFTER_NS:
        facts["problems"].append({"level": 2, "text": f"the service has not reported for {age / 1e9:.0f} s"})
    return facts


def exit_code(facts: dict[str, Any]) -> int:
    """0 fine, 1 warning, 2 critical."""
    return max((problem["level"] for problem in facts["problems"]), default=0)
