"""`tape-receiver disk` with plain folders as disks: what it refuses, what it writes, what it says."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from receiver.catalog import Catalog
from receiver.cli import app
from receiver.cli.options import settings_from
from receiver.errands import EJECT, acting
from receiver.model import Copy
from receiver.requests import FOLDER, Requests
from receiver.retiring import losses
from receiver.settings import ReceiverSettings
from receiver.targets.marker import read_marker
from receiver.targets.opening import open_targets
from tape.clock import SYSTEM
from tape.errors import AlreadyThere, ConfigError, HometapeError, NotFound, TargetAbsent, TargetError, UsageError
from tape.settings import load
from tests.support.segments import Maker, put

DAY = 86_400_000_000_000


class Box:
    """A configured home side with a place where disks appear."""

    def __init__(self, folder: Path) -> None:
        self.toml = folder / "receiver.toml"
        self.media = folder / "media"
        self.state = folder / "state"
        self.home = folder / "home"
        self.media.mkdir()
        done = CliRunner().invoke(
            app, ["init", "--config", str(self.toml), "--state", str(self.state), "--home", str(self.home)]
        )
        assert done.exit_code == 0, done.output
        text = self.toml.read_text(encoding="utf-8")
        self.toml.write_text(
            text.replace("#look_in = []", f"look_in = [{json.dumps(str(self.media / '*'))}]"),
            encoding="utf-8",
            newline="",
        )

    def run(self, *words: str) -> Result:
        """`tape-receiver disk`."""
        return CliRunner().invoke(app, ["disk", words[0], "--config", str(self.toml), *words[1:]])

    def good(self, *words: str) -> str:
        """The output of a command that must work."""
        done = self.run(*words)
        assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
        return done.output

    def refused(self, kind: type[HometapeError], *words: str) -> HometapeError:
        """What a command was refused with; nothing may be changed by it."""
        before = self.toml.read_bytes()
        done = self.run(*words)
        assert isinstance(done.exception, kind), f"{done.output}\n{done.exception!r}"
        assert self.toml.read_bytes() == before
        return done.exception

    def plug(self, name: str) -> str:
        """An empty disk."""
        (self.media / name).mkdir()
        return str(self.media / name)

    def disk(self, name: str, *words: str) -> Path:
        """A prepared disk; its root."""
        self.good("init", name, self.plug(name), "--folder-ok", *words)
        return self.media / name / "hometape"

    def settings(self) -> ReceiverSettings:
        return load(ReceiverSettings, self.toml)

    def listed(self) -> list[dict[str, object]]:
        """What `disk list --json` says."""
        return list(json.loads(self.run("list", "--json").output))

    def filled(self, places: Sequence[Sequence[str]]) -> None:
        """A catalog with one segment for each entry, with verified copies at those targets."""
        with Catalog.open(self.state, clock=SYSTEM) as catalog:
            made = Maker(real=False).many(len(places))
            for item in made:
                put(self.home, item)
            held = catalog.add([item.new for item in made])
            copies = [Copy(one.id, name, 1, "m") for one, names in zip(held, places, strict=True) for name in names]
            catalog.add_copies(copies)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """A home side without disks."""
    return Box(tmp_path)


def test_a_disk_is_prepared_and_configured(box: Box) -> None:
    """Marker, README and entry are there; a second disk differs; what lay on it stays; `list` finds both."""
    place = box.plug("one")
    (Path(place) / "photos").mkdir()
    words = ["--folder-ok", "--path", "tape", "--medium", "stick", "--site", "drawer", "--max-age", "10 d", "--unmount"]
    said = box.good("init", "usb1", place, *words)
    assert "it holds photos" in said
    assert "free" in said
    entry = box.settings().target[-1]
    assert (entry.id, entry.kind, entry.medium, entry.site) == ("usb1", "removable", "stick", "drawer")
    assert (entry.max_age, entry.unmount, entry.mounted, entry.folder) == (10 * 86400, True, False, Path("tape"))
    assert read_marker(Path(place) / "tape")["id"] == "usb1"
    assert (Path(place) / "tape" / "README.txt").exists()
    assert (Path(place) / "photos").is_dir()
    other = box.disk("usb2")
    found = {one["id"]: one for one in box.listed()}
    assert found["usb1"]["where"] == str(Path(place) / "tape")
    assert found["usb2"]["where"] == str(other)
    assert read_marker(other)["instance"] != read_marker(Path(place) / "tape")["instance"]
    assert "usb1" in box.good("list")


def test_a_dry_run_changes_nothing(box: Box) -> None:
    """It says what would be, and neither disk nor configuration is touched."""
    place, before = box.plug("one"), box.toml.read_bytes()
    assert "nothing was changed" in box.good("init", "usb1", place, "--folder-ok", "--dry-run")
    assert list(Path(place).iterdir()) == []
    assert box.toml.read_bytes() == before


def test_an_id_that_breaks_the_grammar_is_refused(box: Box) -> None:
    """What the hint says of ids is what is taken."""
    error = box.refused(UsageError, "init", "usb_1", box.plug("one"), "--folder-ok")
    assert str(error) == "id 'usb_1' is not allowed"
    assert "'_'" not in error.hint


def test_what_is_no_disk_is_refused(box: Box, tmp_path: Path) -> None:
    """A folder of the system's disk, one that is not there, one where no disk is looked for: with the way out."""
    place = box.plug("one")
    error = box.refused(TargetError, "init", "usb1", place)
    assert "not a mount of its own" in str(error)
    assert "--folder-ok" in error.hint
    assert "mount" in box.refused(TargetAbsent, "init", "usb1", str(tmp_path / "none"), "--folder-ok").hint
    (tmp_path / "elsewhere").mkdir()
    error = box.refused(ConfigError, "init", "usb1", str(tmp_path / "elsewhere"), "--folder-ok")
    assert "would never be found" in str(error)
    assert "look_in" in error.hint
    box.refused(UsageError, "init", "Not A Name", place, "--folder-ok")
    box.refused(ConfigError, "init", "usb1", place, "--folder-ok", "--max-age", "soon")
    assert list(Path(place).iterdir()) == []


