"""The start of the outbox: whatever state spool and database are in, it goes on or says what to do."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from agent.buffer import Cursor, Piece
from agent.model import Origin, State
from agent.outbox import Outbox
from agent.sealer import Place, Sealer, Shaped
from tape.clock import ManualClock
from tape.errors import StoreError, StoreLocked
from tests.unit.agent.outboxes import ORIGIN, open_outbox, place_and_commit, receipt


def states(outbox: Outbox) -> dict[int, str]:
    """State by seq of everything the database has."""
    with outbox._store.reading() as db:
        return {row["seq"]: row["state"] for row in db.execute("SELECT seq, state FROM segments ORDER BY id")}


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    """The state folder belongs to one outbox at a time, and to the next one after it closed."""
    outbox = open_outbox(tmp_path)
    with pytest.raises(StoreLocked):
        open_outbox(tmp_path)
    outbox.close()
    open_outbox(tmp_path).close()


def test_another_agents_outbox_is_refused(tmp_path: Path) -> None:
    """A changed agent name must not continue the old agent's chains."""
    open_outbox(tmp_path).close()
    with pytest.raises(StoreError, match="belongs to agent 'bot'"):
        open_outbox(tmp_path, agent="other")


def test_a_lost_spool_file_is_a_gap_not_a_crash(tmp_path: Path) -> None:
    """A missing or shortened spool file becomes LOST with a durable event; put back, it is sent again."""
    outbox = open_outbox(tmp_path)
    made = [place_and_commit(outbox) for _ in range(3)]
    outbox.close()
    aside = tmp_path / "aside"
    (tmp_path / "spool" / made[0].path).rename(aside)
    (tmp_path / "spool" / made[1].path).write_bytes(b"short")
    outbox = open_outbox(tmp_path)
    assert states(outbox) == {0: "lost", 1: "lost", 2: "sealed"}
    assert outbox.waiting() == (1, made[2].size)
    lines = [line for _, line in outbox.events_from(0, 10)]
    assert len(lines) == 2
    assert b'"fault":"storage"' in lines[0]
    assert str(made[0].name).encode() in lines[0]
    (totals,) = outbox.totals()
    assert totals.states[State.LOST][0] == 2
    outbox.close()
    aside.rename(tmp_path / "spool" / made[0].path)
    outbox = open_outbox(tmp_path)
    assert states(outbox) == {0: "sealed", 1: "lost", 2: "sealed"}
    assert len(outbox.events_from(0, 10)) == 2
    assert outbox.apply_receipt(receipt(outbox, 5, safe=[1])) == 1
    outbox.close()


def test_start_clears_orphans_and_temps_but_nothing_else(tmp_path: Path) -> None:
    """Temporary files and uncommitted files go; strangers and files from the future stay."""
    outbox = open_outbox(tmp_path)
    made = place_and_commit(outbox)
    outbox.close()
    folder = tmp_path / "spool" / ORIGIN.stream
    temp = folder / ".tmp-0011"
    orphan = folder / f"{made.name.epoch}-{1:012d}-{'d' * 32}.parquet"
    beyond = folder / f"{made.name.epoch}-{9:012d}-{'d' * 32}.parquet"
    stranger = folder / "notes.txt"
    for path in (temp, orphan, beyond, stranger):
        path.write_bytes(b"?")
    (tmp_path / "spool" / "empty" / "folder").mkdir(parents=True)
    open_outbox(tmp_path).close()
    assert not temp.exists()
    assert not orphan.exists()
    assert beyond.exists()
    assert stranger.exists()
    assert (tmp_path / "spool" / made.path).exists()
    assert not (tmp_path / "spool" / "empty").exists()


def test_power_cut_between_safe_and_released(tmp_path: Path) -> None:
    """Whatever part of freeing happened before a cut, the start finishes it."""
    outbox = open_outbox(tmp_path)
    made = [place_and_commit(outbox) for _ in range(3)]
    with outbox._store.transaction() as db:
        db.execute("UPDATE segments SET state = 'safe' WHERE seq < 2")
        db.execute("UPDATE segments SET state = 'released' WHERE seq = 2")
    (outbox.spool / made[0].path).unlink()
    outbox.close()
    outbox = open_outbox(tmp_path)
    assert set(states(outbox).values()) == {"released"}
    assert not any((outbox.spool / one.path).exists() for one in made)
    assert outbox.spooled_bytes() == 0
    outbox.close()


