"""Sharing reads of home: the right bytes to everybody, one read where that can be, and a bounded memory."""

import threading
from collections.abc import Iterator

import pytest

from receiver.home_bytes import HomeBytes
from receiver.targets.contract import Place
from receiver.targets.memory import MemoryTarget
from tape.clock import ManualClock
from tape.errors import DiskError, NotFound
from tests.support.parcels import segment_path

BLOCK = 1000


class Disk(MemoryTarget):
    """Gives files in blocks, counts how often each is opened; `broken`: fails there after the first block."""

    def __init__(self) -> None:
        super().__init__(Place("home", home=True))
        self.opened: list[str] = []
        self.broken: set[str] = set()
        self.closed = 0

    def read(self, path: str) -> Iterator[bytes]:
        self.opened.append(path)
        data = self._get(path)

        def blocks() -> Iterator[bytes]:
            try:
                for at in range(0, len(data), BLOCK):
                    if at and path in self.broken:
                        raise DiskError("home: input/output error")
                    yield data[at : at + BLOCK]
            finally:
                self.closed += 1

        return blocks()


def disk(count: int = 1, blocks: int = 5) -> tuple[Disk, list[str]]:
    """A home with files of so many blocks."""
    home = Disk()
    names = [segment_path(seq, b"%d" % seq) for seq in range(count)]
    for number, name in enumerate(names):
        home.files[name] = bytes([number % 256]) * (blocks * BLOCK - 1)
    return home, names


def test_readers_side_by_side_share_one_read() -> None:
    """Whoever is first reads; at whatever pace the others follow, each gets every byte."""
    home, names = disk(20)
    shared = HomeBytes(home)
    good: list[bool] = []

    def reader(first: int) -> None:
        mine = names[first:] + names[:first]
        good.extend(b"".join(shared.read(name, others=3)) == home.files[name] for name in mine)

    threads = [threading.Thread(target=reader, args=(5 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert good == [True] * 80
    assert sorted(home.opened) == sorted(names)
    assert shared.held == 0


def test_alone_nothing_is_held() -> None:
    """Without company the bytes go straight through."""
    home, (name,) = disk()
    shared = HomeBytes(home)
    for block in shared.read(name, others=0):
        assert shared.held == 0
        assert block
    assert len(home.opened) == 1


def test_memory_is_bounded() -> None:
    """However much is read for company that never comes, only so much is held; who comes late reads again."""
    home, names = disk(30)
    shared = HomeBytes(home, most=8 * BLOCK)
    most = 0
    for name in names:
        for _ in shared.read(name, others=1):
            most = max(most, shared.held)
    assert most <= 8 * BLOCK
    assert b"".join(shared.read(names[0], others=0)) == home.files[names[0]]
    assert len(home.opened) == 31
    assert len(shared._open) <= 2


def test_who_falls_too_far_behind_goes_on_by_itself() -> None:
    """A reader whose next block was pushed out still gets every byte, from where it was."""
    home, names = disk(10, blocks=6)
    shared = HomeBytes(home, most=4 * BLOCK)
    late = shared.read(names[0], others=1)
    got = [next(late), next(late)]
    for name in names[1:]:
        assert b"".join(shared.read(name, others=1)) == home.files[name]
    assert b"".join(shared.read(names[0], others=1)) == home.files[names[0]]
    got += list(late)
    assert b"".join(got) == home.files[names[0]]


def test_an_error_reaches_everybody_and_is_not_kept() -> None:
    """What can't be read fails for each reader; read again later, it is tried again."""
    home, names = disk(2)
    shared = HomeBytes(home)
    home.broken.add(names[0])
    first, second = shared.read(names[0], others=1), shared.read(names[0], others=1)
    assert next(first) == next(second)
    for reader in (first, second):
        with pytest.raises(DiskError):
            next(reader)
    with pytest.raises(NotFound):
        list(shared.read("nobody/x", others=1))
    home.broken.clear()
    assert b"".join(shared.read(names[0], others=0)) == home.files[names[0]]
    assert shared.held == 0
    assert not shared._open


def test_who_gives_up_leaves_nothing_open() -> None:
    """A reader that stops in the middle, as when its target fails, does not hold the file for ever."""
    home, (name,) = disk()
    shared = HomeBytes(home)
    for _ in range(2):
        reader = shared.read(name, others=1)
        next(reader)
        reader.close()  # type: ignore[attr-defined] # a generator
    assert shared.held == 0
    assert home.closed == len(home.opened)


def test_what_nobody_comes_for_is_let_go() -> None:
    """Those that took the bytes from the files themselves leave no memory held; who comes later reads anew."""
    home, (name,) = disk()
    clock = ManualClock()
    shared = HomeBytes(home, clock=clock)
    assert b"".join(shared.read(name, others=2)) == home.files[name]
    reading = shared.read(name, others=2)
    first = next(reading)
    clock.advance(4)
    shared.let_go()
    held = shared.held
    assert held > 0, "the others may come yet"
    clock.advance(4)
    shared.let_go()
    assert shared.held == held, "somebody is at it"
    assert first + b"".join(reading) == home.files[name]
    clock.advance(8)
    shared.let_go()
    assert (shared.held, shared._open) == (0, {})
    assert b"".join(shared.read(name, others=0)) == home.files[name]
    assert home.opened == [name, name]
