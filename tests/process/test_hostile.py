"""A client with a stolen key tries everything: what is stored stays as it is, unread, and others are served."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tape.errors import StoreError
from tape.inventory import ROOT
from tape.inventory_pages import decode_entries
from tape.names import BundleName
from tests.support import rawsftp as raw
from tests.support import wait_until_async
from tests.support.ingress import EPOCH, STREAM, House, deliver, segment
from tests.support.rawsftp import RawSftp, Reply, raw_session

OLD = b"yesterday's ticks " * 1000
OLD_NAME = segment(OLD, 0)
OLD_PATH = f"/{STREAM}/{OLD_NAME}"
NEW = b"today's ticks " * 100
NEW_NAME = segment(NEW, 1)
NEW_PATH = f"/{STREAM}/{NEW_NAME}"
PART = f"{NEW_PATH}.part"
LEAKS = ("Traceback", "Uncaught", "Error", "errno", "/state", "inbox", "up-", ".py")


@dataclass
class Scene:
    """The hostile agent `alpha` with one session; yesterday's segment is stored."""

    house: House
    connection: asyncssh.SSHClientConnection
    sftp: RawSftp


@asynccontextmanager
async def scene(folder: Path, **limits: Any) -> AsyncIterator[Scene]:
    """A house with yesterday's segments of both agents; afterwards both are unharmed and all are served."""
    async with House(folder, **limits) as house:
        for agent in ("alpha", "beta"):
            async with house.sftp(agent) as client:
                await deliver(client, OLD)
        before = house.store.contents()
        async with house.connect("alpha") as connection:
            async with raw_session(connection) as sftp:
                yield Scene(house, connection, sftp)
            stored = house.store.contents()
            assert {path: stored.get(path) for path in before} == before, "yesterday was hurt"
            assert set(stored) == set(before), "something was stored that no honest upload brought"
            for agent in ("alpha", "beta"):
                async with house.sftp(agent) as client:
                    await deliver(client, b"honest " + agent.encode(), 7)
        await wait_until_async(lambda: not list(house.inbox.iterdir()), what="an empty inbox")


Attempt = Callable[[Scene], Awaitable[list[Reply]]]


def opening(path: str | bytes, flags: int = raw.WRITE_FLAG | raw.CREATE | raw.EXCLUSIVE) -> Attempt:
    """Try to open something."""

    async def attempt(at: Scene) -> list[Reply]:
        return [await at.sftp.open(path, flags)]

    return attempt


def asking(kind: int, *fields: bytes) -> Attempt:
    """Try a request without context."""

    async def attempt(at: Scene) -> list[Reply]:
        return [await at.sftp.ask(kind, *fields)]

    return attempt


def with_upload(then: Callable[[RawSftp, bytes], Awaitable[list[Reply]]], content: bytes = NEW) -> Attempt:
    """Begin an honest upload (written, not closed), then misbehave."""

    async def attempt(at: Scene) -> list[Reply]:
        handle = (await at.sftp.open(PART)).handle
        assert (await at.sftp.write(handle, 0, content)).code == raw.OK
        return await then(at.sftp, handle)

    return attempt


def renaming(old: str, new: str, *, posix: bool = False) -> Attempt:
    """Upload and close honestly, then rename badly."""

    async def attempt(sftp: RawSftp, handle: bytes) -> list[Reply]:
        await sftp.close(handle)
        if posix:
            name = raw.text("posix-rename@openssh.com")
            return [await sftp.ask(raw.EXTENDED, name, raw.text(old), raw.text(new))]
        return [await sftp.rename(old, new)]

    return with_upload(attempt)


def extended(name: str, *fields: bytes) -> Attempt:
    """Try an extended request."""
    return asking(raw.EXTENDED, raw.text(name), *fields)


def setting(kind: int, path: str, flags: int, *values: bytes) -> Attempt:
    """Try to set attributes."""
    return asking(kind, raw.text(path), raw.u32(flags), *values)


def sending(data: bytes) -> Attempt:
    """Send bytes that are no request."""

    async def attempt(at: Scene) -> list[Reply]:
        at.sftp.pour(data)
        return [(await at.sftp.receive())[1]]

    return attempt


