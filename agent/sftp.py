"""SFTP as the agent speaks it: tuned connections with pinned keys, and a writer that never waits without need.

One upload: create `<path>.part`, write it with many pieces under way, close, rename to `<path>`. Our own receiver
refuses the rename after a failed write, so close and rename follow the writes without waiting: an upload takes two
round trips. A plain SFTP server renames whatever is there, so write, fsync and close are awaited before.

Whether a connection still moves is watched here: one that answers nothing for `stall_timeout` is cut.
"""

import asyncio
import contextlib
import posixpath
from collections.abc import Awaitable, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

import asyncssh

from agent.body import Body, Reader
from agent.settings import ReceiverSettings
from agent.throttle import Share, Throttle
from tape import sshtune
from tape.clock import Clock
from tape.errors import HometapeError, LinkError, NotFound, Refused, Resend

T = TypeVar("T")

PART = ".part"
SESSIONS_OURS = 4
SESSIONS_PLAIN = 2
_SLOWEST_SESSION = 10
_CREATE = asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | asyncssh.FXF_EXCL
_REPLACE = asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | asyncssh.FXF_TRUNC
_NO_LINK = (
    asyncssh.SFTPConnectionLost,
    asyncssh.SFTPNoConnection,
    asyncssh.SFTPBadMessage,
    asyncssh.DisconnectError,
    asyncssh.ChannelOpenError,
    OSError,
    EOFError,
)


class _Session:
    """One SFTP session: its requests are answered in order."""

    def __init__(self, client: asyncssh.SFTPClient) -> None:
        self.client = client
        self.uploads = 0
        self.waiting = 0
        self.moved = 0.0


