"""Floods of callers before login, and clients that keep the server busy: the honest agent gets through."""

import asyncio
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.support import rawsftp as raw
from tests.support import wait_until_async
from tests.support.ingress import House, deliver

OLD = b"yesterday's ticks " * 1000
NEW = b"today's ticks " * 100


def _silent(port: int, count: int, source: str = "127.0.0.1") -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0)) for _ in range(count)]


def _alive(sock: socket.socket) -> bool:
    """Whether the server has not hung up yet."""
    sock.settimeout(0.05)
    try:
        while sock.recv(1000):
            pass
    except TimeoutError:
        return True
    except OSError:
        pass
    return False


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Sockets that are closed in the end."""
    found: list[socket.socket] = []
    yield found
    for sock in found:
        sock.close()


async def test_idle_connections_before_login_lock_nobody_out(tmp_path: Path, sockets: list[socket.socket]) -> None:
    """120 connections that say nothing: the agent gets in from the same address, and from another, at once."""
    async with House(tmp_path, login_timeout=60) as house:
        sockets += await asyncio.to_thread(_silent, house.port, 120)
        async with asyncio.timeout(15), house.sftp() as client:
            await deliver(client, OLD)
        assert await asyncio.to_thread(lambda: sum(_alive(sock) for sock in sockets)) <= 4, "per address"
        if os.name != "nt":
            sockets += await asyncio.to_thread(_silent, house.port, 60, "127.0.0.2")
            async with asyncio.timeout(15), house.sftp() as client:
                await deliver(client, NEW, 1)


async def test_connections_that_only_greet_lock_nobody_out(tmp_path: Path, sockets: list[socket.socket]) -> None:
    """The same where each of them sends a version and then waits."""
    async with House(tmp_path, login_timeout=60) as house:
        for _ in range(40):
            sockets += await asyncio.to_thread(_silent, house.port, 1)
            await asyncio.to_thread(sockets[-1].sendall, b"SSH-2.0-idle\r\n")
        async with asyncio.timeout(15), house.sftp() as client:
            await deliver(client, OLD)


async def test_who_does_not_log_in_is_cut_off(tmp_path: Path, sockets: list[socket.socket]) -> None:
    """After the login time-out the server hangs up."""
    async with House(tmp_path, login_timeout=0.3) as house:
        sockets += await asyncio.to_thread(_silent, house.port, 1)
        reader, writer = await asyncio.open_connection(sock=sockets.pop())
        async with asyncio.timeout(15):
            while await reader.read(1000):
                pass
        writer.close()


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not(tmp_path: Path) -> None:
    """What counts is requests, not sign-of-life packets."""
    house = House(tmp_path, idle_timeout=2, keepalive=0.2)
    async with house, house.connect() as idle, house.sftp() as busy:
        closed = asyncio.ensure_future(idle.wait_closed())
        await wait_until_async(lambda: _ask_then(busy, closed), every=0.2, within=20, what="the idle one to be closed")
        await deliver(busy, OLD)


async def _ask_then(busy: asyncssh.SFTPClient, closed: "asyncio.Future[None]") -> bool:
    await busy.realpath(".")
    return closed.done()


async def test_one_agent_can_not_take_all_connections(tmp_path: Path) -> None:
    """At the limit the agent that holds most loses one, so that another still gets in."""
    async with House(tmp_path, max_connections=4) as house:
        greedy = [await asyncssh.connect(**_options(house)) for _ in range(4)]
        async with house.sftp("beta") as client:
            await deliver(client, OLD)
        assert house.ingress.connected["alpha"] == 3
        for connection in greedy:
            connection.abort()
            await connection.wait_closed()


def _options(house: House) -> dict[str, Any]:
    return {
        "host": house.host, "port": house.port, "username": "alpha", "client_keys": [house.keys["alpha"]],
        "known_hosts": None, "config": None, "agent_path": None,
    }  # fmt: skip


async def test_a_client_that_does_not_read_its_answers_is_stopped(tmp_path: Path) -> None:
    """Requests are not read on while answers pile up: the server's memory does not grow with them."""
    async with House(tmp_path, window=1 << 18) as house, house.connect(client_version="Deaf") as connection:
        chan, _ = await connection.create_session(
            asyncssh.SSHClientSession, subsystem="sftp", encoding=None, window=100
        )
        chan.pause_reading()
        question = struct.pack(">IBI", 10, raw.STAT, 1) + raw.text("/")
        flood = struct.pack(">IBI", 5, 1, 3) + question * 200_000
        chan.write(flood)
        sent = [0]

        def stuck() -> bool:
            before, sent[0] = sent[0], chan.get_write_buffer_size()
            return before == sent[0]

        await wait_until_async(stuck, every=0.3, what="the flood to stand still")
        assert sent[0] > 0, "all of it was read"
        async with house.sftp("beta") as client:
            await deliver(client, OLD)
