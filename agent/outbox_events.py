"""The events that are recorded and not sealed yet: the replayable log behind the stream `hometape/events`."""

import json
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from agent.model import Event, EventKind, Origin
from agent.outbox_rows import event_line
from agent.outbox_store import Store
from tape.names import EVENTS_STREAM

EVENTS_SOURCE = "hometape/events"  # no source of the settings can be called that
MOST_GAPS = 100
_FILE = "events"
_GAPS = "gaps"


class Gap(NamedTuple):
    """Bytes that are missing, or can't be read: when it was seen (ns), of which stream and file, and why."""

    ns: int
    stream: str
    file: str
    why: str


class EventTable:
    """Lines `<ns> <json>` with gapless byte offsets; sealing an offset consumes what lies before it."""

    def __init__(self, store: Store, file_id: str) -> None:
        self.origin = Origin(file_id, EVENTS_SOURCE, EVENTS_STREAM, _FILE, "frames")
        self._store = store
        with store.reading() as db:
            last = db.execute("SELECT max(start + length(line)) FROM events").fetchone()[0]
            sealed = db.execute("SELECT offset FROM files WHERE file_id = ?", (file_id,)).fetchone()
            self.waiting: int = db.execute("SELECT count(*) FROM events").fetchone()[0]
        self.end: int = max(last or 0, sealed["offset"] if sealed else 0)

    def add(self, db: sqlite3.Connection, events: Sequence[Event]) -> int:
        """Within a transaction: append events; the new end. Call `added` once it is committed."""
        end = self.end
        for event in events:
            line = event_line(event)
            db.execute("INSERT INTO events (start, line) VALUES (?, ?)", (end, line))
            end += len(line)
        gaps = [_gap(event) for event in events if event.kind in {EventKind.GAP, EventKind.UNREADABLE}]
        if gaps:
            text = json.dumps([*_gaps(db), *gaps][-MOST_GAPS:])
            db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (_GAPS, text))
        return end

    def added(self, end: int, count: int) -> None:
        """The transaction of `add` is durable."""
        self.end = end
        self.waiting += count

    def consume(self, db: sqlite3.Connection, offset: int) -> int:
        """Within a transaction: forget what is sealed; how many events that were. Call `consumed` afterwards."""
        return db.execute("DELETE FROM events WHERE start < ?", (offset,)).rowcount

    def consumed(self, count: int) -> None:
        """The transaction of `consume` is durable."""
        self.waiting -= count

    def gaps(self) -> list[Gap]:
        """The newest gaps and unreadable files that were recorded, sealed or not, oldest first."""
        with self._store.reading() as db:
            return _gaps(db)

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to so many events from a byte offset on: (start, line)."""
        with self._store.reading() as db:
            found = db.execute(
                "SELECT start, line FROM events WHERE start >= ? ORDER BY start LIMIT ?", (offset, limit)
            )
            return [(row["start"], row["line"]) for row in found]


def _gaps(db: sqlite3.Connection) -> list[Gap]:
    found = db.execute("SELECT value FROM meta WHERE key = ?", (_GAPS,)).fetchone()
    return [Gap(*one) for one in json.loads(found["value"])] if found else []


def _gap(event: Event) -> Gap:
    missing = event.detail.get("bytes")
    why = event.detail.get("reason") or ("bytes are missing" if missing is None else f"{missing} bytes are missing")
    return Gap(event.ns, event.stream, event.file, str(why))
