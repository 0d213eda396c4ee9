"""Logging: what is written where, and that a log that can't be written stops nobody."""

import io
import json
from pathlib import Path

import pytest

from tape.log import configure, get_logger


def test_one_line_of_json_an_event() -> None:
    """Facts are fields; an exception is in the line of its event."""
    out = io.StringIO()
    configure(stream=out)
    get_logger("x").info("a fact", stream="a/b", count=3)
    try:
        raise ValueError("why")
    except ValueError:
        get_logger("x").exception("it failed")
    first, second = map(json.loads, out.getvalue().splitlines())
    assert (first["event"], first["stream"], first["count"], first["level"]) == ("a fact", "a/b", 3, "info")
    assert "ValueError: why" in second["exception"]


def test_what_is_below_the_level_is_not_written() -> None:
    """`level` is the least that is written."""
    out = io.StringIO()
    configure(level="warning", stream=out)
    get_logger("x").info("much")
    assert out.getvalue() == ""


def test_a_log_that_cannot_be_written_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reader of standard error is gone, its disk is full, or it is closed: the event is lost, nothing else."""
    configure()
    gone = io.StringIO()
    gone.close()
    monkeypatch.setattr("sys.stderr", gone)
    get_logger("x").error("into nothing")
    monkeypatch.setattr("sys.stderr", None)
    get_logger("x").error("into nothing")
    if (full := Path("/dev/full")).exists():
        stream = full.open("w", encoding="utf-8", newline="\n", buffering=1)
        monkeypatch.setattr("sys.stderr", stream)
        get_logger("x").error("into a full disk")
        with pytest.raises(OSError, match="space"):
            stream.close()
    monkeypatch.undo()
    get_logger("x").error("heard again")
    assert json.loads(capsys.readouterr().err)["event"] == "heard again"
