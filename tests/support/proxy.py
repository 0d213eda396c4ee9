"""A bad line on loopback: a TCP proxy that delays, limits, stalls, cuts and flips bytes while it runs.

Delay and rate are kept per direction in one queue per connection, so data stays in order and many packets are
under way at once, as on a long line. The kernel's TCP runs from client to proxy and from proxy to server, so
congestion control over the distance is not what it shows; lost packets are no matter here either.
"""

import asyncio
import contextlib
import random
import socket
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tape.clock import SYSTEM
from tests.support.waiting import wait_until

_BLOCK = 64 * 1024


class Proxy:
    """Listens on loopback and passes connections on to a server.

    Use it inside a coroutine (`async with`), or from plain code (`with`: it runs in a thread of its own). What
    it does to the line may be changed at any time, from any thread:

    `delay`: seconds each way. `rate`: bytes a second each way, 0 for no limit. `stalled`: nothing moves, and
    nobody is told. `refusing`: new connections are closed at once. `cut()`: reset every connection. `cut_after(n)`:
    reset them once n more bytes went to the server. `flip(n)`: invert one bit n bytes further on to the server.
    """

    def __init__(self, port: int, host: str = "127.0.0.1", *, delay: float = 0.0, rate: float = 0.0) -> None:
        self.target = (host, port)
        self.host = "127.0.0.1"
        self.port = 0
        self.delay = delay
        self.rate = rate
        self.stalled = False
        self.refusing = False
        self.connections = 0
        """How many connections were opened so far."""
        self.sent = 0
        """Bytes that went to the server so far."""
        self.received = 0
        """Bytes that came back so far."""
        self.flipped = 0
        self.cuts = 0
        self._cut_at: int | None = None
        self._flip_at: deque[int] = deque()
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def open(self) -> int:
        """Connections open now."""
        return len(self._links)

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    def __enter__(self) -> Self:
        ready = threading.Event()

        async def serve() -> None:
            await self._start()
            ready.set()
            await self._ended.wait()
            await self._stop()

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), name="proxy", daemon=True)
        self._thread.start()
        assert ready.wait(15), "the proxy did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(15)

    def cut(self) -> None:
        """Reset every open connection, now."""
        if self._loop is not None:
            self._in_loop(self._cut_all)

    def cut_after(self, count: int) -> None:
        """Reset every open connection once `count` more bytes went to the server."""
        self._cut_at = self.sent + count

    def flip(self, count: int = 0) -> None:
        """Invert one bit of the byte that goes to the server `count` bytes from now."""
        self._flip_at.append(self.sent + count)

    def wait_cut(self, times: int = 1, within: float = 30.0) -> None:
        """Wait until connections were reset so many times; for plain code."""
        wait_until(lambda: self.cuts >= times, within=within, what="the line to be cut")

    async def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._server = await asyncio.start_server(self._accept, self.host, self.port, limit=_BLOCK)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        links = list(self._links)
        for link in links:
            link.abort()
        await asyncio.gather(*(link.ended() for link in links), return_exceptions=True)
        self._server = None

    def _in_loop(self, call: Callable[[], None]) -> None:
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            call()
        elif self._loop is not None:
            self._loop.call_soon_threadsafe(call)

    def _cut_all(self) -> None:
        self._cut_at = None
        self.cuts += 1
        for link in list(self._links):
            link.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refusing:
            writer.transport.abort()
            return
        try:
            there = await asyncio.open_connection(*self.target, limit=_BLOCK)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(self, (reader, writer), there)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)

    def _passing(self, data: bytes, up: bool) -> bytes:
        """Count bytes that pass, and do to them what was asked for."""
        if not up:
            self.received += len(data)
            return data
        start, self.sent = self.sent, self.sent + len(data)
        while self._flip_at and self._flip_at[0] < self.sent:
            at = max(self._flip_at.popleft() - start, 0)
            data = data[:at] + bytes([data[at] ^ (1 << random.randrange(8))]) + data[at + 1 :]
            self.flipped += 1
        return data


class _Link:
    """One connection through the proxy: a queue each way."""

    def __init__(
        self,
        proxy: Proxy,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._near = near
        self._far = far
        self._tasks: list[asyncio.Task[None]] = []
        for _, writer in (near, far):
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def run(self) -> None:
        """Pass on both ways until one side ends."""
        self._tasks = [
            asyncio.ensure_future(self._way(self._near[0], self._far[1], up=True)),
            asyncio.ensure_future(self._way(self._far[0], self._near[1], up=False)),
        ]
        try:
            await asyncio.wait(self._tasks)
        finally:
            self.abort()
            await self.ended()

    def abort(self) -> None:
        """Reset both sides."""
        for task in self._tasks:
            task.cancel()
        for _, writer in (self._near, self._far):
            writer.transport.abort()

    async def ended(self) -> None:
        """Wait until nothing runs any more."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(4096)
        pump = asyncio.ensure_future(self._deliver(queue, writer, up=up))
        loop = asyncio.get_running_loop()
        free_at = 0.0
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(_BLOCK):
                    now = loop.time()
                    if self._proxy.rate:
                        free_at = max(free_at, now) + len(data) / self._proxy.rate
                        await SYSTEM.sleep(free_at - now)
                        now = loop.time()
                    await queue.put((now + self._proxy.delay, data))
            await queue.put((loop.time() + self._proxy.delay, b""))
            await pump
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    async def _deliver(
        self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, *, up: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        proxy = self._proxy
        with contextlib.suppress(OSError):
            while True:
                due, data = await queue.get()
                if (left := due - loop.time()) > 0:
                    await SYSTEM.sleep(left)
                while proxy.stalled:
                    await SYSTEM.sleep(0.01)
                if not data:
                    writer.write_eof()
                    return
                limit = proxy._cut_at if up else None
                if limit is not None and proxy.sent + len(data) >= limit:
                    writer.write(proxy._passing(data[: limit - proxy.sent], up))
                    proxy._cut_all()
                    return
                writer.write(proxy._passing(data, up))
                await writer.drain()
