"""The outbox's SQLite file: one connection behind a lock, durable transactions, plain errors.

WAL with synchronous=FULL loses no acknowledged commit in a power cut; psow=0 keeps SQLite from relying
on sectors that tear cleanly; locking_mode=EXCLUSIVE keeps the WAL index in memory, where a full disk
can't kill the process. After an I/O error nothing is trusted any more: every further call fails until
the service restarts and recovers.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from agent import outbox_blocks
from tape.durable import Disk
from tape.errors import DiskFull, HometapeError, StoreError, SyncFailed

VERSION = 3
RESERVE = 4 * 2**20
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE streams (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    next_seq INTEGER NOT NULL DEFAULT 0,
    next_row INTEGER NOT NULL DEFAULT 0,
    chain TEXT NOT NULL,
    bytes INTEGER NOT NULL DEFAULT 0,
    source_bytes INTEGER NOT NULL DEFAULT 0,
    newest_ns INTEGER,
    receipt_ns INTEGER NOT NULL DEFAULT -1,
    layout INTEGER,
    plan INTEGER
);
CREATE TABLE segments (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    stream INTEGER NOT NULL REFERENCES streams (id),
    epoch TEXT NOT NULL,
    seq INTEGER NOT NULL,
    digest TEXT NOT NULL,
    suffix TEXT NOT NULL,
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    chain TEXT NOT NULL,
    rows INTEGER NOT NULL,
    sealed_ns INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    again INTEGER NOT NULL DEFAULT 0,
    delivered INTEGER NOT NULL DEFAULT 0,
    UNIQUE (stream, epoch, seq)
);
CREATE INDEX unsent ON segments (again, id) WHERE state = 'sealed';
CREATE INDEX live ON segments (stream, epoch, seq) WHERE state <> 'released';
CREATE INDEX done ON segments (id) WHERE state = 'released';
CREATE TABLE files (
    file_id TEXT PRIMARY KEY,
    source TEXT NOT NULL,
    stream TEXT NOT NULL,
    name BLOB NOT NULL,
    format TEXT NOT NULL,
    path BLOB NOT NULL,
    device TEXT NOT NULL,
    inode TEXT NOT NULL,
    offset INTEGER NOT NULL,
    head_length INTEGER NOT NULL,
    head TEXT NOT NULL,
    tail_length INTEGER NOT NULL,
    tail TEXT NOT NULL,
    finished INTEGER NOT NULL DEFAULT 0,
    last_bytes BLOB NOT NULL,
    layout INTEGER,
    plan INTEGER
) WITHOUT ROWID;
CREATE INDEX by_source ON files (source);
CREATE TABLE forms (id INTEGER PRIMARY KEY, body TEXT NOT NULL UNIQUE);
CREATE TABLE events (start INTEGER PRIMARY KEY, line BLOB NOT NULL);
{outbox_blocks.TABLES}"""
_FROM_1 = f"""
ALTER TABLE segments ADD COLUMN again INTEGER NOT NULL DEFAULT 0;
DROP INDEX unsent;
CREATE INDEX unsent ON segments (again, id) WHERE state = 'sealed';
{outbox_blocks.TABLES}"""
_FROM_2 = "ALTER TABLE segments ADD COLUMN delivered INTEGER NOT NULL DEFAULT 0"


class Store:
    """An open outbox.db. Use `transaction` to write and `reading` to read; both hold the lock."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._path = path
        self._disk = disk
        self._lock = threading.RLock()
        self._broken: HometapeError | None = None
        self._reserve = path.with_name("reserve")
        with self._errors():
            self._db = sqlite3.connect(
                f"{path.absolute().as_uri()}?psow=0", uri=True, isolation_level=None, check_same_thread=False
            )
        try:
            with self._errors():
                self._prepare()
        except BaseException:
            self._db.close()
            raise
        disk.sync_dir(path.parent)
        self._fill_reserve()

    def close(self) -> None:
        """Checkpoint and close; further calls raise StoreError."""
        with self._lock:
            self._broken = self._broken or StoreError(f"{self._path} is closed")
            self._db.close()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for SELECT. Raises StoreError."""
        with self._lock:
            self._check()
            with self._errors():
                yield self._db

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, durable when the block ends. Raises DiskFull (nothing changed), StoreError, SyncFailed."""
        with self._lock:
            self._check()
            with self._errors():
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                finally:
                    if self._db.in_transaction:
                        self._roll_back()

    def use_reserve(self) -> bool:
        """Give the reserve back to a full disk so that what frees space can be recorded; False if it is used up."""
        there = self._reserve.exists()
        self._disk.remove(self._reserve)
        return there

    def fail(self, error: HometapeError) -> None:
        """Trust nothing further: every later call raises this error."""
        with self._lock:
            self._broken = self._broken or error

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # the first error is the one to tell
            self._db.execute("ROLLBACK")

    def _check(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _prepare(self) -> None:
        db = self._db
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise StoreError(f"{self._path}: this file system can't hold it", hint="put `state` on a local disk")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA journal_size_limit = 16777216")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise StoreError(
                f"{self._path} has format {version}, newer than this version knows", hint="update hometape"
            )
        if version < 1:
            db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise StoreError(f"{self._path} is damaged: {found}", hint=self._hint())
        if 1 <= version < VERSION:
            self._migrate(version)

    def _migrate(self, version: int) -> None:
        """All of it, or nothing. Format 1 knew no sums over blocks and no segments that are sent again; format 2 did
        not tell what was left with a plain server.
        """
        with self.transaction() as db:
            if version == 1:
                for statement in filter(str.strip, _FROM_1.split(";")):
                    db.execute(statement)
                outbox_blocks.fill(db)
            db.execute(_FROM_2)
            db.execute(f"PRAGMA user_version = {VERSION}")

    def _fill_reserve(self) -> None:
        if not self._reserve.exists():
            with contextlib.suppress(DiskFull):
                self._disk.write_new(self._reserve, b"\xa5" * RESERVE)

    def _hint(self) -> str:
        return (
            f"stop the agent, move {self._path} aside (keep it) and start again: a new epoch begins, "
            "sources are read again, segments in the spool are still sent"
        )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._explain(error) from error

    def _explain(self, error: sqlite3.Error) -> HometapeError:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return DiskFull(f"no space left while writing {self._path}")
        if code == sqlite3.SQLITE_IOERR:
            self._broken = SyncFailed(f"{self._path}: the disk refused: {error}")
            return self._broken
        if code in _DAMAGED:
            self._broken = StoreError(f"{self._path} is damaged: {error}", hint=self._hint())
            return self._broken
        return StoreError(f"{self._path}: {error}", hint="check that the folder is writable and on a local disk")
