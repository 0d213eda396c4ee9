"""One look finds what is missing, wrong, foreign, stray or gone at a target; one repair brings all of it level."""

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from receiver.catalog import Catalog
from receiver.cli.resync import show
from receiver.model import Copy
from receiver.resync import Ending, Resync
from receiver.resync_compare import Kind
from receiver.resync_plan import Findings, Plan
from receiver.settings import ReceiverSettings, TargetSettings
from receiver.targets.contract import Capabilities, Target
from receiver.targets.wrapping import Wrapper
from tape.clock import SYSTEM
from tape.errors import HometapeError, NotFound
from tests.support.archive import Archive
from tests.support.segments import Maker, put


@dataclass
class Site:
    """An archive with real segments whose copies are proven, and resyncs of it. `targets`: as a resync sees them."""

    archive: Archive
    targets: list[Target]
    runs: int = 0

    def __post_init__(self) -> None:
        places = [("home", True), *((name, False) for name in self.archive.names)]
        self.settings = ReceiverSettings(
            state=self.archive.root / "state",
            target=[TargetSettings(id=name, path=self.archive.root / name, home=home) for name, home in places],
        )

    @property
    def catalog(self) -> Catalog:
        return self.archive.catalog

    def run(
        self, *only: str, verify: bool = False, adopt: bool = True, repair: bool = True
    ) -> tuple[Plan, Ending | None]:
        """A look, and a repair."""
        self.runs += 1
        job = Resync(self.settings, self.catalog, self.targets, alone=True, clock=SYSTEM, only=only, adopt=adopt)
        began = SYSTEM.now_ns()
        findings = Findings(self.archive.root / f"findings-{self.runs}", began)
        plan = job.look(findings, began, verify=verify)
        return plan, job.repair(plan, findings.path) if repair else None

    def level(self, *, verify: bool = False) -> None:
        """A look finds nothing to do, and every target has everything."""
        plan, _ = self.run(repair=False, verify=verify)
        assert plan.level, plan.to_plain()
        for name in ("home", *self.archive.names):
            self.archive.assert_complete(name)

    def file(self, target: str, number: int) -> Path:
        """Where a segment lies at a target."""
        return self.archive.root / target / str(self.archive.made[number].path)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """12 segments over two days of two streams, at home, nas and usb, level."""
    archive = Archive(tmp_path, names=("nas", "usb"), maker=Maker(step_ns=20_000_000_000_000))
    archive.take(archive.maker.many(9))
    archive.take(Maker(stream="demo", epoch="00000000000000bb", file_id="e" * 32).many(3))
    made = Site(archive, archive.targets)
    made.run()
    yield made
    archive.catalog.close()


def counts(plan: Plan, target: str) -> dict[str, int]:
    """What was found at a target."""
    (one,) = [one for one in plan.targets if one.target == target]
    return {kind.value: tally.segments for kind, tally in one.found.items() if tally.segments}


def test_level_is_said_at_once(site: Site) -> None:
    """Nothing to do is found without a repair, and costs no incident."""
    site.level(verify=True)
    assert site.catalog.incidents() == []


@pytest.mark.parametrize("target", ["nas", "home"])
@pytest.mark.parametrize(
    ("kind", "harm"),
    [
        (Kind.MISSING, lambda path: path.unlink()),
        (Kind.WRONG_SIZE, lambda path: path.write_bytes(path.read_bytes()[:-7])),
        (Kind.WRONG_BYTES, lambda path: path.write_bytes(path.read_bytes()[:-1] + b"~")),
    ],
)
def test_what_was_changed_behind_our_back_is_found_and_made_again(
    site: Site, target: str, kind: Kind, harm: Callable[[Path], object]
) -> None:
    """A deleted, truncated or altered file is one finding, is made anew from a good copy, and nothing is deleted."""
    harm(site.file(target, 4))
    verify = kind is Kind.WRONG_BYTES
    plan, _ = site.run(repair=False, verify=verify)
    assert counts(plan, target) == {kind.value: 1}
    assert site.archive.copied(target) == 12  # a look changes nothing
    plan, ending = site.run(verify=verify)
    assert ending is not None
    assert (plan.exit_code, ending.exit_code) == (1, 0)
    site.level(verify=True)
    kept = [path for path in (site.archive.root / target / ".hometape-aside").rglob("*") if path.is_file()]
    assert len(kept) == (0 if kind is Kind.MISSING else 1)
    assert site.catalog.incidents() == []


