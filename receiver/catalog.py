"""The catalog: what lies in the home archive, which copies of it are proven where, and what went wrong.

One SQLite file beside the receiver's state. One writer (the service, holding a lock on it), any number
of readers. Every method is thread-safe; methods that write return when their transaction is durable, so
coroutines call them through a thread. It can be rebuilt from any one target (`receiver.ingest.rebuild`).
"""

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from receiver import catalog_drops, catalog_proofs, catalog_state, catalog_targets, catalog_writes
from receiver import catalog_queries as queries
from receiver.catalog_ids import Ids
from receiver.catalog_proofs import Attested
from receiver.catalog_queries import EpochState, Incident, Quarantined, SourceFile, StreamTotals, TargetTotals
from receiver.catalog_rows import NewSegment, read_held
from receiver.catalog_schema import connect, explained
from receiver.catalog_view import CatalogView
from receiver.catalog_writes import Refusal
from receiver.model import Copy, Held
from receiver.standing import Looked, observe
from tape.clock import Clock
from tape.errors import StoreError, StoreLocked
from tape.names import SegmentName

__all__ = [
    "Attested",
    "Catalog",
    "EpochState",
    "Incident",
    "NewSegment",
    "Quarantined",
    "Refusal",
    "SourceFile",
    "StreamTotals",
    "TargetTotals",
]

_ISSUED_AHEAD_NS = 60_000_000_000