def test_ids_are_used_once(box: Box) -> None:
    """A taken id, a disk of another id, two disks with one id: refused; the same disk again changes nothing."""
    root = box.disk("usb1")
    before = (root / ".hometape-target").read_bytes()
    assert "marked already" in box.good("init", "usb1", str(root.parent), "--folder-ok")
    assert (root / ".hometape-target").read_bytes() == before
    new = box.plug("new")
    assert "--replace" in box.refused(AlreadyThere, "init", "usb1", new, "--folder-ok").hint
    assert "plugged in at" in str(box.refused(AlreadyThere, "init", "usb1", new, "--folder-ok", "--replace"))
    assert "'usb1' already" in str(box.refused(TargetError, "init", "usb9", str(root.parent), "--folder-ok"))
    assert "kind directory" in str(box.refused(AlreadyThere, "init", "home", new, "--folder-ok"))


def test_a_dead_disk_is_replaced_under_its_name(box: Box) -> None:
    """With the old disk gone, another one gets its id and a new instance; the configuration stays."""
    root = box.disk("usb1")
    old, before = read_marker(root)["instance"], box.toml.read_bytes()
    root.parent.rename(root.parent.parent.parent / "drawer")
    box.good("init", "usb1", box.plug("new"), "--folder-ok", "--replace")
    assert read_marker(box.media / "new" / "hometape")["instance"] != old
    assert box.toml.read_bytes() == before


def test_a_disk_may_be_what_the_policy_waits_for(box: Box) -> None:
    """A policy that today's targets can't satisfy does not keep the missing target from being added."""
    text = box.toml.read_text(encoding="utf-8")
    box.toml.write_text(text.replace("copies = 1", "copies = 2"), encoding="utf-8", newline="")
    with pytest.raises(ConfigError):
        settings_from(box.toml)
    box.disk("usb1")
    settings_from(box.toml)


