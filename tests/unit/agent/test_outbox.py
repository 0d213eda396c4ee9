"""The outbox: what is committed together stays together, and nothing is freed without being called safe."""

from itertools import pairwise
from pathlib import Path

import pytest

from agent.model import Event, EventKind, Origin, State
from agent.outbox import Outbox
from agent.outbox_moves import KEEP_RELEASED
from tape import digest
from tape.clock import ManualClock
from tape.durable import Disk
from tape.errors import DiskError, DiskFull, ReceiptError, StoreError, SyncFailed
from tape.receipt import Receipt, new_key, open_receipt
from tests.unit.agent.outboxes import ORIGIN, known, open_outbox, place_and_commit, receipt


def states(outbox: Outbox) -> dict[int, str]:
    """State by seq of everything the database has."""
    with outbox._store.reading() as db:
        return {row["seq"]: row["state"] for row in db.execute("SELECT seq, state FROM segments ORDER BY id")}


def test_commit_moves_segment_head_and_cursor_together(tmp_path: Path) -> None:
    """After a commit and a restart the segment waits, the stream's head and the file's cursor have moved."""
    outbox = open_outbox(tmp_path)
    first = place_and_commit(outbox)
    second = place_and_commit(outbox)
    epoch = outbox.epoch
    outbox.close()
    again = open_outbox(tmp_path)
    assert again.epoch == epoch
    assert [one.name.seq for one in again.unsent(10)] == [0, 1]
    genesis = digest.genesis("bot", ORIGIN.stream, epoch)
    link = digest.link(genesis, "bot", ORIGIN.stream, epoch, 0, first.sha256)
    assert first.chain == link
    assert second.chain == digest.link(link, "bot", ORIGIN.stream, epoch, 1, second.sha256)
    assert again.head(ORIGIN.stream).chain == second.chain
    assert again.head(ORIGIN.stream).next_row == 14
    (file,) = again.known_files("feed")
    assert file == known(ORIGIN, 200)
    assert again.known_files("other") == []
    stored = again.file(ORIGIN.file_id)
    assert stored is not None
    assert (stored.layout, stored.plan, stored.last_bytes) == ('{"layout":1}', "", b"ttttt")
    assert again.last_form(ORIGIN.stream) == ('{"layout":1}', "")
    again.close()


def test_a_commit_that_does_not_continue_is_refused(tmp_path: Path) -> None:
    """A gap or an overlap in seq or cursor raises and changes nothing."""
    outbox = open_outbox(tmp_path)
    place_and_commit(outbox)
    before = outbox.head(ORIGIN.stream)
    for wrong in ({"seq": 0}, {"seq": 2}, {"start": 0}, {"start": 99}, {"start": 101}):
        with pytest.raises(StoreError, match="does not continue"):
            place_and_commit(outbox, **wrong)  # type: ignore[arg-type]  # one of its two numbers
    assert outbox.head(ORIGIN.stream) == before
    assert outbox.waiting()[0] == 1
    outbox.close()


def test_only_a_safe_receipt_frees(tmp_path: Path) -> None:
    """Acknowledged and held segments keep their spool files; only what a receipt calls safe is deleted."""
    outbox = open_outbox(tmp_path)
    made = [place_and_commit(outbox) for _ in range(4)]
    paths = [outbox.spool / one.path for one in made]
    outbox.mark_held([made[0].id, made[1].id])
    assert outbox.apply_receipt(receipt(outbox, 10, held=[0, 1, 2])) == 0
    assert all(path.exists() for path in paths)
    assert outbox.waiting() == (1, made[3].size)
    assert outbox.apply_receipt(receipt(outbox, 11, held=[0, 1, 2], safe=[0, 2])) == 2
    assert [path.exists() for path in paths] == [False, True, False, True]
    assert states(outbox) == {0: "released", 1: "held", 2: "released", 3: "sealed"}
    assert outbox.spooled_bytes() == made[1].size + made[3].size
    outbox.close()


