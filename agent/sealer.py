"""Seals segments: open, append pieces, then close, name, and commit with the cursor.

The order is that of promise 1: temporary file in the stream's folder, write, fsync, digest, name,
fsync the folder, then one transaction for segment and cursor. Until that transaction the packed text
of an open segment is kept in memory, so that a full disk or a failed encoding loses nothing: the same
pieces are sealed again.
"""

import contextlib
import json
import threading
import weakref
from dataclasses import dataclass, field

import zstandard

from agent.buffer import Cursor, Piece, frames_of_day
from agent.clock_state import clock_state
from agent.model import KnownFile, Origin, Spooled
from agent.outbox import Outbox
from agent.outbox_rows import NewSegment, StoredFile
from tape import __version__
from tape.clock import Clock
from tape.digest import xxh3
from tape.durable import DISK, Disk
from tape.errors import DiskError, SyncFailed
from tape.footer import Footer, Head, SourceRange
from tape.layout import LINES, Format, Layout, Shape, detect
from tape.names import SegmentName, utc_day
from tape.segment import EncodingPlan, Misfit, SegmentWriter

__all__ = ["DAY_NS", "Kept", "Misfit", "OpenSegment", "Place", "Sealer", "Shaped", "cursor_of"]

SAMPLE = 2**20
DAY_NS = 86_400_000_000_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where an origin lies now."""

    path: str
    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class Shaped:
    """What carries over from one segment of an origin to the next: layout and encodings, None where there are none."""

    layout: Layout | None = None
    plan: EncodingPlan | None = None

    @classmethod
    def load(cls, layout: str, plan: str) -> "Shaped":
        """From the texts that the outbox keeps."""
        choices = json.loads(plan) if plan else None
        return cls(
            Layout.from_json(json.loads(layout), where="outbox") if layout else None,
            EncodingPlan(choices["encodings"], choices["rows"]) if choices else None,
        )

    def dump(self) -> tuple[str, str]:
        """The texts that `load` reads."""
        plan = {"encodings": self.plan.encodings, "rows": self.plan.rows} if self.plan else None
        return (
            json.dumps(self.layout.to_json(), sort_keys=True) if self.layout else "",
            json.dumps(plan, sort_keys=True) if plan else "",
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """A piece, packed, as long as its segment is not committed."""

    packed: bytes
    marks: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, piece: Piece) -> "Kept":
        """Pack a piece. The copy lets go of the compressor's output buffer, which is as large as the text."""
        packed = zstandard.ZstdCompressor(level=1).compress(piece.data)
        return cls(bytes(memoryview(packed)), piece.marks)

    def piece(self) -> Piece:
        """The piece again."""
        return Piece(zstandard.ZstdDecompressor().decompress(self.packed), self.marks)

    @property
    def size(self) -> int:
        """Bytes of text."""
        return self.marks[-1][0]


@dataclass(slots=True)
class OpenSegment:
    """A segment in the making. `cursor` is the place behind what was appended."""

    origin: Origin
    start: int
    cursor: Cursor
    writer: SegmentWriter
    frame_day: int | None = None  # UTC day (days since 1970) of the stamps of its last frames
    day: int | None = None  # UTC day on which its rows were read
    kept: list[Kept] = field(default_factory=list)
    kept_bytes: int = 0

    @property
    def rows(self) -> int:
        """Rows so far."""
        return self.writer.rows

    @property
    def size(self) -> int:
        """Bytes of source text so far."""
        return self.cursor.offset - self.start

    @property
    def shaped(self) -> Shaped:
        """Layout and plan as they are now."""
        return Shaped(self.writer.layout, self.writer.plan)


