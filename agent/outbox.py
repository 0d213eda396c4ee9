"""The agent's durable record and spool of segments that are not yet released.

One SQLite file and one folder of segment files. What is committed here together (a segment, its
stream's head, its file's cursor, the events it holds) is true together after any crash. What grows:
one small row and one folder per stream, one small row per file ever sealed from, one text per distinct
layout; segments and events are bounded by the spool and by home's receipts, released rows by
KEEP_RELEASED.
"""

import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from agent import outbox_rows as rows
from agent.lifecycle import Action, Said, SegmentEvent, step
from agent.model import Event, EventKind, KnownFile, Origin, Spooled, State
from agent.outbox_rows import NewSegment, StoredFile, StreamHead, StreamTotals
from agent.outbox_start import adopt, drop_empty_folders, survey
from agent.outbox_store import Store
from agent.recovery import Decision
from tape import digest
from tape.clock import Clock
from tape.durable import DISK, Disk
from tape.errors import DiskError, DiskFull, HometapeError, ReceiptError, SegmentError, StoreError, StoreLocked
from tape.log import get_logger
from tape.names import EVENTS_STREAM, new_epoch
from tape.receipt import EpochReceipt, Receipt

KEEP_RELEASED = 10_000  # rows of released segments that stay for status
EVENTS_SOURCE = "hometape/events"  # no source of the settings can be called that
_EVENTS_FILE = "events"

log = get_logger(__name__)

Move = tuple[Spooled, SegmentEvent, str]


