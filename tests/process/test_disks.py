"""Removable disks and the real service: plugged in, pulled in mid-write, swapped, cloned, let go, retired."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from receiver.targets.directory import TEMP_FOLDER
from tests.support.disks import LINUX_ONLY, LoopDisk
from tests.support.homeside import HomeSide
from tests.support.processes import Finished, command, run
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("disks"), LINUX_ONLY]


class Desk(HomeSide):
    """A home side that looks for disks in a folder of its own, with disks in a drawer."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.media = folder / "media"
        self.media.mkdir()
        self.edit("#look_in = []", f'look_in = ["{self.media}/*"]')
        self.disks: list[LoopDisk] = []

    def disk(self, name: str, kind: str = "ext4", size: int = 24) -> LoopDisk:
        """A fresh, empty disk."""
        disk = LoopDisk(self.folder / f"{name}.img", kind, size)
        self.disks.append(disk)
        return disk

    def prepared(self, name: str, where: str, *words: str, **more: Any) -> LoopDisk:
        """A disk that `disk init` made ready, mounted at a place."""
        disk = self.disk(name, **more)
        self.tool("init", name, str(disk.plug(self.media / where)), *words)
        return disk

    def tool(self, *words: str, codes: Sequence[int] = (0,), within: float = 60) -> Finished:
        """Run `tape-receiver disk`."""
        done = run([*command("tape-receiver"), "disk", words[0], "--config", self.toml, *words[1:]], within=within)
        assert done.code in codes, f"disk {' '.join(words)} ended with {done.code}\n{done.out}\n{done.err}"
        return done

    def listed(self, name: str) -> dict[str, Any]:
        """What `disk list --json` says of one."""
        found = json.loads(self.tool("list", "--json", codes=(0, 1)).out)
        return dict(next(one for one in found if one["id"] == name))

    def wait_note(self, name: str, text: str) -> None:
        """Wait until `disk list` says this of a disk."""

        def said() -> str:
            one = self.listed(name)
            return f"{one['note']} {one['reason']}"

        wait_until(lambda: text in said(), within=30, every=0.2, what=f"{text!r} about {name}: {said()}")

    def close(self) -> None:
        """Put everything away."""
        for disk in self.disks:
            disk.__exit__()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A home side whose service is not started yet."""
    with Desk(tmp_path) as made:
        try:
            yield made
        finally:
            if made.service is not None:
                made.service.terminate()
            made.close()


def test_plugged_in_it_catches_up_and_says_so(desk: Desk) -> None:
    """`disk init` under a running service is enough; later segments wait for it; plugged in elsewhere it catches up."""
    desk.start()
    desk.deliver(6)
    desk.wait_receipt(held=6, safe=6)
    disk = desk.prepared("usb1", "sda1")
    desk.wait_copied("usb1", 6)
    desk.wait_note("usb1", "safe to unplug")
    assert desk.listed("usb1")["where"] == str(desk.media / "sda1" / "hometape")
    disk.pull()
    wait_until(lambda: desk.listed("usb1")["condition"] == "absent", within=20, every=0.2, what="the disk to be missed")
    desk.deliver(5)
    desk.wait_receipt(held=11, safe=11)
    away = desk.listed("usb1")
    assert (away["behind_segments"], away["overdue"], away["where"]) == (5, False, None)
    assert away["behind_bytes"] > 0
    assert away["seen_age_s"] is not None
    disk.plug(desk.media / "sdb1")
    desk.wait_copied("usb1", 11)
    desk.wait_note("usb1", "safe to unplug")
    assert desk.service is not None
    assert "a sample of what was there was read again" in desk.service.err()
    assert len(list((desk.media / "sdb1" / "hometape").glob("box/**/*.parquet"))) == 11
    for sums in (desk.media / "sdb1" / "hometape").rglob("SHA256SUMS"):
        assert run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=sums.parent).code == 0
    assert "usb1" in desk.tool("list").out


def test_pulled_in_mid_write_it_returns_level(desk: Desk) -> None:
    """Pulled again and again while it is being filled, nothing half-written ever counts, and it ends level."""
    desk.start()
    disk = desk.prepared("usb1", "sda1", size=64)
    where = desk.media / "sda1"
    for _ in range(4):
        desk.deliver(150)
        wait_until(lambda: list(where.glob("hometape/box/**/*.parquet")), within=30, what="something to be written")
        disk.pull()
        assert list(where.iterdir()) == []
        wait_until(lambda: desk.listed("usb1")["condition"] == "absent", within=20, every=0.2, what="it to be missed")
        assert list(where.iterdir()) == []
        disk.plug(where)
    desk.wait_receipt(held=600, safe=600)
    desk.wait_copied("usb1", 600)
    desk.wait_note("usb1", "safe to unplug")
    assert list((where / "hometape" / TEMP_FOLDER).iterdir()) == []
    assert desk.status()["incidents"] == []
    desk.command("verify", "--target", "usb1")


def test_two_disks_take_turns(desk: Desk) -> None:
    """Two disks at one mount point in rotation: each gets what is its own, each knows its own lag."""
    one = desk.prepared("usb1", "usb")
    one.pull()
    two = desk.prepared("usb2", "usb")
    two.pull()
    desk.start()
    for disk, other in ((one, "usb2"), (two, "usb1"), (one, "usb2")):
        name = disk.image.stem
        desk.deliver(3)
        desk.wait_receipt(held=desk.sent, safe=desk.sent)
        disk.plug(desk.media / "usb")
        desk.wait_copied(name, desk.sent)
        desk.wait_note(name, "safe to unplug")
        assert desk.listed(other)["condition"] == "absent"
        disk.pull()
        wait_until(lambda: desk.listed(name)["condition"] == "absent", within=20, every=0.2)  # noqa: B023 - used at once
    assert desk.copied("usb1") == 9
    assert desk.copied("usb2") == 6


def test_a_clone_is_refused(desk: Desk) -> None:
    """With a byte-for-byte clone beside it nothing is written to either, and the reason names both places."""
    disk = desk.prepared("usb1", "one")
    desk.start()
    desk.deliver(2)
    desk.wait_copied("usb1", 2)
    disk.pull()
    clone = disk.clone(desk.folder / "clone.img")
    desk.disks.append(clone)
    disk.plug(desk.media / "one")
    clone.plug(desk.media / "two")
    wait_until(lambda: desk.listed("usb1")["condition"] == "refused", within=20, every=0.2, what="the clone to be seen")
    found = desk.listed("usb1")
    assert str(desk.media / "one") in found["reason"]
    assert str(desk.media / "two") in found["reason"]
    desk.deliver(3)
    desk.wait_receipt(held=5, safe=5)
    assert len(list(desk.media.rglob("*.parquet"))) == 4
    done = desk.tool("eject", "usb1", codes=(77,))
    assert "same id" in done.err


def test_ejected_by_the_service(desk: Desk) -> None:
    """`disk eject --wait` under a running service: level, unmounted, and used again only after it was plugged in."""
    disk = desk.prepared("usb1", "one")
    desk.start()
    desk.deliver(50)
    desk.wait_receipt(held=50, safe=50)
    done = desk.tool("eject", "usb1", "--wait")
    assert "safe to unplug" in done.out
    disk.unmounted()
    assert desk.copied("usb1") == 50
    wait_until(lambda: "away" in desk.listed("usb1")["reason"], within=20, every=0.2, what="it to be listed as away")
    assert desk.tool("eject", "usb1", codes=(69,)).err.count("hint:") == 1
    disk.plug(desk.media / "elsewhere")
    desk.deliver(1)
    desk.wait_copied("usb1", 51)


def test_ejected_while_somebody_looks_at_it(desk: Desk) -> None:
    """A disk that a file manager holds is let go but stays mounted: exit 1 and why; the same command ends it later."""
    disk = desk.prepared("usb1", "one")
    desk.start()
    desk.deliver(3)
    desk.wait_copied("usb1", 3)
    with (desk.media / "one" / "open").open("wb"):
        done = desk.tool("eject", "usb1", codes=(1,))
    assert "busy" in done.out
    assert "hint:" in done.out
    desk.deliver(2)
    desk.wait_receipt(held=5, safe=5)
    desk.wait_note("usb1", "let go")
    assert desk.copied("usb1") == 3
    with (desk.media / "one" / "open").open("wb"):
        again = desk.tool("eject", "usb1", codes=(69,))
    assert again.err.startswith("usb1: let go with all that was written")
    assert "`tape-receiver disk eject usb1` tries that again" in again.err
    assert "safe to unplug" in desk.tool("eject", "usb1").out
    assert not (desk.media / "one").is_mount()
    disk.unmounted()
    wait_until(lambda: "away" in desk.listed("usb1")["reason"], within=20, every=0.2, what="it to be missed")
    disk.plug(desk.media / "one")
    desk.wait_copied("usb1", 5)


def test_ejected_without_the_service(desk: Desk) -> None:
    """No service runs: the command does it itself."""
    disk = desk.prepared("usb1", "one")
    desk.start().terminate()
    assert "safe to unplug" in desk.tool("eject", "usb1").out
    disk.unmounted()


def test_unmounted_by_itself_when_level(desk: Desk) -> None:
    """With `unmount = true` a disk is unmounted as soon as nothing is missing there, each time it is plugged in."""
    disk = desk.prepared("usb1", "one", "--unmount")
    disk.pull()
    desk.start()
    for _ in range(2):
        desk.deliver(4)
        desk.wait_receipt(held=desk.sent, safe=desk.sent)
        disk.plug(desk.media / "one")
        desk.wait_copied("usb1", desk.sent)
        wait_until(lambda: not disk.mounted, within=30, what="the disk to be unmounted")
        disk.unmounted()


def test_retired_and_replaced(desk: Desk) -> None:
    """A dead disk: retired, its copies are forgotten; or replaced by another under its name, which gets everything."""
    desk.start()
    first = desk.prepared("usb1", "one")
    desk.deliver(4)
    desk.wait_copied("usb1", 4)
    first.pull()
    new = desk.disk("new")
    new.plug(desk.media / "one")
    assert "--replace" in desk.tool("init", "usb1", str(desk.media / "one"), codes=(73,)).err
    desk.tool("init", "usb1", str(desk.media / "one"), "--replace")
    wait_until(lambda: len(list(desk.media.rglob("*.parquet"))) == 4, within=30, what="the new disk to be filled")
    desk.wait_copied("usb1", 4)
    plan = desk.tool("retire", "usb1", "--dry-run")
    assert "4 segments" in plan.out
    assert "nothing was changed" in plan.out
    assert desk.copied("usb1") == 4
    assert "--yes" in desk.tool("retire", "usb1", codes=(64,)).err
    done = desk.tool("retire", "usb1", "--yes")
    assert "out of service" in done.out
    assert "has not taken up" not in done.err
    assert [one["id"] for one in desk.status()["targets"]] == ["home", "nas"]
    assert len(list(desk.media.rglob("*.parquet"))) == 4
    assert json.loads(desk.tool("list", "--json").out) == []
    desk.tool("init", "usb1", str(desk.media / "one"))
    desk.wait_copied("usb1", 4)
