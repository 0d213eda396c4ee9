"""The targets in figures: removable disks by their schedule, others by their max_age, space by its forecast."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from receiver.fanout import Fanout
from receiver.model import Copy
from receiver.report import StatusReport, status
from receiver.report_targets import Seen, TargetReport, full_in_days, probe, target_report
from receiver.report_view import render
from receiver.settings import ReceiverSettings
from receiver.targets.contract import Condition, Place, State, Target
from receiver.targets.marker import prepare
from receiver.targets.memory import MemoryTarget
from receiver.targets.opening import open_targets
from receiver.targets.wrapping import Wrapper
from tape.clock import ManualClock
from tests.support.archive import Archive, Mischief
from tests.support.ports import free_port
from tests.support.segments import START_NS

SECOND = 1_000_000_000
HOUR, DAY = 3600.0, 86400.0


@pytest.fixture
def clock() -> ManualClock:
    """Stands a minute after the first segments."""
    return ManualClock(wall_ns=START_NS + 60 * SECOND)


class Roomy(Wrapper):
    """A target with so many free bytes, its own if None."""

    def __init__(self, inner: Target, room: int | None) -> None:
        super().__init__(inner)
        self.room = room

    def free(self) -> int | None:
        return self.inner.free() if self.room is None else self.room


class Disks:
    """Home, nas and the removable disk usb-a, which appears below `media` when plugged in; real targets throughout."""

    def __init__(self, root: Path, clock: ManualClock) -> None:
        self.archive = Archive(root, clock=clock)
        self.clock = clock
        self.media = root / "media"
        self.media.mkdir()
        self.drawer = root / "drawer"
        self.more: list[dict[str, Any]] = []
        prepare(self.drawer / "stick" / "hometape", "usb-a", clock=clock)

    def plug(self) -> None:
        (self.drawer / "stick").rename(self.media / "stick")

    def pull(self) -> None:
        (self.media / "stick").rename(self.drawer / "stick")

    def settings(self) -> ReceiverSettings:
        root = self.archive.root
        return ReceiverSettings.model_validate(
            {
                "state": str(root / "state"),
                "live_age": 0,
                "disks": {"look_in": [str(self.media / "*")]},
                "target": [
                    {"id": "home", "path": str(root / "home"), "home": True},
                    {"id": "nas", "path": str(root / "nas"), "medium": "nas"},
                    {"id": "usb-a", "kind": "removable", "mounted": False},
                    *self.more,
                ],
            }
        )

    async def bring_level(self) -> None:
        """What the service does: every target as far as it can be, and who was there when."""
        targets = open_targets(self.settings())
        for target in targets:
            if target.state().readable:
                self.archive.catalog.know_target(target.id, target.instance(), self.clock.now_ns())
        await Fanout(self.archive.catalog, targets, clock=self.clock).drain()

    def report(self, *, room: Mapping[str, int] | None = None, **live: Any) -> StatusReport:
        facts = {"lanes": [], "connected": {}, **live}
        targets = [Roomy(target, (room or {}).get(target.id)) for target in open_targets(self.settings())]
        return status(self.settings(), self.archive.catalog, targets, clock=self.clock, live=facts)

    def usb(self) -> TargetReport:
        return next(one for one in self.report().targets if one.id == "usb-a")


@pytest.fixture
def disks(tmp_path: Path, clock: ManualClock) -> Iterator[Disks]:
    """See the class."""
    made = Disks(tmp_path, clock)
    yield made
    made.archive.catalog.close()


def texts(found: StatusReport) -> str:
    return "\n".join(reason.text for reason in found.reasons)


async def test_a_disk_in_the_drawer_is_fine_within_its_schedule(disks: Disks) -> None:
    """Away for less than a month: no warning, but its last-seen age and how far it is behind stay visible."""
    disks.archive.commit(4)
    disks.plug()
    await disks.bring_level()
    disks.pull()
    disks.clock.advance(3 * DAY)
    disks.archive.commit(2)
    await disks.bring_level()
    found = disks.report()
    assert (found.exit_code, found.reasons) == (0, ())
    usb = disks.usb()
    assert (usb.kind, usb.condition, usb.segments, usb.behind_segments) == ("removable", "absent", 4, 2)
    assert usb.behind_bytes == sum(len(made.data) for made in disks.archive.made[4:])
    assert (usb.seen_age_s, usb.overdue, usb.why_behind) == (3 * DAY, False, "away for 3 d")
    assert "away, seen 3 d ago" in shown(found)


async def test_an_overdue_disk_is_a_warning_until_it_comes(disks: Disks) -> None:
    """Past its schedule the disk is asked for, whether or not it lacks anything; plugged in and level, all is well."""
    disks.archive.commit(4)
    disks.plug()
    await disks.bring_level()
    disks.pull()
    disks.clock.advance(31 * DAY + 1)
    found = disks.report()
    assert found.exit_code == 1
    assert "target usb-a is overdue: last seen 31 d ago, due every 31 d, behind by 0 segments" in texts(found)
    assert "overdue" in shown(found)
    disks.archive.commit(1)
    await disks.bring_level()
    assert "behind by 1 segment" in texts(disks.report())
    disks.plug()
    await disks.bring_level()
    assert (disks.report().exit_code, disks.usb().behind_segments, disks.usb().seen_age_s) == (0, 0, 0)


async def test_a_disk_that_never_came_is_missed_after_its_schedule(disks: Disks) -> None:
    """A disk that was configured and never plugged in counts from the first segment it lacks."""
    disks.archive.commit(1)
    await disks.bring_level()
    assert (disks.usb().seen_age_s, disks.usb().why_behind) == (None, "has never been seen")
    assert disks.report().exit_code == 0
    assert "never seen" in shown(disks.report())
    disks.clock.advance(32 * DAY)
    assert "target usb-a is behind by 32 d for box/demo/ticks (1 segment" in texts(disks.report())


async def test_an_absent_nas_warns_when_it_lacks_something_for_too_long(disks: Disks) -> None:
    """Away and level is no fault; away and behind is one after its max_age, not before."""
    disks.archive.commit(2)
    await disks.bring_level()
    (disks.archive.root / "nas" / ".hometape-target").unlink()
    disks.clock.advance(5 * DAY)
    assert disks.report().exit_code == 0
    held = disks.archive.commit(1)
    await disks.bring_level()
    disks.archive.catalog.add_copies([Copy(held[0].id, "usb-a", disks.clock.now_ns(), "read back")])
    disks.clock.advance(25 * HOUR)
    assert disks.report().exit_code == 0
    disks.clock.advance(2 * HOUR)
    found = disks.report()
    assert found.exit_code == 1
    assert "target nas is behind by 27.0 h" in texts(found)


async def test_a_target_that_takes_nothing_is_told_at_once(disks: Disks) -> None:
    """Full, read-only or refused is a fault by itself; being away is a matter of time. At home each is critical."""
    lane = {"condition": "refused", "reason": "the disk is there twice", "hint": "unplug one", "target": "usb-a"}
    found = disks.report(lanes=[lane])
    assert found.exit_code == 1
    assert "target usb-a is refused: the disk is there twice" in texts(found)
    assert found.reasons[0].hint == "unplug one"
    (disks.archive.root / "home" / ".hometape-target").unlink()
    assert disks.report().exit_code == 2


async def test_what_the_service_knows_of_a_disk_is_shown(disks: Disks) -> None:
    """Ejected, safe to unplug, its rate and time left: the lane's word counts, since a look can't tell."""
    disks.archive.commit(10)
    disks.plug()
    lane = {"target": "usb-a", "condition": "ready", "reason": "", "note": "safe to unplug", "segments_s": 2.0,
            "bytes_s": 100, "under_way": 1}  # fmt: skip
    found = disks.report(lanes=[lane])
    usb = found.targets[2]
    assert (usb.note, usb.level_in_s, usb.why_behind) == ("safe to unplug", 5.0, "catching up")
    assert usb.free_bytes
    page = shown(found)
    assert "safe to unplug" in page
    assert "5 s left" in page


def test_a_remote_is_told_as_the_service_last_saw_it(disks: Disks) -> None:
    """Asking a cloud takes seconds: with a service that does so, status does not; without one it asks itself."""
    config = disks.archive.root / "rclone.conf"
    config.write_text(
        f"[dead]\ntype = webdav\nurl = http://127.0.0.1:{free_port()}/\nvendor = other\n",
        encoding="utf-8",
        newline="\n",
    )
    disks.more = [{"id": "cloud", "kind": "remote", "remote": "dead:tape", "rclone_config": str(config)}]
    lane = {"target": "cloud", "condition": "ready", "reason": "", "free_bytes": 4321}
    cloud = disks.report(lanes=[lane]).targets[3]
    assert (cloud.condition, cloud.free_bytes, cloud.kind) == ("ready", 4321, "remote")
    assert disks.report().targets[3].condition == "absent"


@pytest.mark.parametrize(
    ("free", "lacking", "growth", "days"),
    [(None, 5, 5.0, None), (1000, 0, None, None), (1000, 0, 100.0, 10.0), (1000, 500, 100.0, 5.0), (10, 11, None, 0.0)],
)
def test_the_forecast(free: int | None, lacking: int, growth: float | None, days: float | None) -> None:
    """Free space minus what is still to come, by what a day brings."""
    assert full_in_days(free, lacking, growth) == days


async def test_a_target_soon_full_is_a_warning(disks: Disks) -> None:
    """Space for less than a week at the growth of the last days is told before it is used up, and shown."""
    disks.archive.commit(5)
    await disks.bring_level()
    disks.clock.advance(DAY)
    size = sum(len(made.data) for made in disks.archive.made)
    disks.plug()
    found = disks.report(room={"home": 100 * size, "nas": 3 * size, "usb-a": size // 2})
    home, nas, usb = found.targets
    assert (home.growth_bytes_day, home.full_in_days, nas.full_in_days, usb.full_in_days) == (size, 100, 3, 0)
    assert found.exit_code == 1
    assert "target nas will be full in 3 d" in texts(found)
    assert "target usb-a lacks" in texts(found)
    assert "target home" not in texts(found)
    assert "full in 3 d" in shown(found)


async def test_what_home_has_not_proven_lies_there_already(disks: Disks) -> None:
    """The home archive needs no room for what was committed and not read back yet."""
    disks.archive.commit(5)
    home, nas, _ = disks.report(room={"home": 10, "nas": 10}).targets
    assert (home.behind_segments, home.full_in_days) == (5, None)
    assert nas.full_in_days == 0


def test_a_silent_target_is_not_called_busy(clock: ManualClock) -> None:
    """A lane without a sign of life says for how long."""
    from receiver.catalog_state import Sums

    target = MemoryTarget(Place("far", kind="remote"))
    lane = {"under_way": 4, "silent_s": 300.0}
    seen = Seen(State(Condition.READY))
    found = target_report(target, [], seen, Sums(4, 40, START_NS), START_NS, lane, None, clock.now_ns())
    assert found.why_behind == "has not answered for 300 s"


def test_a_hanging_target_does_not_hang_the_status(tmp_path: Path, clock: ManualClock) -> None:
    """A target that does not answer is absent with that reason; the others are told as they are."""
    archive = Archive(tmp_path, clock=clock)
    stuck = Mischief(archive.others[0])
    stuck.gate.clear()
    try:
        found = probe([archive.home, stuck], within=0.05)
        assert found["home"].state.writable
        assert "has not answered" in found["nas"].state.reason
    finally:
        stuck.gate.set()
        archive.catalog.close()


def shown(found: StatusReport) -> str:
    out = io.StringIO()
    Console(file=out, width=300).print(render(found))
    return out.getvalue()
