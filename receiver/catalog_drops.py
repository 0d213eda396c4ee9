"""Many copies forgotten at once, in the caller's transaction: what a target no longer has, and every sum of it."""

import sqlite3
from collections.abc import Sequence

from receiver import catalog_spans
from receiver.catalog_ids import Ids
from receiver.catalog_tables import COPIES, IDS
from tape.receipt import to_ranges


def drop_copies(
    base: sqlite3.Connection, ids: Ids, target_name: str, segments: Sequence[int], *, before_ns: int, now_ns: int
) -> tuple[int, set[tuple[str, str]]]:
    """Forget the copies of these segments at a target, those proven since a time excepted.

    What was proven after `now_ns` was proven by a clock that was wrong, nobody knows when: it is no exception.
    Returns how many, and the (agent, stream) touched. The incident is the caller's to record.
    """
    target = ids.target(base, target_name)
    touched: set[tuple[str, str]] = set()
    dropped: list[int] = []
    seqs: dict[int, list[int]] = {}
    for segment in segments:
        row = base.execute(
            "DELETE FROM copy WHERE target=? AND segment=? AND NOT verified BETWEEN ? AND ? RETURNING segment",
            (target, segment, before_ns, now_ns),
        ).fetchone()
        if row is None:
            continue
        stream, epoch, seq, rows, size, agent, name = base.execute(
            "SELECT s.stream, s.epoch, s.seq, s.rows, s.size, t.agent, t.name FROM segment s"
            " JOIN stream t ON t.id=s.stream WHERE s.id=?",
            (segment,),
        ).fetchone()
        base.execute(
            "UPDATE stream_target SET segments=segments-1, rows=rows-?, bytes=bytes-? WHERE stream=? AND target=?",
            (rows, size, stream, target),
        )
        dropped.append(segment)
        seqs.setdefault(epoch, []).append(seq)
        touched.add((agent, name))
    for first, last in to_ranges(sorted(dropped)):
        catalog_spans.remove(base, -target, IDS, first, last)
    for epoch, numbers in seqs.items():
        for first, last in to_ranges(sorted(numbers)):
            catalog_spans.remove(base, epoch, COPIES + target, first, last)
    return len(dropped), touched