class Connection:
    """One connection to the receiver. `ours`: a Hometape receiver, not any SFTP server."""

    def __init__(
        self,
        conn: asyncssh.SSHClientConnection,
        settings: ReceiverSettings,
        *,
        throttle: Throttle,
        clock: Clock,
        readers: Executor,
    ) -> None:
        self.server = str(conn.get_extra_info("server_version", ""))
        self.ours = sshtune.is_hometape(self.server)
        self.congestion = sshtune.tune_socket(conn.get_extra_info("socket"), settings.congestion)
        self.uploads = 0
        self.answered = 0
        """Bytes of uploads that the server has confirmed."""
        self._conn = conn
        self._base = settings.path.rstrip("/")
        self._stall = settings.stall_timeout
        self._throttle = throttle
        self._clock = clock
        self._readers = readers
        self._sessions: list[_Session] = []
        self._folders: set[str] = {"", "/", self._base}
        self._write_size = 0
        self._can_sync = True
        self._moved = clock.monotonic()
        self._why = ""
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the sessions; raises asyncssh.Error, OSError."""
        count = SESSIONS_OURS if self.ours else SESSIONS_PLAIN
        began = self._clock.monotonic()
        clients = [await self._conn.start_sftp_client()]
        self._throttle.took((self._clock.monotonic() - began) / 2)
        clients += await asyncio.gather(*(self._conn.start_sftp_client() for _ in range(count - 1)))
        self._sessions = [_Session(client) for client in clients]
        largest = sshtune.WRITE if self.ours else sshtune.WRITE_PLAIN
        self._write_size = min(largest, clients[0].limits.max_write_len or largest)
        self._watch = asyncio.ensure_future(self._watch_progress())

    async def wait_closed(self) -> str:
        """Wait for the connection's end; returns why it ended."""
        await self._conn.wait_closed()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        return self._why or "the connection was lost"

    def abort(self, why: str) -> None:
        """Cut it; everything under way ends with LinkError."""
        self._why = self._why or why
        self._conn.abort()

    async def close(self) -> None:
        """Say goodbye and wait for the end, a second at the most."""
        self._why = self._why or "closed"
        self._conn.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self.wait_closed()
                return
        self._conn.abort()
        await self.wait_closed()

    async def read(self, path: str, limit: int) -> bytes | None:
        """A small file's bytes, None if there is none; raises LinkError, Resend if it is larger than `limit`."""
        session = min(self._sessions, key=lambda s: s.uploads)
        client = session.client
        try:
            file = await self._ask(
                session, client.open(self._base + path, asyncssh.FXF_READ, encoding=None, block_size=0)
            )
        except NotFound:
            return None
        found = bytearray()
        try:
            while block := await self._read_on(session, file, len(found)):
                found += block
                if len(found) > limit:
                    raise Resend(f"{path} at the receiver is larger than {limit} bytes")
        finally:
            with contextlib.suppress(HometapeError):
                await self._ask(session, file.close())
        return bytes(found)

    async def _read_on(self, session: _Session, file: Any, offset: int) -> bytes:
        found: bytes = await self._ask(session, file.read(sshtune.WRITE_PLAIN, offset))
        return found

    async def upload(self, path: str, body: Body, share: Share | None = None) -> None:
        """Deliver a body as `path`; returns once the server has said OK to its final name.

        `share`: its announced part of the budget, if the caller has made one.
        Raises Refused or Resend with the receiver's reason, LinkError, and whatever reading the body raises.
        """
        session = min(self._sessions, key=lambda s: s.uploads)
        session.uploads += 1
        self.uploads += 1
        share = share or self._throttle.announce(body.size)
        try:
            if self.ours:
                await self._deliver(session, path, body, share)
            else:
                await self._deliver_plain(session, path, body, share)
        finally:
            share.close()
            session.uploads -= 1
            self.uploads -= 1

    async def _deliver(self, session: _Session, path: str, body: Body, share: Share) -> None:
        client, final = session.client, self._base + path
        began = self._clock.monotonic()
        file = await self._ask(session, client.open(final + PART, _CREATE, encoding=None, block_size=0))
        self._throttle.took(self._clock.monotonic() - began)
        try:
            tasks = await self._write(session, file, body, share)
        except BaseException:
            self._start(session, file.close())
            raise
        tasks += [self._start(session, file.close()), self._start(session, client.rename(final + PART, final))]
        await _all_well(tasks)

    async def _deliver_plain(self, session: _Session, path: str, body: Body, share: Share) -> None:
        client, final = session.client, self._base + path
        await self._make_folders(session, posixpath.dirname(final))
        asked = asyncio.ensure_future(self._size(session, final))
        asked.add_done_callback(_heard)
        part = await self._open_plain(session, final + PART)
        try:
            there = await asked
            if there is None:
                await _all_well(await self._write(session, part, body, share))
                await self._sync(session, part)
        except BaseException:
            self._start(session, part.close())
            raise
        await self._ask(session, part.close())
        if there is None:
            try:
                await self._ask(session, client.rename(final + PART, final))
            except Resend:
                there = await self._size(session, final)  # an earlier attempt may have got this far
                if there is None:
                    raise
        if there is not None:
            with contextlib.suppress(NotFound, Resend):
                await self._ask(session, client.remove(final + PART))
            if there != body.size:
                raise Refused(f"conflict: {path} is there already with {there} bytes instead of {body.size}")

    async def _write(self, session: _Session, file: Any, body: Body, share: Share) -> "list[asyncio.Task[Any]]":
        """Send a body's bytes within the budget; returns the answers still to come. Stops at one that failed."""
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Task[Any]] = []
        reader = Reader(body)
        offset = 0
        try:
            while offset < body.size:
                count = min(self._throttle.piece(self._write_size), body.size - offset)
                await share.take(count)
                try:
                    data = await loop.run_in_executor(self._readers, reader.take, count)
                    _raise_worst(tasks)
                except BaseException:
                    self._throttle.give(count)
                    raise
                tasks = [task for task in tasks if not task.done()]
                tasks.append(self._start(session, file.write(data, offset), count))
                offset += count
        except BaseException:
            self._readers.submit(reader.close)
            raise
        return tasks

    async def _open_plain(self, session: _Session, part: str) -> Any:
        """Create a file on a plain server; one that an earlier attempt left behind is written anew."""
        client = session.client
        try:
            return await self._ask(session, client.open(part, _CREATE, encoding=None, block_size=0))
        except NotFound:
            self._folders = {"", "/", self._base}
            await self._make_folders(session, posixpath.dirname(part))
            return await self._ask(session, client.open(part, _CREATE, encoding=None, block_size=0))
        except Resend:
            return await self._ask(session, client.open(part, _REPLACE, encoding=None, block_size=0))

    async def _make_folders(self, session: _Session, folder: str) -> None:
        """Make a stream's folder and its parents; one that is there already is fine."""
        if folder in self._folders:
            return
        await self._make_folders(session, posixpath.dirname(folder))
        try:
            await self._ask(session, session.client.mkdir(folder))
        except NotFound:
            raise Resend(
                f"the server has no folder {self._base or '/'} to deliver to", hint="check receiver.path in agent.toml"
            ) from None
        except Resend:
            pass  # it exists; if it does not, opening a file in it says what is wrong
        self._folders.add(folder)

    async def _size(self, session: _Session, path: str) -> int | None:
        try:
            return (await self._ask(session, session.client.stat(path))).size
        except NotFound:
            return None

    async def _sync(self, session: _Session, file: Any) -> None:
        if self._can_sync:
            try:
                await self._ask(session, file.fsync())
            except _Unsupported:
                self._can_sync = False

    def _start(self, session: _Session, call: Awaitable[T], count: int = 0) -> "asyncio.Task[T]":
        """Send a request behind those started before it, and let nobody have to wait for the answer.

        `count` bytes of the budget are given back with it.
        """

        async def run() -> T:
            answered = False
            try:
                result = await self._ask(session, call)
                answered = True
                return result
            finally:
                if count:
                    self.answered += count if answered else 0
                    self._throttle.give(count, answered=answered)

        task = asyncio.ensure_future(run())
        task.add_done_callback(_heard)
        return task

    async def _ask(self, session: _Session, call: Awaitable[T]) -> T:
        """One request and its answer; an error becomes one of ours. Counts as a sign of life."""
        if not session.waiting:
            session.moved = self._clock.monotonic()
        session.waiting += 1
        try:
            result = await call
        except _NO_LINK as error:
            raise LinkError(self._why or f"the connection was lost: {say(error)}") from error
        except asyncssh.SFTPNoSuchFile as error:
            raise NotFound(say(error)) from error
        except asyncssh.SFTPOpUnsupported as error:
            raise _Unsupported(say(error)) from error
        except asyncssh.SFTPError as error:
            raise _verdict(error.reason or "the server says no, without a reason") from error
        finally:
            session.waiting -= 1
        session.moved = self._moved = self._clock.monotonic()
        return result

    async def _watch_progress(self) -> None:
        """Cut the connection when requests wait and nothing is answered."""
        while self._stall:
            await self._clock.sleep(min(self._stall / 4, 5))
            now = self._clock.monotonic()
            for session in self._sessions:
                quiet = now - session.moved
                if session.waiting and (
                    min(quiet, now - self._moved) > self._stall or quiet > _SLOWEST_SESSION * self._stall
                ):
                    self.abort(f"nothing was answered for {min(quiet, now - self._moved):.0f} s")
                    return