async def _write_after_rename(sftp: RawSftp, handle: bytes) -> list[Reply]:
    """The old handle must be dead; here the rename is of a broken upload, so that nothing new is stored."""
    await sftp.write(handle, 0, b"rewound")
    await sftp.close(handle)
    renamed = await sftp.rename(PART, NEW_PATH)
    return [renamed, await sftp.write(handle, len(NEW), b"more"), await sftp.close(handle)]


async def _rename_while_open(sftp: RawSftp, handle: bytes) -> list[Reply]:
    return [await sftp.rename(PART, NEW_PATH)]


def _writing(offset: int, content: bytes = b"x") -> Attempt:
    async def attempt(sftp: RawSftp, handle: bytes) -> list[Reply]:
        bad = await sftp.write(handle, offset, content)
        closed = await sftp.close(handle)
        return [bad, closed, await sftp.rename(PART, NEW_PATH)]

    return with_upload(attempt)


def _on_handle(kind: int, *fields: bytes) -> Attempt:
    async def attempt(sftp: RawSftp, handle: bytes) -> list[Reply]:
        return [await sftp.ask(kind, raw.text(handle), *fields)]

    return with_upload(attempt)


async def _wrong_digest(sftp: RawSftp, handle: bytes) -> list[Reply]:
    await sftp.close(handle)
    return [await sftp.rename(PART, NEW_PATH)]


async def _other_bytes_same_number(at: Scene) -> list[Reply]:
    other = b"forged"
    path = f"/{STREAM}/{segment(other, 0)}"
    handle = (await at.sftp.open(path + ".part")).handle
    await at.sftp.write(handle, 0, other)
    await at.sftp.close(handle)
    reply = await at.sftp.rename(path + ".part", path)
    assert reply.message.startswith("conflict: ")
    return [reply]


async def _other_sessions_upload(at: Scene) -> list[Reply]:
    async with raw_session(at.connection) as other:
        handle = (await other.open(PART)).handle
        await other.write(handle, 0, NEW)
        await other.close(handle)
        stat = await at.sftp.ask(raw.STAT, raw.text(PART))
        return [stat, await at.sftp.rename(PART, NEW_PATH), await at.sftp.write(handle, len(NEW), b"x")]


async def _too_many_handles(at: Scene) -> list[Reply]:
    for seq in range(100, 100 + 64):
        assert (await at.sftp.open(f"/{STREAM}/{segment(b'', seq)}.part")).kind == raw.HANDLE
    return [await at.sftp.open(f"/{STREAM}/{segment(b'', 999)}.part")]


async def _too_many_receipts(at: Scene) -> list[Reply]:
    path = f"/.receipts/{STREAM}.json"
    for _ in range(4):
        assert (await at.sftp.open(path, raw.READ_FLAG)).kind == raw.HANDLE
    return [await at.sftp.open(path, raw.READ_FLAG)]


async def _too_many_pages(at: Scene) -> list[Reply]:
    """At once, so that those still being made count too."""
    path = f"/.inventory/{STREAM}/{EPOCH}"
    for _ in range(8):
        at.sftp.send(raw.OPEN, raw.text(path), raw.u32(raw.READ_FLAG), raw.NO_ATTRS)
    replies = [(await at.sftp.receive())[1] for _ in range(8)]
    opened = [reply for reply in replies if reply.kind == raw.HANDLE]
    assert len(opened) <= 4, "more pages were made at a time than one session may have"
    assert opened, "not even one page could be opened"
    stat = await at.sftp.ask(raw.STAT, raw.text(path))
    return [*(reply for reply in replies if reply.kind != raw.HANDLE), stat]


async def _write_to_page(at: Scene) -> list[Reply]:
    handle = (await at.sftp.open("/.inventory/root", raw.READ_FLAG)).handle
    return [
        await at.sftp.write(handle, 0, b"forged"),
        await at.sftp.ask(raw.READDIR, raw.text(handle)),
        await at.sftp.ask(raw.FSETSTAT, raw.text(handle), raw.u32(1), raw.u64(0)),
    ]


