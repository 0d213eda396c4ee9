"""Writes past the page cache, on file systems that can and on ones that can't."""

import errno
import random
import sys
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from tape.direct import ALIGN, SMALLEST, DirectFile, file_system
from tape.durable import DISK
from tape.errors import DiskFull
from tests.support import run
from tests.support.disks import LINUX_ONLY, in_memory, need_disks, plugged
from tests.support.needs import need_program

MIB = 1 << 20
RAMFS = 0x858458F6


@LINUX_ONLY
def test_large_writes_leave_nothing_in_memory(tmp_path: Path) -> None:
    """On ext4 megabytes go to the disk at once; the crooked end goes by way of the cache, and all is there."""
    content = random.Random(1).randbytes(3 * MIB + 777)
    with plugged(tmp_path):
        with DISK.create_large(tmp_path / "disk" / "x") as file:
            DISK.write_all(file, content)
            DISK.sync(file)
        assert not in_memory(tmp_path / "disk" / "x")
        with DISK.create(tmp_path / "disk" / "y") as file:
            DISK.write_all(file, content)
            DISK.sync(file)
        assert in_memory(tmp_path / "disk" / "y")
        assert (tmp_path / "disk" / "x").read_bytes() == (tmp_path / "disk" / "y").read_bytes() == content


@LINUX_ONLY
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_any_writes_give_the_same_bytes(kind: str, tmp_path: Path) -> None:
    """Small, crooked, aligned and huge writes in any order; only on ext4 is any of them a direct one."""
    draw, went = random.Random(2), set()
    sizes = [1, ALIGN, SMALLEST, SMALLEST - 1, SMALLEST + ALIGN, MIB, 2 * MIB + 1, 5 * ALIGN, ALIGN - 1]
    with plugged(tmp_path, kind, size=320):
        for number in range(8):
            path, content = tmp_path / "disk" / str(number), bytearray()
            with DirectFile(DISK.create(path)) as file:
                for _ in range(12):
                    piece = draw.randbytes(draw.choice(sizes))
                    content += piece
                    while piece:
                        piece = piece[file.write(piece) :]
                        went.add(file.direct)
                    assert file.tell() == len(content)
            assert path.read_bytes() == content
    assert went == ({True, False} if kind == "ext4" else {False})


@LINUX_ONLY
def test_a_disk_that_fills_up_is_cut_back(tmp_path: Path) -> None:
    """A direct write for which there is no room is taken back like any other."""
    with plugged(tmp_path, size=8):
        with DISK.create_large(tmp_path / "disk" / "x") as file:
            DISK.write_all(file, bytes(MIB))
            with pytest.raises(DiskFull, match="no space left"):
                DISK.write_all(file, b"\1" * 32 * MIB)
        assert (tmp_path / "disk" / "x").read_bytes() == bytes(MIB)


@LINUX_ONLY
def test_a_file_system_that_refuses_gets_ordinary_writes(tmp_path: Path) -> None:
    """One of which direct writes were expected, and which has none."""
    need_disks()
    content = random.Random(3).randbytes(2 * MIB + 5)
    run([need_program("mount"), "-t", "ramfs", "none", tmp_path], code=0)
    try:
        file = DirectFile(DISK.create(tmp_path / "x"), frozenset({RAMFS}))
        assert file_system(file.fileno()) == RAMFS
        DISK.write_all(cast("BinaryIO", file), content)
        assert not file.direct
        file.close()
        assert (tmp_path / "x").read_bytes() == content
    finally:
        run([need_program("umount"), tmp_path], code=0)


class Refusing:
    """A file whose large writes fail with an error of that number, once."""

    def __init__(self, file: BinaryIO, number: int) -> None:
        self.file, self.number, self.name = file, number, file.name
        self.fileno, self.tell, self.truncate = file.fileno, file.tell, file.truncate

    def write(self, data: memoryview) -> int:
        """Refuse, or write."""
        if self.number and len(data) == MIB:
            number, self.number = self.number, 0
            raise OSError(number, "refused")
        return self.file.write(data)


@pytest.mark.skipif(sys.platform != "linux", reason="direct writes are for Linux")
@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_direct_write_that_is_refused_is_done_the_other_way(number: int, tmp_path: Path) -> None:
    """A disk of larger blocks says "invalid": then it is written through the cache. Any other error is told."""
    with DISK.create(tmp_path / "x") as raw:
        kinds = frozenset({file_system(raw.fileno())})
        file = DirectFile(cast("BinaryIO", Refusing(raw, number)), kinds)
        if number == errno.EIO:
            with pytest.raises(OSError, match="refused"):
                file.write(bytes(MIB))
            return
        DISK.write_all(cast("BinaryIO", file), b"\1" * 3 * MIB)
        assert not file.direct
        assert (tmp_path / "x").read_bytes() == b"\1" * 3 * MIB