def test_a_new_epoch_starts_when_the_database_is_lost(tmp_path: Path) -> None:
    """Without outbox.db a new epoch begins by itself; damaged files of the old one are left alone."""
    outbox = open_outbox(tmp_path)
    made = place_and_commit(outbox)
    old = outbox.epoch
    outbox.close()
    for path in tmp_path.glob("outbox.db*"):
        path.unlink()
    outbox = open_outbox(tmp_path)
    assert outbox.epoch != old
    assert outbox.head(ORIGIN.stream).next_seq == 0
    assert (outbox.spool / made.path).exists(), (
        "it is no real Parquet file, so it can't be adopted, but not deleted either"
    )
    outbox.close()


def test_a_damaged_database_says_what_to_do(tmp_path: Path) -> None:
    """Garbage in outbox.db is a StoreError whose hint is the next step, and the lock is free again."""
    outbox = open_outbox(tmp_path)
    for _ in range(50):
        place_and_commit(outbox)
    outbox.close()
    path = tmp_path / "outbox.db"
    keep = path.read_bytes()
    path.write_bytes(b"garbage, not a database" * 1000)
    for _ in range(2):
        with pytest.raises(StoreError) as caught:
            open_outbox(tmp_path)
        assert "aside" in caught.value.hint
    path.write_bytes(keep[:8192] + b"\xff" * 8192 + keep[16384:])
    with pytest.raises(StoreError) as caught:
        open_outbox(tmp_path)
    assert "aside" in caught.value.hint


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """An outbox of a later version is not touched."""
    open_outbox(tmp_path).close()
    db = sqlite3.connect(tmp_path / "outbox.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match="newer"):
        open_outbox(tmp_path)


def test_a_crashed_copy_opens_with_every_commit(tmp_path: Path) -> None:
    """The files as they lie after a commit, copied without closing, hold that commit (the WAL is on disk)."""
    outbox = open_outbox(tmp_path / "a")
    made = [place_and_commit(outbox) for _ in range(3)]
    shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns("lock"))
    copy = open_outbox(tmp_path / "b")
    assert [one.id for one in copy.unsent(9)] == [one.id for one in made]
    copy.close()
    outbox.close()


def test_segments_of_a_lost_outbox_are_adopted_and_sent(tmp_path: Path) -> None:
    """If outbox.db is lost, what it had sealed is offered again under its old names, and a receipt frees it."""
    one = Origin("1" * 32, "feed", "demo/ticks", "/data/a.csv")
    outbox = open_outbox(tmp_path)
    sealer = Sealer(outbox, level=1, clock=ManualClock())
    cursor = Cursor()
    for text in (b"1,2\n" * 50, b"3,4\n" * 50):
        segment = sealer.open(one, cursor, text, Shaped(), plain=False)
        sealer.append(segment, Piece(text, ((len(text), 1_700_000_000_000_000_000),)))
        sealer.seal(segment, Place("/data/a.csv", 1, 2), final=False)
        cursor = segment.cursor
    made = outbox.unsent(9)
    old = outbox.epoch
    outbox.close()
    for path in tmp_path.glob("outbox.db*"):
        path.unlink()
    damaged = tmp_path / "spool" / one.stream / f"{old}-{7:012d}-{'d' * 32}.parquet"
    damaged.write_bytes(b"not what its name says")
    outbox = open_outbox(tmp_path)
    found = outbox.unsent(9)
    assert [(f.name, f.path, f.size, f.sha256, f.chain, f.rows) for f in found] == [
        (m.name, m.path, m.size, m.sha256, m.chain, m.rows) for m in made
    ]
    assert damaged.exists()
    assert list(outbox.known_files("feed")) == []
    assert outbox.head(one.stream).next_seq == 0
    outbox.mark_held([found[0].id])
    assert outbox.apply_receipt(receipt(outbox, 5, epoch=old, held=[0, 1], safe=[0, 1])) == 2
    assert not (outbox.spool / found[0].path).exists()
    outbox.close()