def test_altered_bytes_need_verify(site: Site) -> None:
    """Without --verify sizes are what is compared, and that is what the plan says."""
    path = site.file("nas", 4)
    path.write_bytes(path.read_bytes()[:-1] + b"~")
    assert site.run(repair=False)[0].level
    assert not site.run(repair=False, verify=True)[0].level


def test_only_the_files_of_a_target_are_gone(site: Site) -> None:
    """All files of a target gone: every copy is missing, and one pass makes them again, with their sums."""
    for path in (site.archive.root / "nas" / "box").iterdir():
        shutil.rmtree(path)
    plan, ending = site.run("nas")
    assert counts(plan, "nas") == {"missing": 12}
    assert ending is not None
    assert (ending.repaired.dropped, ending.exit_code) == (12, 0)
    site.level()
    assert site.catalog.incidents() == []


def test_the_home_archive_is_filled_from_the_others(site: Site) -> None:
    """Home lost everything, nas half of it: what either has comes back, and nothing is asked from the agent."""
    shutil.rmtree(site.archive.root / "home" / "box")
    for number in range(0, 9, 2):
        site.file("nas", number).unlink()
    plan, ending = site.run()
    assert (counts(plan, "home"), counts(plan, "nas")) == ({"missing": 12}, {"missing": 5})
    assert plan.gone.segments == 0
    assert ending is not None
    assert ending.exit_code == 0, ending
    site.level()


def test_what_is_gone_everywhere_is_told_and_wanted(site: Site) -> None:
    """A segment without a readable copy anywhere is counted as gone, the exit code says so, the agent is asked."""
    for name in ("home", "nas", "usb"):
        site.file(name, 3).unlink()
    plan, ending = site.run()
    assert (plan.gone.segments, plan.exit_code) == (1, 2)
    assert plan.gone.named == [str(site.archive.made[3].path)]
    assert ending is not None
    assert ending.exit_code == 2
    assert [one.kind for one in site.catalog.incidents() if one.kind == "lost"] == ["lost"]


def test_a_target_that_was_not_looked_at_still_counts(site: Site) -> None:
    """What home and nas lost is not gone while usb, not asked, has a proven copy."""
    for name in ("home", "nas"):
        site.file(name, 3).unlink()
    assert site.run("home", "nas", repair=False)[0].gone.segments == 0


def test_segments_the_catalog_does_not_know_are_adopted(site: Site) -> None:
    """A receiver restored from an old image: what only a target has comes home, checked, and counts everywhere."""
    newer = site.archive.maker.many(4)
    for item in newer:
        put(site.archive.root / "nas", item)
    site.archive.made += newer
    plan, ending = site.run()
    assert counts(plan, "nas") == {"foreign": 4}
    assert ending is not None
    assert (ending.repaired.adopted, ending.repaired.refused, ending.exit_code) == (4, [], 0)
    site.level(verify=True)
    for item in newer:
        assert (site.archive.root / "nas" / str(item.path)).exists()


def test_what_home_itself_has_and_the_catalog_does_not_is_adopted_in_place(site: Site) -> None:
    """A catalog older than the home archive: nothing is copied, and nothing private is left."""
    newer = site.archive.maker.many(3)
    files = [put(site.archive.root / "home", item) for item in newer]
    inodes = [file.stat().st_ino for file in files]
    site.archive.made += newer
    _, ending = site.run()
    assert ending is not None
    assert (ending.repaired.adopted, ending.exit_code) == (3, 0)
    assert [file.stat().st_ino for file in files] == inodes
    assert [file.stat().st_nlink for file in files] == [1, 1, 1]
    assert list((site.archive.root / "state" / "inbox").iterdir()) == []
    site.level()


