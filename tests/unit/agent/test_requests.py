"""The client's half of SFTP against servers that answer as they please."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from agent import requests
from agent.requests import Requests
from tape.clock import SYSTEM
from tape.errors import HometapeError, LinkError, NotFound, Refused, Resend, Unsupported
from tests.support import wait_until_async
from tests.unit.agent.scripted import VERSION, Answer, connected, packet, status, text


@asynccontextmanager
async def talking_to(answer: Answer, greeting: bytes = VERSION) -> AsyncIterator[Requests]:
    """A session with such a server."""
    async with connected(answer, greeting) as conn:
        made = Requests(SYSTEM, lambda: "")
        await made.begin(conn)
        yield made


@pytest.mark.parametrize(
    ("code", "message", "kind", "says"),
    [
        (2, "No such file", NotFound, "No such file"),
        (2, "", NotFound, "no such file"),
        (8, "Operation unsupported", Unsupported, "unsupported"),
        (4, "refused: its footer can't be read", Refused, "refused: its footer"),
        (4, "conflict: other bytes are held", Refused, "conflict: other"),
        (4, "resend: no space left", Resend, "resend: no space left"),
        (4, "Failure", Resend, "failure"),
        (3, "Permission denied", Resend, "permission denied"),
        (77, "", Resend, "with code 77 and no reason"),
    ],
)
async def test_errors_become_ours(code: int, message: str, kind: type[HometapeError], says: str) -> None:
    """Each kind of error answer is the error that the delivery acts on, with the server's reason."""
    async with talking_to(lambda _, number, __: status(number, code, message)) as client:
        with pytest.raises(kind, match=says) as caught:
            await client.rename("/a.part", "/a")
        assert type(caught.value) is kind
        with pytest.raises(kind):
            await client.open("/a", requests.READ)


async def test_requests_leave_in_order_and_at_once() -> None:
    """What is called first is sent first, before anything is awaited, and answers may come in any order."""
    seen: list[int] = []
    numbers: list[int] = []

    def answer(kind: int, number: int, _: bytes) -> bytes:
        seen.append(kind)
        numbers.append(number)
        return b"".join(status(n, 0) for n in reversed(numbers)) if len(numbers) == 4 else b""

    async with talking_to(answer) as client:
        going = [
            client.write(b"h", 0, b"x" * 1000),
            client.write(b"h", 1000, b"y"),
            client.close(b"h"),
            client.rename("/p", "/f"),
        ]
        assert client.waiting == 4
        await asyncio.gather(*going)
        assert seen == [6, 6, 4, 18]
        assert client.waiting == 0


@pytest.mark.parametrize(
    "reply",
    [
        lambda number: status(number + 1000, 0),
        lambda _: b"\xff\xff\xff\xff" + bytes(20),
        lambda _: struct.pack(">I", 1) + b"e",
        lambda number: packet(101, struct.pack(">I", number), b"\0"),
        lambda number: packet(102, struct.pack(">I", number), b"\0\0\xff\xffabc"),
        lambda number: packet(250, struct.pack(">I", number)),
        lambda number: status(number, 0),
        lambda _: b"hang up",
    ],
    ids=["number", "huge", "tiny", "short", "cut", "kind", "ok", "gone"],
)
async def test_nonsense_ends_the_session_and_nothing_hangs(reply: Callable[[int], bytes]) -> None:
    """An answer that makes no sense is a LinkError for all that waits and all that follows."""

    def answer(kind: int, number: int, _: bytes) -> bytes:
        return reply(number) if kind == 3 else b""

    async with talking_to(answer) as client:
        other = client.write(b"h", 0, b"x")
        with pytest.raises(LinkError):
            await asyncio.wait_for(client.open("/a.part", requests.WRITE), 10)
        with pytest.raises(LinkError):
            await asyncio.wait_for(other, 10)
        with pytest.raises(LinkError):
            await client.size("/a")
        assert client.waiting == 0


async def test_extensions_are_used_only_where_they_are_offered() -> None:
    """Without `limits@openssh.com` the size every server takes is used; with it, what it says."""
    async with talking_to(lambda *_: b"") as client:
        assert client.max_write == 32 * 1024
        assert not client.can_sync
    both = [text(name) + text(b"1") for name in (b"fsync@openssh.com", b"limits@openssh.com")]

    def answer(_: int, number: int, __: bytes) -> bytes:
        return packet(201, struct.pack(">IQQQQ", number, 300_000, 200_000, 100_000, 5))

    async with talking_to(answer, packet(2, struct.pack(">I", 3), *both)) as client:
        assert client.max_write == 100_000
        assert client.can_sync


@pytest.mark.parametrize("greeting", [packet(2, struct.pack(">I", 2)), packet(2, b"\0\0\0\3\0\0\0\x09abc"), b"\0\0"])
async def test_a_greeting_that_makes_no_sense_is_a_link_error(greeting: bytes) -> None:
    """An old version, a greeting cut short, or none at all: an error, or a wait that its caller bounds."""
    with pytest.raises((LinkError, TimeoutError)):
        async with asyncio.timeout(1), talking_to(lambda *_: b"", greeting):
            pass


async def test_an_answer_nobody_waits_for_any_more_is_dropped() -> None:
    """Giving up on a request leaves the session whole."""
    held: list[bytes] = []

    def answer(kind: int, number: int, _: bytes) -> bytes:
        if kind == 17:
            held.append(status(number, 2))
            return b""
        return b"".join(held) + status(number, 0)

    async with talking_to(answer) as client:
        asked = client.size("/a")
        await wait_until_async(lambda: held)
        asked.cancel()
        await client.mkdir("/b")
        assert client.waiting == 0