def test_only_a_signed_receipt_counts(tmp_path: Path) -> None:
    """The same words signed by another key, or changed after signing, never reach the outbox; the true ones free."""
    outbox = open_outbox(tmp_path)
    made = place_and_commit(outbox)
    home, stranger = new_key(), new_key()
    said = receipt(outbox, 10, safe=[0])
    changed = receipt(outbox, 10, held=[0]).sign(home).replace(b'"safe":[]', b'"safe":[[0,0]]')
    for forged in (said.sign(stranger), changed):
        with pytest.raises(ReceiptError, match="signature"):
            outbox.apply_receipt(open_receipt(forged, home.public_key(), agent="bot", stream=ORIGIN.stream))
        assert (outbox.spool / made.path).exists()
    assert (
        outbox.apply_receipt(open_receipt(said.sign(home), home.public_key(), agent="bot", stream=ORIGIN.stream)) == 1
    )
    assert not (outbox.spool / made.path).exists()
    outbox.close()


def test_a_receipt_of_another_epoch_frees_nothing(tmp_path: Path) -> None:
    """What home calls safe must be a segment of ours: same seq, other epoch is another segment."""
    outbox = open_outbox(tmp_path)
    made = place_and_commit(outbox)
    assert outbox.apply_receipt(receipt(outbox, 10, epoch="f" * 16, safe=[0])) == 0
    assert (outbox.spool / made.path).exists()
    with pytest.raises(ReceiptError, match="for agent"):
        outbox.apply_receipt(receipt(outbox, 11, safe=[0]).__class__("other", ORIGIN.stream, 11, {}))
    outbox.close()


def test_an_old_receipt_cannot_be_played_again(tmp_path: Path) -> None:
    """An older receipt raises, the same one again does nothing, also after a restart."""
    outbox = open_outbox(tmp_path)
    made = [place_and_commit(outbox) for _ in range(2)]
    old = receipt(outbox, 10, resend=[0, 1])
    outbox.apply_receipt(receipt(outbox, 20, held=[0, 1]))
    with pytest.raises(ReceiptError, match="older"):
        outbox.apply_receipt(old)
    assert outbox.last_receipt_ns(ORIGIN.stream) == 20
    outbox.close()
    outbox = open_outbox(tmp_path)
    with pytest.raises(ReceiptError, match="older"):
        outbox.apply_receipt(old)
    ask = receipt(outbox, 30, resend=[1])
    outbox.apply_receipt(ask)
    assert states(outbox) == {0: "held", 1: "sealed"}
    outbox.mark_held([made[1].id])
    outbox.apply_receipt(ask)
    assert states(outbox) == {0: "held", 1: "held"}
    outbox.close()


def test_resend_wakes_the_push(tmp_path: Path) -> None:
    """A held segment that home asks for again is unsent again, and the push is told."""
    outbox = open_outbox(tmp_path)
    woken: list[int] = []
    made = place_and_commit(outbox)
    outbox.mark_held([made.id])
    outbox.subscribe(lambda: woken.append(1))
    outbox.apply_receipt(receipt(outbox, 10, held=[0], resend=[0], safe=[0]))
    assert woken == [1]
    assert [one.id for one in outbox.unsent(5)] == [made.id]
    assert outbox.waiting() == (1, made.size)
    outbox.close()


def test_refused_is_kept_until_home_changes_its_mind(tmp_path: Path) -> None:
    """A refused segment stays in the spool with its reason, and goes on when home takes it after all."""
    outbox = open_outbox(tmp_path)
    made = place_and_commit(outbox)
    outbox.mark_refused(made.id, "digest does not match")
    assert outbox.unsent(5) == []
    assert (outbox.spool / made.path).exists()
    (totals,) = outbox.totals()
    assert totals.reasons == ("refused: digest does not match",)
    outbox.apply_receipt(receipt(outbox, 10, safe=[0], refused=[(0, "still refused")]))
    assert (outbox.spool / made.path).exists()
    assert outbox.apply_receipt(receipt(outbox, 11, safe=[0])) == 1
    assert not (outbox.spool / made.path).exists()
    outbox.close()


def test_a_receipt_ahead_of_this_outbox_is_reported(tmp_path: Path) -> None:
    """Home holding more than was ever made means that the outbox went back in time: nothing is freed."""
    outbox = open_outbox(tmp_path)
    made = place_and_commit(outbox)
    with pytest.raises(ReceiptError, match="made only 1") as caught:
        outbox.apply_receipt(receipt(outbox, 10, safe=[0, 1]))
    assert "new epoch" in caught.value.hint
    assert (outbox.spool / made.path).exists()
    outbox.close()


