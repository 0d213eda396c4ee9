"""3-2-1 in figures: every part of the archive under its own rule, dated, and told as loudly as it deserves."""

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from receiver.fanout import Fanout
from receiver.model import Copy, Held
from receiver.placement import Rule, Standing, Where
from receiver.policy import rules_of, wheres
from receiver.report import StatusReport, status
from receiver.report_policy import behind, lacks_of, level_of, rule_text, survey, waits_for
from receiver.report_view import render
from receiver.settings import ReceiverSettings, TargetSettings
from tape.clock import ManualClock
from tests.support.archive import Archive
from tests.support.segments import START_NS, Maker

SECOND = 1_000_000_000
HOUR, DAY = 3600.0, 86400.0
LIVE: dict[str, Any] = {"lanes": [], "connected": {}}
PLACES = {
    "home": Where("home", "pc-disk", "home", home=True),
    "nas": Where("nas", "nas", "home"),
    "usb-a": Where("usb-a", "usb", "home"),
    "cloud": Where("cloud", "cloud", "cloud"),
}
ENTRIES: list[dict[str, Any]] = [
    {"id": "home", "path": "home", "home": True},
    {"id": "nas", "path": "nas"},
    {"id": "usb-a", "kind": "removable"},
    {"id": "cloud", "kind": "remote", "remote": "cloud:tape"},
]
AGES = {entry["id"]: TargetSettings.model_validate(entry).max_age for entry in ENTRIES}


@pytest.fixture
def clock() -> ManualClock:
    """Stands a minute after the first segments."""
    return ManualClock(wall_ns=START_NS + 60 * SECOND)


@pytest.fixture
def archive(tmp_path: Path, clock: ManualClock) -> Iterator[Archive]:
    """Home, nas, usb-a and cloud, as PLACES has them."""
    made = Archive(tmp_path, names=("nas", "usb-a", "cloud"), clock=clock)
    yield made
    made.catalog.close()


def settings(archive: Archive, policy: dict[str, Any]) -> ReceiverSettings:
    places = [
        {"id": p.id, "path": str(archive.root / p.id), "home": p.home, "medium": p.medium, "site": p.site,
         "max_age": AGES[p.id]}
        for p in PLACES.values()
    ]  # fmt: skip
    return ReceiverSettings.model_validate(
        {"state": str(archive.root / "state"), "target": places, "policy": policy, "live_age": 0}
    )


def report(archive: Archive, **policy: Any) -> StatusReport:
    return status(settings(archive, policy), archive.catalog, archive.targets, clock=archive.clock, live=LIVE)


def look(archive: Archive, **policy: Any) -> None:
    """What the service does every minute."""
    chosen = settings(archive, policy)
    rules, places = rules_of(chosen), wheres(chosen)
    found = archive.catalog.ask(lambda base: survey(base, rules, places))
    archive.catalog.look(lacks_of(found, rules, places))


async def read_back(archive: Archive) -> None:
    await Fanout(archive.catalog, [archive.home], clock=archive.clock).drain()


def copy(archive: Archive, held: list[Held], *targets: str) -> None:
    """Verified copies, as the fan-out records them."""
    now = archive.clock.now_ns()
    archive.catalog.add_copies([Copy(one.id, target, now, "read back") for target in targets for one in held])


RULE = {"copies": 3, "media": 2, "sites": 2}


async def test_groups_say_what_how_much_since_when_and_for_whom(archive: Archive, clock: ManualClock) -> None:
    """Two segments lack the cloud, one has only home: both groups, with bytes, age and who is waited for."""
    held = archive.commit(6)
    await read_back(archive)
    copy(archive, held[:3], "nas", "cloud")
    copy(archive, held[3:5], "nas", "usb-a")
    clock.advance(7200)
    found = report(archive, **RULE)
    assert (found.policy.satisfied, found.policy.degraded, found.policy.at_risk) == (3, 2, 1)
    risk, degraded = found.policy.groups
    assert (degraded.standing, degraded.lacking) == ("degraded", ("1 of 2 sites",))
    assert degraded.copies_at == ("home", "nas", "usb-a")
    assert degraded.bytes == sum(one.size for one in held[3:5])
    assert degraded.since_ns == held[3].committed_ns
    assert [one.target for one in degraded.waiting_for] == ["cloud"]
    assert (risk.segments, risk.lacking) == (1, ("1 of 3 copies", "1 of 2 media", "1 of 2 sites"))
    assert [one.target for one in risk.waiting_for] == ["cloud", "nas"]
    assert risk.age_s == 7200
    assert found.policy.lacking == {"1 of 2 sites": 3, "1 of 3 copies": 1, "1 of 2 media": 1}