class Sealer:
    """Makes segments for one outbox. Thread-safe across segments; one segment belongs to one caller at a time."""

    def __init__(self, outbox: Outbox, *, level: int, clock: Clock, disk: Disk = DISK) -> None:
        self._outbox = outbox
        self._level = level
        self._clock = clock
        self._disk = disk
        self._guard = threading.Lock()
        self._locks: weakref.WeakValueDictionary[str, _StreamLock] = weakref.WeakValueDictionary()

    def open(self, origin: Origin, cursor: Cursor, sample: bytes, shaped: Shaped, *, plain: bool) -> OpenSegment:
        """Start a segment at a place. `sample`: the text it begins with; `plain`: no typing, lines as they are."""
        folder = self._outbox.spool / origin.stream
        self._disk.make_dirs(folder)
        layout = LINES
        if not plain:
            whole = sample[: sample.rfind(b"\n", 0, SAMPLE) + 1]
            layout = detect(whole, Format(origin.format), at_start=cursor.offset == 0, prior=shaped.layout)
        return self._start(origin, cursor, layout, shaped.plan)

    def reopen(self, segment: OpenSegment, layout: Layout) -> OpenSegment:
        """The same segment, still without rows, with the layout that its first piece wants."""
        segment.writer.abort()
        return self._start(segment.origin, segment.cursor, layout, segment.writer.plan)

    def append(self, segment: OpenSegment, piece: Piece) -> int:
        """Add a piece; how many of its bytes were taken.

        Fewer than all (none, even) when frames end with a UTC day of stamps: seal, and open another one.
        Raises Misfit with nothing taken, DiskError.
        """
        if segment.writer.layout.shape is Shape.FRAMES:
            taken, segment.frame_day = frames_of_day(piece.data, segment.frame_day, segment.rows)
            if taken == 0:
                return 0
            if taken < len(piece.data):
                piece, _ = piece.split(taken)
        segment.writer.append(piece.data, piece.marks)
        kept = Kept.of(piece)
        segment.kept.append(kept)
        segment.kept_bytes += len(kept.packed)
        segment.cursor = segment.cursor.after(piece.data)
        segment.day = piece.marks[-1][1] // DAY_NS
        return len(piece.data)

    def seal(self, segment: OpenSegment, place: Place, *, final: bool) -> Spooled:
        """Close, name and commit. On any error the segment is gone and nothing was committed; raises DiskError,
        SegmentError. After SyncFailed the outbox acknowledges nothing any more.
        """
        stream = segment.origin.stream
        try:
            with self._stream(stream).lock:
                head = self._outbox.head(stream)
                sealed = segment.writer.close(
                    self._footer(segment, head.next_seq, head.chain, head.next_row, final=final)
                )
                name = SegmentName(self._outbox.epoch, head.next_seq, sealed.digest)
                path = self._outbox.spool / stream / str(name)
                try:
                    self._disk.place(sealed.path, path)
                    self._disk.sync_dir(path.parent)
                    return self._outbox.commit(
                        NewSegment(
                            stream=stream,
                            name=name,
                            size=sealed.size,
                            sha256=sealed.sha256,
                            rows=sealed.rows,
                            sealed_ns=sealed.footer.sealed_ns,
                            newest_ns=sealed.footer.recv_last_ns,
                            start=segment.start,
                            file=_stored(segment, place, final=final),
                        )
                    )
                except SyncFailed:
                    raise
                except BaseException:
                    for leftover in (sealed.path, path):
                        with contextlib.suppress(DiskError):  # the start deletes what stays
                            self._disk.remove(leftover)
                    raise
        except SyncFailed as error:
            self._outbox.fail(error)
            raise

    def _footer(self, segment: OpenSegment, seq: int, previous: str, row_first: int, *, final: bool) -> Footer:
        origin, cursor, writer = segment.origin, segment.cursor, segment.writer
        sealed_ns = self._clock.now_ns()
        return Footer(
            agent=self._outbox.agent,
            stream=origin.stream,
            epoch=self._outbox.epoch,
            seq=seq,
            previous=previous,
            day=utc_day(writer.recv_first_ns if writer.recv_first_ns is not None else sealed_ns),
            sealed_ns=sealed_ns,
            row_first=row_first,
            source=SourceRange(
                kind="events" if origin == self._outbox.events_origin else "file",
                file=origin.name,
                file_id=origin.file_id,
                start=segment.start,
                end=cursor.offset,
                head=Head(cursor.head_length, cursor.head),
                final=final,
            ),
            agent_version=__version__,
            clock=clock_state(),
        )

    def _start(self, origin: Origin, cursor: Cursor, layout: Layout, plan: EncodingPlan | None) -> OpenSegment:
        path = self._disk.temp_path(self._outbox.spool / origin.stream)
        writer = SegmentWriter(path, layout, level=self._level, plan=plan, continues=cursor.mid_line, disk=self._disk)
        return OpenSegment(origin, cursor.offset, cursor, writer)

    def _stream(self, stream: str) -> "_StreamLock":
        with self._guard:
            lock = self._locks.get(stream)
            if lock is None:
                lock = self._locks[stream] = _StreamLock()
            return lock


class _StreamLock:
    """A lock that is forgotten when nobody uses it."""

    __slots__ = ("__weakref__", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()


def _stored(segment: OpenSegment, place: Place, *, final: bool) -> StoredFile:
    cursor = segment.cursor
    known = KnownFile(
        origin=segment.origin,
        path=place.path,
        device=place.device,
        inode=place.inode,
        offset=cursor.offset,
        head_length=cursor.head_length,
        head=cursor.head,
        tail_length=len(cursor.last),
        tail=xxh3(cursor.last),
        finished=final,
    )
    layout, plan = segment.shaped.dump()
    return StoredFile(known, b"" if final else cursor.last, layout, plan)


def cursor_of(stored: StoredFile | None) -> Cursor:
    """Where an origin goes on, as the outbox knows it; its start if it does not."""
    if stored is None:
        return Cursor()
    known = stored.known
    return Cursor(known.offset, known.head_length, known.head, stored.last_bytes)
