"""The catalog's tables, its format number, and how an older format is brought up to date.

Integer ids throughout. A segment's row holds every fact of its footer (what repeats over many segments
lies once in `fact`), so an export or a status never opens a Parquet file to plan. Sums are kept beside
the rows they sum, in the same transaction; sets of numbers are kept as ranges in `span`. So what a
status asks costs by streams, targets and gaps, never by segments.

Format 2 added `block` and the node of an epoch (sums over 256 numbers each, and the inventory's tree),
`stream_day`, what is known of a target's instance, and since when something lacks.
"""

import sqlite3
import struct
from collections.abc import Iterable, Iterator
from itertools import accumulate, groupby

from tape.inventory import BLOCK, BLOCK_BITS, entry_hash

FORMAT = 2
# `span.kind`: what a range of numbers means. Owned by an epoch (numbers are seq): HELD, ATTESTED, WANTED (held once,
# lost here), ASKED (never held, came damaged), and COPIES + target id.
# Owned by minus a target id (numbers are segment ids): IDS.
HELD, ATTESTED, WANTED, IDS, ASKED, COPIES = 0, 1, 2, 3, 4, 16

_ENDS = struct.Struct(f"<{BLOCK}Q")
NO_ENDS = bytes(_ENDS.size)

_TABLES_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE target (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE method (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE stream (
  id INTEGER PRIMARY KEY, agent TEXT NOT NULL, name TEXT NOT NULL,
  segments INTEGER NOT NULL DEFAULT 0, rows INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
  source_bytes INTEGER NOT NULL DEFAULT 0, recv_first INTEGER, recv_last INTEGER, committed INTEGER,
  UNIQUE (agent, name)
) STRICT;
CREATE TABLE epoch (
  id INTEGER PRIMARY KEY, stream INTEGER NOT NULL REFERENCES stream, name TEXT NOT NULL,
  segments INTEGER NOT NULL DEFAULT 0, top INTEGER NOT NULL DEFAULT -1, added INTEGER NOT NULL,
  UNIQUE (stream, name)
) STRICT;
CREATE TABLE file (
  id INTEGER PRIMARY KEY, stream INTEGER NOT NULL REFERENCES stream, file_id BLOB NOT NULL,
  name BLOB NOT NULL, kind TEXT NOT NULL, segments INTEGER NOT NULL DEFAULT 0, rows INTEGER NOT NULL DEFAULT 0,
  bytes INTEGER NOT NULL DEFAULT 0, stop INTEGER NOT NULL DEFAULT 0, final INTEGER NOT NULL DEFAULT 0,
  recv_first INTEGER, recv_last INTEGER, UNIQUE (stream, file_id)
) STRICT;
CREATE INDEX file_hole ON file (stream) WHERE bytes <> stop;
CREATE TABLE fact (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, json TEXT NOT NULL) STRICT;
CREATE TABLE segment (
  id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, epoch INTEGER NOT NULL REFERENCES epoch, seq INTEGER NOT NULL,
  day INTEGER NOT NULL, digest BLOB NOT NULL, size INTEGER NOT NULL, rows INTEGER NOT NULL,
  recv_first INTEGER, recv_last INTEGER, committed INTEGER NOT NULL, sealed INTEGER NOT NULL,
  row_first INTEGER NOT NULL, previous BLOB NOT NULL, sha256 BLOB, broken INTEGER NOT NULL DEFAULT 0,
  file INTEGER NOT NULL REFERENCES file, start INTEGER NOT NULL, stop INTEGER NOT NULL, final INTEGER NOT NULL,
  source_digest BLOB NOT NULL, origin INTEGER NOT NULL REFERENCES fact, facts INTEGER NOT NULL REFERENCES fact,
  clock_sync INTEGER, clock_error INTEGER
) STRICT;
CREATE UNIQUE INDEX segment_identity ON segment (epoch, seq);
CREATE INDEX segment_day ON segment (stream, day, epoch, seq);
CREATE INDEX segment_file ON segment (file, start);
CREATE TABLE copy (
  target INTEGER NOT NULL REFERENCES target, segment INTEGER NOT NULL REFERENCES segment,
  verified INTEGER NOT NULL, method INTEGER NOT NULL REFERENCES method, PRIMARY KEY (target, segment)
) STRICT, WITHOUT ROWID;
CREATE TABLE stream_target (
  stream INTEGER NOT NULL REFERENCES stream, target INTEGER NOT NULL REFERENCES target,
  segments INTEGER NOT NULL, rows INTEGER NOT NULL, bytes INTEGER NOT NULL, recv_last INTEGER, verified INTEGER,
  PRIMARY KEY (stream, target)
) STRICT, WITHOUT ROWID;
CREATE TABLE span (
  owner INTEGER NOT NULL, kind INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
  PRIMARY KEY (owner, kind, first)
) STRICT, WITHOUT ROWID;
CREATE TABLE refusal (
  epoch INTEGER NOT NULL REFERENCES epoch, seq INTEGER NOT NULL, reason TEXT NOT NULL, conflict INTEGER NOT NULL,
  PRIMARY KEY (epoch, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE quarantine (
  id INTEGER PRIMARY KEY, at INTEGER NOT NULL, agent TEXT NOT NULL, stream TEXT NOT NULL, name TEXT NOT NULL,
  size INTEGER NOT NULL, reason TEXT NOT NULL, path TEXT NOT NULL, UNIQUE (agent, stream, name)
) STRICT;
CREATE TABLE incident (
  id INTEGER PRIMARY KEY, at INTEGER NOT NULL, last INTEGER NOT NULL, times INTEGER NOT NULL, closed INTEGER,
  kind TEXT NOT NULL, agent TEXT NOT NULL, stream TEXT NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX incident_open ON incident (kind, agent, stream, subject) WHERE closed IS NULL;
CREATE TABLE open_folder (path TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
"""

# `block.number` is seq >> 8. `segments`, `bytes` and `first_committed` are over all its segments, `there` and
# `node` (as the inventory's) over those not WANTED; the same in `epoch`. `block_ends`, by epoch << 32 | number:
# for each of the 256 numbers, as 8 bytes little-endian, the bytes of the block's segments up to it.
# `stream_day.day`: the segment's. `gone`: ids of targets that count no more, while their copies are being deleted.
# `standing`: see receiver.standing.
_TABLES_2 = """
ALTER TABLE target ADD COLUMN instance TEXT NOT NULL DEFAULT '';
ALTER TABLE target ADD COLUMN seen INTEGER;
ALTER TABLE epoch ADD COLUMN there INTEGER NOT NULL DEFAULT 0;
ALTER TABLE epoch ADD COLUMN node BLOB NOT NULL DEFAULT x'00000000000000000000000000000000';
CREATE TABLE block (
  epoch INTEGER NOT NULL REFERENCES epoch, number INTEGER NOT NULL, segments INTEGER NOT NULL,
  bytes INTEGER NOT NULL, first_committed INTEGER NOT NULL, there INTEGER NOT NULL, node BLOB NOT NULL,
  PRIMARY KEY (epoch, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE block_ends (id INTEGER PRIMARY KEY, ends BLOB NOT NULL) STRICT;
CREATE TABLE stream_day (
  day INTEGER NOT NULL, stream INTEGER NOT NULL REFERENCES stream, segments INTEGER NOT NULL,
  rows INTEGER NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (day, stream)
) STRICT, WITHOUT ROWID;
CREATE TABLE gone (target INTEGER PRIMARY KEY) STRICT;
CREATE TABLE standing (what TEXT PRIMARY KEY, oldest INTEGER NOT NULL, since INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""


def create(base: sqlite3.Connection) -> None:
    """Make an empty catalog, in one transaction."""
    base.executescript(f"BEGIN IMMEDIATE;{_TABLES_1}{_TABLES_2}PRAGMA user_version={FORMAT};COMMIT;")


def migrate(base: sqlite3.Connection) -> None:
    """Bring a catalog of format 1 to the present one, all or nothing."""
    base.execute("BEGIN IMMEDIATE")
    try:
        for statement in _TABLES_2.split(";"):
            base.execute(statement)
        fill(base)
        base.execute(f"PRAGMA user_version={FORMAT}")
        base.execute("COMMIT")
    except BaseException:
        base.execute("ROLLBACK")
        raise


def fill(base: sqlite3.Connection) -> None:
    """Make what format 2 added from the segments there are, in the caller's transaction."""
    base.execute(
        "INSERT INTO stream_day SELECT day, stream, count(*), sum(rows), sum(size) FROM segment GROUP BY stream, day"
    )
    base.executemany("INSERT INTO block VALUES (?,?,?,?,?,?,?)", _blocks(base))
    base.executemany("INSERT INTO block_ends VALUES (?,?)", _ends(base))
    base.executemany("UPDATE epoch SET there=?, node=? WHERE id=?", list(_epochs(base)))


_Block = tuple[int, int, int, int, int, int, bytes]


def _blocks(base: sqlite3.Connection) -> Iterator[_Block]:
    """The rows of `block`, made from all segments in order; memory by one block."""
    rows = base.execute(
        "SELECT epoch, seq, size, committed, digest, EXISTS (SELECT 1 FROM span WHERE owner=epoch AND kind=?"
        " AND first<=seq AND last>=seq) FROM segment ORDER BY epoch, seq",
        (WANTED,),
    )
    for (epoch, number), group in groupby(rows, key=lambda row: (row[0], row[1] >> BLOCK_BITS)):
        segments = size = there = node = 0
        first_committed = None
        for _, seq, length, committed, digest, wanted in group:
            segments += 1
            size += length
            first_committed = committed if first_committed is None else min(first_committed, committed)
            if not wanted:
                there += 1
                node ^= entry_hash(seq, digest)
        assert first_committed is not None
        yield epoch, number, segments, size, first_committed, there, node.to_bytes(16, "big")


def ends_id(epoch: int, number: int) -> int:
    """The id of a block's row in `block_ends`."""
    return epoch << 32 | number


def ends_with(ends: bytes, sizes: Iterable[tuple[int, int]]) -> bytes:
    """What `block_ends.ends` becomes when segments, given as (seq, bytes), join the block."""
    added = [0] * BLOCK
    for seq, size in sizes:
        added[seq % BLOCK] += size
    return _ENDS.pack(*(end + more for end, more in zip(_ENDS.unpack(ends), accumulate(added), strict=True)))


def _ends(base: sqlite3.Connection) -> Iterator[tuple[int, bytes]]:
    rows = base.execute("SELECT epoch, seq, size FROM segment ORDER BY epoch, seq")
    for (epoch, number), group in groupby(rows, key=lambda row: (row[0], row[1] >> BLOCK_BITS)):
        yield ends_id(epoch, number), ends_with(NO_ENDS, ((seq, size) for _, seq, size in group))


def _epochs(base: sqlite3.Connection) -> Iterator[tuple[int, bytes, int]]:
    rows = base.execute("SELECT epoch, there, node FROM block ORDER BY epoch")
    for epoch, group in groupby(rows, key=lambda row: row[0]):
        there = node = 0
        for _, count, xor in group:
            there += count
            node ^= int.from_bytes(xor, "big")
        yield there, node.to_bytes(16, "big"), epoch