@pytest.mark.parametrize("seed", range(5))
async def test_the_figures_are_those_of_counting_each_segment(archive: Archive, seed: int) -> None:
    """Copies at random: every group, every sum and every target's lack is what counting one by one gives."""
    rng = random.Random(seed)
    held = archive.commit(300) + archive.take(
        Maker(stream="demo/other", epoch="00000000000000bb", file_id="e" * 32, real=False).many(40)
    )
    at = {one.id: {name for name in PLACES if rng.random() < (0.9 if one.id % 50 else 0.3)} for one in held}
    for name in PLACES:
        copy(archive, [one for one in held if name in at[one.id]], name)
    chosen = settings(archive, {**RULE, "stream": [{"match": "*/other", "copies": 2, "media": 1, "sites": 1}]})
    rules, places = rules_of(chosen), wheres(chosen)
    found = archive.catalog.ask(lambda base: survey(base, rules, places))
    expected: dict[tuple[str, frozenset[str]], list[Held]] = {}
    for one in held:
        key = (rules.of(one.path.agent, one.path.stream).match, frozenset(at[one.id]))
        expected.setdefault(key, []).append(one)
    assert {(part.match, part.names): (part.sums.segments, part.sums.bytes) for part in found.parts} == {
        key: (len(some), sum(one.size for one in some)) for key, some in expected.items()
    }
    for name in PLACES:
        lacking = [one for one in held if name not in at[one.id]]
        lack = behind(found, name)
        assert (lack.segments, lack.bytes) == (len(lacking), sum(one.size for one in lacking))
        assert lack.oldest_ns == min(one.committed_ns for one in lacking)


async def test_streams_count_by_their_own_rule(archive: Archive) -> None:
    """An override asks for less: its stream is satisfied, the same copies of another stream are not."""
    first = archive.commit(4)
    second = archive.take(Maker(stream="demo/other", epoch="00000000000000bb", file_id="e" * 32, real=False).many(3))
    await read_back(archive)
    copy(archive, [*first, *second], "nas")
    found = report(archive, **RULE, stream=[{"match": "*/other", "copies": 2, "media": 1, "sites": 1}])
    other, standard = found.policy.rules
    assert (other.match, other.streams, other.segments, other.satisfied) == ("*/other", 1, 3, 3)
    assert (standard.match, standard.streams, standard.segments, standard.degraded) == ("*", 1, 4, 4)
    assert (found.policy.segments, found.policy.satisfied, found.policy.degraded) == (7, 3, 4)
    assert {one.stream: one.policy for one in found.streams} == {"demo/other": "*/other", "demo/ticks": "*"}
    assert standard.release == "2 copies, one of them at home"
    page = shown(found)
    assert "3 copies on 2 media at 2 sites, one of them at home; the server may free it at 2 copies" in page
    assert "[*/other: 1 stream, 3 of 3 satisfied]" in page


async def test_an_override_for_everything_takes_the_place_of_the_standard(archive: Archive) -> None:
    """`*` as an override leaves nothing to the standard rule, and nothing is counted twice."""
    archive.commit(2)
    await read_back(archive)
    found = report(archive, **RULE, stream=[{"match": "*", "copies": 1, "media": 1, "sites": 1}])
    assert (found.policy.segments, found.policy.satisfied) == (2, 2)
    assert [(one.streams, one.segments) for one in found.policy.rules] == [(1, 2), (0, 0)]


async def test_the_glance_says_it_in_one_line(archive: Archive, clock: ManualClock) -> None:
    """Counts, bytes, the part of the rule, since when, and whom it waits for and why, in the first line."""
    held = archive.commit(3)
    await read_back(archive)
    copy(archive, held, "nas", "cloud")
    copy(archive, held[:1], "usb-a")
    (archive.root / "usb-a" / ".hometape-target").unlink()
    clock.advance(3 * HOUR)
    line = shown(report(archive, copies=4, media=4)).splitlines()[1]
    size = sum(one.size for one in held[1:]) / 1000
    assert line.startswith(f"3-2-1: 1 of 3 segments satisfied, 2 degraded ({size:.1f} kB, 3 of 4 copies, 3 of 4 media")
    assert "since 3.0 h: waiting for usb-a (" in line
    assert "no .hometape-target" in line


async def test_what_is_lost_is_told_and_not_called_unproven(archive: Archive) -> None:
    """A segment without any copy that the agent is asked for again counts by itself."""
    held = archive.commit(3)
    await read_back(archive)
    copy(archive, held, "nas", "cloud")
    for target in ("home", "nas", "cloud"):
        archive.catalog.drop_copy(held[1].id, target, "flipped")
    archive.catalog.want_again(held[1].id, "gone everywhere")
    found = report(archive, **RULE)
    assert (found.policy.segments, found.policy.satisfied, found.policy.lost, found.policy.unproven) == (3, 2, 1, 0)
    assert found.exit_code == 2
    assert "1 lost here and asked for again" in shown(found)


