"""What `tape-agent status` shows and judges, from an outbox and the facts of the running service."""

from dataclasses import replace
from pathlib import Path

import pytest

from agent.budget import Pause
from agent.model import Event, EventKind
from agent.outbox_events import MOST_GAPS
from agent.push import Progress
from agent.settings import AgentSettings
from agent.space import Collecting
from agent.status import GAPS_TOLD_NS, STALE_AFTER_NS, collect, exit_code, read, write
from tape.clock import ManualClock
from tape.settings import load
from tests.unit.agent.outboxes import open_outbox, place_and_commit

CONFIG = Path(__file__).parents[3] / "configs" / "agent.toml"
READING = Collecting(Pause.NONE, 0, 1, 0, 0.0, ())
LINKED = Progress(connections=1, server="home")


@pytest.fixture
def settings() -> AgentSettings:
    """The example configuration."""
    return load(AgentSettings, CONFIG)


def gap(ns: int, kind: EventKind = EventKind.GAP, **detail: str | int | None) -> Event:
    """A gap seen at that time."""
    return Event(kind, "feed", "demo/ticks", f"/data/{ns}.zip", ns, detail, "storage")


def test_a_gap_is_a_warning_for_a_day(tmp_path: Path, settings: AgentSettings) -> None:
    """What could not be read whole is told with its reason, also after a restart or its sealing; not for ever."""
    clock = ManualClock(wall_ns=1_000)
    now = clock.now_ns()
    outbox = open_outbox(tmp_path, clock=clock)
    assert collect(settings, outbox, clock=clock, progress=LINKED, collecting=READING)["problems"] == []
    outbox.add_events([gap(now, reason="is encrypted", bytes=None), gap(now + 1, EventKind.ROTATED)])
    place_and_commit(outbox, outbox.events_origin, length=outbox.events_end())
    outbox.close()
    outbox = open_outbox(tmp_path, clock=clock)
    facts = collect(settings, outbox, clock=clock, progress=LINKED, collecting=READING)
    text = f"not read whole: /data/{now}.zip: is encrypted; see docs/incidents.md"
    assert facts["problems"] == [{"level": 1, "text": text}]
    assert exit_code(facts) == 1
    outbox.add_events([gap(now + 2, bytes=7), gap(now + 3, EventKind.UNREADABLE, reason="permission denied")])
    (told,) = collect(settings, outbox, clock=clock, progress=LINKED, collecting=READING)["problems"]
    assert told["text"].startswith(f"not read whole: /data/{now + 3}.zip: permission denied; 3 such events in a day")
    assert [one.why for one in outbox.gaps()] == ["is encrypted", "7 bytes are missing", "permission denied"]
    clock.advance(GAPS_TOLD_NS / 1e9 + 1)
    facts = collect(settings, outbox, clock=clock, progress=LINKED, collecting=READING)
    assert facts["gaps"] == []
    assert not [problem for problem in facts["problems"] if "not read whole" in problem["text"]]
    outbox.close()


def test_only_the_newest_gaps_are_kept(tmp_path: Path) -> None:
    """A disk full of damaged archives does not fill the outbox."""
    outbox = open_outbox(tmp_path)
    for start in range(0, 3 * MOST_GAPS, 50):
        outbox.add_events([gap(ns, bytes=None) for ns in range(start, start + 50)])
    assert [one.ns for one in outbox.gaps()] == list(range(2 * MOST_GAPS, 3 * MOST_GAPS))
    assert outbox.gaps()[0].why == "bytes are missing"
    outbox.close()


@pytest.mark.parametrize(
    ("collecting", "progress", "level", "part"),
    [
        (None, None, 2, "the service does not run"),
        (replace(READING, stuck=("demo: no room",)), LINKED, 2, "can't be sealed: demo: no room"),
        (replace(READING, pause=Pause.DISK_FULL), LINKED, 2, "sealing is paused"),
        (READING, Progress(last_error="refused"), 1, "no connection to home: refused"),
        (READING, replace(LINKED, receipt_errors={"demo": "bad signature"}), 2, "demo: bad signature"),
    ],
)
def test_each_fault_is_told(
    collecting: Collecting | None,
    progress: Progress | None,
    level: int,
    part: str,
    tmp_path: Path,
    settings: AgentSettings,
) -> None:
    """Each with its level and a text that names it; the exit code is that of the worst."""
    outbox = open_outbox(tmp_path)
    facts = collect(settings, outbox, clock=ManualClock(), progress=progress, collecting=collecting)
    outbox.close()
    (problem,) = facts["problems"]
    assert problem["level"] == exit_code(facts) == level
    assert part in problem["text"]


def test_a_delivery_that_failed_is_told_until_one_succeeds(tmp_path: Path, settings: AgentSettings) -> None:
    """A server that is reached and takes nothing (read-only, full): told at once, as long as something waits."""
    outbox = open_outbox(tmp_path)
    failed = replace(LINKED, last_ok_ns=1, last_error_ns=2, last_error="delivering x: permission denied")

    def told(progress: Progress) -> list[str]:
        facts = collect(settings, outbox, clock=ManualClock(wall_ns=1_000), progress=progress, collecting=READING)
        return [problem["text"] for problem in facts["problems"]]

    assert told(failed) == []
    place_and_commit(outbox)
    assert told(failed) == ["nothing has been delivered since an error: delivering x: permission denied"]
    assert told(replace(failed, last_ok_ns=3)) == []
    outbox.close()


def test_what_waits_too_long_is_told(tmp_path: Path, settings: AgentSettings) -> None:
    """A segment that waits for home: first a warning, then critical."""
    clock = ManualClock(wall_ns=1_000)
    outbox = open_outbox(tmp_path, clock=clock)
    place_and_commit(outbox)
    levels = []
    for after in (0.0, settings.alarm.warn_after, settings.alarm.critical_after):
        clock.advance(after)
        facts = collect(settings, outbox, clock=clock, progress=LINKED, collecting=READING)
        levels.append(exit_code(facts))
    outbox.close()
    assert levels == [0, 1, 2]


def test_facts_that_nobody_renews_are_stale(tmp_path: Path, settings: AgentSettings) -> None:
    """A service that hangs leaves old facts: they are shown, and judged critical."""
    clock = ManualClock(wall_ns=1_000)
    outbox = open_outbox(tmp_path, clock=clock)
    write(tmp_path, collect(settings, outbox, clock=clock, progress=LINKED, collecting=READING))
    outbox.close()
    assert exit_code(read(tmp_path, clock=clock)) == 0
    clock.advance(STALE_AFTER_NS / 1e9 + 1)
    assert exit_code(read(tmp_path, clock=clock)) == 2
    assert read(tmp_path / "elsewhere", clock=clock) == {}
