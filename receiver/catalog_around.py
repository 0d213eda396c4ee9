"""What is held around new segments, for their verdicts, as functions over an open connection.

Segments come in runs: of one epoch by seq, of one file by its bytes. So what is asked for a whole run is
one question, however many segments it has.
"""

import sqlite3
from collections.abc import Sequence

from receiver import catalog_spans
from receiver.catalog_tables import WANTED
from receiver.verdict import Known, Link
from tape.footer import Footer
from tape.receipt import to_ranges

_NOTHING = Known()


def known(base: sqlite3.Connection, identities: Sequence[tuple[str, str, str, int]]) -> list[Known]:
    """What is held around each (agent, stream, epoch, seq); without `overlap`."""
    by_epoch: dict[tuple[str, str, str], set[int]] = {}
    for agent, stream, epoch, seq in identities:
        by_epoch.setdefault((agent, stream, epoch), set()).add(seq)
    found = {names: _in_epoch(base, names, numbers) for names, numbers in by_epoch.items()}
    return [found[agent, stream, epoch].get(seq, _NOTHING) for agent, stream, epoch, seq in identities]


def _in_epoch(base: sqlite3.Connection, names: tuple[str, str, str], numbers: set[int]) -> dict[int, Known]:
    """What is held around those numbers around which anything is."""
    row = base.execute(
        "SELECT e.id FROM epoch e JOIN stream t ON t.id = e.stream WHERE t.agent=? AND t.name=? AND e.name=?", names
    ).fetchone()
    if row is None:
        return {}
    links: dict[int, Link] = {}
    digests: dict[int, str] = {}
    for first, last in to_ranges(sorted(numbers)):
        for seq, digest, previous, sha256 in base.execute(
            "SELECT seq, digest, previous, sha256 FROM segment WHERE epoch=? AND seq BETWEEN ? AND ?",
            (row[0], first - 1, last + 1),
        ):
            links[seq] = Link(seq, previous.hex(), "" if sha256 is None else sha256.hex())
            digests[seq] = digest.hex()
    found: dict[int, Known] = {}
    for seq in numbers & {near for held in links for near in (held - 1, held, held + 1)}:
        digest = digests.get(seq, "")
        wanted = bool(digest) and catalog_spans.holds(base, row[0], WANTED, seq)
        found[seq] = Known(digest, wanted, links.get(seq - 1), links.get(seq + 1))
    return found


def overlaps(base: sqlite3.Connection, footers: Sequence[Footer]) -> list[str]:
    """For each: the held segment, other than itself, that covers some of the same bytes of the same file, or ""."""
    by_file: dict[tuple[str, str, str], list[int]] = {}
    for number, footer in enumerate(footers):
        by_file.setdefault((footer.agent, footer.stream, footer.source.file_id), []).append(number)
    found = [""] * len(footers)
    for (agent, stream, file_id), numbers in by_file.items():
        row = base.execute(
            "SELECT f.id FROM file f JOIN stream t ON t.id = f.stream WHERE t.agent=? AND t.name=? AND f.file_id=?",
            (agent, stream, bytes.fromhex(file_id)),
        ).fetchone()
        if row is not None and not _all_after(base, row[0], [footers[number] for number in numbers]):
            for number in numbers:
                found[number] = _overlap(base, row[0], footers[number])
    return found


def _all_after(base: sqlite3.Connection, file: int, footers: Sequence[Footer]) -> bool:
    """Whether nothing held covers any byte from where the first of these starts to where the last ends.

    Held extents of a file never overlap, so only the last one that starts before that end can.
    """
    start = min(footer.source.start for footer in footers)
    end = max(footer.source.end for footer in footers)
    row = base.execute(
        "SELECT stop FROM segment WHERE file=? AND start<? ORDER BY start DESC, stop DESC LIMIT 1", (file, end)
    ).fetchone()
    return row is None or row[0] <= start


def _overlap(base: sqlite3.Connection, file: int, footer: Footer) -> str:
    """As `_all_after`, for one, and without itself."""
    row = base.execute(
        "SELECT e.name, s.seq, s.stop FROM segment s JOIN epoch e ON e.id = s.epoch WHERE s.file=? AND s.start<?"
        " AND NOT (e.name=? AND s.seq=?) ORDER BY s.start DESC, s.stop DESC LIMIT 1",
        (file, footer.source.end, footer.epoch, footer.seq),
    ).fetchone()
    return f"{row[0]}-{row[1]:012d}" if row is not None and row[2] > footer.source.start else ""