async def _write_to_receipt(at: Scene) -> list[Reply]:
    handle = (await at.sftp.open(f"/.receipts/{STREAM}.json", raw.READ_FLAG)).handle
    return [await at.sftp.write(handle, 0, b"forged")]


async def _twice_open(sftp: RawSftp, handle: bytes) -> list[Reply]:
    return [await sftp.open(PART)]


N = NEW_NAME
STRANGE_PATHS: list[str | bytes] = [
    f"../{N}.part", f"/../{N}.part", "/../../etc/passwd", f"/a/../b/{N}.part", f"/a/./{N}.part", f"//a/{N}.part",
    f"/a//{N}.part", f"\\a\\{N}.part", f"/a\\..\\b/{N}.part", f"/c:/a/{N}.part", f"/a:hidden/{N}.part",
    f"/a/{N}.part:hidden", f"/con/{N}.part", f"/a/nul/{N}.part", f"/aux.txt/{N}.part", f"/com1/{N}.part",
    f"/lpt9.log/{N}.part", f"/a./{N}.part", f"/a /{N}.part", f"/ a/{N}.part", f"/A/{N}.part", f"/BiNance/{N}.part",
    f"/\u00e4/{N}.part", f"/a\u0308/{N}.part", f"/\uff41/{N}.part", f"/\u0430/{N}.part", f"/a\u202e/{N}.part",
    f"/a\0b/{N}.part", f"/a/{N}.part\0.txt", f"/a\n/{N}.part", b"/a/\xff\xfe.part", f"/a/{str(N).upper()}.part",
    f"/{N}.part", f"/.receipts/{N}.part", "/.receipts/a.json", f"/.bundles/{N}.part", "/.bundles/x.bundle.part",
    f"/.bundles/../a/{N}.part", f"/.bundles/a/{BundleName(EPOCH, N.digest)}.part", "/.inventory/a/" + EPOCH,
    "/.inventory/root.part", f"/.inventory/{N}.part", f"/.inventory/{STREAM}/{EPOCH}/b0.part",
    f"/.inventory/{STREAM}/{EPOCH}/{N}.part", "/.inventory/index-" + EPOCH,
    "/.ssh/authorized_keys", "/etc/passwd.part", "/etc/shadow", f"/{'/'.join('abcdefghi')}/{N}.part",
    f"/{'x' * 65}/{N}.part", f"/{'y' * 60}/{'y' * 60}/{'y' * 60}/{'y' * 60}/{N}.part", f"/{'z' * 5000}",
    f"/a/{EPOCH}-1-{N.digest}.parquet.part", f"/a/{N}.part.part", f"/a/{EPOCH}-{0:012d}-{N.digest}.part.part",
    f"/a/{N}.part/", f"/a/{N}", f"~/{N}.part", f"/$(touch x)/{N}.part", f"/-rf/{N}.part", f"/a*/{N}.part", "", "/", ".",
]  # fmt: skip

STRANGE_PAGES = [
    "/.inventory", "/.inventory/", "/.inventory/beta/root", "/.inventory/../beta/root", "/.inventory/index/../root",
    f"/.inventory/beta/{STREAM}/{EPOCH}", f"/.inventory/{STREAM}/{'f' * 16}", f"/.inventory/no/such/{EPOCH}",
    f"/.inventory/{STREAM}/{EPOCH}/7", f"/.inventory/{STREAM}/{EPOCH}/b7", f"/.inventory/{STREAM}/{EPOCH}/b-1",
    f"/.inventory/{STREAM}/{EPOCH}/b00", f"/.inventory/{STREAM}/{EPOCH}/b{1 << 64}", f"/.inventory/{STREAM}/{EPOCH}/*",
    f"/.inventory/{STREAM}/*/b0", f"/.inventory/{STREAM}' OR 1=1 --/{EPOCH}", f"/.inventory/{STREAM}/{EPOCH}/b0\0",
    f"/.inventory/{STREAM}/{EPOCH}/{N}", f"/.inventory/index-{'f' * 16}", "/.inventory/index-*", "/.inventory/index-",
]  # fmt: skip

