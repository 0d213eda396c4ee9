"""Rules of the writer that a whole delivery shows too seldom: order, waiting, which error counts."""

import asyncio
import struct
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.body import Reader, SpoolFile
from agent.settings import ReceiverSettings
from agent.sftp import Connection, _raise_worst
from agent.throttle import MIB, Throttle
from tape.clock import SYSTEM
from tape.digest import xxh3
from tape.errors import DigestMismatch, HometapeError, LinkError, Refused, Resend, SegmentError
from tests.support import wait_until_async
from tests.unit.agent.scripted import connected, packet, status, text


def answered(error: HometapeError | None) -> "asyncio.Future[None]":
    """An answer that is there."""
    made: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if error is None:
        made.set_result(None)
    else:
        made.set_exception(error)
    return made


async def test_the_gravest_error_is_the_one_that_counts() -> None:
    """A refusal goes before a resend, that before a lost link; an answer still to come is no error."""
    errors = [LinkError("lost"), Resend("resend: later"), Refused("refused: never")]
    pending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    for count in (1, 2, 3):
        answers = [pending, answered(None), *(answered(error) for error in errors[:count])]
        with pytest.raises(type(errors[count - 1])):
            _raise_worst(answers)
    _raise_worst([pending, answered(None)])
    assert not pending.done()


def test_a_body_is_as_long_as_promised_and_closed_after_its_end(tmp_path: Path) -> None:
    """A spool file that became shorter or longer is an error of that segment, whatever the pieces."""
    path = tmp_path / "segment"
    path.write_bytes(b"0123456789")
    for piece in (1, 3, 10):
        reader = Reader(SpoolFile(path, 10, xxh3(b"0123456789")))
        found = b"".join(reader.take(min(piece, 10 - at)) for at in range(0, 10, piece))
        assert found == b"0123456789"
        assert reader._file is None
    for size, digest, kind in (
        (11, xxh3(b"0123456789"), SegmentError),
        (9, xxh3(b"012345678"), SegmentError),
        (10, "0" * 32, DigestMismatch),
    ):
        reader = Reader(SpoolFile(path, size, digest))
        with pytest.raises(kind):
            reader.take(size)
        reader.close()


OPEN, CLOSE, WRITE, MKDIR, STAT, RENAME, EXTENDED = 3, 4, 6, 14, 17, 18, 200


class Plain:
    """A server that notes what is asked; writes fail if `broken`; `silent`: from that kind of request on it answers
    nothing before it saw a rename.
    """

    def __init__(self, *, broken: bool = False, silent: int = 0) -> None:
        self.seen: list[int] = []
        self._broken = broken
        self._silent = silent
        self._kept: list[bytes] = []

    def __call__(self, kind: int, number: int, rest: bytes) -> bytes:
        """The answer to one request."""
        self.seen.append(kind)
        if kind == OPEN:
            return packet(102, struct.pack(">I", number), text(b"h"))
        code = {WRITE: 4 * self._broken, STAT: 2}.get(kind, 0)
        self._kept.append(status(number, code, "resend: the disk is full" if code == 4 else ""))
        if self._silent in self.seen and RENAME not in self.seen:
            return b""
        out, self._kept = b"".join(self._kept), []
        return out


@asynccontextmanager
async def writing_to(server: Plain, version: str) -> AsyncIterator[Connection]:
    """A connection to it as the agent has it."""
    fsync = packet(2, struct.pack(">I", 3), text(b"fsync@openssh.com") + text(b"1"))
    settings = ReceiverSettings(stall_timeout=5)
    throttle = Throttle(MIB, clock=SYSTEM)
    async with connected(server, fsync, version) as conn:
        with ThreadPoolExecutor(1) as readers:
            made = Connection(conn, settings, throttle=throttle, clock=SYSTEM, readers=readers)
            await made.start()
            yield made
            await made.close()
        assert (throttle.used, throttle.backlog) == (0, 0)


@pytest.fixture
def body(tmp_path: Path) -> SpoolFile:
    """Three writes' worth."""
    data = bytes(90_000)
    (tmp_path / "segment").write_bytes(data)
    return SpoolFile(tmp_path / "segment", len(data), xxh3(data))


async def test_a_plain_server_is_asked_step_by_step(body: SpoolFile) -> None:
    """There, the writes are answered before the fsync is asked for, that before the close, that before the rename."""
    server = Plain()
    async with writing_to(server, "OpenSSH_9.2") as line:
        assert not line.ours
        await line.upload("/a/b/segment", body)
    assert [kind for kind in server.seen if kind != STAT] == [MKDIR, MKDIR, OPEN, *[WRITE] * 3, EXTENDED, CLOSE, RENAME]


@pytest.mark.parametrize("silent", [WRITE, EXTENDED, CLOSE])
async def test_a_plain_server_that_does_not_answer_is_not_asked_to_rename(body: SpoolFile, silent: int) -> None:
    """Write, fsync and close must each have their answer before the rename is sent."""
    server = Plain(silent=silent)
    async with writing_to(server, "OpenSSH_9.2") as line:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await line.upload("/segment", body)
    assert silent in server.seen
    assert RENAME not in server.seen


@pytest.mark.parametrize("size", [10_000, 90_000])
async def test_a_plain_server_is_not_asked_to_rename_what_it_could_not_write(tmp_path: Path, size: int) -> None:
    """After a failed write the file is closed and keeps its `.part`, for it would be renamed as it is."""
    (tmp_path / "segment").write_bytes(bytes(size))
    body = SpoolFile(tmp_path / "segment", size, xxh3(bytes(size)))
    server = Plain(broken=True)
    async with writing_to(server, "OpenSSH_9.2") as line:
        with pytest.raises(Resend, match="disk is full"):
            await line.upload("/segment", body)
        await wait_until_async(lambda: CLOSE in server.seen)
    assert RENAME not in server.seen
    assert EXTENDED not in server.seen


async def test_our_receiver_is_sent_everything_without_waiting(body: SpoolFile) -> None:
    """There, close and rename follow the writes before anything is answered, and no fsync is needed."""
    server = Plain(silent=WRITE)
    async with writing_to(server, "Hometape_0.1") as line:
        assert line.ours
        async with asyncio.timeout(10):
            await line.upload("/a/b/segment", body)
    assert server.seen == [OPEN, *[WRITE] * 3, CLOSE, RENAME]


async def test_our_receivers_reason_comes_out(body: SpoolFile) -> None:
    """What the answer to a write says counts, also when the rename behind it fares otherwise."""
    async with writing_to(Plain(broken=True, silent=WRITE), "Hometape_0.1") as line:
        with pytest.raises(Resend, match="disk is full"):
            await line.upload("/a/segment", body)
