"""What `tape-agent status` says of files that are not read, or sent again and again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent import status
from agent.budget import Pause
from agent.cli.status import show
from agent.settings import AgentSettings
from agent.sources.contract import Standing, Unread
from agent.space import Collecting
from tape.clock import ManualClock
from tests.unit.agent.outboxes import open_outbox


def facts_of(state: Path, *sources: Standing, files: int = 1) -> dict[str, Any]:
    """Facts of a running service whose lanes are empty."""
    outbox = open_outbox(state)
    collecting = Collecting(Pause.NONE, 0, files, 0, 0.0, ())
    settings = AgentSettings(agent="bot", state=state)
    try:
        return status.collect(settings, outbox, clock=ManualClock(), collecting=collecting, sources=sources)
    finally:
        outbox.close()


def problems(facts: dict[str, Any]) -> Sequence[tuple[int, str]]:
    """Level and text of each."""
    return [(problem["level"], problem["text"]) for problem in facts["problems"]]


@pytest.mark.parametrize(("waits", "level"), [(60.0, 0), (901.0, 1), (26 * 3600.0, 2)])
def test_archives_that_wait_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], waits: float, level: int
) -> None:
    """How many, how large, for how long; never "all of it sealed", and a problem when it takes as long as home may."""
    sources = [Standing(Unread(2, 3_000_000, waits, "/t/x.gz")), Standing(Unread(1, 500_000, 5.0, "/t/y.gz"))]
    facts = facts_of(tmp_path, *sources)
    assert facts["reading"]["archives"] == {"unread": 3, "bytes": 3_500_000, "waiting_s": waits, "oldest": "/t/x.gz"}
    assert [found for found, _ in problems(facts)] == [level] * bool(level)
    assert all("/t/x.gz" in text and "hint:" in text for _, text in problems(facts))
    show(facts)
    printed = capsys.readouterr().out
    assert f"archives not read yet: 3 (3.5 MB), for {waits:.0f} s" in " ".join(printed.split())
    assert "all of it sealed" not in printed


def test_files_made_anew_again_and_again_are_problems(tmp_path: Path) -> None:
    """The first three by name, with what to do; the others as a number."""
    facts = facts_of(tmp_path, Standing(rewritten=("/t/a", "/t/b")), Standing(rewritten=("/t/c", "/t/d", "/t/e")))
    texts = [text for level, text in problems(facts) if level == 1]
    assert len(texts) == len(facts["problems"]) == 4
    assert all(
        text.startswith(path) and "exclude" in text for text, path in zip(texts, ("/t/a", "/t/b", "/t/c"), strict=False)
    )
    assert texts[3].startswith("2 more files")


def test_nothing_to_tell_is_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without archives that wait and files made anew all is as it was."""
    facts = facts_of(tmp_path, Standing())
    assert not facts["problems"]
    show(facts)
    assert "reading 1 file, all of it sealed" in " ".join(capsys.readouterr().out.split())
