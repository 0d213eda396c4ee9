"""The catalog's database: its tables, how it is opened, and its format number.

Integer ids throughout. A segment's row holds every fact of its footer (what repeats over many segments
lies once in `fact`), so an export or a status never opens a Parquet file to plan. Sums are kept beside
the rows they sum, in the same transaction; sets of numbers are kept as ranges in `span`. So what a
status asks costs by streams, targets and gaps, never by segments.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from tape.errors import DiskFull, HometapeError, StoreError, SyncFailed

FORMAT = 1
NAME = "catalog.db"
# `span.kind`: what a range of numbers means. Owned by an epoch (numbers are seq): HELD, ATTESTED, WANTED, and
# COPIES + target id. Owned by minus a target id (numbers are segment ids): IDS.
HELD, ATTESTED, WANTED, IDS, COPIES = 0, 1, 2, 3, 16

_TABLES = """
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


def connect(state: Path, *, read_only: bool) -> sqlite3.Connection:
    """The database of a state folder, made when missing (not for reading only); raises StoreError.

    WAL with synchronous=FULL lost no acknowledged row in any simulated power cut; `psow=0` because a
    torn write may ruin its whole sector.
    """
    path = state / NAME
    if read_only and not path.exists():
        raise StoreError(f"{path}: no catalog here", hint="run `tape-receiver run` first, or check `state`")
    uri = f"{path.resolve().as_uri()}?psow=0" + ("&mode=ro" if read_only else "")
    try:
        base = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=30)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: the catalog can't be opened: {error}") from error
    try:
        if not read_only:
            base.execute("PRAGMA journal_mode=WAL")
            base.execute("PRAGMA synchronous=FULL")
        base.execute("PRAGMA cache_size=-32768")
        base.execute("PRAGMA mmap_size=0")
        base.execute("PRAGMA temp_store=MEMORY")
        _check_format(base, path, read_only=read_only)
    except sqlite3.Error as error:
        base.close()
        raise StoreError(
            f"{path}: the catalog is damaged: {error}",
            hint="move it aside and run `tape-receiver check --rebuild`: the home archive holds all it needs",
        ) from error
    except StoreError:
        base.close()
        raise
    return base


def _check_format(base: sqlite3.Connection, path: Path, *, read_only: bool) -> None:
    version = base.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and not read_only:
        base.executescript(f"BEGIN IMMEDIATE;{_TABLES}PRAGMA user_version={FORMAT};COMMIT;")
    elif version == 0:
        raise StoreError(f"{path}: no catalog here yet", hint="run `tape-receiver run` first")
    elif version != FORMAT:
        raise StoreError(f"{path}: catalog format {version} is not known to this version", hint="update hometape")


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """SQLite's errors as ours: full, a failed write or fsync (stop), a broken rule, anything else."""
    try:
        yield
    except HometapeError:
        raise
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None) or 0
        if code & 0xFF == sqlite3.SQLITE_FULL:
            raise DiskFull("no space left for the catalog") from error
        if code & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY):
            raise SyncFailed(f"the catalog can't be written: {error}") from error
        if code & 0xFF == sqlite3.SQLITE_CONSTRAINT:
            raise StoreError(f"the catalog refuses a contradiction: {error}") from error
        raise StoreError(f"the catalog failed: {error}") from error
