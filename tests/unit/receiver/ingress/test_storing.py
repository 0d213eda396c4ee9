"""Bundles on their way in: each segment into a file of its own as its bytes come, or all of it kept as one file."""

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver.ingress.inbox import Inbox
from receiver.ingress.storing import Room, Split
from receiver.model import Pieces
from tape.bundle import MAGIC
from tape.digest import xxh3
from tape.durable import DISK, Disk
from tape.errors import DiskError, DiskFull
from tape.names import BundleName
from tests.support import wait_until_async
from tests.support.ingress import EPOCH, bundled, segment
from tests.unit.receiver.ingress.test_inbox import Failing

DATA = (b"one", b"two" * 50_000, b"3", b"four" * 9)


def made(folder: Path, datas: tuple[bytes, ...] = DATA) -> tuple[BundleName, bytes]:
    """A bundle of such segments."""
    return bundled(folder, [(f"s/{len(data) % 3}", segment(data, seq), data) for seq, data in enumerate(datas)])


def feed(store: Split, content: bytes, sizes: list[int]) -> None:
    """Write all of it in pieces of these sizes, over and over."""
    at, number = 0, 0
    while at < len(content):
        size = sizes[number % len(sizes)]
        store.write(memoryview(content)[at : at + size])
        at, number = at + size, number + 1


def split(folder: Path, name: BundleName, room: Room | None = None, disk: Disk = DISK) -> Split:
    """A store for that bundle, with room of its own."""
    return Split(folder / "up-0", disk, name, room or Room())


