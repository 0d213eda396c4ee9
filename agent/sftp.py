"""SFTP as the agent speaks it: tuned connections with pinned keys, and a writer that never waits without need.

One upload: create `<path>.part`, write it with many pieces under way, close, rename to `<path>`. Our own receiver
refuses the rename after a failed write, so close and rename follow the writes without waiting: an upload takes two
round trips. A plain SFTP server renames whatever is there, so write, fsync and close are awaited before.

Whether a connection still moves is watched here: one that answers nothing for `stall_timeout` is cut.
"""

import asyncio
import contextlib
import posixpath
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import asyncssh

from agent import requests
from agent.body import Body, Reader
from agent.requests import Requests
from agent.settings import ReceiverSettings
from agent.throttle import Share, Throttle
from tape import sshtune
from tape.clock import Clock
from tape.errors import NotFound, Refused, Resend, Unsupported

PART = ".part"
SESSIONS_OURS = 4
SESSIONS_PLAIN = 2
READS = 4
"""Files that one session reads at a time; our receiver allows no more."""
_READ_OURS = 255 << 10
_SLOWEST_SESSION = 10
_READ_AHEAD = 2 << 20
_CREATE = requests.WRITE | requests.CREATE | requests.EXCLUSIVE
_REPLACE = requests.WRITE | requests.CREATE | requests.TRUNCATE


class _Session:
    """One SFTP session: its requests reach the server in order."""

    def __init__(self, client: Requests) -> None:
        self.client = client
        self.uploads = 0
        self.reads = 0


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
        self.reading = 0
        """Small files that are read from it, or wait to be."""
        self._conn = conn
        self._base = settings.path.rstrip("/")
        self._stall = settings.stall_timeout
        self._throttle = throttle
        self.lane = throttle.lane()
        self._clock = clock
        self._readers = readers
        self._sessions: list[_Session] = []
        self._reads = asyncio.Semaphore(READS)
        self._folders: set[str] = {"", "/", self._base}
        self._write_size = 0
        self._why = ""
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the sessions, as many of them as the server grants; raises asyncssh.Error, OSError, LinkError."""
        count = SESSIONS_OURS if self.ours else SESSIONS_PLAIN
        began = self._clock.monotonic()
        asked = [Requests(self._clock, self._reason) for _ in range(count)]
        answers = await asyncio.gather(*(client.begin(self._conn) for client in asked), return_exceptions=True)
        clients = [client for client, answer in zip(asked, answers, strict=True) if answer is None]
        if not clients:
            raise next(answer for answer in answers if answer is not None)
        self._reads = asyncio.Semaphore(READS * len(clients))
        self._throttle.took((self._clock.monotonic() - began) / 4)  # as many round trips as a session takes
        self._sessions = [_Session(client) for client in clients]
        largest = sshtune.WRITE if self.ours else sshtune.WRITE_PLAIN
        self._write_size = min(largest, clients[0].max_write)
        self._watch = asyncio.ensure_future(self._watch_progress())

    async def wait_closed(self) -> str:
        """Wait for the connection's end; returns why it ended."""
        await self._conn.wait_closed()
        self.lane.close()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        return self._why or "the connection was lost"

    def abort(self, why: str) -> None:
        """Cut it; everything under way ends with LinkError."""
        self._why = self._why or why
        self._conn.abort()
        self.lane.close()

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

    def _reason(self) -> str:
        return self._why

    async def read(self, path: str, limit: int) -> bytes | None:
        """A small file's bytes, None if there is none; raises LinkError, Resend if it is larger than `limit`.

        As many at a time as the server lets a session have open; the others wait for their turn.
        """
        self.reading += 1
        try:
            async with self._reads:
                session = min(self._sessions, key=lambda session: (session.reads, session.uploads))
                session.reads += 1
                try:
                    return await self._read(session.client, path, limit)
                finally:
                    session.reads -= 1
        finally:
            self.reading -= 1

    async def _read(self, client: Requests, path: str, limit: int) -> bytes | None:
        try:
            handle = await client.open(self._base + path, requests.READ)
        except NotFound:
            return None
        found = bytearray()
        most = _READ_OURS if self.ours else sshtune.WRITE_PLAIN
        try:
            while block := await client.read(handle, len(found), most):
                found += block
                if len(found) > limit:
                    raise Resend(f"{path} at the receiver is larger than {limit} bytes")
                if self.ours and len(block) < most:  # ours gives all there is: no need to be told of the end
                    break
        finally:
            client.close(handle)
        return bytes(found)

    def _idlest(self) -> _Session:
        return min(self._sessions, key=lambda session: session.uploads)

    def announce(self, size: int, *, behind: bool = False) -> Share:
        """A part of this connection's budget for an upload to come; see `Throttle.announce`."""
        return self._throttle.announce(size, self.lane, behind=behind)

    async def upload(self, path: str, body: Body, share: Share | None = None) -> None:
        """Deliver a body as `path`; returns once the server has said OK to its final name.

        `share`: its announced part of the budget, if the caller has made one.
        Raises Refused or Resend with the receiver's reason, LinkError, and whatever reading the body raises.
        """
        session = self._idlest()
        session.uploads += 1
        self.uploads += 1
        share = share or self.announce(body.size)
        try:
            if self.ours:
                await self._deliver(session.client, path, body, share)
            else:
                await self._deliver_plain(session.client, path, body, share)
        finally:
            share.close()
            session.uploads -= 1
            self.uploads -= 1

    async def _deliver(self, client: Requests, path: str, body: Body, share: Share) -> None:
        final = self._base + path
        began = self._clock.monotonic()
        handle = await client.open(final + PART, _CREATE)
        self._throttle.took(self._clock.monotonic() - began)
        try:
            answers = await self._write(client, handle, body, share)
        except BaseException:
            client.close(handle)
            raise
        await _all_well([*answers, client.close(handle), client.rename(final + PART, final)])

    async def _deliver_plain(self, client: Requests, path: str, body: Body, share: Share) -> None:
        final = self._base + path
        await self._make_folders(client, posixpath.dirname(final))
        asked = client.size(final)
        handle = await self._open_plain(client, final + PART)
        there: int | None = None
        try:
            with contextlib.suppress(NotFound):
                there = await asked
            if there is None:
                await _all_well(await self._write(client, handle, body, share))
                await self._sync(client, handle)
        except BaseException:
            client.close(handle)
            raise
        await client.close(handle)
        if there is None:
            try:
                await client.rename(final + PART, final)
            except Resend as error:  # an earlier attempt may have got this far
                try:
                    there = await client.size(final)
                except NotFound:
                    raise error from None
        if there is not None:
            with contextlib.suppress(NotFound, Resend):
                await client.remove(final + PART)
            if there != body.size:
                raise Refused(f"conflict: {path} is there already with {there} bytes instead of {body.size}")

    async def _write(self, client: Requests, handle: bytes, body: Body, share: Share) -> "list[asyncio.Future[None]]":
        """Send a body's bytes within the budget; returns the answers still to come. Stops at one that failed."""
        answers: list[asyncio.Future[None]] = []
        ahead = _Ahead(body, self._readers)
        offset = 0
        try:
            while offset < body.size:
                block = memoryview(await ahead.next())
                while block:
                    count = min(share.piece(self._write_size), len(block))
                    await share.take(count)
                    try:
                        _raise_worst(answers)
                    except BaseException:
                        self.lane.give(count)
                        raise
                    answers = [answer for answer in answers if not answer.done()]
                    answer = client.write(handle, offset, block[:count])
                    answer.add_done_callback(self._written(count))
                    answers.append(answer)
                    offset += count
                    block = block[count:]
        finally:
            ahead.close()
        return answers

    def _written(self, count: int) -> "Callable[[asyncio.Future[None]], None]":
        """Gives the budget of a write back with its answer."""

        def done(answer: "asyncio.Future[None]") -> None:
            answered = not answer.cancelled() and answer.exception() is None
            self.answered += count if answered else 0
            self.lane.give(count, answered=answered)

        return done

    async def _open_plain(self, client: Requests, part: str) -> bytes:
        """Create a file on a plain server; one that an earlier attempt left behind is written anew."""
        try:
            return await client.open(part, _CREATE)
        except NotFound:
            self._folders = {"", "/", self._base}
            await self._make_folders(client, posixpath.dirname(part))
            return await client.open(part, _CREATE)
        except Resend:
            return await client.open(part, _REPLACE)

    async def _make_folders(self, client: Requests, folder: str) -> None:
        """Make a stream's folder and its parents; one that is there already is fine."""
        if folder in self._folders:
            return
        await self._make_folders(client, posixpath.dirname(folder))
        try:
            await client.mkdir(folder)
        except NotFound:
            raise Resend(
                f"the server has no folder {self._base or '/'} to deliver to", hint="check receiver.path in agent.toml"
            ) from None
        except Resend:
            pass  # it exists; if it does not, opening a file in it says what is wrong
        self._folders.add(folder)

    async def _sync(self, client: Requests, handle: bytes) -> None:
        if client.can_sync:
            with contextlib.suppress(Unsupported):
                await client.sync(handle)

    async def _watch_progress(self) -> None:
        """Cut the connection when requests wait and nothing is answered."""
        while self._stall:
            await self._clock.sleep(min(self._stall / 4, 5))
            now = self._clock.monotonic()
            moved = max(session.client.moved for session in self._sessions)
            for session in self._sessions:
                quiet = now - session.client.moved
                if session.client.waiting and (
                    min(quiet, now - moved) > self._stall or quiet > _SLOWEST_SESSION * self._stall
                ):
                    self.abort(f"nothing was answered for {min(quiet, now - moved):.0f} s")
                    return