class Outbox:
    """The open outbox. Thread-safe; every method is short and synchronous. Raises StoreError, DiskError."""

    def __init__(self, state: Path, agent: str, clock: Clock, disk: Disk, lock: FileLock, store: Store) -> None:
        self.agent = agent
        self.spool = state / "spool"
        self._clock = clock
        self._disk = disk
        self._file_lock = lock
        self._store = store
        self._lock = threading.RLock()
        self._wakes: list[Callable[[], None]] = []
        self._seen_ns: dict[str, int] = {}
        self.epoch, events_id = self._identity()
        self.events_origin = Origin(events_id, EVENTS_SOURCE, EVENTS_STREAM, _EVENTS_FILE, "frames")
        self._spooled_bytes = 0
        self._sealed = (0, 0)
        self._released = 0
        self._events_end = self._find_events_end()
        self._events_waiting = 0
        self._count()

    @classmethod
    def open(cls, state: Path, agent: str, *, clock: Clock, disk: Disk = DISK) -> "Outbox":
        """Lock the state folder, open or create the outbox, recover. Raises StoreLocked, StoreError, DiskError."""
        disk.make_dirs(state / "spool")
        lock = FileLock(state / "lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise StoreLocked(f"{state} is in use by another process") from None
        store: Store | None = None
        try:
            store = Store(state / "outbox.db", disk)
            outbox = cls(state, agent, clock, disk, lock, store)
            outbox._recover()
        except BaseException:
            if store is not None:
                store.close()
            lock.release()
            raise
        return outbox

    def close(self) -> None:
        """Close the database and let go of the state folder."""
        with self._lock:
            self._store.close()
            self._file_lock.release()

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Have `wake` called, from any thread, after segments became ready to be sent."""
        self._wakes.append(wake)

    def fail(self, error: HometapeError) -> None:
        """After a failed fsync: acknowledge nothing any more; every later call raises this error."""
        self._store.fail(error)

    # ---- the push side

    def unsent(self, limit: int, *, excluding: Collection[int] = ()) -> list[Spooled]:
        """Segments home does not hold, oldest first, without those `excluding` names (already under way)."""
        skip = set(excluding)
        with self._store.reading() as db:
            found = rows.select(db, "WHERE s.state = 'sealed' ORDER BY s.id LIMIT ?", (limit + len(skip),))
        return [one for one in found if one.id not in skip][:limit]

    def mark_held(self, ids: Sequence[int]) -> None:
        """Home acknowledged these uploads."""
        self._mark(ids, SegmentEvent.ACKED, "")

    def mark_refused(self, id: int, reason: str) -> None:  # noqa: A002 - the word callers use
        """Home will not take this one; it stays in the spool until a person decides."""
        self._mark([id], SegmentEvent.REFUSED, reason)

    def mark_missing(self, id: int, reason: str) -> None:  # noqa: A002 - the word callers use
        """The push found the spool file gone or changed: reported as a gap, never sent."""
        self._mark([id], SegmentEvent.MISSING, reason)

    def apply_receipt(self, receipt: Receipt) -> int:
        """Act on a receipt whose signature was verified; the number of segments released by it.

        The same receipt again changes nothing. Raises ReceiptError if it is foreign, older than one
        already applied, or speaks of segments that this outbox never made.
        """
        try:
            return self._apply(receipt)
        except DiskFull:
            if not self._store.use_reserve():
                raise
            log.warning("disk full: the reserve was used to record a receipt", stream=receipt.stream)
            return self._apply(receipt)

    def streams_waiting(self) -> list[str]:
        """Streams with segments that are not released: the ones to ask receipts for."""
        with self._store.reading() as db:
            found = db.execute(
                "SELECT name FROM streams t WHERE EXISTS"
                " (SELECT 1 FROM segments s WHERE s.stream = t.id AND s.state <> 'released') ORDER BY name"
            )
            return [row["name"] for row in found]

    def last_receipt_ns(self, stream: str) -> int:
        """When the newest receipt applied to this stream was issued; -1 if there was none."""
        with self._store.reading() as db:
            row = db.execute("SELECT receipt_ns FROM streams WHERE name = ?", (stream,)).fetchone()
        return max(row["receipt_ns"] if row else -1, self._seen_ns.get(stream, -1))

    def waiting(self) -> tuple[int, int]:
        """Segments and bytes that home does not hold yet."""
        return self._sealed

    def spooled_bytes(self) -> int:
        """Bytes of all segments that are not released."""
        return self._spooled_bytes

    def totals(self) -> list[StreamTotals]:
        """Every stream for status, by name."""
        with self._store.reading() as db:
            live: dict[int, dict[State, tuple[int, int]]] = {}
            oldest: dict[int, int] = {}
            reasons: dict[int, list[str]] = {}
            for row in db.execute(
                "SELECT stream, state, count(*) AS n, sum(size) AS size, min(sealed_ns) AS oldest,"
                " max(reason) AS reason FROM segments WHERE state <> 'released' GROUP BY stream, state"
            ):
                state = State(row["state"])
                live.setdefault(row["stream"], {})[state] = (row["n"], row["size"])
                if state is State.SEALED:
                    oldest[row["stream"]] = row["oldest"]
                if state in (State.REFUSED, State.LOST) and row["reason"]:
                    reasons.setdefault(row["stream"], []).append(f"{state.value}: {row['reason']}")
            return [
                StreamTotals(
                    stream=row["name"],
                    segments=row["next_seq"],
                    rows=row["next_row"],
                    bytes=row["bytes"],
                    source_bytes=row["source_bytes"],
                    newest_ns=row["newest_ns"],
                    states=live.get(row["id"], {}),
                    oldest_unsent_ns=oldest.get(row["id"]),
                    reasons=tuple(reasons.get(row["id"], ())),
                )
                for row in db.execute("SELECT * FROM streams ORDER BY name")
            ]

    # ---- the sealing side

    def head(self, stream: str) -> StreamHead:
        """Where the next segment of a stream goes on."""
        with self._store.reading() as db:
            row = db.execute("SELECT next_seq, chain, next_row FROM streams WHERE name = ?", (stream,)).fetchone()
        if row is None:
            return StreamHead(0, digest.genesis(self.agent, stream, self.epoch), 0)
        return StreamHead(row["next_seq"], row["chain"], row["next_row"])

    def file(self, file_id: str) -> StoredFile | None:
        """What is known of one origin."""
        with self._store.reading() as db:
            found = rows.files(db, "WHERE f.file_id = ?", (file_id,))
        return found[0] if found else None

    def last_form(self, stream: str) -> tuple[str, str]:
        """Layout and plan of the newest segment of a stream, JSON texts; empty where there is none."""
        with self._store.reading() as db:
            row = db.execute(
                "SELECT l.body AS layout, p.body AS plan FROM streams t LEFT JOIN forms l ON l.id = t.layout"
                " LEFT JOIN forms p ON p.id = t.plan WHERE t.name = ?",
                (stream,),
            ).fetchone()
        return (row["layout"] or "", row["plan"] or "") if row else ("", "")

    def commit(self, new: NewSegment) -> Spooled:
        """Segment, stream head, cursor and consumed events in one transaction; the file must be durable by now.

        Raises StoreError if seq or cursor do not continue what was committed, DiskFull (nothing changed).
        """
        known = new.file.known
        with self._lock:
            with self._store.transaction() as db:
                head = self.head(new.stream)
                before = db.execute("SELECT offset FROM files WHERE file_id = ?", (known.origin.file_id,)).fetchone()
                offset = before["offset"] if before else 0
                if (new.name.epoch, new.name.seq) != (self.epoch, head.next_seq) or new.start != offset:
                    raise StoreError(
                        f"segment {new.name} of {new.stream} from byte {new.start} does not continue"
                        f" seq {head.next_seq}, byte {offset}"
                    )
                made = Spooled(
                    id=0,
                    stream=new.stream,
                    name=new.name,
                    path=f"{new.stream}/{new.name}",
                    size=new.size,
                    sha256=new.sha256,
                    chain=rows.chain_after(head, self.agent, new.stream, new.name, new.sha256),
                    rows=new.rows,
                    sealed_ns=new.sealed_ns,
                )
                stream = rows.stream_id(db, new.stream, head.chain)
                number = rows.insert_segment(db, stream, made)
                layout, plan = rows.form_id(db, new.file.layout), rows.form_id(db, new.file.plan)
                rows.save_file(db, new.file, layout, plan)
                db.execute(
                    "UPDATE streams SET next_seq = ?, next_row = ?, chain = ?, bytes = bytes + ?,"
                    " source_bytes = source_bytes + ?, newest_ns = coalesce(max(newest_ns, ?), newest_ns, ?),"
                    " layout = ?, plan = ? WHERE id = ?",
                    (
                        head.next_seq + 1,
                        head.next_row + new.rows,
                        made.chain,
                        new.size,
                        known.offset - new.start,
                        new.newest_ns,
                        new.newest_ns,
                        layout,
                        plan,
                        stream,
                    ),
                )
                consumed = 0
                if known.origin.file_id == self.events_origin.file_id:
                    consumed = db.execute("DELETE FROM events WHERE start < ?", (known.offset,)).rowcount
            self._events_waiting -= consumed
            self._spooled_bytes += new.size
            self._sealed = (self._sealed[0] + 1, self._sealed[1] + new.size)
        self._wake()
        return replace(made, id=number)

    def finish(self, file_id: str) -> None:
        """Record that nothing follows for this origin; all of it is sealed. Unknown ids are ignored."""
        with self._store.transaction() as db:
            db.execute("UPDATE files SET finished = 1, last_bytes = x'' WHERE file_id = ?", (file_id,))

    # ---- Positions

    def known_files(self, source: str) -> Iterable[KnownFile]:
        """Every origin of a source of which something was sealed, finished ones included."""
        with self._store.reading() as db:
            return [one.known for one in rows.files(db, "WHERE f.source = ?", (source,))]

    def moved(self, file_id: str, path: str, device: int, inode: int) -> None:
        """Record durably that a known origin now lies elsewhere. Unknown ids are ignored."""
        with self._store.transaction() as db:
            db.execute(
                "UPDATE files SET path = ?, device = ?, inode = ? WHERE file_id = ?",
                (rows.to_blob(path), str(device), str(inode), file_id),
            )

    # ---- events

    def add_events(self, events: Sequence[Event]) -> None:
        """Record events durably, in order, in one transaction; the sealer takes them from here."""
        with self._lock:
            with self._store.transaction() as db:
                end = self._insert_events(db, events)
            self._note_events(end, len(events))

    def events_from(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        """Recorded, not yet sealed events from a byte offset of their stream on: (start, line)."""
        with self._store.reading() as db:
            found = db.execute(
                "SELECT start, line FROM events WHERE start >= ? ORDER BY start LIMIT ?", (offset, limit)
            )
            return [(row["start"], row["line"]) for row in found]

    def events_end(self) -> int:
        """The byte offset after the newest recorded event."""
        return self._events_end

    def events_waiting(self) -> int:
        """How many recorded events are not sealed yet."""
        return self._events_waiting

    # ---- within

    def _identity(self) -> tuple[str, str]:
        with self._store.transaction() as db:
            meta = {row["key"]: row["value"] for row in db.execute("SELECT key, value FROM meta")}
            if meta and meta.get("agent") != self.agent:
                raise StoreError(
                    f"the outbox belongs to agent {meta.get('agent')!r}, not {self.agent!r}",
                    hint="use the old name, or another `state` directory",
                )
            if not meta:
                meta = {
                    "agent": self.agent,
                    "epoch": new_epoch(),
                    "events": new_epoch() + new_epoch(),
                    "created_ns": str(self._clock.now_ns()),
                }
                db.executemany("INSERT INTO meta (key, value) VALUES (?, ?)", list(meta.items()))
                log.info("new epoch", epoch=meta["epoch"])
        return meta["epoch"], meta["events"]

    def _recover(self) -> None:
        with self._store.reading() as db:
            known = {one.path: one for one in rows.select(db, "")}
            next_seqs = {row["name"]: row["next_seq"] for row in db.execute("SELECT name, next_seq FROM streams")}
        moves: list[Move] = []
        adopted: list[Spooled] = []
        for finding in survey(self.spool, known, self.epoch, next_seqs):
            decision, row, path = finding.rule.decision, finding.row, self.spool / finding.path
            if decision in (Decision.DELETE, Decision.FREE):
                self._disk.remove(path)
                log.info("deleted at the start", file=finding.path, why=finding.rule.why)
            if decision in (Decision.FREE, Decision.RELEASED) and row is not None:
                moves.append((row, SegmentEvent.FREED, ""))
            elif decision is Decision.LOST and row is not None:
                moves.append((row, SegmentEvent.MISSING, "the spool file is missing or has another size"))
            elif decision is Decision.FOUND and row is not None:
                moves.append((row, SegmentEvent.FOUND, ""))
            elif decision is Decision.ADOPT:
                adopted += self._adopt(finding.path)
            elif decision is Decision.LEAVE:
                log.error("left in the spool", file=finding.path, why=finding.rule.why)
        self._move(moves)
        self._add_adopted(adopted)
        with self._store.transaction() as db:
            db.execute(
                "DELETE FROM forms WHERE id NOT IN (SELECT coalesce(layout, 0) FROM files"
                " UNION SELECT coalesce(plan, 0) FROM files UNION SELECT coalesce(layout, 0) FROM streams"
                " UNION SELECT coalesce(plan, 0) FROM streams)"
            )
        drop_empty_folders(self.spool)
        self._count()

    def _adopt(self, path: str) -> list[Spooled]:
        try:
            return [adopt(self.spool, path, self.agent)]
        except SegmentError as error:
            log.error("left in the spool", file=path, why=str(error))
            return []

    def _add_adopted(self, adopted: Sequence[Spooled]) -> None:
        if not adopted:
            return
        with self._store.transaction() as db:
            for one in sorted(adopted, key=lambda one: (one.stream, one.name.epoch, one.name.seq)):
                stream = rows.stream_id(db, one.stream, digest.genesis(self.agent, one.stream, self.epoch))
                rows.insert_segment(db, stream, one)
        log.warning("segments of a lost outbox will be sent", segments=len(adopted))

    def _count(self) -> None:
        with self._store.reading() as db:
            row = db.execute("SELECT coalesce(sum(size), 0) FROM segments WHERE state NOT IN ('released', 'lost')")
            self._spooled_bytes = row.fetchone()[0]
            row = db.execute("SELECT count(*), coalesce(sum(size), 0) FROM segments WHERE state = 'sealed'").fetchone()
            self._sealed = (row[0], row[1])
            self._released = db.execute("SELECT count(*) FROM segments WHERE state = 'released'").fetchone()[0]
            self._events_waiting = db.execute("SELECT count(*) FROM events").fetchone()[0]

    def _find_events_end(self) -> int:
        with self._store.reading() as db:
            last = db.execute("SELECT max(start + length(line)) FROM events").fetchone()[0]
            sealed = db.execute("SELECT offset FROM files WHERE file_id = ?", (self.events_origin.file_id,)).fetchone()
        return max(last or 0, sealed["offset"] if sealed else 0)

    def _mark(self, ids: Sequence[int], event: SegmentEvent, reason: str) -> None:
        with self._lock:
            with self._store.reading() as db:
                found = [one for id_ in ids for one in rows.select(db, "WHERE s.id = ?", (id_,))]
            self._move([(one, event, reason) for one in found])

    def _apply(self, receipt: Receipt) -> int:
        stream = receipt.stream
        with self._lock:
            last = self.last_receipt_ns(stream)
            if receipt.agent != self.agent:
                raise ReceiptError(f"receipt of stream {stream}: it is for agent {receipt.agent}")
            if receipt.issued_ns < last:
                raise ReceiptError(f"receipt of stream {stream}: older than one already applied")
            epochs = receipt.epochs if receipt.issued_ns > last else {}
            said = {epoch: Said(part) for epoch, part in epochs.items()}
            made = self.head(stream).next_seq
            if said.get(self.epoch, Said(EpochReceipt())).last >= made:
                raise ReceiptError(
                    f"receipt of stream {stream}: home holds seq {said[self.epoch].last}, this outbox made only {made}",
                    hint="was the outbox restored from an older copy? move outbox.db aside so that a new epoch begins",
                )
            moves = [move for one in self._live(stream) if (move := _move_of(one, said)) is not None]
            released = self._move(moves, stream=stream, issued_ns=receipt.issued_ns)
            self._seen_ns[stream] = max(last, receipt.issued_ns)
        return released

    def _live(self, stream: str) -> list[Spooled]:
        with self._store.reading() as db:
            return rows.select(db, "WHERE t.name = ? AND s.state <> 'released' ORDER BY s.id", (stream,))

    def _move(self, moves: Sequence[Move], *, stream: str = "", issued_ns: int = -1) -> int:
        """Perform moves: the new states durable first, then the actions; the number of segments released."""
        with self._lock:
            steps = [(one, event, reason, *step(one.state, event)) for one, event, reason in moves]
            changed = [(one, after, reason) for one, _, reason, after, _ in steps if after is not one.state]
            lost = [self._gap(one, reason) for one, after, reason in changed if after is State.LOST]
            if changed:
                with self._store.transaction() as db:
                    db.executemany(
                        "UPDATE segments SET state = ?, reason = ? WHERE id = ?",
                        [(after.value, reason, one.id) for one, after, reason in changed],
                    )
                    if issued_ns >= 0:
                        db.execute("UPDATE streams SET receipt_ns = ? WHERE name = ?", (issued_ns, stream))
                    end = self._insert_events(db, lost)
                    self._compact(db, sum(after is State.RELEASED for _, after, _ in changed))
                self._note_events(end, len(lost))
                self._account(changed)
            for one, event, reason, after, actions in steps:
                if Action.REPORT in actions:
                    log.error(
                        "segment needs a person",
                        stream=one.stream,
                        segment=str(one.name),
                        state=after.value,
                        what=event.value,
                        reason=reason,
                    )
            if any(Action.WAKE in actions for *_, actions in steps):
                self._wake()
            gone = [one for one, _, _, after, actions in steps if Action.FREE in actions and self._unlink(one)]
            freed: list[Move] = [(replace(one, state=State.SAFE), SegmentEvent.FREED, "") for one in gone]
            released = sum(after is State.RELEASED for _, after, _ in changed)
        return released + (self._move(freed) if freed else 0)

    def _unlink(self, one: Spooled) -> bool:
        try:
            self._disk.remove(self.spool / one.path)
        except DiskError as error:  # Windows: still open somewhere; the next receipt tries again
            log.warning("spool file can't be deleted yet", file=one.path, error=str(error))
            return False
        return True

    def _account(self, changed: Sequence[tuple[Spooled, State, str]]) -> None:
        count, size = self._sealed
        absent = (State.RELEASED, State.LOST)
        for one, after, _ in changed:
            sealed = (after is State.SEALED) - (one.state is State.SEALED)
            count, size = count + sealed, size + sealed * one.size
            self._spooled_bytes += ((one.state in absent) - (after in absent)) * one.size
        self._sealed = (count, size)

    def _compact(self, db: sqlite3.Connection, more: int) -> None:
        self._released += more
        if self._released > KEEP_RELEASED + KEEP_RELEASED // 10:
            db.execute(
                "DELETE FROM segments WHERE state = 'released' AND id <="
                " (SELECT id FROM segments WHERE state = 'released' ORDER BY id DESC LIMIT 1 OFFSET ?)",
                (KEEP_RELEASED,),
            )
            self._released = KEEP_RELEASED

    def _gap(self, one: Spooled, reason: str) -> Event:
        detail: dict[str, str | int | None] = {
            "segment": str(one.name), "rows": one.rows, "bytes": one.size, "was": one.state.value, "reason": reason,
        }  # fmt: skip
        return Event(EventKind.GAP, "outbox", one.stream, one.path, self._clock.now_ns(), detail, "storage")

    def _insert_events(self, db: sqlite3.Connection, events: Sequence[Event]) -> int:
        end = self._events_end
        for event in events:
            line = rows.event_line(event)
            db.execute("INSERT INTO events (start, line) VALUES (?, ?)", (end, line))
            end += len(line)
        return end

    def _note_events(self, end: int, count: int) -> None:
        self._events_end = end
        self._events_waiting += count

    def _wake(self) -> None:
        for wake in self._wakes:
            wake()


def _move_of(one: Spooled, said: Mapping[str, Said]) -> Move | None:
    """What a receipt means for one segment; a SAFE one that could not be deleted is tried again by every receipt."""
    found = said[one.name.epoch].of(one.name.seq) if one.name.epoch in said else None
    if found is not None:
        return one, *found
    return (one, SegmentEvent.SAFE, "") if one.state is State.SAFE else None