ONE_TIB = 1 << 40
ATTEMPTS: dict[str, Attempt] = {
    **{f"open {path!r}"[:60] + f" #{i}": opening(path) for i, path in enumerate(STRANGE_PATHS)},
    "overwrite what is stored": opening(OLD_PATH, raw.WRITE_FLAG | raw.CREATE | raw.TRUNCATE),
    "write into what is stored": opening(OLD_PATH, raw.WRITE_FLAG),
    "append to what is stored": opening(OLD_PATH, raw.WRITE_FLAG | raw.APPEND),
    "read what is stored": opening(OLD_PATH, raw.READ_FLAG),
    "read and write what is stored": opening(OLD_PATH, raw.READ_FLAG | raw.WRITE_FLAG),
    "append to an upload": opening(PART, raw.WRITE_FLAG | raw.CREATE | raw.APPEND),
    "read an upload": opening(PART, raw.READ_FLAG),
    "open an upload for reading too": opening(PART, raw.READ_FLAG | raw.WRITE_FLAG | raw.CREATE),
    "open without creating": opening(PART, raw.WRITE_FLAG),
    "open with no flags": opening(PART, 0),
    "open with all flags": opening(PART, 0xFFFFFFFF),
    "write a receipt": opening(f"/.receipts/{STREAM}.json", raw.WRITE_FLAG | raw.CREATE),
    "read a receipt of nothing": opening("/.receipts/no/such.json", raw.READ_FLAG),
    "open an open upload again": with_upload(_twice_open),
    "write through a receipt's handle": _write_to_receipt,
    "too many handles": _too_many_handles,
    "too many receipts": _too_many_receipts,
    "too many pages of the inventory": _too_many_pages,
    "write through a page's handle": _write_to_page,
    "write a page of the inventory": opening("/.inventory/root", raw.WRITE_FLAG | raw.CREATE),
    "read and write a page": opening("/.inventory/root", raw.READ_FLAG | raw.WRITE_FLAG),
    **{f"read the page {path}"[:60]: opening(path, raw.READ_FLAG) for path in STRANGE_PAGES},
    "list the inventory": asking(raw.OPENDIR, raw.text("/.inventory")),
    "list an epoch's inventory": asking(raw.OPENDIR, raw.text(f"/.inventory/{STREAM}/{EPOCH}")),
    "delete a page": asking(raw.REMOVE, raw.text("/.inventory/root")),
    "rename into the inventory": renaming(PART, f"/.inventory/{STREAM}/{EPOCH}"),
    "rename a page": renaming("/.inventory/root", f"/{STREAM}/{N}"),
    "write a sparse terabyte": _writing(ONE_TIB),
    "write behind a gap": _writing(len(NEW) + 1),
    "rewind": _writing(0),
    "overwrite the last byte": _writing(len(NEW) - 1),
    "write at a negative offset": _writing((1 << 64) - 1),
    "write so that the end wraps": _writing((1 << 64) - 4, b"eight..."),
    "read back": _on_handle(raw.READ, raw.u64(0), raw.u32(100)),
    "truncate an open upload": _on_handle(raw.FSETSTAT, raw.u32(1), raw.u64(0)),
    "stretch an open upload": _on_handle(raw.FSETSTAT, raw.u32(1), raw.u64(ONE_TIB)),
    "give an open upload away": _on_handle(raw.FSETSTAT, raw.u32(2), raw.u32(0), raw.u32(0)),
    "list an upload": _on_handle(raw.READDIR),
    "lock an upload": _on_handle(raw.BLOCK, raw.u64(0), raw.u64(0), raw.u32(0)),
    "close twice": _on_handle(raw.BLOCK),
    "write through an old handle": with_upload(_write_after_rename),
    "rename while open": with_upload(_rename_while_open),
    "rename bytes that do not fit the name": with_upload(_wrong_digest, b"something else"),
    "other bytes under a number that is held": _other_bytes_same_number,
    "touch another session's upload": _other_sessions_upload,
    "write without a handle": asking(raw.WRITE, raw.text(b""), raw.u64(0), raw.text(b"x")),
    "write to a guessed handle": asking(raw.WRITE, raw.text(bytes(8)), raw.u64(0), raw.text(b"x")),
    "close a guessed handle": asking(raw.CLOSE, raw.text(bytes(8))),
    "read a guessed handle": asking(raw.READ, raw.text(bytes(8)), raw.u64(0), raw.u32(10)),
    "fstat a guessed handle": asking(raw.FSTAT, raw.text(bytes(8))),
    "rename what is stored": renaming(OLD_PATH, NEW_PATH),
    "rename onto what is stored": renaming(PART, OLD_PATH),
    "rename onto what is stored, the posix way": renaming(PART, OLD_PATH, posix=True),
    "rename what is stored back": renaming(OLD_PATH, f"{OLD_PATH}.part"),
    "rename to another stream": renaming(PART, f"/other/{N}"),
    "rename to itself": renaming(PART, PART),
    "rename into the bundles": renaming(PART, f"/.bundles/{BundleName(EPOCH, N.digest)}"),
    "rename into the receipts": renaming(PART, f"/.receipts/{STREAM}.json"),
    "rename out of the house": renaming(PART, f"/../{N}"),
    "rename a folder": renaming("/binance", "/coinbase"),
    "rename what is not there": renaming(f"/{STREAM}/{segment(b'?', 5)}.part", f"/{STREAM}/{segment(b'?', 5)}"),
    "truncate what is stored": setting(raw.SETSTAT, OLD_PATH, 1, raw.u64(0)),
    "lock what is stored away": setting(raw.SETSTAT, OLD_PATH, 4, raw.u32(0)),
    "age what is stored": setting(raw.SETSTAT, OLD_PATH, 8, raw.u32(0), raw.u32(0)),
    "set a folder's mode": setting(raw.SETSTAT, "/binance", 4, raw.u32(0)),
    "delete what is stored": asking(raw.REMOVE, raw.text(OLD_PATH)),
    "delete a receipt": asking(raw.REMOVE, raw.text(f"/.receipts/{STREAM}.json")),
    "delete a folder": asking(raw.RMDIR, raw.text("/binance")),
    "list the root": asking(raw.OPENDIR, raw.text("/")),
    "list a stream": asking(raw.OPENDIR, raw.text(f"/{STREAM}")),
    "list the receipts": asking(raw.OPENDIR, raw.text("/.receipts")),
    "go on listing": asking(raw.READDIR, raw.text(bytes(8))),
    "stat what is stored": asking(raw.STAT, raw.text(OLD_PATH)),
    "lstat what is stored": asking(raw.LSTAT, raw.text(OLD_PATH)),
    "stat the host": asking(raw.STAT, raw.text("/home/x/.ssh/id_ed25519")),
    "stat above": asking(raw.STAT, raw.text("/..")),
    "resolve a path above": asking(raw.REALPATH, raw.text("/../../etc")),
    "make a folder above": asking(raw.MKDIR, raw.text("/../x"), raw.NO_ATTRS),
    "make a strange folder": asking(raw.MKDIR, raw.text("/CON"), raw.NO_ATTRS),
    "read a link": asking(raw.READLINK, raw.text(OLD_PATH)),
    "make a link": asking(raw.SYMLINK, raw.text("/etc/passwd"), raw.text(f"/{STREAM}/link")),
    "make a hard link": extended("hardlink@openssh.com", raw.text(OLD_PATH), raw.text(NEW_PATH)),
    "make a link, version 6": asking(raw.LINK, raw.text("/a"), raw.text(OLD_PATH), b"\1"),
    "unlock": asking(raw.UNBLOCK, raw.text(bytes(8)), raw.u64(0), raw.u64(0)),
    "ask for free space": extended("statvfs@openssh.com", raw.text("/")),
    "ask for free space by handle": extended("fstatvfs@openssh.com", raw.text(bytes(8))),
    "copy on the server": extended(
        "copy-data", raw.text(bytes(8)), raw.u64(0), raw.u64(0), raw.text(bytes(8)), raw.u64(0)
    ),
    "ask for ranges": extended("ranges@asyncssh.com", raw.text(bytes(8)), raw.u64(0), raw.u64(100)),
    "set attributes of a link": extended("lsetstat@openssh.com", raw.text(OLD_PATH), raw.u32(1), raw.u64(0)),
    "expand a path": extended("expand-path@openssh.com", raw.text("~beta")),
    "ask for a home": extended("home-directory", raw.text("beta")),
    "ask for users": extended("users-groups-by-id@openssh.com", raw.text(raw.u32(0)), raw.text(b"")),
    "ask for a digest": extended("check-file-name", raw.text(OLD_PATH), raw.text("md5"), raw.u64(0), raw.u64(0)),
    "fsync a guessed handle": extended("fsync@openssh.com", raw.text(bytes(8))),
    "an extension that is none": extended("x" * 1000),
    "a request of no kind": asking(99),
    "an answer as a request": asking(101, raw.u32(0)),
    "a second greeting": sending(struct.pack(">IBI", 5, 1, 3)),
    "an empty packet": sending(struct.pack(">I", 0)),
    "a packet of four gigabytes": sending(struct.pack(">I", 0xFFFFFFFF)),
    "a packet over the limit": sending(struct.pack(">IB", (1 << 20) + 1025, raw.WRITE)),
    "a packet that ends in a number": sending(struct.pack(">IBI", 5, raw.OPEN, 7)),
    "a string longer than its packet": sending(struct.pack(">IBII", 9, raw.STAT, 7, 0xFFFFFFF0)),
    "bytes behind a request": sending(struct.pack(">IBII", 13, raw.STAT, 7, 0) + b"more"),
}


