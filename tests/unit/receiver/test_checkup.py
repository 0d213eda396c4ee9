"""`check` examines each kind of target and says which one fails, how badly, and what to do."""

from pathlib import Path
from typing import Any

import pytest

from receiver.catalog import Catalog
from receiver.checkup import examine
from receiver.settings import ReceiverSettings
from receiver.targets.marker import prepare
from tape.checks import Finding
from tape.clock import SYSTEM
from tape.keys import HOST_KEY, RECEIPT_KEY, make_receipt_key, make_ssh_key
from tests.support.disks import plugged
from tests.support.ports import free_port

DAY_NS = 86_400_000_000_000


class House:
    """A home side on folders: home and nas, and what a test adds."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.state.mkdir()
        make_ssh_key(self.state / HOST_KEY, "test")
        make_receipt_key(self.state / RECEIPT_KEY)
        self.targets: list[dict[str, Any]] = []
        self.more: dict[str, Any] = {}
        self.add("home", home=True)
        self.add("nas")

    def add(self, name: str, **options: Any) -> Path:
        """A prepared folder as a target, on the medium `disk` unless told otherwise."""
        folder = Path(options.pop("path", self.root / name))
        prepare(folder, name, clock=SYSTEM)
        self.targets.append({"id": name, "path": str(folder), **options})
        return folder

    def check(self) -> dict[str, Finding]:
        """Findings by what they are about; of several, the worst."""
        settings = ReceiverSettings.model_validate({"state": str(self.state), "target": self.targets, **self.more})
        found: dict[str, Finding] = {}
        for finding in examine(settings):
            if finding.what not in found or finding.level > found[finding.what].level:
                found[finding.what] = finding
        return found


@pytest.fixture
def house(tmp_path: Path) -> House:
    """See the class."""
    return House(tmp_path)


def test_what_is_well_says_so(house: House) -> None:
    """Every target with its kind, folder and space; the rule and the release rule by name."""
    found = house.check()
    for name in ("home", "nas"):
        assert (found[f"target {name}"].level, found[f"target {name}"].hint) == (0, "")
        assert f"directory in {house.root / name}, ready on disk at home" in found[f"target {name}"].text
        assert "free" in found[f"target {name}"].text
    assert found["policy"].level == 0
    assert "2 copies, one of them at home; the server may free a segment at 2 copies" in found["policy"].text
    assert (found["3-2-1"].level, "less than 3-2-1" in found["3-2-1"].text) == (1, True)


def test_a_missing_marker_is_critical_at_home_and_a_warning_elsewhere(house: House) -> None:
    """Which folder has no marker, and what to do."""
    for name, level in (("home", 2), ("nas", 1)):
        (house.root / name / ".hometape-target").unlink()
        finding = house.check()[f"target {name}"]
        assert finding.level == level
        assert f"{house.root / name} has no .hometape-target" in finding.text
        assert f"`tape-receiver resync {finding.what.split()[1]} --prepare`" in finding.hint


def test_a_folder_of_another_target_is_named(house: House) -> None:
    """The wrong disk at a mount point is told by both ids."""
    house.add("cellar", path=house.root / "cellar")
    house.targets[-1]["id"] = "attic"
    finding = house.check()["target attic"]
    assert finding.level == 1
    assert "'cellar', not 'attic'" in finding.text


def test_a_mount_point_without_its_mount_is_found(house: House) -> None:
    """`mounted = true` on a plain folder: nothing would be written there, and why is said."""
    house.targets[1]["mounted"] = True
    finding = house.check()["target nas"]
    assert finding.level == 1
    assert "mount" in finding.text + finding.hint


def test_a_disk_that_takes_no_writes_is_found(house: House) -> None:
    """Mounted read-only: told as that, and critical for home only."""
    with plugged(house.root, name="real") as disk:
        house.add("cellar", path=house.root / "real" / "tape", medium="cellar")
        assert house.check()["target cellar"].level == 0
        disk.remount("ro")
        finding = house.check()["target cellar"]
        assert finding.level == 1
        assert "no writes" in finding.text


def test_two_media_on_one_disk_are_told(house: House) -> None:
    """Different words for one file system: the policy would count two media that share a fate."""
    house.targets[1]["medium"] = "nas"
    finding = house.check()["target nas"]
    assert finding.level == 1
    assert "lies on the same file system as target home, so 'disk' and 'nas' are one medium" in finding.text


def test_a_removable_disk_may_be_away_until_it_is_due(house: House) -> None:
    """Never seen or away within its schedule is fine; overdue is a warning; plugged in, it is a folder."""
    media = house.root / "media"
    media.mkdir()
    house.more = {"disks": {"look_in": [str(media / "*")]}}
    house.targets.append({"id": "usb-a", "kind": "removable", "mounted": False, "medium": "disk"})
    finding = house.check()["target usb-a"]
    assert (finding.level, "never seen yet" in finding.text) == (0, True)
    with Catalog.open(house.state, clock=SYSTEM) as catalog:
        catalog.know_target("usb-a", "x", SYSTEM.now_ns() - 40 * DAY_NS)
    finding = house.check()["target usb-a"]
    assert (finding.level, "last seen 40 d ago, due every 31 d" in finding.text) == (1, True)
    with Catalog.open(house.state, clock=SYSTEM) as catalog:
        catalog.know_target("usb-a", "x", SYSTEM.now_ns() - 3 * DAY_NS)
    assert house.check()["target usb-a"].level == 0
    prepare(media / "stick" / "hometape", "usb-a", clock=SYSTEM)
    assert f"removable in {media / 'stick' / 'hometape'}, ready" in house.check()["target usb-a"].text


def test_a_remote_that_can_not_be_reached_is_a_warning_in_time(house: House) -> None:
    """Nobody listens there: said within the limit, with the target's name."""
    config = house.root / "rclone.conf"
    config.write_text(
        f"[dead]\ntype = webdav\nurl = http://127.0.0.1:{free_port()}/\nvendor = other\n",
        encoding="utf-8",
        newline="\n",
    )
    house.targets.append({"id": "cloud", "kind": "remote", "remote": "dead:tape", "rclone_config": str(config)})
    began = SYSTEM.monotonic()
    finding = house.check()["target cloud"]
    assert finding.level == 1
    assert finding.text.startswith("absent: ")
    assert SYSTEM.monotonic() - began < 60


def test_a_policy_out_of_reach_is_critical(house: House) -> None:
    """More copies than targets: refused with the reason, here as by every other command."""
    house.more = {"policy": {"copies": 3}}
    finding = house.check()["policy"]
    assert finding.level == 2
    assert "2 of 3 copies" in finding.text
    assert finding.hint


def test_each_override_is_listed(house: House) -> None:
    """Streams with a rule of their own are named with it."""
    house.more = {"policy": {"stream": [{"match": "*/other", "copies": 1, "media": 1, "sites": 1}]}}
    assert "1 copy, at home" in house.check()["policy */other"].text
