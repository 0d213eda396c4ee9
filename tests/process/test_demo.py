"""`make demo` as its users run it: what it shows, that it ends well, and that nothing of it is left."""

import sys
from pathlib import Path

import pytest

from tests.support.needs import PROJECT
from tests.support.processes import Program, environment

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(420)]


def run_demo(scratch: Path) -> str:
    """What the demo prints, with its folder made in `scratch`; AssertionError if it fails or leaves the folder."""
    with Program([sys.executable, "-m", "bench.demo"], cwd=PROJECT, env=environment(TMPDIR=str(scratch))) as demo:
        try:
            code = demo.wait(within=360)
        finally:
            demo.terminate()  # by which it ends what it started; killed, it could not
        assert code == 0, demo.report()
        assert not list(scratch.glob("hometape-demo-*"))
        return demo.out()


def assert_in_order(text: str, *parts: str) -> None:
    """Each of the parts stands behind the one before."""
    place = 0
    for part in parts:
        found = text.find(part, place)
        assert found >= 0, f"no {part!r} after the first {place} characters of\n{text}"
        place = found + len(part)


def test_the_demo_shows_all_of_it(tmp_path: Path) -> None:
    """Too few copies while disk and cloud are away, then level; a deleted copy is mended; all exports are the file."""
    shown = run_demo(tmp_path)
    assert_in_order(
        shown,
        "-- the link is cut --",
        "-- the disk is pulled",
        "-- the link is back --",
        "$ tape-receiver status",
        "degraded",
        "waiting for cloud",
        "away, seen",
        "-- the cloud is back --",
        "-- the disk is plugged in again --",
        "$ tape-receiver resync --dry-run",
        "nas: missing: ",
        "not level",
        "$ tape-receiver resync nas",
        "everything is level",
        "$ tape-agent resync",
        "level: home holds exactly what was made here",
        "$ tape-receiver status",
        "home: all is well",
        "3-2-1: ",
        "3 copies on 2 media at 2 sites",
        "every byte came back from every target",
    )
    said = [line.split() for line in shown.splitlines() if line.startswith(("written by the bot", "exported from"))]
    assert len(said) == 5
    assert {words[2] for words in said[1:]} == {"home", "nas", "usb", "cloud"}
    assert {next(word for word in words if len(word) == 64) for words in said} == {said[0][4]}