async def test_the_flow_of_new_segments_is_no_fault(archive: Archive, clock: ManualClock) -> None:
    """At every look some segment is on its way: each is a moment old, so nothing is ever reported."""
    for _ in range(120):
        held = archive.commit(1)
        look(archive, **RULE)
        assert report(archive, **RULE).exit_code == 0
        await read_back(archive)
        look(archive, **RULE)
        assert report(archive, **RULE).policy.at_risk == 1
        copy(archive, held, "nas", "cloud")
        clock.advance(60)
    found = report(archive, **RULE)
    assert (found.exit_code, found.policy.satisfied) == (0, 120)


async def test_old_segments_that_lose_a_copy_count_from_then(archive: Archive, clock: ManualClock) -> None:
    """A replaced disk costs old copies their standing now, not since they were committed."""
    held = archive.commit(3)
    await read_back(archive)
    copy(archive, held, "nas", "usb-a", "cloud")
    assert not archive.catalog.know_target("cloud", "first", clock.now_ns())
    clock.advance(400 * DAY)
    look(archive, **RULE)
    assert archive.catalog.know_target("cloud", "second", clock.now_ns())
    clock.advance(60)
    look(archive, **RULE)
    found = report(archive, **RULE)
    assert (found.policy.degraded, found.policy.groups[0].age_s, found.policy.groups[0].level) == (3, 60, 0)
    assert found.exit_code == 1
    assert found.reasons[0].text.startswith("replaced: ")
    cloud = next(one for one in found.targets if one.id == "cloud")
    assert (cloud.behind_segments, cloud.behind_s) == (3, 60)
    clock.advance(27 * HOUR)
    assert report(archive, **RULE).policy.groups[0].level == 1


@pytest.mark.parametrize(
    ("standing", "age", "level"),
    [
        (Standing.UNPROVEN, 299, 0),
        (Standing.UNPROVEN, 301, 1),
        (Standing.UNPROVEN, 3601, 2),
        (Standing.AT_RISK, 3599, 0),
        (Standing.AT_RISK, 3601, 1),
        (Standing.AT_RISK, 26 * HOUR, 1),
        (Standing.AT_RISK, 26 * HOUR + 1, 2),
        (Standing.DEGRADED, 26 * HOUR, 0),
        (Standing.DEGRADED, 26 * HOUR + 1, 1),
        (Standing.DEGRADED, 400 * DAY, 1),
        (Standing.SATISFIED, 400 * DAY, 0),
    ],
)
def test_levels(standing: Standing, age: float, level: int) -> None:
    """How loud each standing is after how long, where its targets may lag by 26 h."""
    assert level_of(standing, age, 26 * HOUR) == level


def test_a_live_target_is_missed_sooner() -> None:
    """Where the second copy should come within minutes, a single one is critical after them."""
    assert level_of(Standing.AT_RISK, 601, 600) == 2


def test_how_far_each_may_lag_by_itself() -> None:
    """Minutes for home, a day and a little for what is always there, a month for a disk in a drawer."""
    assert AGES == {"home": 15 * 60, "nas": 26 * HOUR, "usb-a": 31 * DAY, "cloud": 26 * HOUR}


@pytest.mark.parametrize(
    ("rule", "names", "targets", "patience"),
    [
        (Rule(2), {"home"}, ("cloud",), 26 * HOUR),
        (Rule(3, 2, 2), {"home"}, ("cloud", "nas"), 26 * HOUR),
        (Rule(3, 2, 2), {"home", "nas"}, ("cloud",), 26 * HOUR),
        (Rule(3, 2, 2), {"home", "nas", "usb-a"}, ("cloud",), 26 * HOUR),
        (Rule(4, 3, 2), {"home", "nas", "cloud"}, ("usb-a",), 31 * DAY),
        (Rule(2), set(), ("home", "cloud"), 26 * HOUR),
        (Rule(1), {"nas"}, ("home",), 900),
    ],
)
def test_who_is_waited_for(rule: Rule, names: set[str], targets: tuple[str, ...], patience: float) -> None:
    """The targets that must still get it, the quickest first, and none that the rule can do without."""
    assert waits_for(rule, PLACES, names, AGES) == (targets, patience)


def test_rules_read_as_sentences() -> None:
    """One copy, several, media and sites where they are asked for."""
    assert rule_text(Rule(1)) == "1 copy, at home"
    assert rule_text(Rule(2)) == "2 copies, one of them at home"
    assert rule_text(Rule(3, 2, 2)) == "3 copies on 2 media at 2 sites, one of them at home"


def shown(found: StatusReport) -> str:
    out = io.StringIO()
    Console(file=out, width=300).print(render(found))
    return out.getvalue()
