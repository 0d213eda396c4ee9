"""A removable disk on real file systems: pulled in mid-write, cloned, swapped, ejected."""

import subprocess
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from receiver.targets.contract import Condition, Parcel, Place
from receiver.targets.directory import TEMP_FOLDER
from receiver.targets.marker import prepare
from receiver.targets.removable import RemovableTarget, Search
from tape.clock import ManualClock
from tape.digest import xxh3
from tape.errors import TargetAbsent, TargetRefused
from tape.names import SegmentName, SegmentPath
from tests.support.disks import LINUX_ONLY, LoopDisk

pytestmark = [pytest.mark.xdist_group("disks"), LINUX_ONLY]


def parcel(seq: int, data: bytes) -> Parcel:
    path = str(SegmentPath("bot", "s", date(2026, 1, 1), SegmentName("00112233445566aa", seq, xxh3(data))))
    return Parcel(path, len(data), xxh3(data), lambda: [data])


class Desk:
    """A machine with a place where disks appear, and targets that look there. Each look is a new one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.media = folder / "media"
        self.clock = ManualClock()
        self.disks: list[LoopDisk] = []

    def disk(self, target: str, kind: str = "ext4") -> LoopDisk:
        """A disk, prepared for a target and in the drawer."""
        disk = LoopDisk(self.folder / f"{target}.img", kind)
        self.disks.append(disk)
        prepare(disk.plug(self.folder / "prepare") / "hometape", target, clock=self.clock)
        disk.pull()
        return disk

    def target(self, name: str) -> RemovableTarget:
        search = Search(look_in=(str(self.media / "*"),))
        return RemovableTarget(Place(name, kind="removable"), search, clock=self.clock)

    def tick(self) -> None:
        """Time for another look."""
        self.clock.advance(2)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A machine; its disks are gone at the end."""
    made = Desk(tmp_path)
    yield made
    for disk in made.disks:
        disk.__exit__()


@pytest.mark.parametrize("kind", ["ext4", "exfat"])
def test_pulled_in_mid_write_it_resumes_at_another_place(desk: Desk, kind: str) -> None:
    """Nothing of the batch counts, nothing lands under the mount point; plugged in elsewhere it takes it again."""
    disk, usb = desk.disk("usb1", kind), desk.target("usb1")
    disk.plug(desk.media / "sda1")
    assert usb.put_many([parcel(0, b"before")]) == [None]

    def pulled() -> Iterator[bytes]:
        yield b"da"
        disk.pull()
        yield b"ta"

    item = parcel(2, b"data")
    answers = usb.put_many([parcel(1, b"first"), Parcel(item.path, 4, item.digest, pulled), parcel(3, b"third")])
    assert all(isinstance(answer, TargetAbsent) for answer in answers)
    assert list((desk.media / "sda1").iterdir()) == []
    assert "away" in usb.state().reason
    disk.plug(desk.media / "sdb1")
    desk.tick()
    assert usb.state().condition is Condition.READY
    usb.recover()
    assert usb.root is not None
    assert list((usb.root / TEMP_FOLDER).iterdir()) == []
    assert [entry.path for entry in usb.list()] == [parcel(0, b"before").path]
    assert usb.put_many([parcel(1, b"first"), item, parcel(3, b"third")]) == [None] * 3
    assert all(usb.verify(one.path).digest == one.digest for one in (parcel(1, b"first"), item))


def test_another_disk_at_the_same_place_is_another_target(desk: Desk) -> None:
    """Two disks that take turns at one mount point each get what is theirs."""
    one, two = desk.disk("usb1"), desk.disk("usb2")
    first, second = desk.target("usb1"), desk.target("usb2")
    for _ in range(2):
        one.plug(desk.media / "usb")
        desk.tick()
        assert (first.state().condition, second.state().condition) == (Condition.READY, Condition.ABSENT)
        first.put_many([parcel(1, b"one")])
        one.pull()
        two.plug(desk.media / "usb")
        desk.tick()
        assert (first.state().condition, second.state().condition) == (Condition.ABSENT, Condition.READY)
        second.put_many([parcel(2, b"two")])
        assert [entry.path for entry in second.list()] == [parcel(2, b"two").path]
        with pytest.raises(TargetAbsent):
            first.put_many([parcel(3, b"three")])
        two.pull()


