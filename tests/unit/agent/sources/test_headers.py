"""Files that begin with the same long header are no copies of each other, wherever they lie."""

import gzip
import shutil
from pathlib import Path

import pytest

from tests.unit.agent.sources.ledger import Ledger, append, has, rows, running, settings

HEADER = b",".join(b"asks[%d].price" % k for k in range(500)) + b"\n"
PAIRS = [
    ("doge-2026-11-21.csv", "btc-2026-11-21.csv", "t/{base}"),
    ("doge-2026-11-21.csv", "doge-2026-11-22.csv", "t/{base}"),
    ("doge/trades.csv", "btc/trades.csv", "t/{parent}"),
    ("doge/trades.csv", "btc/trades.csv.1", "t/{parent}"),
]
SAME_NAME = ("doge/trades.csv", "btc/trades.csv", "t/{base}")


@pytest.mark.parametrize("header", [HEADER, b"time,bid,ask\n"], ids=["long", "short"])
@pytest.mark.parametrize(
    ("one", "other", "stream", "packed"),
    [(*pair, packed) for pair in PAIRS for packed in (False, True)] + [(*SAME_NAME, False)],
)
async def test_a_header_alone_is_no_proof(
    tmp_path: Path, header: bytes, one: str, other: str, stream: str, *, packed: bool
) -> None:
    """The file of one symbol holds its header and is deleted; that of another begins with the same: two lives."""
    ledger, first, second = Ledger(), tmp_path / one, tmp_path / (other + ".gz" if packed else other)
    for file in (first, second):
        file.parent.mkdir(exist_ok=True)
    append(first, header)
    async with running(ledger, settings(tmp_path / "**" / "*", stream=stream)):
        await has(ledger, header)
        first.unlink()
        data = header + rows(0, 300)
        second.write_bytes(gzip.compress(data) if packed else data)
        await has(ledger, header, data)
    assert ledger.of(second)[0].origin.stream != "t/doge" or "doge" in other


@pytest.mark.parametrize(("one", "other", "stream"), PAIRS)
async def test_nor_with_the_number_of_a_freed_inode(tmp_path: Path, one: str, other: str, stream: str) -> None:
    """While the agent was down another file with that header got the number: still two lives."""
    ledger, source = Ledger(), settings(tmp_path / "**" / "*", stream=stream)
    first, second = tmp_path / one, tmp_path / other
    for file in (first, second):
        file.parent.mkdir(exist_ok=True)
    append(first, HEADER)
    async with running(ledger, source):
        await has(ledger, HEADER)
    ledger.seal()
    ledger.restart()
    first.rename(second)  # the very inode, as a file system that reuses numbers gives it
    append(second, rows(0, 300))
    async with running(ledger, source):
        await has(ledger, HEADER, HEADER + rows(0, 300))


@pytest.mark.parametrize("restarted", [False, True])
async def test_ticks_behind_the_header_are_proof(tmp_path: Path, *, restarted: bool) -> None:
    """A copy under any name, when the original is gone, is what the original was; only its rest is read."""
    ledger, file, source = Ledger(), tmp_path / "x.csv", settings(tmp_path / "**" / "*")
    data = HEADER + rows(0, 400)
    append(file, data)
    async with running(ledger, source):
        await has(ledger, data)
        if not restarted:
            shutil.copyfile(file, tmp_path / "kept")
            file.unlink()
            append(tmp_path / "kept", b"rest\n")
            await has(ledger, data + b"rest\n")
            return
    ledger.seal()
    ledger.restart()
    shutil.copyfile(file, tmp_path / "kept")
    file.unlink()
    append(tmp_path / "kept", b"rest\n")
    async with running(ledger, source):
        await has(ledger, data + b"rest\n")
