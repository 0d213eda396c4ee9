"""`tape-receiver status` of a real service: its page, its JSON, its exit codes, and what it shows again and again."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from receiver.catalog import Catalog
from receiver.standing import Lack
from receiver.targets.marker import prepare
from tape.clock import SYSTEM
from tests.support.homeside import HomeSide
from tests.support.processes import Program, command, run
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process


@pytest.fixture
def side(tmp_path: Path) -> Iterator[HomeSide]:
    """A running home side with `home` and `nas`, and five segments that are safe."""
    with HomeSide(tmp_path, words=("--set", "live_age=0 s")) as made:
        made.start()
        made.deliver(5)
        made.wait_receipt(held=5, safe=5)
        made.wait_copied("nas", 5)
        yield made


def test_the_page_and_the_codes(side: HomeSide) -> None:
    """0 while all is well, 2 with a reason and a hint once the home archive is away, 1 when nothing runs."""
    done = side.command("status")
    assert "all is well" in done.out
    assert "3-2-1: 5 of 5 segments satisfied" in done.out
    home = side.folder / "home" / ".hometape-target"
    home.rename(side.folder / "marker")
    done = side.command("status", codes=(2,))
    assert "critical" in done.out
    assert "target home is absent" in done.out
    assert "hint:" in done.out
    (side.folder / "marker").rename(home)
    side.stop()
    assert "the service is not running" in side.command("status", codes=(1,)).out


def test_json_carries_it_all(side: HomeSide) -> None:
    """Policy with groups and rules, targets with their figures, streams with their rule."""
    facts = side.status()
    assert facts["exit_code"] == 0
    assert facts["policy"]["satisfied"] == facts["policy"]["segments"] == 5
    assert facts["policy"]["groups"] == []
    (rule,) = facts["policy"]["rules"]
    assert (rule["match"], rule["copies"], rule["release"]) == ("*", 2, "2 copies, one of them at home")
    nas = facts["targets"][1]
    assert (nas["kind"], nas["condition"], nas["segments"], nas["behind_segments"]) == ("directory", "ready", 5, 0)
    assert nas["seen_age_s"] == 0
    assert nas["free_bytes"] > 0
    assert facts["streams"][0]["policy"] == "*"


def test_watching_prints_one_page_after_another(side: HomeSide) -> None:
    """Not a terminal: page after page; with --json a document a line, each whole; the pause alone is refused."""
    base: list[str | Path] = [*command("tape-receiver"), "status", "--config", side.toml]
    with Program([*base, "--watch", "0.3", "--json"]) as watching:
        wait_until(lambda: watching.out().count("\n") >= 3, within=30, what="three documents")
        side.deliver(1)
        wait_until(
            lambda: json.loads(watching.out().splitlines()[-2])["policy"]["satisfied"] == 6, within=30, every=0.3
        )
        for line in watching.out().splitlines()[:-1]:
            assert json.loads(line)["receiver"] == "home"
    with Program([*base, "--watch"]) as watching:
        wait_until(lambda: watching.out().count("all is well") >= 2, within=30, what="two pages")
    assert "--watch" in side.command("status", "5", codes=(64,)).err


def test_a_replaced_target_counts_for_nothing_until_it_is_made_level_again(side: HomeSide) -> None:
    """The folder is wiped and prepared again under the same id: what it held is not safe any more, then it is again."""
    nas = side.folder / "nas"
    assert side.service is not None
    nas.rename(side.folder / "old")
    side.service.wait_for('"state": "absent"')
    prepare(nas, "nas", clock=SYSTEM)
    side.service.wait_for("a target was replaced")
    wait_until(lambda: side.copied("nas") == 5 and side.files("nas") == 5, within=60, every=0.5, what="it to be level")
    side.wait_receipt(held=5, safe=5)


def test_what_lacks_is_dated_by_the_service(side: HomeSide) -> None:
    """The service keeps since when a target lacks what it lacks, across restarts; status tells the same."""
    (side.folder / "nas" / ".hometape-target").rename(side.folder / "marker")
    side.deliver(2)
    side.wait_receipt(held=7, safe=5)
    assert side.stop() == 0
    side.start()

    def dated() -> Lack | None:
        with Catalog.open(side.folder / "state", clock=SYSTEM, read_only=True) as catalog:
            return catalog.looked().lacks.get("target nas")

    lack = wait_until(dated, within=20, every=0.2, what="a look that finds it")
    assert lack is not None
    nas = side.status()["targets"][1]
    assert (nas["behind_segments"], nas["behind_since_ns"]) == (2, lack.since_ns)
    (side.folder / "marker").rename(side.folder / "nas" / ".hometape-target")
    side.wait_receipt(held=7, safe=7)


def test_a_drop_box_that_is_away_is_told(side: HomeSide) -> None:
    """Gone while the service runs, or missing at its start: a warning with its hint until the folder is back."""
    away = side.folder / "away"

    def told() -> list[str]:
        return [one["hint"] for one in side.status()["reasons"] if "drop box of box" in one["text"]]

    side.drop.rename(away)
    (hint,) = wait_until(told, within=30, every=0.3, what="the drop box to be missed")
    assert "mount what holds it" in hint
    away.rename(side.drop)
    wait_until(lambda: not told(), within=30, every=0.3, what="it to be back")
    side.stop()
    side.drop.rename(away)
    side.start()
    wait_until(told, within=30, every=0.3, what="the drop box to be missed at the start")
    away.rename(side.drop)
    wait_until(lambda: not told(), within=30, every=0.3, what="it to be back after the start")


def test_nothing_known_yet(tmp_path: Path) -> None:
    """Before the service ever ran there is nothing to tell: exit 3, and as JSON a document that says so."""
    with HomeSide(tmp_path) as fresh:
        assert "nothing is known yet" in fresh.command("status", codes=(3,)).err
        told = json.loads(fresh.command("status", "--json", codes=(3,)).out)
    assert told["exit_code"] == 3
    assert [(reason["level"], reason["hint"]) for reason in told["reasons"]] == [(3, "tape-receiver run")]


def test_nothing_known_yet_of_an_agent(tmp_path: Path) -> None:
    """The same on the server."""
    at = ["--config", str(tmp_path / "agent.toml")]
    given = [
        "--agent",
        "box",
        "--state",
        str(tmp_path / "state"),
        "--path",
        str(tmp_path / "*.csv"),
        "--host",
        "localhost",
    ]
    run([*command("tape-agent"), "init", *at, *given], code=0)
    assert "nothing is known yet" in run([*command("tape-agent"), "status", *at], code=3).err
    told = json.loads(run([*command("tape-agent"), "status", "--json", *at], code=3).out)
    assert [(reason["level"], reason["hint"]) for reason in told["reasons"]] == [(3, "tape-agent run")]
