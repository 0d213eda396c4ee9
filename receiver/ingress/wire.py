"""SFTP version 3 on the wire: packets out of a byte stream, their fields, and the answers.

Sizes and numbers are big-endian; a packet is its length (u32), type (u8), request id (u32), fields.
"""

import struct

from tape.errors import LinkError

VERSION = 3
MAX_PACKET = (1 << 20) + 1024
"""The longest request accepted, bytes: one write of 1 MiB with its header."""
MAX_WRITE = 1 << 20
MAX_READ = 255 * 1024
MAX_MESSAGE = 400
_MANY_PIECES = 256

INIT, VERSION_REPLY = 1, 2
OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT = 3, 4, 5, 6, 7, 8, 9, 10
MKDIR, REALPATH, STAT, RENAME = 14, 16, 17, 18
STATUS, HANDLE, DATA, NAME, ATTRS = 101, 102, 103, 104, 105
EXTENDED, EXTENDED_REPLY = 200, 201

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE, OP_UNSUPPORTED = 0, 1, 2, 3, 4, 5, 8

FLAG_READ, FLAG_WRITE, FLAG_APPEND, FLAG_CREATE, FLAG_TRUNCATE, FLAG_EXCLUSIVE = 1, 2, 4, 8, 16, 32
ATTR_SIZE, ATTR_OWNER, ATTR_MODE, ATTR_TIMES, ATTR_EXTENDED = 1, 2, 4, 8, 0x80000000
_FOLDER_MODE, _FILE_MODE = 0o40700, 0o100600

_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_HEAD = struct.Struct(">IBI")


class Packets:
    """Cuts a byte stream into packets; one that lies in a single piece is handed on without a copy."""

    def __init__(self) -> None:
        self._now = memoryview(b"")
        self._parts: list[memoryview] = []
        self._have = 0
        self._need = 4

    def feed(self, data: bytes) -> None:
        """Add bytes."""
        piece = memoryview(data)
        if len(self._now):
            self._parts, self._have = [self._now], len(self._now)
            self._now = memoryview(b"")
        if not self._parts:
            self._now = piece
            return
        self._parts.append(piece)
        self._have += len(piece)
        if len(self._parts) >= _MANY_PIECES:  # a client that sends byte by byte must not cost an object for each
            self._parts = [memoryview(b"".join(self._parts))]

    def next(self) -> memoryview | None:
        """The next whole packet from its type on; None until there is one. Raises LinkError if it breaks the limit."""
        if self._parts:
            if self._have < self._need:
                return None
            self._now = memoryview(b"".join(self._parts))
            self._parts, self._have = [], 0
        now = self._now
        if len(now) >= 4:
            length = _U32.unpack_from(now)[0]
            if not 5 <= length <= MAX_PACKET:
                raise LinkError(f"a request of {length} bytes")
            if len(now) >= 4 + length:
                self._now, self._need = now[4 + length :], 4
                return now[4 : 4 + length]
            self._need = 4 + length
        if len(now):
            self._parts, self._have, self._now = [now], len(now), memoryview(b"")
        return None


class Fields:
    """Reads a packet's fields in order; raises LinkError where they end too early or too late."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: memoryview, at: int = 0) -> None:
        self._data = data
        self._at = at

    def u32(self) -> int:
        """An unsigned number of 4 bytes."""
        at = self._step(4)
        number: int = _U32.unpack_from(self._data, at)[0]
        return number

    def u64(self) -> int:
        """An unsigned number of 8 bytes."""
        at = self._step(8)
        number: int = _U64.unpack_from(self._data, at)[0]
        return number

    def view(self) -> memoryview:
        """A counted run of bytes, not copied."""
        length = self.u32()
        at = self._step(length)
        return self._data[at : at + length]

    def string(self) -> bytes:
        """A counted run of bytes."""
        return bytes(self.view())

    def attrs(self) -> int:
        """File attributes: only which ones are there is told, as flags."""
        flags = self.u32()
        for flag, size in ((ATTR_SIZE, 8), (ATTR_OWNER, 8), (ATTR_MODE, 4), (ATTR_TIMES, 8)):
            if flags & flag:
                self._step(size)
        if flags & ATTR_EXTENDED:
            for _ in range(min(self.u32(), 64)):
                self.view()
                self.view()
        return flags

    def end(self) -> None:
        """Nothing may follow."""
        if self._at != len(self._data):
            raise LinkError("a request with bytes behind its end")

    def _step(self, size: int) -> int:
        at = self._at
        if at + size > len(self._data):
            raise LinkError("a request that ends too early")
        self._at = at + size
        return at


def text(data: bytes) -> bytes:
    """A counted run of bytes, as sent."""
    return _U32.pack(len(data)) + data


def _packet(kind: int, number: int, fields: bytes) -> bytes:
    return _HEAD.pack(5 + len(fields), kind, number) + fields


def status(number: int, code: int, message: str = "") -> bytes:
    """Whether a request was done, and why not."""
    return _packet(STATUS, number, _U32.pack(code) + text(message[:MAX_MESSAGE].encode()) + text(b""))


def ok(number: int) -> bytes:
    """The request was done."""
    return _packet(STATUS, number, _OK_FIELDS)


_OK_FIELDS = _U32.pack(OK) + text(b"") + text(b"")


def handle(number: int, name: bytes) -> bytes:
    """A handle for an open file."""
    return _packet(HANDLE, number, text(name))


def data(number: int, content: bytes) -> bytes:
    """What was read."""
    return _packet(DATA, number, text(content))


def path(number: int, name: str) -> bytes:
    """The one name that a realpath gives."""
    raw = text(name.encode("ascii"))
    return _packet(NAME, number, _U32.pack(1) + raw + raw + _U32.pack(0))


def folder_attrs(number: int) -> bytes:
    """Attributes of a virtual folder: the same for every one."""
    return _packet(ATTRS, number, _U32.pack(ATTR_MODE) + _U32.pack(_FOLDER_MODE))


def file_attrs(number: int, size: int) -> bytes:
    """Attributes of a file: its size in bytes."""
    return _packet(ATTRS, number, _U32.pack(ATTR_SIZE | ATTR_MODE) + _U64.pack(size) + _U32.pack(_FILE_MODE))


def limits(number: int, handles: int) -> bytes:
    """The answer to limits@openssh.com: packet, read and write in bytes, and open handles."""
    return _packet(EXTENDED_REPLY, number, struct.pack(">QQQQ", MAX_PACKET, MAX_READ, MAX_WRITE, handles))


def version(extensions: list[bytes]) -> bytes:
    """The greeting: version 3 and the extensions there are, each of version 1."""
    fields = b"".join(text(name) + text(b"1") for name in extensions)
    return struct.pack(">IBI", 5 + len(fields), VERSION_REPLY, VERSION) + fields
