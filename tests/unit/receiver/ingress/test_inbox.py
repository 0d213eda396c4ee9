"""Arrivals: written in order by threads, hashed on the way, void after the first failure, deleted when given up."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

import pytest

from receiver.ingress.inbox import WRITE_COST, Inbox
from tape.digest import xxh3
from tape.durable import DISK, Disk
from tape.errors import DiskError, DiskFull, SyncFailed
from tests.support import wait_until_async
from tests.support.disks import LINUX_ONLY, in_memory, plugged


class Failing(Disk):
    """A disk on which one kind of operation fails once, its first `after` times being fine."""

    def __init__(self, what: str, error: DiskError, after: int = 0) -> None:
        self._what, self._error, self._left = what, error, after

    def _maybe(self, what: str) -> None:
        if what == self._what:
            self._left -= 1
            if self._left == -1:
                raise self._error

    def create(self, path: Path) -> BinaryIO:
        self._maybe("create")
        return super().create(path)

    def write_all(self, file: BinaryIO, data: bytes | memoryview) -> None:
        self._maybe("write")
        super().write_all(file, data)

    def sync(self, file: BinaryIO) -> None:
        self._maybe("sync")
        super().sync(file)


@pytest.fixture
async def inbox(tmp_path: Path) -> AsyncIterator[Inbox]:
    """An open inbox on a good disk."""
    found = Inbox(tmp_path / "inbox", DISK)
    found.open()
    yield found
    await asyncio.to_thread(found.close)


@LINUX_ONLY
async def test_a_large_upload_fills_no_memory(tmp_path: Path) -> None:
    """Its megabytes go past the page cache, as our agents send them; those of small writes may stay in it."""
    content = os.urandom((3 << 20) + 5)
    with plugged(tmp_path):
        inbox = Inbox(tmp_path / "disk" / "inbox", DISK)
        inbox.open()
        for size, stays in ((1 << 20, False), (32_768, True)):
            arrival = inbox.arrive(lambda _count: None)
            for at in range(0, len(content), size):
                arrival.write(memoryview(content)[at : at + size])
            assert await arrival.finish() == ""
            await asyncio.to_thread(DISK.sync_path, arrival.path)
            assert in_memory(arrival.path) == stays
            assert arrival.path.read_bytes() == content
        await asyncio.to_thread(inbox.close)


async def test_bytes_arrive_whole_and_hashed(inbox: Inbox) -> None:
    """Many writes of many sizes; the file holds them all once `finish` has answered."""
    written: list[int] = []
    arrival = inbox.arrive(written.append)
    pieces = [os.urandom(size) for size in (1, 70_000, 3, 1 << 20, 5)] * 5
    for piece in pieces:
        arrival.write(memoryview(piece))
    assert await arrival.finish() == ""
    assert await arrival.finish() == "", "any number of times"
    content = b"".join(pieces)
    assert arrival.path.read_bytes() == content
    assert (arrival.size, arrival.digest) == (len(content), xxh3(content))
    await wait_until_async(lambda: sum(written) == len(content) + len(pieces) * WRITE_COST)


async def test_an_empty_upload_is_a_file_too(inbox: Inbox) -> None:
    """Nothing was written, and still there is something to commit."""
    arrival = inbox.arrive(lambda _size: None)
    assert await arrival.finish() == ""
    assert arrival.path.read_bytes() == b""
    assert arrival.digest == xxh3(b"")


@pytest.mark.skipif(os.name == "nt", reason="modes mean little on Windows")
async def test_files_are_private_and_their_names_tell_nothing(inbox: Inbox) -> None:
    """For the owner only, under a random name."""
    arrivals = [inbox.arrive(lambda _size: None) for _ in range(2)]
    for arrival in arrivals:
        await arrival.finish()
        assert stat.S_IMODE(arrival.path.stat().st_mode) == 0o600
        assert arrival.path.parent == inbox.folder
    assert stat.S_IMODE(inbox.folder.stat().st_mode) == 0o700
    assert arrivals[0].path.name != arrivals[1].path.name


async def test_a_file_that_is_there_is_never_opened(inbox: Inbox) -> None:
    """Creation is exclusive, whoever put it there."""
    arrival = inbox.arrive(lambda _size: None)
    arrival.path.write_bytes(b"planted")
    arrival.write(memoryview(b"new"))
    assert (await arrival.finish()).startswith("resend: ")
    assert arrival.path.read_bytes() == b"planted"


@pytest.mark.parametrize(
    ("disk", "why"),
    [
        (Failing("create", DiskFull("no space left")), "resend: no space left at the receiver"),
        (Failing("write", DiskFull("no space left"), 2), "resend: no space left at the receiver"),
        (Failing("write", DiskError("input/output error"), 1), "resend: the receiver could not store it"),
    ],
)
async def test_one_failed_write_voids_the_upload(tmp_path: Path, disk: Disk, why: str) -> None:
    """Later bytes are dropped though the disk would take them; the answer names no path."""
    inbox = Inbox(tmp_path / "inbox", disk)
    inbox.open()
    written: list[int] = []
    arrival = inbox.arrive(written.append)
    for _ in range(5):
        arrival.write(memoryview(b"12345"))
    assert await arrival.finish() == why
    await wait_until_async(lambda: sum(written) == 5 * (5 + WRITE_COST), what="the queue to be told as gone")
    arrival.discard()
    await asyncio.to_thread(inbox.close)
    assert not list(inbox.folder.iterdir())


async def test_a_failed_fsync_voids_the_upload(tmp_path: Path) -> None:
    """What the disk may have lost is not committed, though a second fsync would say OK."""
    inbox = Inbox(tmp_path / "inbox", Failing("sync", SyncFailed("fsync failed")))
    inbox.open()
    arrival = inbox.arrive(lambda _size: None)
    arrival.write(memoryview(b"12345"))
    assert (await arrival.sync()).startswith("resend: ")
    assert (await arrival.finish()).startswith("resend: ")
    await asyncio.to_thread(inbox.close)


async def test_sync_answers_after_the_bytes_are_there(inbox: Inbox) -> None:
    """It is queued behind the writes before it."""
    arrival = inbox.arrive(lambda _size: None)
    arrival.write(memoryview(bytes(1 << 20)))
    assert await arrival.sync() == ""
    assert arrival.path.stat().st_size == 1 << 20
    await arrival.finish()


async def test_what_is_given_up_is_deleted(inbox: Inbox) -> None:
    """In the middle of its writes, and after it was closed."""
    arrivals = [inbox.arrive(lambda _size: None) for _ in range(2)]
    for arrival in arrivals:
        arrival.write(memoryview(bytes(1 << 20)))
    await arrivals[0].finish()
    for arrival in arrivals:
        arrival.discard()
    await wait_until_async(lambda: not list(inbox.folder.iterdir()))


async def test_leftovers_are_deleted_at_the_start(inbox: Inbox) -> None:
    """Uploads of an earlier life, and nothing else."""
    for name in ("up-1", "up-2", "box.alpha.1", "other"):
        (inbox.folder / name).write_bytes(b"left")
    assert inbox.open() == 2
    assert sorted(path.name for path in inbox.folder.iterdir()) == ["box.alpha.1", "other"]
