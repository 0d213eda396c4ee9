"""Private files for uploads under way, written by threads so that the event loop never waits for a disk.

An arrival's bytes are hashed as they come (a bundle's as they are written, segment by segment) and queued; one
thread at a time writes them, in order. The first failure ends it: what comes later is dropped, and `failed` says why
until somebody asks.
"""

import asyncio
import contextlib
import secrets
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from receiver.ingress.storing import Room, Split, Store, Whole
from receiver.model import Pieces
from tape.digest import Hasher, new_xxh3
from tape.durable import Disk
from tape.errors import DiskError, DiskFull, HometapeError
from tape.log import get_logger
from tape.names import BundleName

_log = get_logger(__name__)

WRITE_COST = 512
"""Bytes of memory that a write in the queue takes beside its content."""
_PREFIX = "up-"
_THREADS = 4

Done = Callable[[str], None]
_Step = tuple[str, memoryview | None, Done | None]


def clear_inbox(inbox: Path, disk: Disk, prefix: str = _PREFIX) -> int:
    """Delete what a process that died left behind; returns how many files. Raises DiskError."""
    left = [path for path in inbox.glob(f"{prefix}*") if path.is_file() or path.is_symlink()]
    for path in left:
        disk.remove(path)
    return len(left)


def private_path(inbox: Path, prefix: str = _PREFIX) -> Path:
    """A new random name that tells nothing."""
    return inbox / f"{prefix}{secrets.token_hex(16)}"


def make_private(inbox: Path, disk: Disk) -> None:
    """Create the inbox folder, for the owner's eyes only. Raises DiskError."""
    disk.make_dirs(inbox)
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # a file system without modes
            inbox.chmod(0o700)


class Inbox:
    """The folder of arrivals and the threads that write them. `arrived` is told of bytes as they leave the queue."""

    def __init__(self, folder: Path, disk: Disk, arrived: Callable[[int], None] = lambda _count: None) -> None:
        self.folder = folder
        self.disk = disk
        self._arrived = arrived
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="inbox")
        self._room = Room()

    def open(self) -> int:
        """Create the folder and clear it; returns how many leftovers were deleted. Raises DiskError."""
        make_private(self.folder, self.disk)
        return clear_inbox(self.folder, self.disk)

    def close(self) -> None:
        """Finish what is queued and end the threads."""
        self._threads.shutdown()

    def arrive(self, written: Callable[[int], None], bundle: BundleName | None = None) -> "Arrival":
        """A new arrival. `bundle`: its name.

        `written` is told on the event loop how much has left the queue: bytes, and WRITE_COST for each write.
        """

        def note(size: int, writes: int) -> None:
            self._arrived(size)
            written(size + writes * WRITE_COST)

        path = private_path(self.folder)
        if bundle is None:
            return Arrival(Whole(path, self.disk), self._threads, note, new_xxh3())
        return Arrival(Split(path, self.disk, bundle, self._room), self._threads, note)


class Arrival:
    """One upload on its way into private files. Every method is called on the event loop."""

    def __init__(
        self,
        store: Store,
        threads: ThreadPoolExecutor,
        written: Callable[[int, int], None],
        hasher: Hasher | None = None,
    ) -> None:
        self.size = 0
        self.failed = ""
        self.closed = False
        self._store = store
        self._threads = threads
        self._written = written
        self._loop = asyncio.get_running_loop()
        self._hash = hasher
        self._steps: deque[_Step] = deque()
        self._lock = threading.Lock()
        self._busy = False
        self._done: asyncio.Future[str] | None = None

    @property
    def path(self) -> Path:
        """Its private file; see `pieces`."""
        return self._store.path

    @property
    def digest(self) -> str:
        """XXH3-128 of the bytes so far, hex; "" of a bundle."""
        return self._hash.hexdigest() if self._hash is not None else ""

    def pieces(self) -> Pieces | None:
        """Once it is finished: the segments of a bundle that was taken apart; None if it is one file."""
        return self._store.pieces()

    def let_go(self) -> None:
        """Its files are somebody else's, or gone."""
        self._store.let_go()

    def fail(self, why: str) -> None:
        """The upload is void from here on; the first reason stays."""
        self.failed = self.failed or why

    def write(self, content: memoryview) -> None:
        """Hash and queue the next bytes."""
        self.size += len(content)
        if self._hash is not None:
            self._hash.update(content)
        self._queue(("write", content, None))

    def sync(self) -> asyncio.Future[str]:
        """Fsync what was written so far; gives "" or why it failed."""
        return self._ask("sync")

    def finish(self) -> asyncio.Future[str]:
        """No more bytes: gives "" once all are in the closed file, or why that failed. May be called again."""
        if self._done is None:
            self.closed = True
            self._done = self._ask("close")
        return self._done

    def discard(self) -> None:
        """Delete the file, now or as soon as it is no longer written to."""
        self.closed = True
        self.fail("refused: the upload was given up")
        self._queue(("delete", None, None))

    def _ask(self, what: str) -> asyncio.Future[str]:
        answer: asyncio.Future[str] = self._loop.create_future()

        def done(why: str) -> None:
            if not answer.done():
                answer.set_result(why)

        self._queue((what, None, done))
        return answer

    def _queue(self, step: _Step) -> None:
        with self._lock:
            self._steps.append(step)
            if self._busy:
                return
            self._busy = True
        self._threads.submit(self._work)

    # what follows runs in a thread, one at a time for an arrival

    def _work(self) -> None:
        while True:
            with self._lock:
                steps, self._steps = self._steps, deque()
                if not steps:
                    self._busy = False
                    return
            size, writes, answers = 0, 0, []
            for what, content, done in steps:
                self._perform(what, content)
                if content is not None:
                    size, writes = size + len(content), writes + 1
                if done is not None:
                    answers.append((done, self.failed))
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody is left to be told
                self._loop.call_soon_threadsafe(self._tell, size, writes, answers)

    def _tell(self, size: int, writes: int, answers: list[tuple[Done, str]]) -> None:
        for done, why in answers:
            done(why)
        if writes:
            self._written(size, writes)

    def _perform(self, what: str, content: memoryview | None) -> None:
        try:
            if what == "delete":
                self._store.delete()
            elif what == "write" and content is not None and not self.failed:
                self._store.write(content)
            elif what == "sync" and not self.failed:
                self._store.sync()
            elif what == "close" and not self.failed:
                self._store.end()
            elif what == "close":
                self._store.close()
        except HometapeError as error:
            _log.error("an upload could not be stored", path=str(self.path), error=str(error))
            self.fail(_excuse(error))
            self._store.close()


def _excuse(error: HometapeError) -> str:
    if isinstance(error, DiskFull):
        return "resend: no space left at the receiver"
    if isinstance(error, DiskError):
        return "resend: the receiver could not store it"
    return "resend: the receiver could not take it"
