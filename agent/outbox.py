"""The agent's durable record and spool of segments that are not yet released.

One SQLite file and one folder of segment files. What is committed here together (a segment, its
stream's head, its file's cursor, the events it holds) is true together after any crash. What grows:
one small row and one folder per stream, one small row per file ever sealed from, one text per distinct
layout; segments and events are bounded by the spool and by home's receipts, released rows by
KEEP_RELEASED.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from agent import outbox_rows as rows
from agent.lifecycle import Said, SegmentEvent
from agent.model import Event, KnownFile, Spooled
from agent.outbox_events import EventTable, Gap
from agent.outbox_inventory import OutboxInventory
from agent.outbox_moves import Moves, move_of
from agent.outbox_rows import NewSegment, StoredFile, StreamHead, StreamTotals
from agent.outbox_start import recover
from agent.outbox_store import Store
from agent.unconfirmed import Unconfirmed
from tape import digest
from tape.clock import Clock
from tape.durable import DISK, Disk
from tape.errors import DiskFull, HometapeError, ReceiptError, StoreError, StoreLocked
from tape.log import get_logger
from tape.names import new_epoch
from tape.receipt import EpochReceipt, Receipt

log = get_logger(__name__)


class Outbox:
    """The open outbox. Thread-safe; every method is short and synchronous. Raises StoreError, DiskError."""

    def __init__(self, state: Path, agent: str, clock: Clock, disk: Disk, lock: FileLock, store: Store) -> None:
        self.agent = agent
        self.spool = state / "spool"
        self._file_lock = lock
        self._store = store
        self._seen_ns: dict[str, int] = {}
        self.epoch, events_id = _identity(store, agent, clock)
        self._events = EventTable(store, events_id)
        self.events_origin = self._events.origin
        self._moves = Moves(store, self.spool, self._events, clock=clock, disk=disk)
        self._lock = self._moves.lock
        self._unconfirmed = Unconfirmed(clock)
        self.inventory = OutboxInventory(store, self._moves, self.epoch)
        recover(store, self._moves, self.spool, agent=agent, epoch=self.epoch, disk=disk)

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
            return cls(state, agent, clock, disk, lock, store)
        except BaseException:
            if store is not None:
                store.close()
            lock.release()
            raise

    def close(self) -> None:
        """Close the database and let go of the state folder."""
        with self._lock:
            self._store.close()
            self._file_lock.release()

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Have `wake` called, from any thread, after segments became ready to be sent."""
        self._moves.subscribe(wake)

    def fail(self, error: HometapeError) -> None:
        """After a failed fsync: acknowledge nothing any more; every later call raises this error."""
        self._store.fail(error)

    # ---- the push side

    def unsent(self, limit: int, *, excluding: Collection[int] = (), again: bool = False) -> list[Spooled]:
        """Segments home does not hold, oldest first, without those `excluding` names (already under way).

        `again`: those that home held once, which travel behind what is new.
        """
        skip = set(excluding)
        with self._store.reading() as db:
            found = rows.select(
                db,
                "WHERE s.state = 'sealed' AND s.again = ? ORDER BY s.id LIMIT ?",
                (int(again), limit + len(skip)),
            )
        return [one for one in found if one.id not in skip][:limit]

    def mark_held(self, ids: Sequence[int]) -> None:
        """Home acknowledged these uploads."""
        self._moves.mark(ids, SegmentEvent.ACKED, "")

    def mark_delivered(self, ids: Sequence[int]) -> None:
        """A plain server has these; whether home does only a receipt will say."""
        self._moves.mark(ids, SegmentEvent.ACKED, "", plain=True)

    def mark_refused(self, id: int, reason: str) -> None:  # noqa: A002 - the word callers use
        """Home will not take this one; it stays in the spool until a person decides."""
        self._moves.mark([id], SegmentEvent.REFUSED, reason)

    def mark_missing(self, id: int, reason: str) -> None:  # noqa: A002 - the word callers use
        """The push found the spool file gone or changed: reported as a gap, never sent."""
        self._moves.mark([id], SegmentEvent.MISSING, reason)

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

    def no_receipt(self, stream: str) -> None:
        """There is no receipt of a stream: what was left with a plain server is judged by those of other streams."""
        with self._lock:
            self._send_again([one for one in self._live(stream) if self._unconfirmed.overdue(one)])

    def streams_waiting(self) -> list[str]:
        """Streams with segments that are not released: the ones to ask receipts for."""
        with self._store.reading() as db:
            found = db.execute(
                "SELECT name FROM streams t WHERE EXISTS"
                " (SELECT 1 FROM segments s WHERE s.stream = t.id AND s.state <> 'released') ORDER BY name"
            )
            return [row["name"] for row in found]

    def streams(self) -> list[str]:
        """Every stream, by name."""
        with self._store.reading() as db:
            return [row["name"] for row in db.execute("SELECT name FROM streams ORDER BY name")]

    def last_receipt_ns(self, stream: str) -> int:
        """When the newest receipt applied to this stream was issued; -1 if there was none."""
        with self._store.reading() as db:
            row = db.execute("SELECT receipt_ns FROM streams WHERE name = ?", (stream,)).fetchone()
        return max(row["receipt_ns"] if row else -1, self._seen_ns.get(stream, -1))

    def waiting(self) -> tuple[int, int]:
        """Segments and bytes that home does not hold yet."""
        return self._moves.sealed

    def spooled_bytes(self) -> int:
        """Bytes of all segments that are not released."""
        return self._moves.spooled_bytes

    def totals(self) -> list[StreamTotals]:
        """Every stream for status, by name."""
        with self._store.reading() as db:
            return rows.totals(db)

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
                    consumed = self._events.consume(db, known.offset)
            self._events.consumed(consumed)
            self._moves.added(new.size)
        self._moves.wake()
        return replace(made, id=number)

    def finish(self, file_id: str) -> None:
        """Record that nothing follows for this origin; all of it is sealed. Unknown ids are ignored."""
        with self._store.reading() as db:
            if not db.execute("SELECT 1 FROM files WHERE file_id = ? AND NOT finished", (file_id,)).fetchone():
                return
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
                end = self._events.add(db, events)
            self._events.added(end, len(events))

    def events_from(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        """Recorded, not yet sealed events from a byte offset of their stream on: (start, line)."""
        return self._events.read(offset, limit)

    def gaps(self) -> list[Gap]:
        """The newest gaps and unreadable files that were recorded, oldest first."""
        return self._events.gaps()

    def events_end(self) -> int:
        """The byte offset after the newest recorded event."""
        return self._events.end

    def events_waiting(self) -> int:
        """How many recorded events are not sealed yet."""
        return self._events.waiting

    # ---- within

    def _apply(self, receipt: Receipt) -> int:
        stream = receipt.stream
        with self._lock:
            last = self.last_receipt_ns(stream)
            if receipt.agent != self.agent:
                raise ReceiptError(f"receipt of stream {stream}: it is for agent {receipt.agent}")
            if receipt.issued_ns < last:
                raise ReceiptError(f"receipt of stream {stream}: older than one already applied")
            fresh = receipt.issued_ns > last
            epochs = receipt.epochs if fresh else {}
            said = {epoch: Said(part) for epoch, part in epochs.items()}
            made = self.head(stream).next_seq
            if said.get(self.epoch, Said(EpochReceipt())).last >= made:
                raise ReceiptError(
                    f"receipt of stream {stream}: home holds seq {said[self.epoch].last}, this outbox made only {made}",
                    hint="was the outbox restored from an older copy? move outbox.db aside so that a new epoch begins",
                )
            live = self._live(stream)
            moves = [move for one in live if (move := move_of(one, said)) is not None]
            released = self._moves.move(moves, stream=stream, issued_ns=receipt.issued_ns)
            self._seen_ns[stream] = max(last, receipt.issued_ns)
            if fresh:
                self._unconfirmed.seen(stream, receipt.issued_ns)
                told = {one.id for one, *_ in moves}
                for one, *_ in moves:
                    self._unconfirmed.confirmed(one)
                silent = (one for one in live if one.id not in told)
                self._send_again([one for one in silent if self._unconfirmed.overdue(one, stream)])
        return released

    def _send_again(self, lost: Sequence[Spooled]) -> None:
        """Home has looked into the drop box since these were left there, and does not know them."""
        if lost:
            log.warning(
                "left with a plain server, but not known at home: sent again", stream=lost[0].stream, segments=len(lost)
            )
            self._moves.move([(one, SegmentEvent.RESEND, "") for one in lost], again=True)
            for one in lost:
                self._unconfirmed.sent_again(one)

    def _live(self, stream: str) -> list[Spooled]:
        with self._store.reading() as db:
            return rows.select(db, "WHERE t.name = ? AND s.state <> 'released' ORDER BY s.id", (stream,))


def _identity(store: Store, agent: str, clock: Clock) -> tuple[str, str]:
    """The epoch and the file id of the events, made at the first start; StoreError for another agent's outbox."""
    with store.transaction() as db:
        meta = {row["key"]: row["value"] for row in db.execute("SELECT key, value FROM meta")}
        if meta and meta.get("agent") != agent:
            raise StoreError(
                f"the outbox belongs to agent {meta.get('agent')!r}, not {agent!r}",
                hint="use the old name, or another `state` directory",
            )
        if not meta:
            meta = {
                "agent": agent,
                "epoch": new_epoch(),
                "events": new_epoch() + new_epoch(),
                "created_ns": str(clock.now_ns()),
            }
            db.executemany("INSERT INTO meta (key, value) VALUES (?, ?)", list(meta.items()))
            log.info("new epoch", epoch=meta["epoch"])
    return meta["epoch"], meta["events"]