def test_unsent_is_oldest_first_and_skips_what_is_under_way(tmp_path: Path) -> None:
    """`unsent` gives the oldest sealed segments that are not excluded."""
    outbox = open_outbox(tmp_path)
    made = [place_and_commit(outbox) for _ in range(5)]
    outbox.mark_held([made[1].id])
    assert [one.name.seq for one in outbox.unsent(2, excluding=[made[0].id])] == [2, 3]
    assert [one.name.seq for one in outbox.unsent(99)] == [0, 2, 3, 4]
    outbox.close()


def test_mark_missing_at_run_time(tmp_path: Path) -> None:
    """When the push finds a spool file gone, the segment is lost and no longer offered."""
    outbox = open_outbox(tmp_path)
    made = place_and_commit(outbox)
    outbox.mark_missing(made.id, "gone")
    outbox.mark_held([12345])
    assert outbox.unsent(5) == []
    assert outbox.waiting() == (0, 0)
    assert outbox.events_waiting() == 1
    outbox.close()


def test_events_are_durable_and_in_order(tmp_path: Path) -> None:
    """Recorded events are read back after a restart with gapless offsets, and go when sealed."""
    outbox = open_outbox(tmp_path)
    events = [Event(EventKind.ROTATED, "feed", "demo/ticks", f"/a\udcff{n}", n, {"n": n}) for n in range(3)]
    outbox.add_events(events[:2])
    outbox.add_events(events[2:])
    end = outbox.events_end()
    outbox.close()
    outbox = open_outbox(tmp_path)
    assert outbox.events_end() == end
    lines = outbox.events_from(0, 10)
    assert lines[0][0] == 0
    assert all(a + len(line) == b for (a, line), (b, _) in pairwise(lines))
    assert lines[2][1].startswith(b"2 {")
    assert lines[2][1].endswith(b"}\n")
    origin = outbox.events_origin
    place_and_commit(outbox, origin, length=lines[2][0])
    assert [start for start, _ in outbox.events_from(0, 10)] == [lines[2][0]]
    assert outbox.events_waiting() == 1
    place_and_commit(outbox, origin, length=len(lines[2][1]))
    assert outbox.events_from(0, 10) == []
    assert outbox.events_end() == end
    outbox.close()
    outbox = open_outbox(tmp_path)
    assert outbox.events_end() == end
    assert outbox.events_origin == origin
    outbox.close()


def test_moved_and_finished_files(tmp_path: Path) -> None:
    """A move and the end of a file are recorded; unknown ids are ignored; odd names survive."""
    outbox = open_outbox(tmp_path)
    place_and_commit(outbox)
    outbox.moved(ORIGIN.file_id, "/data/\udcfeold", 9, 10)
    outbox.moved("nobody", "/x", 1, 1)
    outbox.finish(ORIGIN.file_id)
    outbox.finish("nobody")
    (file,) = outbox.known_files("feed")
    assert (file.path, file.device, file.inode, file.finished) == ("/data/\udcfeold", 9, 10, True)
    outbox.close()