def test_without_home_nothing_is_brought_in_and_that_is_said(site: Site) -> None:
    """Home is away: what a target has beyond the catalog waits, the exit code says not level, nothing is dropped."""
    (item,) = site.archive.maker.many(1)
    put(site.archive.root / "nas", item)
    (site.archive.root / "home" / ".hometape-target").rename(site.archive.root / "marker")
    _, ending = site.run()
    assert ending is not None
    assert (ending.exit_code, ending.repaired.adopted, ending.unread) == (1, 0, 1)
    assert "home has no" in ending.repaired.failed[0][2] or ".hometape-target" in ending.repaired.failed[0][2]
    assert site.archive.copied("home") == 12


def test_a_look_alone_adopts_nothing(site: Site) -> None:
    """--no-adopt leaves foreign segments where they are, and says that not all is level."""
    (item,) = site.archive.maker.many(1)
    put(site.archive.root / "nas", item)
    _, ending = site.run(adopt=False)
    assert ending is not None
    assert (ending.repaired.adopted, ending.unadopted, ending.exit_code) == (0, 1, 1)
    assert site.catalog.find("box", "demo/ticks", item.footer.epoch, item.footer.seq) is None


def test_what_the_ingest_would_refuse_is_refused_here_too(site: Site) -> None:
    """Damaged bytes, another segment under a held identity: reported with the reason, never taken in."""
    good, damaged = site.archive.maker.many(2)
    site.archive.take([good])
    path = put(site.archive.root / "nas", damaged)
    path.write_bytes(damaged.data[:-3] + b"~~~")
    (twin,) = Maker(step_ns=20_000_000_000_000, salt=b"!").many(1)
    put(site.archive.root / "usb", twin)
    _, ending = site.run()
    assert ending is not None
    reasons = {Path(path).name: why for _, path, why in ending.repaired.refused}
    assert "have digest" in reasons[str(damaged.path.name)]
    assert "other bytes under the same identity" in reasons[str(twin.path.name)]
    assert (ending.repaired.adopted, ending.exit_code) == (0, 2)
    assert not (site.archive.root / "home" / str(twin.path)).exists()


def test_strays_and_renamed_files_are_told_and_left_alone(site: Site) -> None:
    """What is no segment is nobody's business; a renamed segment is missing under its name, and comes back."""
    root = site.archive.root / "nas"
    site.file("nas", 2).rename(site.file("nas", 2).with_suffix(".bak"))
    (root / "box" / "holiday.jpg").write_bytes(b"x")
    (root / "box" / "demo" / "ticks" / "date=2023-11-15" / "notes").mkdir()
    (root / "box" / "demo" / "ticks" / "date=2023-11-15" / "notes" / "a.txt").write_bytes(b"y")
    plan, ending = site.run()
    assert counts(plan, "nas") == {"missing": 1, "stray": 3}
    assert ending is not None
    assert ending.exit_code == 0
    assert (root / "box" / "holiday.jpg").read_bytes() == b"x"
    site.level()


def test_a_copy_proven_after_the_look_is_not_dropped(site: Site) -> None:
    """Findings may be acted on late: what was made again meanwhile counts on."""
    held = list(site.catalog.all_segments())
    began = min(copy.verified_ns for one in held for copy in site.catalog.copies(one.id))
    ids = [one.id for one in held]
    assert site.catalog.drop_copies("nas", ids, "late", before_ns=began) == 0
    assert site.archive.copied("nas") == 12
    assert site.catalog.drop_copies("nas", ids[:3], "in time", before_ns=SYSTEM.now_ns()) == 3
    assert (site.archive.copied("nas"), site.archive.copied("usb")) == (9, 12)
    assert [one.id for one in site.catalog.behind("nas", limit=10)] == ids[:3]


def test_a_clock_that_was_ahead_hides_nothing(site: Site) -> None:
    """Copies proven at a time that is still to come are looked for like all others, and made again."""
    ahead = SYSTEM.now_ns() + 10**17
    held = list(site.catalog.all_segments())
    site.catalog.add_copies([Copy(one.id, "nas", ahead, "test") for one in held])
    shutil.rmtree(site.archive.root / "nas" / "box")
    plan, ending = site.run()
    assert counts(plan, "nas") == {"missing": 12}
    assert ending is not None
    assert (ending.exit_code, ending.repaired.dropped) == (0, 12)
    site.level()