class Catalog(CatalogView):
    """See the module. Raises StoreError and its children, NotFound, DiskFull, and SyncFailed: stop and recover."""

    def __init__(
        self, base: sqlite3.Connection, reader: sqlite3.Connection, lock: FileLock | None, clock: Clock
    ) -> None:
        super().__init__(reader)
        self._base = base
        self._file_lock = lock
        self._clock = clock
        self._writing = threading.RLock()
        self._ids = Ids()
        self._revisions: dict[tuple[str, str], int] = {}
        self._wakes: list[Callable[[], None]] = []
        self._issued = 0  # the newest time handed out, and up to where it is durable
        self._issued_durable = 0

    @classmethod
    def open(cls, state: Path, *, clock: Clock, read_only: bool = False) -> Self:
        """Open (for the one writer: create) the catalog of a state folder; raises StoreError, StoreLocked."""
        if read_only:
            base = connect(state, read_only=True)
            return cls(base, base, None, clock)
        lock = FileLock(state / "catalog.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise StoreLocked(f"{state}: another receiver has this catalog open") from None
        except OSError as error:
            raise StoreError(f"{state}: the catalog can't be locked: {error}") from error
        try:
            base = connect(state, read_only=False)
            opened = cls(base, connect(state, read_only=True), lock, clock)
            opened._clear_gone()  # what a crash left of it
            return opened
        except StoreError:
            lock.release()
            raise

    def close(self) -> None:
        """Close the database and let go of the lock; may be called twice."""
        with self._writing, self._reading:
            self._reader.close()
            self._base.close()
        if self._file_lock is not None:
            self._file_lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Have `wake` called, from any thread, after segments were added."""
        self._wakes.append(wake)

    def revision(self, agent: str, stream: str) -> int:
        """Changes whenever a stream's receipt may have changed; counts from the opening of the catalog."""
        return self._revisions.get((agent, stream), 0)

    # ------------------------------------------------------------------------------------------ segments

    def add(self, new: Sequence[NewSegment]) -> list[Held]:
        """Catalogue segments that lie durably in the home archive, all or none.

        Raises StoreError if an identity is held already.
        """
        first = self.record(new)
        with self._read() as base:
            return read_held(base, "WHERE s.id>=? AND s.id<? ORDER BY s.id", (first, first + len(new)))

    def record(
        self,
        new: Sequence[NewSegment],
        *,
        renewed: Sequence[NewSegment] = (),
        refused: Sequence[Refusal] = (),
        closed_folders: Sequence[str] = (),
    ) -> int:
        """What a batch of uploads came to, in one transaction; returns the id of the first of `new`.

        `renewed`: were wanted again and lie there again. `refused`: were not taken. `closed_folders`: see
        `open_folders`. Raises as `add`.
        """
        now = self._clock.now_ns()
        with self._write() as base:
            first = catalog_writes.add_segments(base, self._ids, new, now)
            for item in renewed:
                name = item.path.name
                catalog_writes.renew(base, item.path.agent, item.path.stream, name.epoch, name.seq, now)
            for refusal in refused:
                catalog_writes.refuse(base, self._ids, refusal, now)
            base.executemany("DELETE FROM open_folder WHERE path=?", [(path,) for path in closed_folders])
        touched = {(item.path.agent, item.path.stream) for item in (*new, *renewed)}
        self._changed(touched | {(refusal.agent, refusal.stream) for refusal in refused})
        if new or renewed:
            for wake in self._wakes:
                wake()
        return first

    def want_again(self, segment: int, why: str) -> None:
        """Ask the agent for a segment whose copies here are all bad: its receipt says `resend`, no longer held."""
        with self._write() as base:
            owner = catalog_writes.want(base, segment, why, self._clock.now_ns())
        self._changed({owner})

    def ask_again(self, agent: str, segments: Sequence[tuple[str, SegmentName]], why: str) -> None:
        """Ask for those of (stream, name) that are not held: they came damaged, and their sender heard no answer."""
        with self._write() as base:
            for stream, name in segments:
                catalog_writes.ask(base, self._ids, agent, stream, name, why, self._clock.now_ns())
        self._changed({(agent, stream) for stream, _ in segments})

    def open_more_folders(self, paths: Sequence[str]) -> None:
        """Note durably that files are about to be placed in these folders; `add` closes them again."""
        with self._write() as base:
            base.executemany("INSERT OR IGNORE INTO open_folder VALUES (?)", [(path,) for path in paths])

    # -------------------------------------------------------------------------------------------- copies

    def add_copies(self, copies: Sequence[Copy]) -> None:
        """Record proven copies in one transaction; one that is known already is verified anew."""
        with self._write() as base:
            touched = catalog_proofs.add_copies(base, self._ids, copies)
        self._changed(touched)

    def drop_copy(self, segment: int, target: str, why: str) -> None:
        """Forget a copy that is not what it should be, and record the incident."""
        with self._write() as base:
            catalog_writes.drop_copy(base, self._ids, segment, target, why, self._clock.now_ns())
            owner = base.execute(
                "SELECT t.agent, t.name FROM segment s JOIN stream t ON t.id=s.stream WHERE s.id=?", (segment,)
            ).fetchone()
        self._changed({owner})

    def drop_copies(self, target: str, segments: Sequence[int], why: str, *, before_ns: int) -> int:
        """Forget many copies at a target, those proven since a time excepted; how many. One incident tells of all."""
        now = self._clock.now_ns()
        with self._write() as base:
            dropped, touched = catalog_drops.drop_copies(
                base, self._ids, target, segments, before_ns=before_ns, now_ns=now
            )
            if dropped:
                text = f"copies at {target} no longer count: {why}"
                subject = catalog_writes.many_at(target)
                catalog_writes.add_incident(base, catalog_writes.LOST_COPY, "", "", subject, text, now)
        self._changed(touched)
        return dropped

    def attest(self, segment: int, sha256: str) -> Attested:
        """Record the SHA-256 of a segment's home bytes and check its chain; see `attest_many`."""
        return self.attest_many([(segment, sha256)])[0]

    def attest_many(self, items: Sequence[tuple[int, str]]) -> list[Attested]:
        """Record (segment, SHA-256 of its home bytes), in any order, in one transaction.

        Each link is checked as soon as both of its ends are known. A contradiction is an incident; the
        segment whose `previous` contradicts is never safe.
        """
        with self._write() as base:
            found, touched = catalog_proofs.attest_many(base, items, self._clock.now_ns())
        self._changed(touched)
        return found

    # ------------------------------------------------------------------------------------------- targets

    def know_target(self, name: str, instance: str, seen_ns: int) -> bool:
        """A target is there, with that instance in its marker ("" if it states none); whether it was replaced.

        Another instance than before is another disk or folder: none of its copies counts from then on,
        and an incident says so until they are made again. Cheap to call often.
        """
        with self._read() as reader:
            if not catalog_targets.is_news(catalog_targets.find(reader, name), instance, seen_ns):
                return False
        touched: set[tuple[str, str]] = set()
        with self._write() as base:
            replaced = catalog_targets.replaced(catalog_targets.find(base, name), instance)
            if replaced:
                count, touched = catalog_targets.forget(base, self._ids, name)
                if count:
                    catalog_targets.tell_replaced(base, name, count, self._clock.now_ns())
            catalog_targets.keep(base, self._ids, name, instance, seen_ns)
        self._changed(touched)
        if replaced:
            self._clear_gone()
        return replaced

    def retire_target(self, name: str) -> int:
        """Forget a target that is configured no more, and all its copies; how many there were."""
        with self._write() as base:
            if catalog_targets.find(base, name) is None:
                return 0
            count, touched = catalog_targets.forget(base, self._ids, name)
            catalog_targets.close_about(base, name, self._clock.now_ns())
        self._changed(touched)
        self._clear_gone()
        return count

    def _clear_gone(self) -> None:
        """Delete the copies of targets that are gone, in short transactions: others may write in between."""
        while True:
            with self._write() as base:
                if not catalog_targets.clear_piece(base):
                    return

    # ------------------------------------------------------------------------------------ receipts, status

    def look(self, found: Mapping[str, int]) -> Looked:
        """Keep what lacks now, {text: commit time of the oldest segment it concerns}, and tell since when it does."""
        with self._write() as base:
            look = observe(catalog_state.looked(base), self._clock.now_ns(), found)
            catalog_state.keep_look(base, look)
        return look

    def next_issued_ns(self) -> int:
        """A time for a receipt: the clock's, but always later than any given before, in any life of the service."""
        with self._writing:
            if not self._issued_durable:
                known = queries.one(self._base, "SELECT value FROM meta WHERE key='issued'", ())
                self._issued = self._issued_durable = known or 0
            self._issued = max(self._clock.now_ns(), self._issued + 1)
            if self._issued >= self._issued_durable:
                ahead = self._issued + _ISSUED_AHEAD_NS
                with self._write() as base:
                    base.execute("INSERT OR REPLACE INTO meta VALUES ('issued', ?)", (ahead,))
                self._issued_durable = ahead
            return self._issued

    # ------------------------------------------------------------------------------ what went wrong

    def record_incident(self, kind: str, *, agent: str = "", stream: str = "", subject: str = "", text: str) -> None:
        """Record an incident; the same (kind, agent, stream, subject) again, while open, is counted."""
        with self._write() as base:
            catalog_writes.add_incident(base, kind, agent, stream, subject, text, self._clock.now_ns())

    def close_incident(self, kind: str, *, agent: str = "", stream: str = "", subject: str = "") -> None:
        """Close an incident whose cause is gone; nothing to do if none is open."""
        with self._write() as base:
            catalog_writes.close_incident(base, kind, agent, stream, subject, self._clock.now_ns())

    # ------------------------------------------------------------------------------------------- inside

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._writing, explained():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
                self._base.execute("COMMIT")
            except BaseException:
                self._ids.forget()
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise

    def _changed(self, streams: set[tuple[str, str]]) -> None:
        with self._writing:
            for key in streams:
                self._revisions[key] = self._revisions.get(key, 0) + 1
