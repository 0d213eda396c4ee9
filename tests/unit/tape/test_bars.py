"""Progress: a bar with rate and time left on a terminal, which goes away; nothing where nobody looks."""

import io
import re

import pytest
from rich.console import Console

from tape.bars import counting
from tape.clock import SYSTEM
from tests.support.bars import last_frame


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What standard error shows, as if it were a terminal."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, legacy_windows=False, no_color=True, width=120, _environ={})
    monkeypatch.setattr("tape.bars.err", console)
    return text


def test_bytes_have_a_rate_and_a_time_left(seen: io.StringIO) -> None:
    """What it is, how much of how much, how fast, how long still; in the end the line is wiped off."""
    with counting("copying", unit="B") as told:
        told(1_000_000, 4_000_000)
        SYSTEM.wait(0.1)
        told(3_000_000, 4_000_000)
    assert re.fullmatch(r"copying \S+ +3\.0/4\.0 MB \d+(\.\d)? [kM]B/s 0:00:0\d", last_frame(seen.getvalue()))


def test_things_are_counted(seen: io.StringIO) -> None:
    """Other things than bytes have no rate, and no time left where their number is unknown."""
    with counting("reading", unit="segments") as told:
        told(7, None)
    assert re.fullmatch(r"reading [━╸╺ ]+ 7/\?", last_frame(seen.getvalue()))


def test_an_error_leaves_no_bar_behind(seen: io.StringIO) -> None:
    """What fails on the way wipes the bar off, too, and gives the cursor back."""
    with pytest.raises(OSError, match="the disk failed"), counting("copying", unit="B") as told:
        told(1, 2)
        raise OSError("the disk failed")
    assert last_frame(seen.getvalue()).startswith("copying")
    assert "\x1b[?25h" in seen.getvalue()


def test_nothing_where_nobody_looks(seen: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    """A bar that is to be quiet shows nothing."""
    with counting("copying", unit="B", quiet=True) as told:
        told(1, 2)
    assert seen.getvalue() == ""
    assert capsys.readouterr() == ("", "")


def test_nothing_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard error that goes to a file or a pipe gets nothing of a bar."""
    with counting("copying", unit="B") as told:
        told(1, 2)
        told(2, 2)
    assert capsys.readouterr() == ("", "")
