"""Moves segments through their life cycle: the new states durable first, then what follows from them."""

import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from agent import outbox_rows as rows
from agent.lifecycle import Action, Said, SegmentEvent, step
from agent.model import Event, EventKind, Spooled, State
from agent.outbox_events import EventTable
from agent.outbox_store import Store
from tape.clock import Clock
from tape.durable import Disk
from tape.errors import DiskError
from tape.log import get_logger
from tape.receipt import to_ranges

KEEP_RELEASED = 10_000  # rows of released segments that stay for status

log = get_logger(__name__)

Move = tuple[Spooled, SegmentEvent, str]
_ABSENT = (State.RELEASED, State.LOST)


class Moves:
    """The only place that changes a segment's state and deletes spool files of committed segments."""

    def __init__(self, store: Store, spool: Path, events: EventTable, *, clock: Clock, disk: Disk) -> None:
        self.lock = threading.RLock()
        self.sealed = (0, 0)
        self.ever = (0, 0)
        """Segments and bytes that were added since the start."""
        self.watches: list[set[int]] = []
        """Each takes the ids of segments whose state changes."""
        self.spooled_bytes = 0
        self._released = 0
        self._store = store
        self._spool = spool
        self._events = events
        self._clock = clock
        self._disk = disk
        self._wakes: list[Callable[[], None]] = []
        self.count()

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Have `wake` called, from any thread, after segments became ready to be sent."""
        self._wakes.append(wake)

    def wake(self) -> None:
        """Tell the push."""
        for wake in self._wakes:
            wake()

    def count(self) -> None:
        """Take the running totals from the database."""
        with self._store.reading() as db:
            size = db.execute("SELECT coalesce(sum(size), 0) FROM segments WHERE state NOT IN ('released', 'lost')")
            self.spooled_bytes = size.fetchone()[0]
            row = db.execute("SELECT count(*), coalesce(sum(size), 0) FROM segments WHERE state = 'sealed'").fetchone()
            self.sealed = (row[0], row[1])
            self._released = db.execute("SELECT count(*) FROM segments WHERE state = 'released'").fetchone()[0]

    def added(self, size: int) -> None:
        """A new sealed segment was committed."""
        self.spooled_bytes += size
        self.ever = (self.ever[0] + 1, self.ever[1] + size)
        self.sealed = (self.sealed[0] + 1, self.sealed[1] + size)

    def mark(self, ids: Sequence[int], event: SegmentEvent, reason: str, *, plain: bool = False) -> None:
        """The same event for segments by id; unknown ids are ignored. `plain`: see `move`."""
        with self.lock:
            with self._store.reading() as db:
                runs = to_ranges(sorted(set(ids)))
                found = {one.id: one for run in runs for one in rows.select(db, "WHERE s.id BETWEEN ? AND ?", run)}
            self.move([(found[id_], event, reason) for id_ in ids if id_ in found], plain=plain)

    def move(
        self,
        moves: Sequence[Move],
        *,
        stream: str = "",
        issued_ns: int = -1,
        again: bool = False,
        plain: bool = False,
    ) -> int:
        """Perform moves, in one transaction; the number of segments released.

        `issued_ns`: of the receipt of `stream` behind them. `again`: what becomes sealed by them is sent behind what
        is new. `plain`: what is acknowledged by them, a plain server has: no more is known.
        """
        now = self._clock.now_ns() if plain else 0
        with self.lock:
            steps = [(one, event, reason, *step(one.state, event)) for one, event, reason in moves]
            told = [(_told(one, event, after, now), after, reason) for one, event, reason, after, _ in steps]
            changed = [
                each
                for each, (one, *_) in zip(told, steps, strict=True)
                if each[1] is not one.state or each[0] is not one
            ]
            if changed:
                self._record(changed, stream, issued_ns, again=again)
            for one, event, reason, after, actions in steps:
                if Action.REPORT in actions:
                    facts = {"stream": one.stream, "segment": str(one.name), "state": after.value}
                    log.error("segment needs a person", **facts, what=event.value, reason=reason)
            if any(Action.WAKE in actions for *_, actions in steps):
                self.wake()
            gone = [one for one, _, _, after, actions in steps if Action.FREE in actions and self._unlink(one)]
            freed: list[Move] = [(replace(one, state=State.SAFE), SegmentEvent.FREED, "") for one in gone]
            released = sum(after is State.RELEASED for _, after, _ in changed)
            return released + (self.move(freed) if freed else 0)

    def _record(
        self, changed: Sequence[tuple[Spooled, State, str]], stream: str, issued_ns: int, *, again: bool
    ) -> None:
        lost = [self._gap(one, reason) for one, after, reason in changed if after is State.LOST]
        with self._store.transaction() as db:
            db.executemany(
                "UPDATE segments SET state = ?, reason = ?, again = ?, delivered = ? WHERE id = ?",
                [
                    (after.value, reason, again and after is State.SEALED, one.delivered_ns, one.id)
                    for one, after, reason in changed
                ],
            )
            if issued_ns >= 0:
                db.execute("UPDATE streams SET receipt_ns = ? WHERE name = ?", (issued_ns, stream))
            end = self._events.add(db, lost)
            released = self._released + sum(after is State.RELEASED for _, after, _ in changed)
            kept = _compact(db, released)
        self._events.added(end, len(lost))
        self._released = kept
        for watch in self.watches:
            watch.update(one.id for one, after, _ in changed if after is not one.state)
        self._account(changed)

    def _unlink(self, one: Spooled) -> bool:
        try:
            self._disk.remove(self._spool / one.path)
        except DiskError as error:  # Windows: still open somewhere; the next receipt tries again
            log.warning("spool file can't be deleted yet", file=one.path, error=str(error))
            return False
        return True

    def _account(self, changed: Sequence[tuple[Spooled, State, str]]) -> None:
        count, size = self.sealed
        for one, after, _ in changed:
            sealed = (after is State.SEALED) - (one.state is State.SEALED)
            count, size = count + sealed, size + sealed * one.size
            self.spooled_bytes += ((one.state in _ABSENT) - (after in _ABSENT)) * one.size
        self.sealed = (count, size)

    def _gap(self, one: Spooled, reason: str) -> Event:
        detail: dict[str, str | int | None] = {
            "segment": str(one.name),
            "rows": one.rows,
            "bytes": one.size,
            "was": one.state.value,
            "reason": reason,
        }
        return Event(EventKind.GAP, "outbox", one.stream, one.path, self._clock.now_ns(), detail, "storage")


def _told(one: Spooled, event: SegmentEvent, after: State, now: int) -> Spooled:
    """The segment with what is known of its delivery after an event; `now`: if a plain server acknowledged it."""
    known = one.delivered_ns if event is SegmentEvent.FOUND else 0
    if event is SegmentEvent.ACKED and now:
        known = one.delivered_ns if one.state is State.HELD else now
    if after is not State.HELD:
        known = 0
    return one if known == one.delivered_ns else replace(one, delivered_ns=known)


def _compact(db: sqlite3.Connection, released: int) -> int:
    """Forget the oldest released rows once there are too many; how many are left."""
    if released <= KEEP_RELEASED + KEEP_RELEASED // 10:
        return released
    db.execute(
        "DELETE FROM segments WHERE state = 'released' AND id <="
        " (SELECT id FROM segments WHERE state = 'released' ORDER BY id DESC LIMIT 1 OFFSET ?)",
        (KEEP_RELEASED,),
    )
    return KEEP_RELEASED


def move_of(one: Spooled, said: Mapping[str, Said]) -> Move | None:
    """What a receipt means for one segment; a SAFE one that could not be deleted is tried again by every receipt."""
    found = said[one.name.epoch].of(one.name.seq) if one.name.epoch in said else None
    if found is not None:
        return one, *found
    return (one, SegmentEvent.SAFE, "") if one.state is State.SAFE else None