@pytest.mark.parametrize("what", ATTEMPTS)
async def test_an_attempt_is_refused(what: str, tmp_path: Path) -> None:
    """The attempt gains nothing, tells nothing, hurts nothing, and the next honest upload works."""
    async with scene(tmp_path) as at:
        for reply in await ATTEMPTS[what](at):
            assert reply.refused, f"{what}: {reply}"
            assert not [leak for leak in LEAKS if leak in reply.message], reply


def test_there_are_many_attempts() -> None:
    """The table is not empty by mistake."""
    assert len(ATTEMPTS) > 130


async def test_what_is_stored_can_not_be_told_from_what_is_not(tmp_path: Path) -> None:
    """Every way of asking about a delivered segment gives the very answer that one never delivered gives."""
    never = f"/{STREAM}/{segment(b'never', 0)}"
    async with scene(tmp_path) as at:
        for kind in (raw.STAT, raw.LSTAT):
            assert await at.sftp.ask(kind, raw.text(OLD_PATH)) == await at.sftp.ask(kind, raw.text(never))
        for flags in (raw.READ_FLAG, raw.WRITE_FLAG, raw.WRITE_FLAG | raw.CREATE):
            assert await at.sftp.open(OLD_PATH, flags) == await at.sftp.open(never, flags)
        assert await at.sftp.ask(raw.STAT, raw.text("/no/such")) == await at.sftp.ask(raw.STAT, raw.text(f"/{STREAM}"))
        taken = [await at.sftp.rename(f"{path}.part", path) for path in (OLD_PATH, never)]
        assert taken[0] == taken[1]
        for path in (OLD_PATH, never):
            reply = await at.sftp.open(f"{path}.part")
            assert reply.kind == raw.HANDLE


