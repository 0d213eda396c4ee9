"""The real service follows its configuration file: targets and policy change under way, nothing is stopped for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from receiver.targets.marker import prepare
from tape.clock import SYSTEM
from tests.support.homeside import HomeSide
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process


@pytest.fixture
def side(tmp_path: Path) -> Iterator[HomeSide]:
    """A running home side with `home` and `nas`, and five segments that are safe."""
    with HomeSide(tmp_path) as made:
        made.start()
        made.deliver(5)
        made.wait_receipt(held=5, safe=5)
        yield made


def add_target(side: HomeSide, name: str) -> None:
    prepare(side.folder / name, name, clock=SYSTEM)
    side.append(f'\n[[target]]\nid = "{name}"\npath = "{side.folder / name}"\nmedium = "{name}-disk"\n')


def test_a_target_added_to_the_file_is_filled(side: HomeSide) -> None:
    """A new target gets what was there and what comes; the service is the same process, and takes uploads all along."""
    assert side.service is not None
    pid = side.service.pid
    add_target(side, "attic")
    side.deliver(3)
    side.wait_copied("attic", 8)
    side.deliver(2)
    side.wait_receipt(held=10, safe=10)
    side.wait_copied("attic", 10)
    facts = side.status()
    assert [target["id"] for target in facts["targets"]] == ["home", "nas", "attic"]
    assert (side.service.running, side.service.pid) == (True, pid)
    assert "the changed configuration is followed" in side.service.err()


def test_a_tighter_policy_shrinks_what_is_safe(side: HomeSide) -> None:
    """Three copies wanted, two there: the next receipt takes `safe` back; the third target brings it again."""
    add_target(side, "attic")
    side.wait_copied("attic", 5)
    (side.folder / "attic" / ".hometape-target").rename(side.folder / "marker")
    side.edit("copies = 2", "copies = 3\nrelease_after = 3")
    side.deliver(1)
    side.wait_receipt(held=6, safe=5)
    (side.folder / "marker").rename(side.folder / "attic" / ".hometape-target")
    side.wait_receipt(held=6, safe=6)


def test_a_broken_file_changes_nothing(side: HomeSide) -> None:
    """The reason is logged once, with file and line; the old settings stay in force; the mended file is followed."""
    assert side.service is not None
    good = side.toml.read_text(encoding="utf-8")
    side.append("\n[[target]]\nid = 'attic'\npaht = 'x'\n")
    side.service.wait_for("the changed configuration can't be used")
    assert "paht" in side.service.err()
    side.deliver(2)
    side.wait_receipt(held=7, safe=7)
    side.append("this is no TOML at all\n")
    wait_until(lambda: side.service is not None and side.service.err().count("can't be used") == 2, within=20)
    side.toml.write_text(good, encoding="utf-8", newline="\n")
    add_target(side, "attic")
    side.wait_copied("attic", 7)
    assert side.service.err().count("can't be used") == 2


def test_what_can_not_be_followed_waits_for_a_restart(side: HomeSide) -> None:
    """Another option is named as waiting, by the log and by status; targets beside it are followed all the same."""
    assert side.service is not None
    side.edit('#name = "home"', 'name = "house"')
    add_target(side, "attic")
    side.service.wait_for("restart to use it")
    side.wait_copied("attic", 5)
    wait_until(lambda: "after a restart: name" in told(side), within=10, every=0.5, what="status to tell of it")


def told(side: HomeSide) -> str:
    return "\n".join(reason["text"] for reason in side.status()["reasons"])


def test_a_target_taken_out_counts_no_more(side: HomeSide) -> None:
    """Without its entry a target's copies don't count: what it alone made safe is not safe any more."""
    add_target(side, "attic")
    side.wait_copied("attic", 5)
    (side.folder / "attic" / ".hometape-target").unlink()
    text = side.toml.read_text(encoding="utf-8")
    start = text.index('id = "nas"')
    start = text.rindex("[[target]]", 0, start)
    side.toml.write_text(text[:start] + text[text.index("[[target]]", start + 1) :], encoding="utf-8", newline="\n")
    log = side.service
    assert log is not None
    wait_until(lambda: log.err().count("is followed") == 2, within=20, what="the change to be followed")
    side.deliver(1)
    side.wait_receipt(held=6, safe=5)
    assert side.files("nas") == 5
