"""What a source tells for status: files made anew again and again, archives that are never left alone."""

import gzip
import os
import shutil
from pathlib import Path

import pytest

from agent.model import EventKind
from agent.sources.rewrites import OFTEN, WITHIN, Rewrites
from tests.support import wait_until_async
from tests.unit.agent.sources.ledger import Ledger, append, has, rows, running, scanned, settings


@pytest.mark.parametrize("how", ["a last line", "all of it", "another file"])
async def test_a_file_made_anew_again_and_again_is_told(tmp_path: Path, how: str) -> None:
    """The fifth time within ten minutes an event says it, once, with what to do; status says it as long as it lasts."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    data = rows(0, 500)
    file.write_bytes(data + b"0,a bar\n")
    async with running(ledger, settings(tmp_path / "*")) as source:
        for number in range(1, OFTEN + 3):
            await wait_until_async(lambda: len(ledger.lives) == number and not source.busy)  # noqa: B023 - waited for here
            assert bool(source.standing().rewritten) is (number > OFTEN)
            if how == "a last line":
                with file.open("r+b") as opened:
                    opened.seek(len(data))
                    opened.write(b"%d,a bar\n" % number)
            elif how == "all of it":
                file.write_bytes(rows(1000 * number, 50))
            else:
                (tmp_path / ".new").write_bytes(rows(1000 * number, 50))
                (tmp_path / ".new").replace(file)
        await wait_until_async(lambda: len(ledger.lives) == OFTEN + 3)
        assert source.standing().rewritten == (str(file),)
    (event,) = [event for event in ledger.events if event.kind is EventKind.REWRITTEN]
    assert event.file == str(file)
    assert event.detail["times"] == OFTEN
    assert "exclude" in str(event.detail["hint"])


async def test_copies_on_the_way_to_a_rotation_are_no_rewrites(tmp_path: Path) -> None:
    """The cut of copytruncate ends lives too, but nothing is sent twice."""
    ledger, file = Ledger(), tmp_path / "x.csv"
    contents = []
    async with running(ledger, settings(tmp_path / "x.csv*")) as source:
        for number in range(OFTEN + 1):
            contents.append(rows(1000 * number, 100))
            append(file, contents[-1])
            await has(ledger, *contents)
            shutil.copyfile(file, tmp_path / f"x.csv.{number + 1}")
            os.truncate(file, 0)
            await ledger.told(EventKind.ROTATED, times=number + 1)
        assert not source.standing().rewritten
    assert EventKind.REWRITTEN not in ledger.kinds()


def test_what_has_calmed_down_may_be_told_again() -> None:
    """Ten minutes later a file is like any other."""
    rewrites = Rewrites()
    assert [rewrites.note("x", f"life {n}", 60.0 * n) for n in range(6)] == [False] * 4 + [True, False]
    assert rewrites.often(300.0) == ("x",)
    assert rewrites.often(WITHIN + 121.0) == ()
    assert [rewrites.note("x", f"later {n}", 2000.0 + n) for n in range(5)] == [False] * 4 + [True]
    assert not any(rewrites.note("slow", f"life {n}", 3000.0 + 200 * n) for n in range(20))


async def test_an_archive_that_is_appended_to_counts_as_unread(tmp_path: Path) -> None:
    """How many bytes, since when, and which; then it is left alone and read. Of one that grew, only what is new."""
    ledger, file = Ledger(), tmp_path / "x.csv.gz"
    part = gzip.compress(rows(0, 500))
    async with running(ledger, settings(tmp_path / "*", poll=0.1, archive_settle=1.5)) as source:
        append(file, part)
        await wait_until_async(lambda: source.standing().unread.archives)
        first = source.standing().unread
        append(file, part)
        await scanned(source, 3)
        unread = source.standing().unread
        assert (unread.archives, unread.size, unread.oldest) == (1, 2 * len(part), str(file))
        assert unread.waits_s > first.waits_s
        await has(ledger, rows(0, 500) * 2)
        await wait_until_async(lambda: not source.standing().unread.archives)
        append(file, part)
        await wait_until_async(lambda: source.standing().unread.size == len(part))