async def test_the_inventory_shows_an_agent_its_own_and_nothing_else(tmp_path: Path) -> None:
    """What another agent delivers changes no page; of its streams and epochs there is nothing to be seen."""
    async with scene(tmp_path) as at:
        pages = [str(ROOT), f"/.inventory/index-{EPOCH}", f"/.inventory/{STREAM}/{EPOCH}/b0"]
        before = [await at.sftp.fetch(path) for path in pages]
        assert decode_entries(0, before[-1]) == {0: bytes.fromhex(OLD_NAME.digest)}
        other = tmp_path / "store" / "beta" / "secret" / str(segment(b"of beta", 3, epoch="b" * 16))
        other.parent.mkdir()
        other.write_bytes(b"of beta")
        try:
            assert [await at.sftp.fetch(path) for path in pages] == before
            for path in ("/.inventory/index-" + "b" * 16, f"/.inventory/secret/{'b' * 16}"):
                assert (await at.sftp.open(path, raw.READ_FLAG)).code == raw.NO_SUCH_FILE
                assert (await at.sftp.ask(raw.STAT, raw.text(path))).code == raw.NO_SUCH_FILE
        finally:
            other.unlink()


async def test_a_page_that_can_not_be_made_is_asked_for_again(tmp_path: Path) -> None:
    """A failing catalog is not an empty one: the agent is told to come back, and nothing of the reason."""
    async with scene(tmp_path) as at:
        at.house.store.error = StoreError("/state/catalog.db is damaged")
        reply = await at.sftp.open("/.inventory/root", raw.READ_FLAG)
        assert (reply.code, reply.message.partition(":")[0]) == (raw.FAILURE, "resend")
        assert not [leak for leak in LEAKS if leak in reply.message]
        at.house.store.error = None
        assert await at.sftp.fetch("/.inventory/root")


