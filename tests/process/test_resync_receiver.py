"""`tape-receiver resync` as a user runs it after each kind of outage: once it repairs, twice it says level, and every
export is the file that was recorded.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from receiver.targets.marker import prepare
from tape.clock import SYSTEM
from tests.support.archive import Feed
from tests.support.homeside import HomeSide
from tests.support.processes import Program, command
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process

PIECE = b"".join(b"%d,1.%04d,1.%04d,x%d\n" % (1_700_000_000_000 + i, i % 10_000, i % 7919, i * i) for i in range(3000))


@dataclass
class Site:
    """A home side with a feed of one real file, what of it was recorded, and commands against it."""

    side: HomeSide
    feed: Feed
    recorded: bytes = b""
    files: list[Path] = field(default_factory=list)

    def record(self, pieces: int = 4) -> None:
        """The file grows by so many segments, which the drop box receives."""
        data = PIECE * pieces
        cuts = [len(PIECE) * number for number in range(1, pieces)]
        for made in self.feed.seal(data, cuts=cuts, offset=len(self.recorded), head=(self.recorded + data)[:4096]):
            path = self.side.drop / made.path.stream / str(made.path.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(made.data)
            self.files.append(Path(str(made.path)))
        self.side.sent += pieces
        self.recorded += data

    def safe(self) -> None:
        """Wait until all of it is safe and lies at every target."""
        self.side.wait_receipt(held=self.side.sent, safe=self.side.sent)
        wait_until(
            lambda: [self.side.files(name) for name in ("nas", "usb")] == [self.side.sent] * 2,
            within=40,
            what="both targets to be level",
        )

    def stop(self) -> None:
        """Stop the service."""
        assert self.side.service is not None
        assert self.side.service.terminate() == 0
        self.side.service.close()

    def at(self, target: str, number: int) -> Path:
        """Where a segment lies."""
        return self.side.folder / target / self.files[number]

    def resync(self, *words: str, code: int = 0) -> dict[str, Any]:
        """What `resync --json` says; AssertionError if it ends with another code."""
        return dict(json.loads(self.side.command("resync", *words, "--json", codes=(code,)).out))

    def assert_level(self) -> None:
        """A second run finds nothing to do, every copy passes verify, and each target alone gives the file back."""
        again = self.resync("--dry-run")
        assert (again["plan"]["level"], again["repair"]) == (True, None)
        self.side.command("verify")
        for name in ("home", "nas", "usb"):
            folder = self.side.folder / "export" / name
            shutil.rmtree(folder, ignore_errors=True)
            self.side.command("export", "box/demo/ticks", "--from", name, "--output", str(folder))
            assert [path.read_bytes() for path in folder.iterdir()] == [self.recorded], name


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Eight segments of one file, safe at home, nas and usb; the service runs."""
    with HomeSide(tmp_path, targets=("nas", "usb")) as side:
        made = Site(side, Feed(tmp_path / "spool"))
        side.start()
        made.record(8)
        made.safe()
        yield made


def test_a_wiped_target_is_prepared_anew_and_filled(site: Site) -> None:
    """A folder without its marker is told and not touched; marked anew on a person's word it is filled again."""
    site.stop()
    shutil.rmtree(site.side.folder / "nas")
    told = site.resync(code=1)
    assert "--prepare" in json.dumps(told["plan"]) or "init" in json.dumps(told["plan"])
    site.resync("nas", "--prepare", "--dry-run", code=1)
    assert not (site.side.folder / "nas").exists()
    done = site.resync("nas", "--prepare")
    assert done["repair"]["bytes"] > 0
    site.assert_level()


def test_a_disk_that_replaces_a_dead_one(site: Site) -> None:
    """Another folder prepared under the same id while the service runs: no copy counts there, then all are made."""
    (site.side.folder / "nas").rename(site.side.folder / "dead")
    prepare(site.side.folder / "nas", "nas", clock=SYSTEM)
    site.resync()
    site.assert_level()


HARMS: dict[str, Callable[[Site], object]] = {
    "deleted": lambda site: [site.at("nas", number).rename(site.side.folder / str(number)) for number in (1, 5, 6)],
    "truncated": lambda site: site.at("usb", 2).write_bytes(site.at("usb", 2).read_bytes()[:100]),
    "altered": lambda site: site.at("nas", 3).write_bytes(site.at("nas", 3).read_bytes()[:-1] + b"~"),
    "renamed": lambda site: site.at("home", 4).rename(site.at("home", 4).with_name("copy of 4.parquet")),
    "emptied": lambda site: shutil.rmtree(site.side.folder / "usb" / "box"),
    "foreign file": lambda site: (site.side.folder / "nas" / "box" / "photo.jpg").write_bytes(b"not a segment"),
}


@pytest.mark.parametrize("running", [True, False], ids=["service runs", "service stopped"])
def test_targets_changed_behind_our_back(site: Site, running: bool) -> None:
    """Files deleted, cut, altered, renamed, a stray, a whole stream gone: one command, with the service or without."""
    if not running:
        site.stop()
    for harm in HARMS.values():
        harm(site)
    plan = site.resync("--dry-run", "--verify", code=1)["plan"]
    found = {
        one["target"]: {k: v["segments"] for k, v in one["found"].items() if v["segments"]} for one in plan["targets"]
    }
    assert found == {
        "home": {"missing": 1, "stray": 1},
        "nas": {"missing": 3, "wrong bytes": 1, "stray": 1},
        "usb": {"missing": 8},
    }
    site.resync("--verify")
    site.assert_level()
    assert (site.side.folder / "nas" / "box" / "photo.jpg").read_bytes() == b"not a segment"
    if running:
        assert site.side.service is not None
        assert site.side.service.running


