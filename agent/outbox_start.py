"""What the outbox does at its start: compares spool and rows, and asks `agent.recovery` about each finding."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent import outbox_rows
from agent.lifecycle import SegmentEvent
from agent.model import Spooled, State
from agent.outbox_moves import Move, Moves
from agent.outbox_store import Store
from agent.recovery import Decision, Found, Place, Rule, decide
from tape import digest
from tape.durable import Disk, is_temp
from tape.errors import NameRefused, SegmentError
from tape.log import get_logger
from tape.names import SegmentName, check_stream

log = get_logger(__name__)

_MOVES = {
    Decision.FREE: (SegmentEvent.FREED, ""),
    Decision.RELEASED: (SegmentEvent.FREED, ""),
    Decision.LOST: (SegmentEvent.MISSING, "the spool file is missing or has another size"),
    Decision.FOUND: (SegmentEvent.FOUND, ""),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found at the start: a path relative to the spool, its row if there is one, and the rule for it."""

    path: str
    row: Spooled | None
    rule: Rule


def recover(store: Store, moves: Moves, spool: Path, *, agent: str, epoch: str, disk: Disk) -> None:
    """Bring spool and rows together again, whatever happened before; raises StoreError, DiskError."""
    with store.reading() as db:
        known = {one.path: one for one in outbox_rows.select(db, "")}
        next_seqs = {row["name"]: row["next_seq"] for row in db.execute("SELECT name, next_seq FROM streams")}
    wanted: list[Move] = []
    adopted: list[Spooled] = []
    for finding in survey(spool, known, epoch, next_seqs):
        decision, row = finding.rule.decision, finding.row
        if decision in (Decision.DELETE, Decision.FREE):
            disk.remove(spool / finding.path)
            log.info("deleted at the start", file=finding.path, why=finding.rule.why)
        elif decision is Decision.ADOPT:
            adopted += _adopted(spool, finding.path, agent)
        elif decision is Decision.LEAVE:
            log.error("left in the spool", file=finding.path, why=finding.rule.why)
        if row is not None and decision in _MOVES:
            wanted.append((row, *_MOVES[decision]))
    moves.move(sorted(wanted, key=lambda move: move[0].id))
    with store.transaction() as db:
        for one in sorted(adopted, key=lambda one: (one.stream, one.name)):
            stream = outbox_rows.stream_id(db, one.stream, digest.genesis(agent, one.stream, epoch))
            outbox_rows.insert_segment(db, stream, one)
        outbox_rows.forget_forms(db)
    if adopted:
        log.warning("segments of a lost outbox will be sent", segments=len(adopted))
    drop_empty_folders(spool)
    moves.count()


def _adopted(spool: Path, relative: str, agent: str) -> list[Spooled]:
    try:
        return [adopt(spool, relative, agent)]
    except SegmentError as error:
        log.error("left in the spool", file=relative, why=str(error))
        return []


def survey(spool: Path, rows: Mapping[str, Spooled], epoch: str, next_seqs: Mapping[str, int]) -> Iterator[Finding]:
    """Every finding, files first. `rows` by path; `next_seqs` of this epoch by stream (0 where unknown)."""
    seen: set[str] = set()
    for relative, size in _walk(spool):
        row = rows.get(relative)
        if row is not None:
            seen.add(relative)
            found = Found.INTACT if row.size == size else Found.DIFFERS
            yield Finding(relative, row, decide(found, row.state, Place.PAST))
            continue
        found, place = _judge(spool, relative, epoch, next_seqs)
        yield Finding(relative, None, decide(found, None, place))
    for relative, row in rows.items():
        if relative not in seen:
            yield Finding(relative, row, decide(Found.ABSENT, row.state, Place.PAST))


def adopt(spool: Path, relative: str, agent: str) -> Spooled:
    """A segment of a lost epoch as a new row (id 0), read from the file itself; raises SegmentError."""
    from tape.segment import read_footer

    path = spool / relative
    stream, name = _identity(relative)
    footer = read_footer(path)
    if (footer.agent, footer.stream, footer.epoch, footer.seq) != (agent, stream, name.epoch, name.seq):
        raise SegmentError(f"{path}: its footer is of {footer.agent}/{footer.stream}, {footer.epoch} {footer.seq}")
    both = digest.digests_of(path)
    return Spooled(
        id=0,
        stream=stream,
        name=name,
        path=relative,
        size=both.size,
        sha256=both.sha256,
        chain=digest.link(footer.previous, agent, stream, name.epoch, name.seq, both.sha256),
        rows=footer.rows,
        sealed_ns=footer.sealed_ns,
        state=State.SEALED,
        reason="of an epoch whose outbox was lost",
    )


def drop_empty_folders(spool: Path) -> None:
    """Delete folders of streams that hold nothing any more."""
    for folder, _, _ in os.walk(spool, topdown=False):
        if Path(folder) != spool:
            try:
                Path(folder).rmdir()
            except OSError:
                continue  # not empty, or in use: both fine


def _walk(spool: Path) -> Iterator[tuple[str, int]]:
    for folder, _, names in os.walk(spool):
        for name in sorted(names):
            path = Path(folder, name)
            yield path.relative_to(spool).as_posix(), path.lstat().st_size


def _identity(relative: str) -> tuple[str, SegmentName]:
    stream, _, name = relative.rpartition("/")
    return check_stream(stream), SegmentName.parse(name)


def _judge(spool: Path, relative: str, epoch: str, next_seqs: Mapping[str, int]) -> tuple[Found, Place]:
    if is_temp(Path(relative)):
        return Found.TEMP, Place.PAST
    try:
        stream, name = _identity(relative)
    except NameRefused:
        return Found.STRANGER, Place.PAST
    if name.epoch == epoch:
        following = next_seqs.get(stream, 0)
        place = Place.PAST if name.seq < following else Place.NEXT if name.seq == following else Place.BEYOND
        return Found.INTACT, place
    intact = digest.digest_of(spool / relative) == name.digest
    return (Found.INTACT if intact else Found.DIFFERS), Place.ELSEWHERE