async def test_an_upload_larger_than_allowed_is_refused(tmp_path: Path) -> None:
    """The write that crosses the limit fails, and so do close and rename, with a reason to give up."""
    async with scene(tmp_path, max_segment=100_000) as at:
        handle = (await at.sftp.open(PART)).handle
        assert (await at.sftp.write(handle, 0, bytes(100_000))).code == raw.OK
        for reply in (
            await at.sftp.write(handle, 100_000, b"x"),
            await at.sftp.close(handle),
            await at.sftp.rename(PART, NEW_PATH),
        ):
            assert reply.code == raw.FAILURE
            assert reply.message.startswith("refused: "), reply


async def test_unfinished_uploads_share_a_limit(tmp_path: Path) -> None:
    """Many uploads under way hold a few times the largest one at most, over all sessions of the agent."""
    async with scene(tmp_path, max_segment=100_000) as at:
        replies = []
        for seq in range(5):
            handle = (await at.sftp.open(f"/{STREAM}/{segment(b'', seq)}.part")).handle
            replies.append(await at.sftp.write(handle, 0, bytes(100_000)))
        assert [reply.code for reply in replies] == [raw.OK] * 4 + [raw.FAILURE]
        assert replies[-1].message.startswith("resend: ")


async def test_a_used_up_quota_refuses_uploads_and_says_to_come_back(tmp_path: Path) -> None:
    """No upload begins once the quota is full; one that would cross it fails."""
    house = House(tmp_path, quota_bytes=1000, stored=900)
    async with house, house.connect() as connection, raw_session(connection) as sftp:
        handle = (await sftp.open(PART)).handle
        assert (await sftp.write(handle, 0, bytes(100))).code == raw.OK
        assert (await sftp.write(handle, 100, b"x")).message.startswith("resend: ")
        assert (await sftp.open(OLD_PATH + ".part")).message.startswith("resend: ")


# ------------------------------------------------------------------------------------------------ SSH


async def _denied(at: Scene, **options: Any) -> None:
    with pytest.raises((asyncssh.PermissionDenied, asyncssh.ConnectionLost, asyncssh.DisconnectError)):
        async with at.house.connect(**options):
            pass


LOGINS: dict[str, Callable[[House], dict[str, Any]]] = {
    "another agent's name": lambda house: {"agent": "beta", "client_keys": [house.keys["alpha"]]},
    "a name nobody has": lambda house: {"agent": "gamma", "client_keys": [house.keys["alpha"]]},
    "root": lambda house: {"agent": "root", "client_keys": [house.keys["alpha"]]},
    "no name": lambda house: {"agent": "", "client_keys": [house.keys["alpha"]]},
    "a new key": lambda _house: {"client_keys": [asyncssh.generate_private_key("ssh-ed25519")]},
    "no key": lambda _house: {"client_keys": []},
    "the host's own key": lambda house: {"client_keys": [house.host_key]},
    "a password": lambda _house: {"client_keys": [], "password": "secret"},
}


