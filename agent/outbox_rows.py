"""The outbox's values and the statements that move them between SQLite and Python."""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field

from agent import outbox_blocks
from agent.model import Event, KnownFile, Origin, Spooled, State
from tape import digest
from tape.names import SegmentName

_SEGMENT = """SELECT s.id, t.name AS stream, s.epoch, s.seq, s.digest, s.suffix, s.size, s.sha256, s.chain, s.rows,
    s.sealed_ns, s.state, s.reason, s.again, s.delivered FROM segments s JOIN streams t ON t.id = s.stream """


@dataclass(frozen=True, slots=True)
class StreamHead:
    """Where the next segment of a stream goes on: its seq, the chain value before it, the index of its first row."""

    next_seq: int
    chain: str
    next_row: int


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A known file with what sealing needs to go on: the last min(offset, 4096) bytes before `known.offset`
    (empty once finished), the last layout and encoding plan as JSON texts (empty: none yet).
    """

    known: KnownFile
    last_bytes: bytes
    layout: str = ""
    plan: str = ""


@dataclass(frozen=True, slots=True)
class NewSegment:
    """A durable segment file about to be committed, with the cursor it brings. Times in ns.

    It covers source bytes [start, file.known.offset).
    """

    stream: str
    name: SegmentName
    size: int
    sha256: str
    rows: int
    sealed_ns: int
    newest_ns: int | None
    start: int
    file: StoredFile


@dataclass(frozen=True, slots=True)
class StreamTotals:
    """One stream for status: all it ever sealed in this epoch, and what of it is still here.

    `states`: (segments, bytes) per state, released ones left out. `oldest_unsent_ns`: when the oldest
    segment that home does not hold was sealed. `unconfirmed`: segments left with a plain server of which no receipt
    tells yet, and when the oldest of them was sealed.
    """

    stream: str
    segments: int
    rows: int
    bytes: int
    source_bytes: int
    newest_ns: int | None
    states: dict[State, tuple[int, int]] = field(default_factory=dict)
    oldest_unsent_ns: int | None = None
    reasons: tuple[str, ...] = ()
    unconfirmed: int = 0
    oldest_unconfirmed_ns: int | None = None


def spooled(row: sqlite3.Row) -> Spooled:
    """A row of `select`."""
    name = SegmentName(row["epoch"], row["seq"], row["digest"], row["suffix"])
    return Spooled(
        id=row["id"],
        stream=row["stream"],
        name=name,
        path=f"{row['stream']}/{name}",
        size=row["size"],
        sha256=row["sha256"],
        chain=row["chain"],
        rows=row["rows"],
        sealed_ns=row["sealed_ns"],
        state=State(row["state"]),
        reason=row["reason"],
        again=bool(row["again"]),
        delivered_ns=row["delivered"],
    )


def select(db: sqlite3.Connection, where: str, values: Iterable[object] = ()) -> list[Spooled]:
    """Segments by a condition over `s` (segments) and `t` (streams)."""
    return [spooled(row) for row in db.execute(_SEGMENT + where, tuple(values))]


def totals(db: sqlite3.Connection) -> list[StreamTotals]:
    """Every stream for status, by name."""
    live: dict[int, dict[State, tuple[int, int]]] = {}
    oldest: dict[int, int] = {}
    unconfirmed: dict[int, tuple[int, int]] = {}
    reasons: dict[int, list[str]] = {}
    for row in db.execute(
        "SELECT stream, state, count(*) AS n, sum(size) AS size, min(sealed_ns) AS oldest, max(reason) AS reason,"
        " sum(delivered > 0) AS delivered, min(iif(delivered > 0, sealed_ns, NULL)) AS oldest_delivered"
        " FROM segments WHERE state <> 'released' GROUP BY stream, state"
    ):
        state = State(row["state"])
        live.setdefault(row["stream"], {})[state] = (row["n"], row["size"])
        if state is State.SEALED:
            oldest[row["stream"]] = row["oldest"]
        if row["delivered"]:
            unconfirmed[row["stream"]] = (row["delivered"], row["oldest_delivered"])
        if state in (State.REFUSED, State.LOST) and row["reason"]:
            reasons.setdefault(row["stream"], []).append(f"{state.value}: {row['reason']}")
    found = []
    for row in db.execute("SELECT * FROM streams ORDER BY name"):
        count, since = unconfirmed.get(row["id"], (0, None))
        one = StreamTotals(
            stream=row["name"],
            segments=row["next_seq"],
            rows=row["next_row"],
            bytes=row["bytes"],
            source_bytes=row["source_bytes"],
            newest_ns=row["newest_ns"],
            states=live.get(row["id"], {}),
            oldest_unsent_ns=oldest.get(row["id"]),
            reasons=tuple(reasons.get(row["id"], ())),
            unconfirmed=count,
            oldest_unconfirmed_ns=since,
        )
        found.append(one)
    return found


def stream_id(db: sqlite3.Connection, stream: str, genesis: str) -> int:
    """The row of a stream, made where missing."""
    db.execute("INSERT INTO streams (name, chain) VALUES (?, ?) ON CONFLICT DO NOTHING", (stream, genesis))
    found: int = db.execute("SELECT id FROM streams WHERE name = ?", (stream,)).fetchone()[0]
    return found


def insert_segment(db: sqlite3.Connection, stream: int, new: Spooled) -> int:
    """Add a segment's row, and count it in its block; its id."""
    outbox_blocks.note(db, stream, new.name.epoch, new.name.seq, new.name.digest)
    cursor = db.execute(
        "INSERT INTO segments (stream, epoch, seq, digest, suffix, size, sha256, chain, rows, sealed_ns, state, reason)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            stream,
            new.name.epoch,
            new.name.seq,
            new.name.digest,
            new.name.suffix,
            new.size,
            new.sha256,
            new.chain,
            new.rows,
            new.sealed_ns,
            new.state.value,
            new.reason,
        ),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def form_id(db: sqlite3.Connection, body: str) -> int | None:
    """The id of a layout or plan text, which many files share; None for none."""
    if not body:
        return None
    db.execute("INSERT INTO forms (body) VALUES (?) ON CONFLICT DO NOTHING", (body,))
    found: int = db.execute("SELECT id FROM forms WHERE body = ?", (body,)).fetchone()[0]
    return found


