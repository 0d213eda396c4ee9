"""SFTP without manners: requests as bytes, so that a test can ask for what no client library would."""

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncssh

INIT, OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT = 1, 3, 4, 5, 6, 7, 8, 9, 10
OPENDIR, READDIR, REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME = 11, 12, 13, 14, 15, 16, 17, 18
READLINK, SYMLINK, LINK, BLOCK, UNBLOCK, EXTENDED = 19, 20, 21, 22, 23, 200
STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED_REPLY = 101, 102, 103, 104, 105, 201
OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE, OP_UNSUPPORTED = 0, 1, 2, 3, 4, 5, 8
READ_FLAG, WRITE_FLAG, APPEND, CREATE, TRUNCATE, EXCLUSIVE = 1, 2, 4, 8, 16, 32
NO_ATTRS = struct.pack(">I", 0)


def text(value: str | bytes) -> bytes:
    """A counted run of bytes."""
    raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    return struct.pack(">I", len(raw)) + raw


def u32(value: int) -> bytes:
    """4 bytes."""
    return struct.pack(">I", value)


def u64(value: int) -> bytes:
    """8 bytes."""
    return struct.pack(">Q", value)


@dataclass(frozen=True)
class Reply:
    """An answer: packet type, and its status code and message or the bytes of its fields. `kind` 0: hung up."""

    kind: int
    code: int = -1
    message: str = ""
    fields: bytes = b""

    @property
    def refused(self) -> bool:
        """Whether it gave nothing: a status other than OK, or the end of the session."""
        return self.kind == 0 or (self.kind == STATUS and self.code != OK)

    @property
    def handle(self) -> bytes:
        """The handle it gives."""
        assert self.kind == HANDLE, self
        return self.fields[4:]


class RawSftp:
    """A session's requests. `ask` waits for the answer; `send` does not, `receive` fetches the next one."""

    def __init__(self, stdin: Any, stdout: Any) -> None:
        self._in = stdin
        self._out = stdout
        self._number = 0

    async def greet(self) -> None:
        """Exchange versions."""
        self.raw(bytes([INIT]) + u32(3))
        kind, _ = await self._packet()
        assert kind == 2

    def raw(self, packet: bytes) -> None:
        """A packet from its type on, whatever it holds."""
        self.pour(u32(len(packet)) + packet)

    def pour(self, data: bytes) -> None:
        """Any bytes."""
        self._in.write(data)

    def send(self, kind: int, *fields: bytes) -> int:
        """Send a request; returns its number."""
        self._number += 1
        self.raw(bytes([kind]) + u32(self._number) + b"".join(fields))
        return self._number

    async def ask(self, kind: int, *fields: bytes) -> Reply:
        """Send a request and wait for its answer."""
        number = self.send(kind, *fields)
        got, reply = await self.receive()
        assert reply.kind == 0 or got == number
        return reply

    async def receive(self) -> tuple[int, Reply]:
        """The next answer with the number of its request; kind 0 once the session is over."""
        try:
            kind, rest = await self._packet()
        except (EOFError, asyncssh.Error, OSError):
            return 0, Reply(0)
        number = struct.unpack_from(">I", rest)[0]
        if kind != STATUS:
            return number, Reply(kind, fields=rest[4:])
        code, length = struct.unpack_from(">II", rest, 4)
        return number, Reply(kind, code, rest[12 : 12 + length].decode("utf-8"))

    async def _packet(self) -> tuple[int, bytes]:
        length = struct.unpack(">I", await self._out.readexactly(4))[0]
        packet = await self._out.readexactly(length)
        return packet[0], packet[1:]

    async def open(self, path: str | bytes, flags: int = WRITE_FLAG | CREATE | EXCLUSIVE) -> Reply:
        """Open a file."""
        return await self.ask(OPEN, text(path), u32(flags), NO_ATTRS)

    async def fetch(self, path: str) -> bytes:
        """A small file's bytes; AssertionError if it can't be read."""
        handle = (await self.open(path, READ_FLAG)).handle
        reply = await self.ask(READ, text(handle), u64(0), u32(1 << 20))
        await self.close(handle)
        assert reply.kind == DATA, reply
        return reply.fields[4:]

    async def write(self, handle: bytes, offset: int, content: bytes) -> Reply:
        """Write at an offset."""
        return await self.ask(WRITE, text(handle), u64(offset), text(content))

    async def close(self, handle: bytes) -> Reply:
        """Close a handle."""
        return await self.ask(CLOSE, text(handle))

    async def rename(self, old: str | bytes, new: str | bytes) -> Reply:
        """Rename."""
        return await self.ask(RENAME, text(old), text(new))


@asynccontextmanager
async def raw_session(connection: asyncssh.SSHClientConnection, *, greet: bool = True) -> AsyncIterator[RawSftp]:
    """An SFTP session on a connection, spoken by hand."""
    stdin, stdout, _ = await connection.open_session(subsystem="sftp", encoding=None)
    session = RawSftp(stdin, stdout)
    if greet:
        await session.greet()
    try:
        yield session
    finally:
        stdin.channel.close()