def test_it_says_whether_the_archive_fits(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes at home than free on the disk: a warning that names the difference."""
    box.filled([["home"]] * 3)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"total": 10, "free": 1}))
    assert "does not fit" in box.good("init", "usb1", box.plug("one"), "--folder-ok")


def test_ejected_without_a_service(box: Box) -> None:
    """A folder can't be unmounted: everything is written, exit 1 and why. Others are refused by name."""
    box.disk("usb1")
    done = box.run("eject", "usb1")
    assert done.exit_code == 1, repr(done.exception)
    assert "plain folder" in done.output
    assert not (box.state / "catalog.db").exists(), "an empty catalog would hide what the home archive holds"
    box.filled([["home"]])
    assert box.run("eject", "usb1").exit_code == 1
    assert "usb1" in box.refused(NotFound, "eject", "usb7").hint
    box.refused(UsageError, "eject", "home")
    (box.media / "usb1").rename(box.media.parent / "drawer")
    box.refused(TargetAbsent, "eject", "usb1")
    assert "no service runs" in str(box.refused(TargetAbsent, "eject", "usb1", "--wait"))


def test_ejected_by_the_service(box: Box) -> None:
    """While another process holds the catalog the command leaves a request, which that process acts on."""
    box.disk("usb1")
    settings = box.settings()
    with Catalog.open(box.state, clock=SYSTEM) as catalog:
        requests = Requests(box.state, clock=SYSTEM)
        targets = open_targets(settings)
        name = requests.ask(EJECT, target="usb1")
        requests.take(acting(catalog, targets))
        answer = requests.answer(name)
        assert answer is not None
        assert answer["where"] == str(box.media / "usb1" / "hometape")
        assert "let go" in targets[-1].state().reason
        for target, kind in (("home", UsageError), ("usb7", NotFound)):
            name = requests.ask(EJECT, target=target)
            requests.take(acting(catalog, targets))
            with pytest.raises(kind):
                requests.answer(name)
        requests.ask("retire", target="usb1")
        assert requests.take(acting(catalog, targets)) == 0, "it is still configured"
        requests.ask("dance", target="usb1")
        requests.take(acting(catalog, targets))
    assert len(list((box.state / FOLDER).iterdir())) == 2


def test_retired_with_what_is_lost_in_view(box: Box) -> None:
    """The plan counts copies; retired, the target is gone from configuration and catalog, and its files stay."""
    root = box.disk("usb1")
    box.filled([["home", "usb1"], ["home", "usb1"], ["home"]])
    plan = box.good("retire", "usb1", "--dry-run")
    assert "2 segments" in plan
    assert "no segment that satisfies the policy now would break it" in plan
    assert "--yes" in box.refused(UsageError, "retire", "usb1").hint
    assert "out of service" in box.good("retire", "usb1", "--yes")
    assert [one.id for one in box.settings().target] == ["home"]
    with Catalog.open(box.state, clock=SYSTEM, read_only=True) as catalog:
        assert "usb1" not in {one.name for one in catalog.targets()}
    assert read_marker(root)["id"] == "usb1"
    box.refused(NotFound, "retire", "usb1", "--yes")
    box.refused(UsageError, "retire", "home", "--yes")


def test_the_last_copy_is_never_given_up(box: Box) -> None:
    """A segment whose only verified copy is there: refused, `--force` or not."""
    box.disk("usb1")
    box.filled([["home", "usb1"], ["usb1"]])
    for words in (["--dry-run"], ["--yes"], ["--yes", "--force"]):
        error = box.refused(TargetError, "retire", "usb1", *words)
        assert "last verified copy of 1 segment" in str(error)
        assert error.hint


def test_a_policy_that_could_not_hold_is_refused(box: Box) -> None:
    """Without the disk two copies are impossible: refused with the reason; `--force` does it and warns."""
    box.disk("usb1")
    text = box.toml.read_text(encoding="utf-8")
    box.toml.write_text(text.replace("copies = 1", "copies = 2"), encoding="utf-8", newline="")
    box.filled([["home", "usb1"], ["home"]])
    error = box.refused(TargetError, "retire", "usb1", "--yes")
    assert "can't be satisfied" in str(error)
    assert "--force" in error.hint
    said = box.good("retire", "usb1", "--yes", "--force")
    assert "1 segment " in said
    assert "warning" in said
    assert [one.id for one in box.settings().target] == ["home"]


def test_losses_count_each_segment_once(box: Box) -> None:
    """Losing a copy, breaking the rule, losing the last copy: three different counts."""
    box.disk("usb1")
    box.disk("usb2", "--medium", "usb2")
    text = box.toml.read_text(encoding="utf-8")
    box.toml.write_text(text.replace("copies = 1", "copies = 2"), encoding="utf-8", newline="")
    box.filled([["home", "usb1", "usb2"], ["home", "usb1"], ["usb1"], ["home", "usb2"], ["home"]])
    settings = box.settings()
    remaining = settings.model_copy(update={"target": [one for one in settings.target if one.id != "usb1"]})
    with Catalog.open(box.state, clock=SYSTEM, read_only=True) as catalog:
        lost = losses(settings, remaining, catalog)
    assert (lost.copies.segments, lost.breaking.segments, lost.last.segments, lost.impossible) == (3, 1, 1, "")
    assert losses(settings, remaining, None).copies.segments == 0


def test_lists_without_a_catalog_and_without_disks(box: Box) -> None:
    """Nothing known yet is no error."""
    assert "disk init" in box.good("list")
    box.disk("usb1")
    (one,) = box.listed()
    assert (one["id"], one["condition"], one["behind_segments"], one["overdue"]) == ("usb1", "ready", None, False)


def test_an_overdue_disk_is_told_and_counts(box: Box) -> None:
    """Away for longer than `max_age`: OVERDUE, exit code 1, with since when and how much it lacks."""
    root = box.disk("usb1", "--max-age", "10 d")
    box.filled([["home", "usb1"], ["home"], ["home"]])
    with Catalog.open(box.state, clock=SYSTEM) as catalog:
        catalog.know_target("usb1", str(read_marker(root)["instance"]), SYSTEM.now_ns() - 11 * DAY)
    root.parent.rename(box.media.parent / "drawer")
    done = box.run("list")
    assert done.exit_code == 1, repr(done.exception)
    assert "OVERDUE" in done.output
    (one,) = box.listed()
    assert (one["overdue"], one["behind_segments"], one["segments"]) == (True, 2, 1)
    assert one["where"] is None
    assert one["instance"]


def test_the_list_fits_a_narrow_terminal(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 80 columns the place and the instance of a disk come below the table, in full."""
    where = box.disk("a-disk-in-the-attic")
    box.filled([("home", "a-disk-in-the-attic")] * 2)
    shown = io.StringIO()
    monkeypatch.setattr("receiver.cli.disk.out", Console(file=shown, width=80, soft_wrap=True))
    box.good("list")
    lines = shown.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines[:2]) <= 80
    assert f"a-disk-in-the-attic: instance unknown, {where}" in lines
    assert "2 segments" in lines[1]
