"""The events that are recorded and not sealed yet: the replayable log behind the stream `hometape/events`."""

import sqlite3
from collections.abc import Sequence

from agent.model import Event, Origin
from agent.outbox_rows import event_line
from agent.outbox_store import Store
from tape.names import EVENTS_STREAM

EVENTS_SOURCE = "hometape/events"  # no source of the settings can be called that
_FILE = "events"


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

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to so many events from a byte offset on: (start, line)."""
        with self._store.reading() as db:
            found = db.execute(
                "SELECT start, line FROM events WHERE start >= ? ORDER BY start LIMIT ?", (offset, limit)
            )
            return [(row["start"], row["line"]) for row in found]
