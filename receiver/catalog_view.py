"""What anybody may ask of the catalog: the side that only reads, in the service and beside it."""

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from receiver import catalog_around, catalog_state, catalog_targets, gaps
from receiver import catalog_queries as queries
from receiver.catalog_inventory import CatalogTree
from receiver.catalog_queries import EpochState, Incident, Quarantined, SourceFile, StreamTotals
from receiver.catalog_rows import read_held
from receiver.catalog_schema import explained
from receiver.catalog_targets import KnownTarget
from receiver.model import Copy, Held
from receiver.placement import Rule, Where
from receiver.standing import Looked
from receiver.verdict import Known
from tape.footer import Footer
from tape.inventory import Page, answer
from tape.receipt import EpochReceipt

T = TypeVar("T")


class CatalogView:
    """Questions to an open catalog; thread-safe. A long answer holds memory and lock for a page at a time."""

    def __init__(self, reader: sqlite3.Connection) -> None:
        self._reader = reader
        self._reading = threading.RLock()

    def known(self, identities: Sequence[tuple[str, str, str, int]]) -> list[Known]:
        """What is held around each (agent, stream, epoch, seq), for its verdict; `overlap` is left empty."""
        with self._read() as base:
            return catalog_around.known(base, identities)

    def overlaps(self, footers: Sequence[Footer]) -> list[str]:
        """For each footer: the held segment that covers some of the same source bytes, "" if none does."""
        with self._read() as base:
            return catalog_around.overlaps(base, footers)

    def open_folders(self) -> list[str]:
        """Day folders of the home archive that may hold files placed but not yet catalogued when a crash came."""
        with self._read() as base:
            return [path for (path,) in base.execute("SELECT path FROM open_folder ORDER BY path")]

    def find(self, agent: str, stream: str, epoch: str, seq: int) -> Held | None:
        """The segment of that identity, if it is held."""
        with self._read() as base:
            found = read_held(
                base, "WHERE t.agent=? AND t.name=? AND e.name=? AND s.seq=?", (agent, stream, epoch, seq)
            )
        return found[0] if found else None

    def get(self, segment: int) -> Held | None:
        """A segment by its id."""
        with self._read() as base:
            found = read_held(base, "WHERE s.id=?", (segment,))
        return found[0] if found else None

    def segments(
        self, agent: str, stream: str, *, first_ns: int | None = None, last_ns: int | None = None
    ) -> Iterator[Held]:
        """A stream's segments by day, then in the order of sealing.

        With a time range (ns, inclusive): those that may hold rows received in it, and those whose rows
        have no receive time. Memory and lock are held for a page at a time.
        """
        number = self._stream_id(agent, stream)
        day, high = queries.day_bounds(first_ns, last_ns)
        while number is not None:
            with self._read() as base:
                following = queries.next_day(base, number, day - 1)
            if following is None or following > high:
                return
            for held in self._of_day(number, following):
                too_old = first_ns is not None and held.recv_last_ns is not None and held.recv_last_ns < first_ns
                too_new = last_ns is not None and held.recv_first_ns is not None and held.recv_first_ns > last_ns
                if not too_old and not too_new:
                    yield held
            day = following + 1

    def _of_day(self, stream: int, day: int) -> Iterator[Held]:
        after = (-1, -1)
        while True:
            with self._read() as base:
                page = queries.page_of_day(base, stream, day, after)
                if page:
                    last = page[-1]
                    after = (queries.one(base, "SELECT epoch FROM segment WHERE id=?", (last.id,)), last.path.name.seq)
            yield from page
            if len(page) < queries.PAGE:
                return

    def all_segments(self, *, after: int = 0) -> Iterator[Held]:
        """Every segment by id, ascending, from the one after `after`."""
        while True:
            with self._read() as base:
                page = read_held(base, "WHERE s.id>? ORDER BY s.id LIMIT ?", (after, queries.PAGE))
            yield from page
            if len(page) < queries.PAGE:
                return
            after = page[-1].id

    def files(self, agent: str, stream: str) -> list[SourceFile]:
        """The lives of a stream's source files, in the order they were first seen here."""
        number = self._stream_id(agent, stream)
        with self._read() as base:
            return [] if number is None else queries.files(base, number)

    def segments_of_file(self, agent: str, stream: str, file_id: str) -> Iterator[Held]:
        """The segments of one life of a source file by the start of their byte range: what an export concatenates."""
        number = self._stream_id(agent, stream)
        after = (0, -1)
        while number is not None:
            with self._read() as base:
                page = queries.page_of_file(base, number, file_id, after)
            yield from page
            if len(page) < queries.PAGE:
                return
            assert page[-1].footer is not None
            after = (page[-1].footer.source.start, page[-1].id)

    def holes(self, agent: str, stream: str, file_id: str) -> list[tuple[int, int]]:
        """The byte ranges `[start, end)` of one life of a source file that lie before held ones and are not held."""
        number = self._stream_id(agent, stream)
        with self._read() as base:
            return [] if number is None else gaps.holes(queries.extents(base, number, file_id))

    def _stream_id(self, agent: str, stream: str) -> int | None:
        with self._read() as base:
            number: int | None = queries.one(base, "SELECT id FROM stream WHERE agent=? AND name=?", (agent, stream))
        return number

    def behind(self, target: str, *, after: int = 0, limit: int) -> list[Held]:
        """Segments with an id > `after` that have no copy at the target, ascending."""
        with self._read() as base:
            number = queries.one(base, "SELECT id FROM target WHERE name=?", (target,))
            return queries.behind(base, number, after=after, limit=limit)

    def copies(self, segment: int) -> list[Copy]:
        """Every proven copy of a segment."""
        with self._read() as base:
            rows = base.execute(
                "SELECT c.segment, t.name, c.verified, m.name FROM target t"
                " JOIN copy c ON c.target=t.id AND c.segment=? JOIN method m ON m.id=c.method ORDER BY t.name",
                (segment,),
            )
            return [Copy(*row) for row in rows]

    def ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """The answer to a question of receiver.catalog_queries that has no method of its own here."""
        with self._read() as base:
            return question(base)

    def held_and_safe(
        self, agent: str, stream: str, *, rule: Rule, places: Mapping[str, Where]
    ) -> dict[str, EpochReceipt]:
        """What a receipt says, by epoch. Safe: attested, and its proven copies at these places satisfy the rule."""
        number = self._stream_id(agent, stream)
        with self._read() as base:
            return {} if number is None else catalog_state.held_and_safe(base, number, rule=rule, places=places)

    def inventory(self, agent: str, page: Page) -> bytes | None:
        """A page over what is held of an agent; None if nothing lies below it. Raises InventoryError."""
        with self._read() as base:
            return answer(CatalogTree(base, agent), page)

    def targets(self) -> list[KnownTarget]:
        """Every target that ever was there, by name."""
        with self._read() as base:
            return catalog_targets.read(base)

    def looked(self) -> Looked:
        """What the last look found lacking; see `Catalog.look`."""
        with self._read() as base:
            return catalog_state.looked(base)

    def streams(self) -> list[StreamTotals]:
        """Every stream with its totals here and at each target."""
        with self._read() as base:
            return queries.streams(base)

    def epochs(self, agent: str, stream: str) -> list[EpochState]:
        """The epochs of a stream with what is held and what is missing, oldest first."""
        number = self._stream_id(agent, stream)
        with self._read() as base:
            return [] if number is None else queries.epochs(base, number)

    def agent_bytes(self, agent: str) -> int:
        """Bytes of an agent's segments in the home archive."""
        with self._read() as base:
            return int(queries.one(base, "SELECT coalesce(sum(bytes), 0) FROM stream WHERE agent=?", (agent,)))

    def incidents(self, *, closed: bool = False, limit: int = 100) -> list[Incident]:
        """Incidents, newest first; the closed ones only when asked for."""
        with self._read() as base:
            return queries.incidents(base, closed=closed, limit=limit)

    def quarantined(self, *, limit: int = 100) -> list[Quarantined]:
        """What is in quarantine, newest first."""
        with self._read() as base:
            return queries.quarantined(base, limit=limit)

    @contextlib.contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        """One answer sees one state, whatever is committed while its queries run."""
        with self._reading, explained():
            nested = self._reader.in_transaction
            if nested:
                yield self._reader
                return
            self._reader.execute("BEGIN")
            try:
                yield self._reader
            finally:
                if self._reader.in_transaction:
                    self._reader.execute("COMMIT")