@pytest.mark.parametrize("what", LOGINS)
async def test_a_login_is_refused(what: str, tmp_path: Path) -> None:
    """Only an agent's own name with that agent's own key gets in."""
    async with scene(tmp_path) as at:
        await _denied(at, **LOGINS[what](at.house))


CHANNELS: dict[str, dict[str, Any]] = {
    "a shell": {},
    "a terminal": {"term_type": "xterm", "request_pty": "force"},
    "a terminal for sftp": {"term_type": "xterm", "request_pty": "force", "subsystem": "sftp"},
    "a command": {"command": "cat /etc/passwd"},
    "scp": {"command": "scp -t /"},
    "the sftp program": {"command": "internal-sftp"},
    "another subsystem": {"subsystem": "netconf"},
    "a subsystem without a name": {"subsystem": ""},
    "a subsystem in capitals": {"subsystem": "SFTP"},
}


@pytest.mark.parametrize("what", CHANNELS)
async def test_a_channel_for_anything_but_sftp_is_refused(what: str, tmp_path: Path) -> None:
    """No terminal, shell, command or other subsystem."""
    async with scene(tmp_path) as at:
        with pytest.raises(asyncssh.ChannelOpenError):
            await at.connection.open_session(**CHANNELS[what])


async def _direct(connection: asyncssh.SSHClientConnection) -> None:
    await connection.open_connection("127.0.0.1", 22)


async def _remote(connection: asyncssh.SSHClientConnection) -> None:
    await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", 22)


async def _unix(connection: asyncssh.SSHClientConnection) -> None:
    await connection.open_unix_connection("/var/run/docker.sock")


async def _remote_unix(connection: asyncssh.SSHClientConnection) -> None:
    await connection.forward_remote_path("hometape-test.sock", "elsewhere.sock")


async def _tunnel(connection: asyncssh.SSHClientConnection) -> None:
    await connection.create_tun(asyncssh.SSHTunTapSession)


async def _x11(connection: asyncssh.SSHClientConnection) -> None:
    await connection.open_session(subsystem="sftp", x11_forwarding=True, x11_display="127.0.0.1:7", x11_auth_path="x")


@pytest.mark.parametrize("forward", [_direct, _remote, _unix, _remote_unix, _tunnel, _x11])
async def test_nothing_is_forwarded(
    forward: Callable[[asyncssh.SSHClientConnection], Awaitable[None]], tmp_path: Path
) -> None:
    """No port, socket, tunnel or display, in either direction."""
    async with scene(tmp_path) as at:
        with pytest.raises((asyncssh.ChannelOpenError, asyncssh.ChannelListenError, OSError)):
            await forward(at.connection)


async def test_sessions_of_an_agent_are_limited_over_all_connections(tmp_path: Path) -> None:
    """The one too many is refused, on a second connection too; another agent's are not touched."""
    async with House(tmp_path, max_sessions=4) as house, house.connect() as one, house.connect() as two:
        held = [await one.start_sftp_client() for _ in range(3)] + [await two.start_sftp_client()]
        for connection in (one, two):
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.start_sftp_client()
        async with house.sftp("beta") as client:
            await deliver(client, OLD)
        held[0].exit()
        await held[0].wait_closed()
        async with two.start_sftp_client() as client:
            await deliver(client, OLD)


async def test_channels_that_never_become_sessions_count_and_are_given_back(tmp_path: Path) -> None:
    """A refused shell frees its place again: a thousand of them lock nobody out."""
    async with House(tmp_path, max_sessions=2) as house, house.connect() as connection:
        for _ in range(20):
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.open_session(command="sh")
        async with connection.start_sftp_client() as client:
            await deliver(client, OLD)


async def test_piled_up_environment_ends_the_connection(tmp_path: Path) -> None:
    """Settings are not kept without end."""
    async with House(tmp_path) as house, house.connect() as connection:
        await connection.open_session(subsystem="sftp", env={f"V{n}": "x" * 100 for n in range(100)}, encoding=None)
        await asyncio.wait_for(connection.wait_closed(), 20)
