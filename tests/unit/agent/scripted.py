"""An SFTP server that answers as a test says: for what no real server does, or does too seldom."""

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncssh

Answer = Callable[[int, int, bytes], bytes]


def packet(kind: int, *fields: bytes) -> bytes:
    """An SFTP packet."""
    body = bytes([kind]) + b"".join(fields)
    return struct.pack(">I", len(body)) + body


def text(data: bytes) -> bytes:
    """A counted text."""
    return struct.pack(">I", len(data)) + data


def status(number: int, code: int, message: str = "") -> bytes:
    """A status answer."""
    return packet(101, struct.pack(">II", number, code), text(message.encode()), text(b"en"))


VERSION = packet(2, struct.pack(">I", 3))


class _Server(asyncssh.SSHServerSession[bytes]):
    """Greets with `greeting`, then answers each request with what `answer(kind, number, rest)` gives."""

    def __init__(self, greeting: bytes, answer: Answer) -> None:
        self._greeting = greeting
        self._reply = answer
        self._input = b""
        self._chan: Any = None

    def connection_made(self, chan: Any) -> None:
        """Keep the channel."""
        self._chan = chan

    def subsystem_requested(self, subsystem: str) -> bool:
        """SFTP only."""
        return subsystem == "sftp"

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Answer every whole request."""
        self._input += data
        while len(self._input) >= 4 and len(self._input) >= 4 + struct.unpack_from(">I", self._input)[0]:
            (length,) = struct.unpack_from(">I", self._input)
            body, self._input = self._input[4 : 4 + length], self._input[4 + length :]
            if body[0] == 1:
                self._chan.write(self._greeting)
                continue
            out = self._reply(body[0], struct.unpack_from(">I", body, 1)[0], body[5:])
            if out == b"hang up":
                self._chan.abort()
            elif out:
                self._chan.write(out)


@asynccontextmanager
async def connected(
    answer: Answer, greeting: bytes = VERSION, version: str = "Scripted"
) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """A connection to such a server, which calls itself `version`."""

    class Door(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return False

        def session_requested(self) -> Any:
            return _Server(greeting, answer)

    key = asyncssh.generate_private_key("ssh-ed25519")
    listener = await asyncssh.listen(
        "127.0.0.1", 0, server_factory=Door, server_host_keys=[key], encoding=None, server_version=version
    )
    conn = await asyncssh.connect("127.0.0.1", listener.get_port(), known_hosts=None, config=None, username="x")
    try:
        yield conn
    finally:
        conn.close()
        await conn.wait_closed()
        listener.close()
        await listener.wait_closed()