def test_released_rows_are_compacted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of released segments do not pile up, totals stay, and a late word about them is harmless."""
    monkeypatch.setattr("agent.outbox_moves.KEEP_RELEASED", 10)
    assert KEEP_RELEASED >= 1000
    outbox = open_outbox(tmp_path)
    for number in range(40):
        place_and_commit(outbox)
        outbox.apply_receipt(receipt(outbox, 10 + number, safe=list(range(number + 1))))
    assert len(states(outbox)) <= 11
    (totals,) = outbox.totals()
    assert (totals.segments, totals.rows, totals.states) == (40, 280, {})
    outbox.apply_receipt(receipt(outbox, 99, resend=[0, 39], refused=[(38, "late")]))
    assert outbox.unsent(9) == []
    outbox.close()


class Stubborn(Disk):
    """Refuses to delete segments while told so, as Windows does with open files."""

    refuse = False

    def remove(self, path: Path, *, durable: bool = False) -> None:
        """Delete, unless told not to."""
        if self.refuse and path.suffix == ".parquet":
            raise DiskError(f"{path} is open elsewhere")
        super().remove(path, durable=durable)


def test_a_file_that_cannot_be_deleted_is_tried_again(tmp_path: Path) -> None:
    """SAFE stays SAFE while the deletion fails; the next receipt, even an unchanged one, completes it."""
    disk = Stubborn()
    outbox = open_outbox(tmp_path, disk=disk)
    made = place_and_commit(outbox)
    disk.refuse = True
    said = receipt(outbox, 10, safe=[0])
    assert outbox.apply_receipt(said) == 0
    assert states(outbox) == {0: "safe"}
    assert outbox.streams_waiting() == [ORIGIN.stream]
    disk.refuse = False
    assert outbox.apply_receipt(said) == 1
    assert not (outbox.spool / made.path).exists()
    assert outbox.streams_waiting() == []
    outbox.close()


def test_a_full_disk_still_records_receipts(tmp_path: Path) -> None:
    """When SQLite finds the disk full, the reserve is given back once so that freeing can go on."""
    outbox = open_outbox(tmp_path)
    place_and_commit(outbox)
    assert (tmp_path / "reserve").stat().st_size >= 2**20
    with outbox._store.reading() as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")
    events = [Event(EventKind.GAP, "feed", "s", "f" * 900, 1, {}) for _ in range(50)]
    with pytest.raises(DiskFull):
        outbox.add_events(events)
    assert outbox.events_waiting() == 0
    assert outbox.events_end() == 0
    real = outbox._apply
    calls: list[int] = []

    def full_once(said: Receipt) -> int:
        calls.append(1)
        if len(calls) == 1:
            raise DiskFull("full")
        return real(said)

    outbox._apply = full_once  # type: ignore[method-assign,assignment]  # the disk is full for the first attempt only
    assert outbox.apply_receipt(receipt(outbox, 10, safe=[0])) == 1
    assert not (tmp_path / "reserve").exists()
    outbox.close()
    open_outbox(tmp_path).close()
    assert (tmp_path / "reserve").exists()


def test_after_a_failed_sync_nothing_is_acknowledged(tmp_path: Path) -> None:
    """Once told that an fsync failed, every further call raises."""
    outbox = open_outbox(tmp_path)
    made = place_and_commit(outbox)
    outbox.fail(SyncFailed("fsync failed"))
    with pytest.raises(SyncFailed):
        outbox.mark_held([made.id])
    with pytest.raises(SyncFailed):
        outbox.add_events([Event(EventKind.GAP, "feed", "s", "f", 1, {})])
    outbox.close()
    again = open_outbox(tmp_path)
    assert [one.id for one in again.unsent(1)] == [made.id]
    again.close()


def test_durability_settings_are_on(tmp_path: Path) -> None:
    """WAL, synchronous=FULL and psow=0 are what the power-cut figures rest on."""
    outbox = open_outbox(tmp_path)
    with outbox._store.reading() as db:
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert db.execute("PRAGMA synchronous").fetchone()[0] == 2
        assert db.execute("PRAGMA locking_mode").fetchone()[0] == "exclusive"
        assert not (tmp_path / "outbox.db-shm").exists()
    outbox.close()


def test_totals_and_newest_times(tmp_path: Path) -> None:
    """Status figures per stream: segments, rows, bytes, newest row, oldest unsent."""
    outbox = open_outbox(tmp_path, clock=ManualClock())
    other = Origin("2" * 32, "feed", "demo/other", "/o", "csv")
    place_and_commit(outbox)
    place_and_commit(outbox, other)
    place_and_commit(outbox)
    totals = {one.stream: one for one in outbox.totals()}
    assert totals["demo/ticks"].segments == 2
    assert totals["demo/ticks"].source_bytes == 200
    assert totals["demo/ticks"].newest_ns == 900
    assert totals["demo/ticks"].oldest_unsent_ns == 1_000
    assert totals["demo/ticks"].states == {State.SEALED: (2, totals["demo/ticks"].bytes)}
    assert outbox.streams_waiting() == ["demo/other", "demo/ticks"]
    outbox.close()