class _Unsupported(Resend):
    """The server does not know this kind of request."""


def say(error: BaseException) -> str:
    """An error of the library or the system as a short text."""
    text = str(getattr(error, "reason", "") or getattr(error, "strerror", "") or error) or type(error).__name__
    return text[:1].lower() + text[1:]


def _verdict(reason: str) -> HometapeError:
    """What an SFTP failure means: the receiver starts its reasons with a word for it."""
    return Refused(reason) if reason.startswith(("refused:", "conflict:")) else Resend(reason)


def _heard(task: "asyncio.Task[Any]") -> None:
    """Take note of a task's error, so that nobody misses it."""
    if not task.cancelled():
        task.exception()


def _raise_worst(tasks: "Sequence[asyncio.Task[Any]]") -> None:
    """Raise the gravest error among tasks that are done, if there is one."""
    errors = [error for task in tasks if task.done() and (error := task.exception()) is not None]
    for kind in (Refused, Resend):
        for error in errors:
            if isinstance(error, kind):
                raise error
    if errors:
        raise errors[0]


async def _all_well(tasks: "list[asyncio.Task[Any]]") -> None:
    """Wait for answers; raises the gravest error among them. Being cancelled leaves the requests under way."""
    if tasks:
        await asyncio.wait(tasks)
    _raise_worst(tasks)
