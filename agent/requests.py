"""SFTP version 3, the client's half: requests that leave at once, answers that arrive as futures.

A request is sent when its method is called, so several may follow each other without waiting, in that order. Its
bytes are copied once and not kept until the answer: what is under way costs memory once, in the channel. Error
answers become ours: NotFound, Refused, Resend; a lost connection LinkError.
"""

import asyncio
import contextlib
import struct
from collections.abc import Callable
from typing import Any, TypeVar

import asyncssh

from tape.clock import Clock
from tape.errors import HometapeError, LinkError, NotFound, Refused, Resend, Unsupported

T = TypeVar("T")
Parser = Callable[[int, memoryview], T]

READ, WRITE, CREATE, TRUNCATE, EXCLUSIVE = 0x01, 0x02, 0x08, 0x10, 0x20
"""Flags of `open`."""

_INIT, _VERSION, _OPEN, _CLOSE, _READ, _WRITE = 1, 2, 3, 4, 5, 6
_REMOVE, _MKDIR, _STAT, _RENAME = 13, 14, 17, 18
_STATUS, _HANDLE, _DATA, _ATTRS, _EXTENDED, _EXTENDED_REPLY = 101, 102, 103, 105, 200, 201
_OK, _EOF, _NO_SUCH_FILE, _UNSUPPORTED = 0, 1, 2, 8
_ATTR_SIZE = 1
_VERSION_WANTED = 3
_LONGEST_ANSWER = 1 << 20
_SAFE_WRITE = 32 << 10
_FSYNC, _LIMITS = b"fsync@openssh.com", b"limits@openssh.com"
_HEAD = struct.Struct(">IBI")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")


class Requests(asyncssh.SSHClientSession[bytes]):
    """One SFTP session. `why` says why the connection was ended, "" if it was not this side."""

    def __init__(self, clock: Clock, why: Callable[[], str] = lambda: "") -> None:
        self.moved = clock.monotonic()
        """When something was last answered, or the first of the waiting requests was sent."""
        self.max_write = _SAFE_WRITE
        """The largest write the server takes, bytes."""
        self.can_sync = False
        self._clock = clock
        self._why = why
        self._chan: asyncssh.SSHClientChannel[bytes] | None = None
        self._greeting: asyncio.Future[set[bytes]] = asyncio.get_running_loop().create_future()
        self._greeting.add_done_callback(_heard)
        self._pending: dict[int, tuple[asyncio.Future[Any], Parser[Any]]] = {}
        self._number = 0
        self._input = bytearray()
        self._lost: LinkError | None = None

    async def begin(self, conn: asyncssh.SSHClientConnection) -> None:
        """Open the session on a connection; once. Raises asyncssh.Error, OSError, LinkError."""
        chan, _ = await conn.create_session(lambda: self, subsystem="sftp", encoding=None)
        chan.write(_HEAD.pack(5, _INIT, _VERSION_WANTED))
        extensions = await self._greeting
        self.can_sync = _FSYNC in extensions
        if _LIMITS in extensions:
            with contextlib.suppress(Resend):  # then the size that every server takes
                limit = await self._send(_EXTENDED, _text(_LIMITS), parser=_max_write)
                self.max_write = limit or self.max_write

    @property
    def waiting(self) -> int:
        """Requests that are not answered yet."""
        return len(self._pending)

    # ---- requests: each is sent when called

    def open(self, path: str, flags: int) -> "asyncio.Future[bytes]":
        """Open a file; its handle."""
        return self._send(_OPEN, _text(path.encode()), _U32.pack(flags), _U32.pack(0), parser=_handle)

    def write(self, handle: bytes, offset: int, data: bytes | memoryview) -> "asyncio.Future[None]":
        """Write at an offset, at most `max_write` bytes."""
        return self._send(_WRITE, _text(handle), _U64.pack(offset), _U32.pack(len(data)), data, parser=_status)

    def read(self, handle: bytes, offset: int, count: int) -> "asyncio.Future[bytes]":
        """Read up to `count` bytes; empty at the end."""
        return self._send(_READ, _text(handle), _U64.pack(offset), _U32.pack(count), parser=_data)

    def sync(self, handle: bytes) -> "asyncio.Future[None]":
        """Fsync an open file; where the server can't, Unsupported."""
        return self._send(_EXTENDED, _text(_FSYNC), _text(handle), parser=_status)

    def close(self, handle: bytes) -> "asyncio.Future[None]":
        """Close a file."""
        return self._send(_CLOSE, _text(handle), parser=_status)

    def rename(self, old: str, new: str) -> "asyncio.Future[None]":
        """Give a file its name; a name that is taken is refused."""
        return self._send(_RENAME, _text(old.encode()), _text(new.encode()), parser=_status)

    def remove(self, path: str) -> "asyncio.Future[None]":
        """Delete a file."""
        return self._send(_REMOVE, _text(path.encode()), parser=_status)

    def mkdir(self, path: str) -> "asyncio.Future[None]":
        """Make a folder."""
        return self._send(_MKDIR, _text(path.encode()), _U32.pack(0), parser=_status)

    def size(self, path: str) -> "asyncio.Future[int]":
        """A file's size in bytes."""
        return self._send(_STAT, _text(path.encode()), parser=_size)

    def _send(self, kind: int, *fields: bytes | memoryview, parser: Parser[T]) -> "asyncio.Future[T]":
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_heard)
        if self._lost is not None or self._chan is None:
            answer.set_exception(self._lost or LinkError("the session is not open"))
            return answer
        if not self._pending:
            self.moved = self._clock.monotonic()
        self._number = (self._number + 1) & 0xFFFFFFFF
        length = 5 + sum(map(len, fields))
        try:
            self._chan.write(b"".join((_HEAD.pack(length, kind, self._number), *fields)))
        except OSError as error:
            answer.set_exception(self._link_error(error))
            return answer
        self._pending[self._number] = answer, parser
        return answer

    # ---- what the channel calls

    def connection_made(self, chan: "asyncssh.SSHClientChannel[bytes]") -> None:
        """The channel is there."""
        self._chan = chan

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Bytes from the server; those of its error stream are of no use here."""
        if datatype is not None:
            return
        self._input += data
        try:
            while len(self._input) >= 4:
                (length,) = _U32.unpack_from(self._input)
                if not 5 <= length <= _LONGEST_ANSWER:
                    raise LinkError(f"the server sends an answer of {length} bytes")
                if len(self._input) < 4 + length:
                    return
                packet = memoryview(bytes(self._input[4 : 4 + length]))
                del self._input[: 4 + length]
                self._answer(packet[0], packet[1:])
        except (LinkError, struct.error) as error:
            self._end(LinkError(f"the server's answer can't be read: {error}"))

    def eof_received(self) -> bool:
        """The server says no more."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is gone: everything that waits ends here."""
        self._end(self._link_error(exc))

    def _answer(self, kind: int, rest: memoryview) -> None:
        if kind == _VERSION:
            if not self._greeting.done():
                self._greeting.set_result(_extensions(rest))
            return
        (number,) = _U32.unpack_from(rest)
        answer, parser = self._pending.pop(number, (None, _status))
        if answer is None:
            raise LinkError(f"an answer to request {number}, which was not made")
        self.moved = self._clock.monotonic()
        if answer.done():
            return
        try:
            answer.set_result(parser(kind, rest[4:]))
        except (LinkError, struct.error) as error:
            answer.set_exception(LinkError(f"the server's answer can't be read: {error}"))
            raise
        except HometapeError as error:
            answer.set_exception(error)

    def _link_error(self, error: Exception | None) -> LinkError:
        return LinkError(self._why() or f"the connection was lost{': ' + say(error) if error is not None else ''}")

    def _end(self, error: LinkError) -> None:
        self._lost = self._lost or error
        waiting, self._pending = list(self._pending.values()), {}
        for answer in [self._greeting, *(answer for answer, _ in waiting)]:
            if not answer.done():
                answer.set_exception(LinkError(str(self._lost)))
        if self._chan is not None and not self._chan.is_closing():
            self._chan.abort()