def test_sums_are_put_right(site: Site) -> None:
    """A lost SHA256SUMS, a wrong line, a line of nothing: found by comparing, and `sha256sum -c` passes again."""
    folders = sorted((site.archive.root / "nas" / "box" / "demo" / "ticks").iterdir())
    (folders[0] / "SHA256SUMS").unlink()
    sums = folders[1] / "SHA256SUMS"
    lines = sums.read_text(encoding="ascii").splitlines()
    lines[0] = "0" * 64 + lines[0][64:]
    sums.write_text("\n".join([*lines, "1" * 64 + "  nothing.parquet"]) + "\n", encoding="ascii", newline="\n")
    plan, ending = site.run()
    assert counts(plan, "nas") == {"sums": len(list(folders[0].glob("*.parquet"))) + 1}
    assert ending is not None
    assert ending.exit_code == 0
    site.level()


def test_a_target_that_is_away_is_no_reason_to_drop_anything(site: Site) -> None:
    """An absent target is told, keeps its copies, and the others are brought level all the same."""
    (site.archive.root / "usb" / ".hometape-target").rename(site.archive.root / "usb" / "elsewhere")
    site.file("nas", 1).unlink()
    plan, ending = site.run()
    assert "has no" in next(one.error for one in plan.targets if one.target == "usb")
    assert ending is not None
    assert (ending.unread, ending.exit_code) == (1, 1)
    assert site.archive.copied("usb") == 12
    site.archive.assert_complete("nas")


class Afar(Wrapper):
    """A target whose files have to be fetched; counts how often that happens."""

    def __init__(self, inner: Target) -> None:
        super().__init__(inner)
        self.fetches = 0

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override] # as the wrapper itself
        """Nothing is local."""
        return Capabilities(local=False)

    def local(self, path: str) -> Path | None:
        """None: there are no local files."""
        return None

    def fetch_many(self, paths: Sequence[str], folder: Path) -> Sequence[Path | HometapeError]:
        """Copies, through `read`."""
        self.fetches += 1
        return Target.fetch_many(self, paths, folder)


def test_a_remote_is_asked_in_batches(site: Site) -> None:
    """Home is filled, and foreign segments are adopted, with a few fetches and not one a segment."""
    afar = Afar(site.archive.others[0])
    site.targets = [site.archive.home, afar]
    site.settings.target[:] = site.settings.target[:2]
    site.archive.names = ("nas",)
    shutil.rmtree(site.archive.root / "home" / "box")
    newer = site.archive.maker.many(30)
    for item in newer:
        put(site.archive.root / "nas", item)
    site.archive.made += newer
    _, ending = site.run()
    assert ending is not None
    assert (ending.exit_code, ending.repaired.adopted) == (0, 30)
    site.level()
    assert afar.fetches <= 4


def test_an_unknown_file_of_findings_is_an_error(tmp_path: Path) -> None:
    """What is no file of findings is not acted on."""
    from receiver.resync_plan import read_findings

    (tmp_path / "x").write_bytes(b"{}\n")
    with pytest.raises(ValueError, match="no file of findings"):
        read_findings(tmp_path / "x")
    assert issubclass(NotFound, HometapeError)


@pytest.mark.parametrize("width", [80, 120])
def test_the_plan_fits_the_terminal(site: Site, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 80 columns the table has a column for what there is, and no word is cut; a target unseen has no figures."""
    site.file("nas", 3).unlink()
    (site.archive.root / "usb" / ".hometape-target").unlink()
    shown = io.StringIO()
    monkeypatch.setattr("receiver.cli.resync.out", Console(file=shown, width=width, soft_wrap=True))
    show(site.run(repair=False)[0])
    lines = shown.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines[:4]) <= width
    assert [line.split()[:3] for line in lines[1:4]] == [["home", "12", "-"], ["nas", "11", "1"], ["usb", "?", "-"]]
    assert ("stray" in lines[0]) == (width > 80)
    assert "  hint: mount it; if the folder is new, wiped or replaced: `tape-receiver resync usb --prepare`" in lines