def forget_forms(db: sqlite3.Connection) -> None:
    """Delete layouts and plans that nothing refers to any more."""
    db.execute(
        "DELETE FROM forms WHERE id NOT IN (SELECT coalesce(layout, 0) FROM files"
        " UNION SELECT coalesce(plan, 0) FROM files UNION SELECT coalesce(layout, 0) FROM streams"
        " UNION SELECT coalesce(plan, 0) FROM streams)"
    )


def save_file(db: sqlite3.Connection, file: StoredFile, layout: int | None, plan: int | None) -> None:
    """Insert or update a known file."""
    known = file.known
    origin = known.origin
    db.execute(
        "INSERT INTO files (file_id, source, stream, name, format, path, device, inode, offset, head_length, head,"
        " tail_length, tail, finished, last_bytes, layout, plan)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (file_id) DO UPDATE SET"
        " path = excluded.path, device = excluded.device, inode = excluded.inode, offset = excluded.offset,"
        " head_length = excluded.head_length, head = excluded.head, tail_length = excluded.tail_length,"
        " tail = excluded.tail, finished = excluded.finished, last_bytes = excluded.last_bytes,"
        " layout = excluded.layout, plan = excluded.plan",
        (
            origin.file_id,
            origin.source,
            origin.stream,
            to_blob(origin.name),
            origin.format,
            to_blob(known.path),
            str(known.device),
            str(known.inode),
            known.offset,
            known.head_length,
            known.head,
            known.tail_length,
            known.tail,
            int(known.finished),
            file.last_bytes,
            layout,
            plan,
        ),
    )


_FILE = """SELECT f.*, l.body AS layout_body, p.body AS plan_body FROM files f
    LEFT JOIN forms l ON l.id = f.layout LEFT JOIN forms p ON p.id = f.plan """


def files(db: sqlite3.Connection, where: str, values: Iterable[object]) -> list[StoredFile]:
    """Known files by a condition over `f`."""
    return [_stored(row) for row in db.execute(_FILE + where, tuple(values))]


def _stored(row: sqlite3.Row) -> StoredFile:
    origin = Origin(row["file_id"], row["source"], row["stream"], from_blob(row["name"]), row["format"])
    known = KnownFile(
        origin=origin,
        path=from_blob(row["path"]),
        device=int(row["device"]),
        inode=int(row["inode"]),
        offset=row["offset"],
        head_length=row["head_length"],
        head=row["head"],
        tail_length=row["tail_length"],
        tail=row["tail"],
        finished=bool(row["finished"]),
    )
    return StoredFile(known, row["last_bytes"], row["layout_body"] or "", row["plan_body"] or "")


def to_blob(text: str) -> bytes:
    """A path as bytes: SQLite's own text can't hold the escapes of bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogatepass")


def from_blob(data: bytes) -> str:
    """The reverse of `to_blob`."""
    return data.decode("utf-8", "surrogatepass")


def event_line(event: Event) -> bytes:
    """An event as one line of the stream `hometape/events`: `<ns> <json>`."""
    plain = {
        "kind": event.kind.value,
        "source": event.source,
        "stream": event.stream,
        "file": event.file,
        "detail": event.detail,
        "fault": event.fault,
    }
    body = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"{event.ns} {body}\n".encode("ascii")


def chain_after(head: StreamHead, agent: str, stream: str, name: SegmentName, sha256: str) -> str:
    """The chain value after a segment."""
    return digest.link(head.chain, agent, stream, name.epoch, name.seq, sha256)