def say(error: BaseException) -> str:
    """An error of the library or the system as a short text."""
    text = str(getattr(error, "reason", "") or getattr(error, "strerror", "") or error) or type(error).__name__
    return text[:1].lower() + text[1:]


def _text(data: bytes) -> bytes:
    return _U32.pack(len(data)) + data


def _heard(answer: "asyncio.Future[Any]") -> None:
    """Take note of an error, so that one nobody waits for is not reported as lost."""
    if not answer.cancelled():
        answer.exception()


def _string(rest: memoryview, at: int = 0) -> bytes:
    (length,) = _U32.unpack_from(rest, at)
    if at + 4 + length > len(rest):
        raise LinkError("a text that is cut short")
    return bytes(rest[at + 4 : at + 4 + length])


def _extensions(rest: memoryview) -> set[bytes]:
    """The names of what a server can do beyond version 3."""
    if _U32.unpack_from(rest)[0] < _VERSION_WANTED:
        raise LinkError(f"the server speaks SFTP version {_U32.unpack_from(rest)[0]}, not {_VERSION_WANTED}")
    found, at = set(), 4
    while at < len(rest):
        name = _string(rest, at)
        at += 4 + len(name)
        at += 4 + len(_string(rest, at))
        found.add(name)
    return found


def _status(kind: int, rest: memoryview) -> None:
    """The end of a request without a result."""
    if kind != _STATUS:
        raise LinkError(f"an answer of kind {kind} where a status is due")
    (code,) = _U32.unpack_from(rest)
    if code != _OK:
        reason = _string(rest, 4).decode("utf-8", "replace") if len(rest) >= 8 else ""
        raise _verdict(code, reason)


def _verdict(code: int, reason: str) -> HometapeError:
    """What an error answer means: our receiver starts its reasons with a word for it."""
    if code == _NO_SUCH_FILE:
        return NotFound(reason or "no such file")
    if code == _UNSUPPORTED:
        return Unsupported(reason or "the server does not know this request")
    if reason.startswith(("refused:", "conflict:")):
        return Refused(reason)
    return Resend(reason[:1].lower() + reason[1:] or f"the server says no, with code {code} and no reason")


def _handle(kind: int, rest: memoryview) -> bytes:
    if kind == _HANDLE:
        return _string(rest)
    _status(kind, rest)
    raise LinkError("an OK where a handle is due")


def _data(kind: int, rest: memoryview) -> bytes:
    if kind == _DATA:
        return _string(rest)
    if kind == _STATUS and _U32.unpack_from(rest)[0] == _EOF:
        return b""
    _status(kind, rest)
    raise LinkError("an OK where data are due")


def _size(kind: int, rest: memoryview) -> int:
    if kind != _ATTRS:
        _status(kind, rest)
        raise LinkError("an OK where attributes are due")
    flags, *_ = _U32.unpack_from(rest)
    if not flags & _ATTR_SIZE:
        raise Resend("the server does not tell the size of a file")
    size: int = _U64.unpack_from(rest, 4)[0]
    return size


def _max_write(kind: int, rest: memoryview) -> int:
    if kind != _EXTENDED_REPLY:
        _status(kind, rest)
        return 0
    size: int = _U64.unpack_from(rest, 16)[0]
    return size
