"""The bad line: each of its faults really happens, or the tests that use it would prove nothing."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from tests.support.proxy import Proxy
from tests.support.waiting import wait_until_async


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """The port of a server that sends everything back."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def trip(proxy: Proxy, data: bytes) -> bytes:
    """Send data through, take the same amount back."""
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.readexactly(len(data)), 20)
    finally:
        writer.transport.abort()


async def test_a_good_line_passes_everything(echo: int) -> None:
    """Without faults the bytes come back as they went, and are counted."""
    data = bytes(range(256)) * 8000
    async with Proxy(echo) as proxy:
        assert await trip(proxy, data) == data
        assert (proxy.sent, proxy.received, proxy.connections) == (len(data), len(data), 1)
        await wait_until_async(lambda: proxy.open == 0)


async def test_delay_and_rate_take_their_time(echo: int) -> None:
    """A delay costs a round trip once, not per packet; a rate is kept."""
    loop = asyncio.get_running_loop()
    async with Proxy(echo, delay=0.1) as proxy:
        start = loop.time()
        await trip(proxy, bytes(500_000))
        assert 0.2 <= loop.time() - start < 2
        proxy.delay, proxy.rate = 0, 1_000_000
        start = loop.time()
        await trip(proxy, bytes(300_000))
        assert loop.time() - start > 0.25


async def test_a_stall_holds_everything_back_and_ends(echo: int) -> None:
    """While stalled nothing arrives; afterwards all of it does."""
    async with Proxy(echo) as proxy:
        proxy.stalled = True
        going = asyncio.ensure_future(trip(proxy, b"x" * 1000))
        await wait_until_async(lambda: proxy.open == 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(going), 0.2)
        proxy.stalled = False
        assert await going == b"x" * 1000


async def test_cuts_reset_the_connection(echo: int) -> None:
    """A cut at once and a cut after so many bytes both end in an error on the client's side."""
    async with Proxy(echo) as proxy:
        proxy.cut_after(100_000)
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await trip(proxy, bytes(300_000))
        assert (proxy.sent, proxy.cuts) == (100_000, 1)
        going = asyncio.ensure_future(asyncio.open_connection(proxy.host, proxy.port))
        reader, writer = await going
        await wait_until_async(lambda: proxy.open == 1)
        proxy.cut()
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 10)
        writer.transport.abort()
        proxy.refusing = True
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await trip(proxy, b"x")


async def test_one_bit_is_flipped(echo: int) -> None:
    """Exactly one bit differs, at the byte asked for."""
    async with Proxy(echo) as proxy:
        proxy.flip(1234)
        data = bytes(5000)
        back = await trip(proxy, data)
        assert [(at, byte.bit_count()) for at, byte in enumerate(back) if byte] == [(1234, 1)]


def test_it_runs_beside_plain_code() -> None:
    """As a plain context manager it serves from a thread, and faults can be set from outside."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Proxy(server.getsockname()[1]) as proxy,
        socket.create_connection((proxy.host, proxy.port), timeout=10) as client,
    ):
        there, _ = server.accept()
        with there:
            client.sendall(b"hello")
            assert there.recv(5) == b"hello"
            proxy.cut()
            proxy.wait_cut()
            with pytest.raises(OSError, match=r"reset|closed|forcibly"):
                raise OSError("closed") if not client.recv(1) else AssertionError("still open")