def image(site: Site, name: str) -> Path:
    """A copy of what the receiver's own disk holds."""
    place = site.side.folder / name
    for part in ("state", "home"):
        shutil.copytree(site.side.folder / part, place / part)
    return place


@pytest.mark.parametrize("running", [True, False], ids=["service runs", "service stopped"])
def test_a_receiver_restored_from_an_old_image(site: Site, running: bool) -> None:
    """The agent has released what came after the image: the NAS brings it back, through the ordinary ingest."""
    site.stop()
    old = image(site, "image")
    site.side.start()
    site.record(6)
    site.safe()
    site.stop()
    for part in ("state", "home"):
        shutil.rmtree(site.side.folder / part)
        shutil.move(old / part, site.side.folder / part)
    if running:
        site.side.start()
    done = site.resync()
    assert done["repair"]["repaired"]["adopted"] == 6
    site.assert_level()


def test_the_home_archive_is_wiped(site: Site) -> None:
    """Home lost all its segments: filled from the others while the service runs; nothing is asked from the agent."""
    shutil.rmtree(site.side.folder / "home" / "box")
    plan = site.resync()["plan"]
    assert plan["gone"]["segments"] == 0
    site.assert_level()


def test_what_the_service_copied_is_counted(site: Site) -> None:
    """It may be done before the command looks again: the bytes are told all the same."""
    paths = [site.at("nas", number) for number in (1, 4, 5)]
    size = sum(path.stat().st_size for path in paths)
    for path in paths:
        path.unlink()
    repair = site.resync("nas")["repair"]
    assert (repair["repaired"]["dropped"], repair["bytes"]) == (3, size)
    assert all(path.exists() for path in paths)


def test_the_catalog_is_lost_and_half_of_home_with_it(site: Site) -> None:
    """A new catalog is made from what home still has; the rest is adopted from a target that has it."""
    site.stop()
    for path in (site.side.folder / "state").glob("catalog.db*"):
        path.unlink()
    for number in (2, 3, 7):
        site.at("home", number).unlink()
    done = site.resync()
    assert done["repair"]["repaired"]["adopted"] == 3
    site.assert_level()


def test_a_lost_catalog_is_told_although_the_service_runs_on(site: Site) -> None:
    """A service that starts without it takes what is delivered, and is critical until what home holds is taken in."""
    site.stop()
    for path in (site.side.folder / "state").glob("catalog.db*"):
        path.unlink()
    site.side.start()
    told = site.side.status()
    assert (told["exit_code"], told["reasons"][0]["level"]) == (2, 2)
    assert "`tape-receiver resync` takes that in" in told["reasons"][0]["text"]
    site.record(2)
    assert site.resync()["repair"]["repaired"]["adopted"] == 8
    site.assert_level()
    assert site.side.status()["incidents"] == []


def test_a_segment_that_is_gone_everywhere_is_said_so(site: Site) -> None:
    """No copy anywhere: exit code 2, the segment by name, and the receipt asks the server for it."""
    site.stop()
    for target in ("home", "nas", "usb"):
        site.at(target, 3).unlink()
    told = site.resync(code=2)
    assert told["plan"]["gone"]["named"] == [site.files[3].as_posix()]


def test_new_segments_go_first_while_a_big_repair_runs(tmp_path: Path) -> None:
    """A slow target lost 1,200 segments: what is delivered now reaches it within seconds, not after all of them."""
    with HomeSide(tmp_path) as side:
        side.start()
        side.deliver(1200)
        side.wait_receipt(held=1200, safe=1200)
        assert side.service is not None
        assert side.service.terminate() == 0
        side.service.close()
        size = sum(path.stat().st_size for path in (tmp_path / "nas").rglob("*.parquet"))
        place = f'path = "{tmp_path / "nas"}"'
        side.edit(place, f'{place}\nbandwidth = "{size // 12} B"')  # 12 s for all of it
        shutil.rmtree(tmp_path / "nas" / "box")
        side.start()
        with Program([*command("tape-receiver"), "resync", "--config", side.toml]) as running:
            wait_until(lambda: side.files("nas") >= 1, within=40, what="the repair to begin")
            side.deliver(1)
            new = tmp_path / "nas" / "box" / "demo" / "ticks"
            wait_until(lambda: list(new.glob("*/*-000000001200-*")), within=10, what="the new segment to reach it")
            assert side.files("nas") < 1200, "the repair was over: this shows nothing"
            assert running.wait(within=60) == 0
        assert side.files("nas") == 1201


def test_it_goes_on_after_a_kill_and_keeps_to_a_rate(site: Site) -> None:
    """Killed in the middle, the next run does what is left; `--bandwidth` slows it down, and not under a service."""
    refused = site.side.command("resync", "--bandwidth", "1 MiB", codes=(64,))
    assert "bandwidth" in refused.err
    site.record(40)
    site.safe()
    site.stop()
    size = site.at("nas", 0).stat().st_size
    shutil.rmtree(site.side.folder / "nas" / "box")
    words = ["resync", "--bandwidth", f"{4 * size} B", "--config", str(site.side.toml)]
    began = SYSTEM.monotonic()
    with Program([*command("tape-receiver"), *words]) as running:
        wait_until(lambda: list((site.side.folder / "nas" / ".hometape-tmp").glob("*")), within=40, what="it to begin")
        assert running.running
    assert site.side.files("nas") < 48
    again = site.resync("--bandwidth", f"{4 * size} B")
    assert SYSTEM.monotonic() - began > 48 / 4 * 0.7
    assert again["plan"]["targets"][1]["seconds"] > 1
    site.assert_level()
    assert [one["kind"] for one in site.side.status()["incidents"]] == []