class _Ahead:
    """Reads a body in worker threads, one block ahead of what is being sent."""

    def __init__(self, body: Body, threads: Executor) -> None:
        self._reader = Reader(body)
        self._threads = threads
        self._left = body.size
        self._coming = self._start()

    async def next(self) -> bytes:
        """The next block; raises what reading raises."""
        found = await self._coming
        if self._left:
            self._coming = self._start()
        return found

    def close(self) -> None:
        """Nothing more is wanted: close the body once no thread is at it."""
        self._coming.add_done_callback(self._end)

    def _start(self) -> "asyncio.Future[bytes]":
        count = min(_READ_AHEAD, self._left)
        self._left -= count
        return asyncio.get_running_loop().run_in_executor(self._threads, self._reader.take, count)

    def _end(self, last: "asyncio.Future[bytes]") -> None:
        if not last.cancelled():
            last.exception()
        if self._reader.is_open:
            with contextlib.suppress(RuntimeError):  # the threads have ended: so has the process, or soon
                self._threads.submit(self._reader.close)


def _raise_worst(answers: "Sequence[asyncio.Future[None]]") -> None:
    """Raise the gravest error among answers that are there, if there is one."""
    errors = [e for answer in answers if answer.done() and (e := answer.exception()) is not None]
    for kind in (Refused, Resend):
        for error in errors:
            if isinstance(error, kind):
                raise error
    if errors:
        raise errors[0]


async def _all_well(answers: "list[asyncio.Future[None]]") -> None:
    """Wait for answers; raises the gravest error among them. Being cancelled leaves the requests under way."""
    if answers:
        await asyncio.wait(answers)
    _raise_worst(answers)
