"""One SFTP session on its channel: cuts requests out of the stream, slows the client down, sends the answers."""

from collections.abc import Awaitable, Callable
from typing import Any

import asyncssh

from receiver.ingress import wire
from receiver.ingress.view import EXTENSIONS, Serving, View
from tape.errors import LinkError
from tape.log import get_logger

_log = get_logger(__name__)

_QUEUED_HIGH = 8 << 20
_LOW = 4  # a session that was slowed down goes on at this part of it
_WAITING_HIGH = 256
_UNREAD_HIGH = 1 << 20
MAX_ENVIRONMENT = 16

Spawn = Callable[[Awaitable[None]], object]


class Session(asyncssh.SSHServerSession[bytes]):
    """A channel that may become one SFTP session, and nothing else: no pty, shell, exec or other subsystem.

    Requests are not read while 8 MiB wait for the disk (half of a small window), 256 answers are being worked on, or
    the client does not take its answers: what a session may hold is bounded by that and its window.
    """

    def __init__(
        self, serving: Serving, spawn: Spawn, *, window: int, touched: Callable[[], None], left: Callable[[], None]
    ) -> None:
        self._serving = serving
        self._spawn = spawn
        self._touched = touched
        self._left = left
        self._view = View(serving, self)
        self._packets = wire.Packets()
        self._chan: asyncssh.SSHServerChannel[bytes] | None = None
        self._out: list[bytes] = []
        self._greeted = False
        self._paused = False
        self._ended = False
        self._eof = False
        self._queued = 0
        self._high = min(_QUEUED_HIGH, window // 2)
        self._waiting = 0
        self._refused = 0
        self._first_refused = ""
        self.deaf_since: float | None = None

    @property
    def busy(self) -> bool:
        """Whether something is being worked on for the client."""
        return self._waiting > 0 or self._queued > 0

    @property
    def ended(self) -> bool:
        """Whether its channel is gone."""
        return self._ended

    def overdone(self) -> bool:
        """Whether the channel was used to pile up settings, which a session does not need."""
        return self._chan is not None and len(self._chan.get_environment_bytes()) > MAX_ENVIRONMENT

    # ------------------------------------------------------------ what asyncssh calls

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """The channel is open."""
        self._chan = chan
        chan.set_write_buffer_limits(_UNREAD_HIGH)

    def subsystem_requested(self, subsystem: str) -> bool:
        """Only SFTP."""
        return subsystem == "sftp"

    def data_received(self, data: bytes, _datatype: asyncssh.DataType) -> None:
        """Bytes from the client."""
        self._touched()
        self._packets.feed(data)
        self._work()

    def eof_received(self) -> bool:
        """The client has said all; it still gets its answers."""
        self._eof = True
        self._finish_if_done()
        return True

    def pause_writing(self) -> None:
        """The client does not take its answers."""
        self.deaf_since = self._serving.clock.monotonic()

    def resume_writing(self) -> None:
        """It takes them again."""
        self.deaf_since = None
        self._work()

    def connection_lost(self, _exc: Exception | None) -> None:
        """The channel is gone: what was not delivered is deleted; commits under way go on."""
        if self._ended:
            return
        self._ended = True
        self._view.end()
        self._left()
        if self._refused:
            _log.warning(
                "requests were refused", agent=self._serving.agent, count=self._refused, first=self._first_refused
            )

    # ------------------------------------------------------------ what the view calls

    def queued(self, size: int) -> None:
        """So many more bytes wait for the disk (fewer, if negative)."""
        self._queued += size
        if size < 0 and self._queued <= self._high // _LOW and self._paused:
            self._work()

    def refused(self, what: str) -> None:
        """A request was refused; told once, at the end of the session."""
        self._refused += 1
        self._first_refused = self._first_refused or what

    # ------------------------------------------------------------ requests

    def _full(self) -> bool:
        high = self._high // _LOW if self._paused else self._high
        return self._queued > high or self._waiting >= _WAITING_HIGH or self.deaf_since is not None

    def _work(self) -> None:
        """Answer requests until there are none, or the session is full."""
        if self._ended or self._chan is None:
            return
        try:
            while not self._full() and (packet := self._packets.next()) is not None:
                self._answer(packet)
        except LinkError as error:
            self.refused(str(error))
            self._stop()
            return
        self._flush()
        full = self._full()
        if full and not self._paused:
            self._paused = True
            self._chan.pause_reading()
        elif self._paused and not full:
            self._paused = False
            self._chan.resume_reading()
        self._finish_if_done()

    def _answer(self, packet: memoryview) -> None:
        if not self._greeted:
            if packet[0] != wire.INIT:
                raise LinkError("a request before the greeting")
            self._greeted = True
            self._out.append(wire.version(EXTENSIONS))
            return
        if packet[0] == wire.INIT:
            raise LinkError("a second greeting")
        reply = self._view.answer(packet)
        if isinstance(reply, bytes):
            self._out.append(reply)
        else:
            self._waiting += 1
            self._spawn(self._answer_later(wire.Fields(packet, 1).u32(), reply))

    async def _answer_later(self, number: int, reply: Awaitable[bytes]) -> None:
        try:
            answer = await reply
        except Exception:  # noqa: BLE001 - whatever broke, the client gets an answer and no text of ours
            _log.exception("a request could not be served", agent=self._serving.agent)
            answer = wire.status(number, wire.FAILURE, "resend: the receiver failed")
        self._waiting -= 1
        self._touched()
        self._out.append(answer)
        self._work()

    def _flush(self) -> None:
        if self._out and self._chan is not None and not self._chan.is_closing():
            self._chan.write(b"".join(self._out))
        self._out.clear()

    def _finish_if_done(self) -> None:
        if self._eof and not self._waiting and not self._paused and self._chan is not None:
            self._flush()
            self._stop()

    def _stop(self) -> None:
        if self._chan is not None and not self._chan.is_closing():
            self._chan.exit(0)


def make_channel(
    conn: asyncssh.SSHServerConnection, session: Session, *, window: int, packet: int
) -> tuple[Any, Session]:
    """A channel for a session: bytes as they are, with the window and packet size that fit the client."""
    return conn.create_server_channel(None, "strict", window, packet), session
