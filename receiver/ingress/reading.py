"""Between a socket and an SSH connection: bytes are handed on packet by packet, not as they happen to come.

The library gathers what comes by joining, so a packet of a megabyte that comes in pieces is copied again with each
of them. Here it is read into one buffer and handed on when it is whole. Where packets end can be seen from outside:
their lengths are in the clear, before keys are agreed and with AES-GCM afterwards. With any other cipher, and with
whatever does not look like SSH, bytes are handed on as they come. Nothing is judged and nothing is held back that is
whole: what a packet may be, the connection says. One that has failed is handed nothing more: it would try again
what it failed over.
"""

import asyncio
from typing import Protocol

from tape import sshgcm

_ROOM = 64 << 10
_MOST = 8 << 20
"""A packet that claims more than this is left to the connection to refuse."""
_LINE = 256
_NEW_KEYS = 21
_OVER = 64
"""Bytes to read beyond a large packet: the small one that follows, and the head of the next."""


class Connection(Protocol):
    """What an SSH connection is told."""

    def data_received(self, data: bytes, /) -> None:
        """Bytes came."""

    def eof_received(self) -> bool | None:
        """No more will come."""

    def connection_lost(self, exc: Exception | None, /) -> None:
        """The socket is closed."""

    def pause_writing(self) -> None:
        """The socket takes no more now."""

    def resume_writing(self) -> None:
        """It does again."""

    def get_extra_info(self, name: str, /) -> object:
        """Among other things `recv_cipher`, and `socket` for as long as the connection has not failed."""


class Reading(asyncio.BufferedProtocol):
    """The protocol of a transport whose first byte is still to come; see the module."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._buffer = bytearray(_ROOM)
        self._room = memoryview(self._buffer)
        self._at = self._have = 0  # what was read and not handed on lies between
        self._left = 0  # bytes to come of a large packet whose head was handed on
        self._size = self._of_line

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - as much as fits is best
        """Room for the rest of a large packet, or for whatever comes."""
        end = self._at + self._left + _OVER if self._left else _ROOM
        if end > len(self._buffer) or self._have >= end:
            self._make_room(max(self._left + _OVER, _ROOM))
            end = self._left + _OVER if self._left else _ROOM
        return self._room[self._have : end]

    def _make_room(self, size: int) -> None:
        """Have what is not handed on at the front of at least so many bytes."""
        waiting = bytes(self._room[self._at : self._have])
        if size > len(self._buffer):
            self._buffer = bytearray(size)
            self._room = memoryview(self._buffer)
        self._room[: len(waiting)] = waiting
        self._at, self._have = 0, len(waiting)

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on what is whole; while something is not, the connection hears that the other side lives."""
        self._have += nbytes
        while self._at < self._have and self._alive():
            size = self._size()
            if not 0 < size <= self._have - self._at:
                self._conn.data_received(b"")
                return
            start, self._at = self._at, self._at + size
            self._conn.data_received(bytes(self._room[start : self._at]))
        self._at = self._have = 0
        if not self._alive():
            self._left = 0

    def _alive(self) -> bool:
        return self._conn.get_extra_info("socket") is not None

    # each tells how many bytes to hand on next; 0 or more than there are: wait

    def _of_line(self) -> int:
        """The version, which a line feed ends."""
        size = self._buffer.find(b"\n", self._at, self._have) + 1 - self._at
        if size > 0:
            self._size = self._of_plain
            return size
        return 0 if self._have - self._at < _LINE else self._give_up()

    def _of_plain(self) -> int:
        """A packet before keys are agreed; the last one says that the next is encrypted."""
        if self._have - self._at < 6:
            return 0
        size = 4 + self._length()
        if size > _ROOM or size < 6:
            return self._give_up()
        if size <= self._have - self._at and self._buffer[self._at + 5] == _NEW_KEYS:
            self._size = self._of_sealed
        return size

    def _of_sealed(self) -> int:
        """A packet with its tag: whole if it is small, else its head, by which it may be refused, and then the rest."""
        if self._conn.get_extra_info("recv_cipher") not in sshgcm.NAMES:
            return self._give_up()
        if self._left:
            size, self._left = self._left, 0 if self._left <= self._have - self._at else self._left
            return size
        if self._have - self._at < sshgcm.BLOCK:
            return 0
        size = 4 + self._length() + sshgcm.TAG
        if size > _MOST:
            return self._give_up()
        if size <= _ROOM:
            return size
        self._left = size - sshgcm.BLOCK
        return sshgcm.BLOCK

    def _length(self) -> int:
        return int.from_bytes(self._room[self._at : self._at + 4], "big")

    def _give_up(self) -> int:
        """From here on bytes are handed on as they come."""
        self._left = 0
        self._size = self._of_anything
        return self._have - self._at

    def _of_anything(self) -> int:
        return self._have - self._at

    # what the connection is told as it is

    def eof_received(self) -> bool | None:
        """The end of what comes."""
        return self._conn.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self._conn.connection_lost(exc)

    def pause_writing(self) -> None:
        """The socket takes no more now."""
        self._conn.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self._conn.resume_writing()
