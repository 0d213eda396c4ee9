"""How the catalog's database is opened, and what its errors mean."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from receiver.catalog_tables import FORMAT, create, migrate
from tape.errors import DiskFull, HometapeError, StoreError, SyncFailed

NAME = "catalog.db"


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
    if version > FORMAT:
        raise StoreError(f"{path}: catalog format {version} is not known to this version", hint="update hometape")
    if version == FORMAT:
        return
    if read_only and version == 0:
        raise StoreError(f"{path}: no catalog here yet", hint="run `tape-receiver run` first")
    if read_only:
        raise StoreError(
            f"{path}: the catalog has format {version}, older than this version's",
            hint="start `tape-receiver run`: it brings the catalog up to date",
        )
    if version == 0:
        create(base)
    else:
        migrate(base)


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