def test_a_clone_beside_its_original(desk: Desk) -> None:
    """A disk copied with `dd` is refused together with its original, and neither is written to."""
    disk, usb = desk.disk("usb1"), desk.target("usb1")
    disk.plug(desk.media / "one")
    assert usb.put_many([parcel(0, b"x")]) == [None]
    disk.pull()
    clone = disk.clone(desk.folder / "clone.img")
    desk.disks.append(clone)
    disk.plug(desk.media / "one")
    clone.plug(desk.media / "two")
    desk.tick()
    assert usb.state().condition is Condition.REFUSED
    with pytest.raises(TargetRefused, match="same id"):
        usb.put_many([parcel(1, b"y")])
    assert len(list(desk.media.rglob("*.parquet"))) == 2


def test_one_disk_mounted_twice_is_one_disk(desk: Desk) -> None:
    """A desktop may mount what was mounted by hand: no clone."""
    disk, usb = desk.disk("usb1"), desk.target("usb1")
    disk.plug(desk.media / "one")
    (desk.media / "two").mkdir()
    subprocess.run(["mount", disk.device, desk.media / "two"], check=True)
    try:
        desk.tick()
        assert usb.put_many([parcel(0, b"x")]) == [None]
    finally:
        subprocess.run(["umount", desk.media / "two"], check=True)


def test_ejecting_unmounts(desk: Desk) -> None:
    """After an eject the disk is unmounted and whole, and plugged in again it is used again."""
    disk, usb = desk.disk("usb1"), desk.target("usb1")
    disk.plug(desk.media / "one")
    assert usb.put_many([parcel(seq, b"%d" % seq) for seq in range(20)]) == [None] * 20
    done = usb.eject()
    assert done.done, done.why
    assert done.where == desk.media / "one"
    disk.unmounted()
    assert list((desk.media / "one").iterdir()) == []
    desk.tick()
    assert "away" in usb.state().reason
    disk.plug(desk.media / "one")
    desk.tick()
    assert len(list(usb.list())) == 20


def test_ejecting_a_disk_that_somebody_else_uses(desk: Desk) -> None:
    """It is written out and let go, but not unmounted: the answer says why and what to do."""
    disk, usb = desk.disk("usb1"), desk.target("usb1")
    where = disk.plug(desk.media / "one")
    usb.put_many([parcel(0, b"x")])
    with (where / "somebody.txt").open("wb"):
        done = usb.eject()
    assert not done.done
    assert "busy" in done.why
    assert "fuser" in done.hint
    desk.tick()
    assert "safe to unplug" in usb.state().reason


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_disk_that_died_while_mounted_is_no_clone_of_itself(desk: Desk, kind: str) -> None:
    """Pulled without being unmounted, the dead mount stays in the system's table: back at a new place it is found."""
    disk, usb = desk.disk("usb1", kind), desk.target("usb1")
    disk.plug(desk.media / "one")
    assert usb.put_many([parcel(0, b"x")]) == [None]
    copy = disk.clone(desk.folder / "same.img") if kind == "ext4" else None
    disk.break_down()
    desk.tick()
    answers = []
    try:
        answers = usb.put_many([parcel(1, b"y")])
    except TargetAbsent as error:
        answers = [error]
    assert isinstance(answers[0], TargetAbsent)
    if copy is not None:
        desk.disks.append(copy)
        copy.plug(desk.media / "two")
        desk.tick()
        assert usb.state().condition is Condition.READY
        assert usb.root == desk.media / "two" / "hometape"
