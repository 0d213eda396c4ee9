"""Below SFTP: a man in the middle who leaves packets out, and strangers whose key exchange breaks the library."""

import asyncio
import gc
import struct
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from receiver.ingress.session import Session
from tests.support import wait_until_async
from tests.support.ingress import House, deliver
from tests.support.rawsftp import text

_INIT = 30


async def test_nothing_is_done_after_a_packet_that_was_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof of the next packet fails, and what came along with it is not tried in its place."""
    asked: list[bytes] = []
    answer = Session._answer

    def noting(self: Session, packet: memoryview) -> None:
        asked.append(bytes(packet))
        answer(self, packet)

    monkeypatch.setattr(Session, "_answer", noting)
    async with House(tmp_path) as house, house.connect() as connection, connection.start_sftp_client() as client:
        held: list[bytes] = []
        write: Any = connection._transport.write  # type: ignore[union-attr] # it is connected
        monkeypatch.setattr(connection, "_send", lambda data: held.append(bytes(data)))
        before = len(asked)
        asking = [asyncio.ensure_future(client.realpath(name)) for name in ("/one", "/two", "/three", "/four")]
        await wait_until_async(
            lambda: len(held) == 8, what="four requests, each with a packet that says nothing before it"
        )
        write(b"".join([*held[:2], *held[4:]]))
        await asyncio.wait_for(connection.wait_closed(), 10)
        await asyncio.gather(*asking, return_exceptions=True)
        assert [packet[9:] for packet in asked[before:]] == [b"/one"]


def packet(payload: bytes) -> bytes:
    """A packet before keys are agreed."""
    padding = 4 + -(5 + len(payload) + 4) % 8
    return struct.pack(">IB", 1 + len(payload) + padding, padding) + payload + bytes(padding)


def proposal(exchange: str) -> bytes:
    """What a client wants, with one way to agree on keys."""
    cipher, mac = "aes128-gcm@openssh.com", "hmac-sha2-256-etm@openssh.com"
    wanted = [exchange, "ssh-ed25519", cipher, cipher, mac, mac, "none", "none", "", ""]
    return packet(bytes([20]) + bytes(16) + b"".join(map(text, wanted)) + bytes(5))


EXCHANGES = {
    "a point that gives nothing": ("curve25519-sha256", bytes(32)),
    "too short": ("curve25519-sha256", b"short"),
    "not on the curve": ("ecdh-sha2-nistp256", b"\4" + bytes(64)),
    "no such key": ("mlkem768x25519-sha256", b"\xff" * (1184 + 32)),
    "one that is not on offer": ("diffie-hellman-group1-sha1", b"\1"),
}


@pytest.fixture
async def complaints() -> list[dict[str, Any]]:
    """What the event loop has to say of tasks that nobody looked after."""
    found: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: found.append(context))
    return found


@pytest.mark.parametrize("how", EXCHANGES)
async def test_a_bad_key_exchange_ends_quietly(how: str, complaints: list[dict[str, Any]], tmp_path: Path) -> None:
    """The stranger is gone, nothing is left to complain about, and an agent is served."""
    exchange, value = EXCHANGES[how]
    async with House(tmp_path) as house:
        reader, writer = await asyncio.open_connection(house.host, house.port)
        writer.write(b"SSH-2.0-stranger\r\n" + proposal(exchange))
        await reader.readuntil(b"\n")
        writer.write(packet(bytes([_INIT]) + text(value)))
        await asyncio.wait_for(reader.read(), 10)
        writer.close()
        async with house.sftp() as client:
            await deliver(client, b"honest")
        gc.collect()
    assert complaints == []


async def test_whatever_breaks_within_the_library_ends_that_connection_only(
    complaints: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error it did not foresee is noted, not left to the event loop, which would print a page for each stranger."""
    process = asyncssh.SSHServerConnection._process_userauth_request

    def breaking(self: Any, kind: int, number: int, asked: Any) -> Any:
        if b"stranger" in asked.get_full_payload():
            raise ValueError("not foreseen")
        return process(self, kind, number, asked)

    handlers = {**asyncssh.SSHServerConnection._packet_handlers, 50: breaking}
    monkeypatch.setattr(asyncssh.SSHServerConnection, "_packet_handlers", handlers)
    async with House(tmp_path) as house:
        with pytest.raises(asyncssh.Error):
            async with house.connect("stranger"):
                pass
        async with house.sftp() as client:
            await deliver(client, b"honest")
        gc.collect()
    assert complaints == []
