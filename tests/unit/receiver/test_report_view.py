"""The status page on terminals of every width: nothing is cut, and what is not there says why."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from receiver.fanout import Fanout
from receiver.report import StatusReport, status
from receiver.report_view import render
from receiver.settings import ReceiverSettings
from tape.clock import ManualClock
from tests.support.archive import Archive
from tests.support.segments import START_NS


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """Home and nas, a minute after the first segments."""
    made = Archive(tmp_path, clock=ManualClock(wall_ns=START_NS + 60_000_000_000))
    yield made
    made.catalog.close()


def report(archive: Archive) -> StatusReport:
    places = [{"id": t.id, "path": str(archive.root / t.id), "home": t.place.home} for t in archive.targets]
    settings = ReceiverSettings.model_validate({"state": str(archive.root / "state"), "target": places})
    live = {"lanes": [], "connected": {"box": 1}}
    return status(settings, archive.catalog, archive.targets, clock=archive.clock, live=live)


def page(found: StatusReport, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, soft_wrap=True).print(render(found))  # soft, as `tape-receiver` prints it
    return out.getvalue().splitlines()


def busy(found: StatusReport) -> StatusReport:
    """The same with six targets in every plight, and streams with long names."""
    home, nas = found.targets
    plights = [
        replace(nas, id="usb-a", kind="removable", medium="usb", site="drawer", note="level: safe to unplug"),
        replace(nas, id="usb-b", kind="removable", condition="absent", seen_age_s=300_000.0, overdue=True),
        replace(nas, id="cloud", kind="remote", segments=1_234_567, bytes=46 * 10**12, rows=10**12, free_bytes=None),
        replace(nas, id="attic", behind_segments=12_345, behind_bytes=10**10, level_in_s=7200.0, full_in_days=713.0),
    ]
    targets = (home, nas, *plights)
    streams = [replace(found.streams[0], stream="binance-futures/btcusdt/" + word) for word in ("trades", "quotes")]
    at = found.streams[0].targets["nas"]
    streams = [
        replace(one, targets={t.id: replace(at, behind=7) if t.id == "attic" else at for t in targets})
        for one in streams
    ]
    return replace(found, targets=targets, streams=tuple(streams))


@pytest.mark.parametrize("width", [80, 100, 132, 250])
async def test_no_word_of_the_page_is_cut(archive: Archive, width: int) -> None:
    """At 80 columns the tables fit, with every id, figure and state in full; wider ones take what room they have."""
    archive.commit(2)
    await Fanout(archive.catalog, archive.targets, clock=archive.clock).drain()
    found = busy(report(archive))
    lines = page(found, width)
    text = "\n".join(lines)
    assert "…" not in text
    tables = lines[lines.index(next(line for line in lines if line.startswith("target"))) :]
    assert max(len(line.rstrip()) for line in tables) <= width
    for word in (*(one.id for one in found.targets), "removable", "directory", "remote", "1,234,567", "46.0 TB"):
        assert word in text
    for one in found.streams:
        assert f"{one.agent}/{one.stream}" in text
    assert "-7 (" in text


async def test_a_target_that_is_away_says_why(archive: Archive) -> None:
    """Within its max_age an absent target is no warning yet, but the page tells the reason and the next step."""
    archive.commit(1)
    await Fanout(archive.catalog, archive.targets, clock=archive.clock).drain()
    (archive.root / "nas" / ".hometape-target").unlink()
    found = report(archive)
    assert (found.exit_code, len(found.reasons)) == (0, 0)
    lines = page(found, 80)
    told = lines.index(f"  nas is absent: {archive.root / 'nas'} has no .hometape-target")
    assert lines[told + 1].startswith("  hint: mount it; ")
    assert "`tape-receiver resync nas --prepare`" in lines[told + 1]


async def test_a_reason_is_told_once(archive: Archive) -> None:
    """What the reasons at the foot of the page say already is not said beside the tables again."""
    (archive.root / "home" / ".hometape-target").unlink()
    assert "\n".join(page(report(archive), 80)).count("has no .hometape-target") == 1
