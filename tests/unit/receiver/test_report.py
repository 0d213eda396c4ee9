"""The status tells what is where, how old each recovery point is, and never that all is well when it is not."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from receiver.fanout import Fanout
from receiver.model import Copy
from receiver.report import StatusReport, status
from receiver.report_view import render
from receiver.settings import ReceiverSettings
from tape.clock import ManualClock
from tape.sayings import duration, size
from tests.support.archive import Archive
from tests.support.segments import START_NS, Maker

SECOND = 1_000_000_000
LIVE: dict[str, Any] = {"lanes": [], "connected": {"box": 1}}


@pytest.fixture
def clock() -> ManualClock:
    """Stands a minute after the first segments."""
    return ManualClock(wall_ns=START_NS + 60 * SECOND)


@pytest.fixture
def archive(tmp_path: Path, clock: ManualClock) -> Iterator[Archive]:
    """Home and nas."""
    made = Archive(tmp_path, clock=clock)
    yield made
    made.catalog.close()


def settings(archive: Archive, **more: object) -> ReceiverSettings:
    places = [{"id": t.id, "path": str(archive.root / t.id), "home": t.place.home} for t in archive.targets]
    return ReceiverSettings.model_validate({"state": str(archive.root / "state"), "target": places, **more})


def report(archive: Archive, live: dict[str, Any] | None = LIVE, **more: object) -> StatusReport:
    return status(settings(archive, **more), archive.catalog, archive.targets, clock=archive.clock, live=live)


async def drain(archive: Archive) -> None:
    await Fanout(archive.catalog, archive.targets, clock=archive.clock).drain()


def test_troubles_of_a_drop_box_are_told(archive: Archive) -> None:
    """A folder that is gone is a warning with its hint, critical after an hour; one odd upload stays a warning."""
    gone = {"about": "box", "text": "it can't be worked on: gone", "hint": "mount it", "since_s": 5.0}
    upload = {"about": "upload", "text": "'x' could not be copied", "hint": "", "since_s": 9e9}
    box = {"agent": "box", "folder": "/srv/box", "troubles": [gone, upload], "count": 4}
    found = report(archive, {**LIVE, "boxes": [box]})
    assert found.exit_code == 1
    assert "drop box of box (/srv/box): it can't be worked on: gone" in reasons(found)
    assert "drop box of box: 2 more troubles" in reasons(found)
    assert "mount it" in found.to_json()
    gone["since_s"] = 3601.0
    assert report(archive, {**LIVE, "boxes": [box]}).exit_code == 2
    assert report(archive, {**LIVE, "boxes": [{**box, "troubles": [], "count": 0}]}).exit_code == 0


def reasons(found: StatusReport) -> str:
    return "\n".join(reason.text for reason in found.reasons)


async def test_all_is_well(archive: Archive) -> None:
    """With everything copied, the page says so: exit 0, no reasons, level recovery points, all satisfied."""
    archive.commit(10)
    await drain(archive)
    found = report(archive)
    assert (found.exit_code, found.reasons) == (0, ())
    assert (found.policy.segments, found.policy.satisfied) == (10, 10)
    newest = START_NS + 9 * SECOND + 2
    for target in found.targets:
        assert (target.segments, target.rows, target.behind_segments, target.recovery_point_ns) == (10, 30, 0, newest)
        assert target.age_s == pytest.approx(51, abs=0.1)
        assert target.free_bytes
    (stream,) = found.streams
    assert (stream.segments, stream.rows, stream.recv_last_ns) == (10, 30, newest)
    assert stream.targets["nas"].recovery_point_ns == newest
    assert json.loads(found.to_json())["targets"][1]["id"] == "nas"
    assert found.connected == {"box": 1}


async def test_nothing_yet_is_well_too(archive: Archive) -> None:
    """A fresh receiver that runs has nothing to complain about."""
    assert report(archive).exit_code == 0
    assert report(archive).targets[0].recovery_point_ns is None


async def test_a_target_behind_shows_how_far_and_why(archive: Archive, clock: ManualClock) -> None:
    """Behind is counted from the first segment without a copy; past its age it is a warning with the cause."""
    archive.commit(4)
    await drain(archive)
    (archive.root / "nas" / ".hometape-target").unlink()
    archive.commit(3)
    await drain(archive)
    found = report(archive)
    home, nas = found.targets
    assert (home.behind_segments, nas.behind_segments) == (0, 3)
    assert nas.behind_bytes == sum(len(made.data) for made in archive.made[4:])
    assert nas.recovery_point_ns == START_NS + 4 * SECOND - 1
    assert (found.policy.satisfied, found.policy.at_risk) == (4, 3)
    assert found.policy.lacking == {"1 of 2 copies": 3}
    assert (found.exit_code, found.reasons) == (0, ())
    assert "no .hometape-target" in nas.why_behind
    clock.advance(27 * 3600)
    later = report(archive, live_age=0)
    assert "target nas is behind by 27.0 h for box/demo/ticks (3 segments, 2.3 kB)" in reasons(later)
    assert ".hometape-target" in reasons(later)


async def test_an_absent_home_is_critical(archive: Archive) -> None:
    """Without the home archive nothing can be taken: exit 2."""
    (archive.root / "home" / ".hometape-target").unlink()
    assert report(archive).exit_code == 2


async def test_silence_is_a_fault(archive: Archive, clock: ManualClock) -> None:
    """A stream of which nothing new has come for too long is a warning, unless that is turned off."""
    archive.commit(1)
    archive.take(Maker(stream="hometape/events", epoch="00000000000000bb", real=False).many(1))
    await drain(archive)
    clock.advance(600)
    found = report(archive, live_age=300)
    assert found.exit_code == 1
    assert "nothing newer than 11 min has come of box/demo/ticks" in reasons(found)
    assert "hometape/events" not in reasons(found)
    assert report(archive, live_age=0).exit_code == 0
    old = {"stream": [{"match": "box/demo/*", "live_age": "0 s"}]}
    assert report(archive, live_age=300, policy=old).exit_code == 0
    other = {"stream": [{"match": "box/other/*", "live_age": "0 s"}]}
    assert report(archive, live_age=300, policy=other).exit_code == 1


async def test_a_service_that_does_not_run_is_told(archive: Archive) -> None:
    """Without a sign of life of the service the exit code is 1 at least."""
    found = report(archive, live=None)
    assert (found.exit_code, found.running) == (1, False)
    assert "the service is not running" in reasons(found)


async def test_gaps_and_incidents_are_told(archive: Archive) -> None:
    """Missing segments, holes in files and incidents all show; a lost segment is critical."""
    made = archive.maker.many(5)
    archive.take([made[0], made[3], made[4]])
    await drain(archive)
    found = report(archive)
    assert found.exit_code == 1
    assert "2 segments of box/demo/ticks are missing" in reasons(found)
    assert "bytes of files of box/demo/ticks are in no segment" in reasons(found)
    held = archive.catalog.find("box", "demo/ticks", made[0].footer.epoch, 3)
    assert held is not None
    archive.catalog.drop_copy(held.id, "nas", "flipped")
    assert report(archive).exit_code == 1
    archive.catalog.want_again(held.id, "gone everywhere")
    found = report(archive)
    assert found.exit_code == 2
    assert found.reasons[0].text.startswith("lost: ")
    assert {incident["kind"] for incident in found.incidents} == {"copy", "lost"}


async def test_unproven_segments_are_not_called_copies(archive: Archive) -> None:
    """What was committed but not yet read back counts as unproven, nowhere as a copy."""
    held = archive.commit(3)
    found = report(archive)
    assert (found.policy.unproven, found.policy.satisfied) == (3, 0)
    assert [target.segments for target in found.targets] == [0, 0]
    assert (found.targets[0].recovery_point_ns, found.targets[0].age_s) == (None, 60)
    archive.catalog.add_copies([Copy(held[0].id, "retired", 1, "by hand")])
    found = report(archive)
    assert found.policy.unproven == 3
    assert [group.copies_at for group in found.policy.groups] == [()]


async def test_lanes_give_rate_and_time_left(archive: Archive) -> None:
    """What the service says of a lane becomes the rate and the time until level."""
    archive.commit(10)
    lane = {"target": "nas", "segments_s": 2.0, "bytes_s": 100, "error": "", "under_way": 3}
    nas = report(archive, live={"lanes": [lane], "connected": {}}).targets[1]
    assert (nas.segments_s, nas.level_in_s, nas.why_behind) == (2.0, 5.0, "catching up")


async def test_the_page_shows_it_all(archive: Archive, clock: ManualClock) -> None:
    """The tables name every target and stream, and every reason with its hint."""
    archive.commit(2)
    await drain(archive)
    (archive.root / "nas" / ".hometape-target").unlink()
    archive.commit(1)
    clock.advance(7200)
    out = io.StringIO()
    Console(file=out, width=250).print(render(report(archive)))
    page = out.getvalue()
    for word in (
        "home (home)",
        "nas",
        "absent",
        "box/demo/ticks",
        "3-2-1: 2 of 3 segments satisfied, 1 not proven yet (",
        "since 2.0 h: waiting for home",
        "2 copies, one of them at home; the server may free it at 2 copies",
        "hint:",
    ):
        assert word in page


def test_ages_and_sizes_are_readable() -> None:
    """Numbers are shown in the unit people use."""
    ages = (0.4, 89, 120, 4000, 10_000, 400_000)
    assert [duration(s) for s in ages] == ["0 s", "89 s", "2 min", "67 min", "2.8 h", "5 d"]
    assert [size(n) for n in (0, 999, 1000, 5_400_000, 10**12 * 3)] == ["0 B", "999 B", "1.0 kB", "5.4 MB", "3.0 TB"]
