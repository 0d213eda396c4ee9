"""What the outbox remembers of everything it made, when the rows are long gone."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from agent import outbox_blocks, outbox_moves
from agent.model import Origin
from agent.outbox import Outbox
from agent.outbox_blocks import Made
from tape.inventory import BLOCK, node_of
from tests.unit.agent.outboxes import ORIGIN, open_outbox, place_and_commit, receipt

OTHER = Origin("0" * 31 + "2", "feed", "demo/other", "/data/other.csv", "csv")


def blocks(outbox: Outbox, stream: str = ORIGIN.stream) -> list[Made]:
    """The blocks of a stream's own epoch."""
    with outbox._store.reading() as db:
        number = db.execute("SELECT id FROM streams WHERE name = ?", (stream,)).fetchone()[0]
        return list(outbox_blocks.read(db, number, outbox.epoch))


def test_every_commit_counts_in_its_block(tmp_path: Path) -> None:
    """Count, numbers and node are those of the segments made, a block for each 256 numbers, a set for each stream."""
    outbox = open_outbox(tmp_path)
    made = [place_and_commit(outbox) for _ in range(BLOCK + 3)]
    place_and_commit(outbox, OTHER)
    first, second = blocks(outbox)
    for block, these in ((first, made[:BLOCK]), (second, made[BLOCK:])):
        assert block.node == node_of((one.name.seq, bytes.fromhex(one.name.digest)) for one in these)
        assert list(block.seqs()) == [one.name.seq for one in these]
    assert 5 in first
    assert 5 + BLOCK not in first
    assert BLOCK + 3 not in second
    assert [block.node.count for block in blocks(outbox, OTHER.stream)] == [1]
    outbox.close()


def test_compacted_rows_stay_in_their_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Released rows go, what was made does not, also after a restart."""
    monkeypatch.setattr(outbox_moves, "KEEP_RELEASED", 10)
    outbox = open_outbox(tmp_path)
    for _ in range(40):
        place_and_commit(outbox)
    before = blocks(outbox)
    outbox.apply_receipt(receipt(outbox, 10, safe=range(30)))
    with outbox._store.reading() as db:
        assert db.execute("SELECT count(*) FROM segments").fetchone()[0] == 20
    assert blocks(outbox) == before
    outbox.close()
    outbox = open_outbox(tmp_path)
    assert blocks(outbox) == before
    outbox.close()


def test_a_commit_that_fails_counts_nothing(tmp_path: Path) -> None:
    """Segment, cursor and block are one transaction."""
    outbox = open_outbox(tmp_path)
    place_and_commit(outbox)
    before = blocks(outbox)
    with pytest.raises(KeyboardInterrupt), outbox._store.transaction() as db:
        outbox_blocks.note(db, 1, outbox.epoch, 7, "0" * 32)
        raise KeyboardInterrupt
    assert blocks(outbox) == before
    outbox.close()


def test_what_is_counted_twice_counts_once(tmp_path: Path) -> None:
    """A segment adopted again after its row was compacted must not take itself out of the node."""
    outbox = open_outbox(tmp_path)
    one = place_and_commit(outbox)
    before = blocks(outbox)
    with outbox._store.transaction() as db:
        outbox_blocks.note(db, 1, outbox.epoch, 0, one.name.digest)
    assert blocks(outbox) == before
    outbox.close()


def as_format_1(path: Path) -> None:
    """Take an outbox back to what the first format was."""
    db: Any = sqlite3.connect(path)
    db.executescript(
        "DROP TABLE blocks; DROP INDEX unsent; ALTER TABLE segments DROP COLUMN again;"
        "ALTER TABLE segments DROP COLUMN delivered;"
        "CREATE INDEX unsent ON segments (id) WHERE state = 'sealed'; PRAGMA user_version = 1;"
    )
    db.close()


def test_an_outbox_of_the_first_format_is_brought_up_to_date(tmp_path: Path) -> None:
    """All that its rows tell is summed up, in every epoch and stream; it goes on sealing and sending."""
    outbox = open_outbox(tmp_path)
    for _ in range(BLOCK + 40):
        place_and_commit(outbox)
    place_and_commit(outbox, OTHER)
    before = blocks(outbox), blocks(outbox, OTHER.stream)
    outbox.close()
    as_format_1(tmp_path / "outbox.db")
    outbox = open_outbox(tmp_path)
    assert (blocks(outbox), blocks(outbox, OTHER.stream)) == before
    place_and_commit(outbox)
    assert blocks(outbox)[1].node.count == 41
    assert outbox.waiting()[0] == BLOCK + 42
    assert len(outbox.unsent(BLOCK + 100)) == BLOCK + 42
    outbox.close()
    open_outbox(tmp_path).close()


def test_an_outbox_of_the_second_format_is_brought_up_to_date(tmp_path: Path) -> None:
    """It did not tell what was left with a plain server: nothing counts as that, and from now on it does."""
    outbox = open_outbox(tmp_path)
    made = [place_and_commit(outbox) for _ in range(2)]
    outbox.mark_held([made[0].id])
    outbox.close()
    db = sqlite3.connect(tmp_path / "outbox.db")
    db.executescript("ALTER TABLE segments DROP COLUMN delivered; PRAGMA user_version = 2;")
    db.close()
    outbox = open_outbox(tmp_path)
    assert [(one.unconfirmed, one.oldest_unconfirmed_ns) for one in outbox.totals()] == [(0, None)]
    outbox.mark_delivered([made[1].id])
    assert [(one.unconfirmed, one.oldest_unconfirmed_ns) for one in outbox.totals()] == [(1, 1_000)]
    outbox.close()


def test_a_migration_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that dies while it brings the format up to date leaves the old one, and the next start does it."""
    outbox = open_outbox(tmp_path)
    place_and_commit(outbox)
    before = blocks(outbox)
    outbox.close()
    as_format_1(tmp_path / "outbox.db")

    def die(_db: sqlite3.Connection) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(outbox_blocks, "fill", die)
        with pytest.raises(KeyboardInterrupt):
            open_outbox(tmp_path)
    db = sqlite3.connect(tmp_path / "outbox.db")
    assert db.execute("PRAGMA user_version").fetchone()[0] == 1
    db.close()
    outbox = open_outbox(tmp_path)
    assert blocks(outbox) == before
    outbox.close()
