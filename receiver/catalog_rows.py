"""Segments as the catalog's rows and back: every fact of a footer goes in, the same footer comes out."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any

from receiver.model import Held
from tape.digest import link
from tape.footer import ClockState, Footer, Head, SourceRange
from tape.names import SegmentName, SegmentPath

# Everything `held_from` needs, in its order; append WHERE, ORDER BY and LIMIT.
SELECT_HELD = """
SELECT s.id, t.agent, t.name, e.name, s.seq, s.day, s.digest, s.size, s.rows, s.recv_first, s.recv_last, s.committed,
       s.sealed, s.row_first, s.previous, s.sha256, s.broken, f.file_id, s.start, s.stop, s.final, s.source_digest,
       o.json, x.json, s.clock_sync, s.clock_error
FROM segment s JOIN stream t ON t.id = s.stream JOIN epoch e ON e.id = s.epoch JOIN file f ON f.id = s.file
     JOIN fact o ON o.id = s.origin JOIN fact x ON x.id = s.facts
"""


@dataclass(frozen=True, slots=True)
class NewSegment:
    """A segment that lies in the home archive, durably, and is not in the catalog yet. `size` in bytes."""

    path: SegmentPath
    size: int
    footer: Footer


def facts_of(new: NewSegment) -> str:
    """What a stream's segments share, as canonical JSON."""
    return _canonical(shared_facts(new))


def shared_facts(new: NewSegment) -> dict[str, Any]:
    """What a stream's segments share, as JSON values."""
    footer = new.footer
    return {
        "agent_version": footer.agent_version,
        "format": footer.format,
        "kind": footer.kind,
        "layout": footer.layout,
        "schema": footer.schema,
        "suffix": new.path.name.suffix,
    }


def origin_of(footer: Footer) -> str:
    """What the segments of one life of a file share, beside its `file_id`, as canonical JSON."""
    source = footer.source
    head = {"length": source.head.length, "xxh3": source.head.xxh3}
    return _canonical({"file": source.file, "head": head, "kind": source.kind})


def row_of(new: NewSegment, ids: Sequence[int], committed_ns: int) -> tuple[Any, ...]:
    """The row of table `segment`; `ids`: segment, stream, epoch, file, origin, facts."""
    footer = new.footer
    source = footer.source
    sync = footer.clock.synchronised
    return (
        *ids[:3],
        footer.seq,
        footer.day.toordinal(),
        bytes.fromhex(new.path.name.digest),
        new.size,
        footer.rows,
        footer.recv_first_ns,
        footer.recv_last_ns,
        committed_ns,
        footer.sealed_ns,
        footer.row_first,
        bytes.fromhex(footer.previous),
        None,
        0,
        ids[3],
        source.start,
        source.end,
        int(source.final),
        bytes.fromhex(source.digest),
        *ids[4:],
        None if sync is None else int(sync),
        footer.clock.max_error_us,
    )


INSERT_SEGMENT = "INSERT INTO segment VALUES (" + ",".join("?" * 25) + ")"  # noqa: S608 - question marks only


def held_from(row: Sequence[Any]) -> Held:
    """A row of SELECT_HELD as a value; `chain` is "" unless it is attested and contradicts nothing."""
    (number, agent, stream, epoch, seq, day, digest, size, rows, first, last, committed, sealed, row_first) = row[:14]
    (previous, sha256, broken, file_id, start, stop, final, source_digest, origin, facts, sync, error) = row[14:]
    shared = _parsed(facts)
    source = _parsed(origin)
    when = date.fromordinal(day)
    footer = Footer(
        agent=agent,
        stream=stream,
        epoch=epoch,
        seq=seq,
        previous=previous.hex(),
        day=when,
        sealed_ns=sealed,
        row_first=row_first,
        source=SourceRange(
            kind=source["kind"],
            file=source["file"],
            file_id=file_id.hex(),
            start=start,
            end=stop,
            head=Head(**source["head"]),
            digest=source_digest.hex(),
            final=bool(final),
        ),
        rows=rows,
        recv_first_ns=first,
        recv_last_ns=last,
        schema=shared["schema"],
        layout=shared["layout"],
        agent_version=shared["agent_version"],
        clock=ClockState(None if sync is None else bool(sync), error),
        kind=shared["kind"],
        format=shared["format"],
    )
    strong = sha256.hex() if sha256 is not None else ""
    return Held(
        id=number,
        path=SegmentPath(agent, stream, when, SegmentName(epoch, seq, digest.hex(), shared["suffix"])),
        size=size,
        rows=rows,
        sha256=strong,
        chain=link(footer.previous, agent, stream, epoch, seq, strong) if strong and not broken else "",
        recv_first_ns=first,
        recv_last_ns=last,
        committed_ns=committed,
        footer=footer,
    )


def read_held(base: sqlite3.Connection, tail: str, values: Sequence[Any]) -> list[Held]:
    """Run SELECT_HELD with this tail (a literal of the caller) and read all rows."""
    return [held_from(row) for row in base.execute(SELECT_HELD + tail, values)]


@lru_cache(maxsize=4096)
def _parsed(text: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