def read(pieces: Pieces | None) -> list[bytes]:
    """The bytes of what a bundle was taken apart into; every digest is that of the bytes."""
    assert pieces is not None
    datas = [piece.path.read_bytes() for piece in pieces.found]
    assert [piece.digest for piece in pieces.found] == [xxh3(data) for data in datas]
    assert [piece.size for piece in pieces.found] == [len(data) for data in datas]
    return datas


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 700), min_size=1, max_size=6))
def test_a_bundle_is_taken_apart_however_its_bytes_come(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    """Its head may end, and a segment begin, anywhere in a write; nothing lies where the bundle would."""
    folder = tmp_path_factory.mktemp("inbox")
    datas = (b"a", b"bc" * 300, b"d" * 700, b"e")
    name, content = made(folder, datas)
    store = split(folder, name)
    feed(store, content, sizes)
    store.end()
    pieces = store.pieces()
    assert read(pieces) == list(datas)
    assert pieces is not None
    assert (pieces.digest, pieces.problem) == (name.digest, "")
    assert [(piece.stream, piece.name) for piece in pieces.found] == [
        (f"s/{len(data) % 3}", segment(data, seq)) for seq, data in enumerate(datas)
    ]
    assert not store.path.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"no bundle", MAGIC[:5], MAGIC, MAGIC + b"\0\0\0\0", MAGIC + struct.pack(">I", 5000),
        MAGIC + struct.pack(">IH", 1, 9) + b"/../../x " + bytes(8), MAGIC + struct.pack(">IH", 3, 60) + b"/s/",
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_what_can_not_be_taken_apart_is_kept_as_it_came(tmp_path: Path, content: bytes, size: int) -> None:
    """A head that is no head, or not whole: one file with all the bytes, for the commit to say what is wrong."""
    room = Room(8)
    store = split(tmp_path, BundleName(EPOCH, "0" * 32), room)
    feed(store, content + b"more" * 100 if len(content) > 20 else content, [size])
    store.end()
    assert store.pieces() is None
    assert store.path.read_bytes().startswith(content)
    assert [path.name for path in tmp_path.iterdir()] == ["up-0"]
    store.let_go()
    assert room.take(8), "all of it is free again"


@pytest.mark.parametrize(("change", "problem"), [(b"!", "the file holds 150041"), (-1, "the file holds 150039")])
def test_too_many_bytes_or_too_few_are_told(tmp_path: Path, change: bytes | int, problem: str) -> None:
    """The head tells how many there have to be."""
    name, content = made(tmp_path)
    store = split(tmp_path, name)
    feed(store, content + change if isinstance(change, bytes) else content[:change], [1000])
    store.end()
    pieces = store.pieces()
    assert pieces is not None
    assert problem in pieces.problem
    assert set(tmp_path.iterdir()) == {piece.path for piece in pieces.found}, "no file is nobody's"
    store.delete()
    assert not list(tmp_path.iterdir())


def test_there_is_room_for_so_many_segments_at_a_time(tmp_path: Path) -> None:
    """A bundle beyond that is kept as one file; room comes back with what is deleted or handed on, once."""
    room = Room(9)
    name, content = made(tmp_path)
    stores = [Split(tmp_path / f"up-{number}", DISK, name, room) for number in range(4)]
    for store in stores[:3]:
        feed(store, content, [1000])
        store.end()
    assert [store.pieces() is not None for store in stores[:3]] == [True, True, False]
    assert stores[2].path.read_bytes() == content
    stores[0].delete()
    stores[0].delete()
    stores[1].let_go()
    stores[1].let_go()
    feed(stores[3], content, [1000])
    stores[3].end()
    assert read(stores[3].pieces()) == list(DATA)
    assert room.take(5)
    assert not room.take(1)


@pytest.mark.parametrize("cut", [5, 200, 400, 80_000])
def test_what_is_given_up_leaves_nothing(tmp_path: Path, cut: int) -> None:
    """Wherever it stood."""
    room = Room(4)
    name, content = made(tmp_path)
    store = split(tmp_path, name, room)
    feed(store, content[:cut], [64])
    store.delete()
    assert not list(tmp_path.iterdir())
    assert room.take(4)


def test_what_arrived_can_be_synced(tmp_path: Path) -> None:
    """Every file once when it is whole, and the one that is being written."""
    synced: list[str] = []

    class Watched(Disk):
        def sync(self, file: BinaryIO) -> None:
            synced.append(Path(file.name).name)

    name, content = made(tmp_path)
    store = split(tmp_path, name, disk=Watched())
    feed(store, content[:1000], [1000])
    store.sync()
    feed(store, content[1000:], [1000])
    store.sync()
    assert synced == ["up-0.0", "up-0.1", "up-0.1", "up-0.2", "up-0.3"]
    whole = split(tmp_path / "..", BundleName(EPOCH, "0" * 32), disk=Watched())
    whole.write(memoryview(b"no bundle"))
    whole.sync()
    assert synced[-1] == "up-0"
    whole.delete()


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[Inbox]:
    """An inbox whose disk is full at the third write."""
    found = Inbox(tmp_path / "inbox", Failing("write", DiskFull("no space left"), 2))
    found.open()
    yield found
    await asyncio.to_thread(found.close)


async def test_a_full_disk_voids_the_bundle(full: Inbox, tmp_path: Path) -> None:
    """The agent is told to send it again; no segment of it stays."""
    name, content = made(tmp_path)
    arrival = full.arrive(lambda _size: None, name)
    for at in range(0, len(content), 10_000):
        arrival.write(memoryview(content)[at : at + 10_000])
    assert await arrival.finish() == "resend: no space left at the receiver"
    arrival.discard()
    await wait_until_async(lambda: not list(full.folder.iterdir()), what="an empty inbox")


async def test_a_disk_that_fails_at_a_new_file_voids_the_bundle(tmp_path: Path) -> None:
    """As with any other trouble."""
    inbox = Inbox(tmp_path / "inbox", Failing("create", DiskError("it is on fire"), 1))
    inbox.open()
    name, content = made(tmp_path)
    arrival = inbox.arrive(lambda _size: None, name)
    arrival.write(memoryview(content))
    assert await arrival.finish() == "resend: the receiver could not store it"
    arrival.discard()
    await asyncio.to_thread(inbox.close)
    assert not list(inbox.folder.iterdir())


async def test_leftovers_of_a_dead_process_are_cleared(tmp_path: Path) -> None:
    """The files of a bundle's segments are private files like any other."""
    inbox = Inbox(tmp_path / "inbox", DISK)
    inbox.open()
    name, content = made(tmp_path)
    arrival = inbox.arrive(lambda _size: None, name)
    arrival.write(memoryview(content))
    assert await arrival.finish() == ""
    await asyncio.to_thread(inbox.close)
    assert len(list(inbox.folder.iterdir())) == len(DATA)
    assert Inbox(inbox.folder, DISK).open() == len(DATA)
    assert not list(inbox.folder.iterdir())
