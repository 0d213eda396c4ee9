"""What the outbox does at its start: compares spool and rows, and asks `agent.recovery` about each finding."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.model import Spooled, State
from agent.recovery import Found, Place, Rule, decide
from tape import digest
from tape.durable import is_temp
from tape.errors import NameRefused, SegmentError
from tape.names import SegmentName, check_stream


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found at the start: a path relative to the spool, its row if there is one, and the rule for it."""

    path: str
    row: Spooled | None
    rule: Rule


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
