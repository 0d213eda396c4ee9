"""Commands that take long show how far they are: on a terminal only, and in the end the bar is gone."""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.archive import Feed
from tests.support.bars import GONE, last_frame
from tests.support.homeside import HomeSide
from tests.support.processes import command, environment, run
from tests.support.segments import put

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform == "win32", reason="a terminal is imitated by a pseudo terminal"),
]

RECORDED = b"".join(b"%d,1.%04d,%d\n" % (1_700_000_000_000 + i, i % 9973, i * i) for i in range(20_000))
PIECES = 10
RATE = r"\d+(\.\d)? [kMG]?B/s"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> HomeSide:
    """Home and a NAS folder; segments that only home has, and no catalog knows."""
    side = HomeSide(tmp_path_factory.mktemp("bars") / "site")
    step = len(RECORDED) // PIECES
    for made in Feed(side.folder / "spool").seal(RECORDED, cuts=[step * n for n in range(1, PIECES)]):
        put(side.folder / "home", made)
    return side


def on_a_terminal(*words: str | Path, codes: tuple[int, ...] = (0,)) -> str:
    """What `tape-receiver` shows on a terminal that is its standard error."""
    import pty

    upper, lower = pty.openpty()
    shown = b""
    with subprocess.Popen(
        [*command("tape-receiver"), *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=lower,
        env=environment(TERM="xterm"),
    ) as process:
        os.close(lower)
        with contextlib.suppress(OSError):  # how a pseudo terminal ends
            while block := os.read(upper, 65536):
                shown += block
        os.close(upper)
    assert process.returncode in codes, shown.decode()
    return shown.decode()


def test_an_export_says_how_fast_and_how_long(site: HomeSide, tmp_path: Path) -> None:
    """The bytes of the whole, the rate, the time left."""
    words = ("export", "box/demo/ticks", "--from", site.folder / "home", "--output")
    frame = last_frame(on_a_terminal(*words, tmp_path / "out"))
    size = f"{len(RECORDED) / 1000:.1f}"
    assert re.fullmatch(rf"exporting \S+ {size}/{size} kB {RATE} 0:00:00", frame)


def test_resync_and_verify_say_how_fast_and_how_long(site: HomeSide) -> None:
    """Each part of a resync has its bar; a check of what it copied has one of bytes, too."""
    shown = on_a_terminal("resync", "--config", site.toml, codes=(0, 1))
    bars = [last_frame(bar + GONE) for bar in shown.split(GONE)[:-1]]
    assert [bar.split()[0] for bar in bars] == ["rebuilding", "looking", "repairing"]
    stored = sum(path.stat().st_size for path in (site.folder / "nas").rglob("*.parquet"))
    size = f"{stored / 1000:.1f}"
    assert re.fullmatch(rf"repairing \S+ {size}/{size} kB (\?|{RATE}) 0:00:00", bars[-1])  # one batch alone has no rate
    frame = last_frame(on_a_terminal("verify", "--target", "nas", "--config", site.toml))
    assert re.fullmatch(rf"verifying \S+ {size}/{size} kB {RATE} 0:00:00", frame)


def test_a_bare_folder_is_counted(site: HomeSide) -> None:
    """How many segments there are is not known before: they are counted."""
    frame = last_frame(on_a_terminal("verify", "--folder", site.folder / "home", codes=(0, 1)))
    assert re.fullmatch(rf"verifying [━╸╺ ]+ {PIECES}/\?", frame)


def test_no_bar_off_a_terminal(site: HomeSide, tmp_path: Path) -> None:
    """Standard error that goes to a file stays empty."""
    home = site.folder / "home"
    both: list[list[str | Path]] = [
        ["export", "box/demo/ticks", "--from", home, "--output", tmp_path / "out"],
        ["verify", "--folder", home],
    ]
    for words in both:
        done = run([*command("tape-receiver"), *words], env=environment(TERM="xterm"))
        assert (done.code in {0, 1}, done.err) == (True, "")
