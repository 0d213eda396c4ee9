"""A private file gets its place on the same file system and on another one, and never replaces a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from receiver.moving import move_new
from tape.durable import Disk
from tape.errors import AlreadyThere, DiskError, DiskFull
from tests.support import missing


@pytest.fixture(params=["same", "other"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A private file, on the file system of `tmp_path` or on another."""
    if request.param == "same":
        path = tmp_path / "private"
    else:
        shm = Path("/dev/shm")  # noqa: S108 - another file system is what is needed
        if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
            missing("a second file system", "mount a tmpfs at /dev/shm")
        path = shm / f"tape-moving-{tmp_path.name}"
    path.write_bytes(b"content" * 1000)
    yield path
    path.unlink(missing_ok=True)


def test_it_is_moved_whole(source: Path, tmp_path: Path) -> None:
    """The bytes lie under the new name, the old one is gone, and nothing else is left."""
    folder = tmp_path / "day"
    folder.mkdir()
    data = source.read_bytes()
    move_new(Disk(), source, folder / "final", folder)
    assert (folder / "final").read_bytes() == data
    assert not source.exists()
    assert [path.name for path in folder.iterdir()] == ["final"]


def test_a_file_in_its_place_is_never_replaced(source: Path, tmp_path: Path) -> None:
    """A name that is taken stays as it is, and the private file is still there to be judged."""
    final = tmp_path / "final"
    final.write_bytes(b"first")
    with pytest.raises(AlreadyThere):
        move_new(Disk(), source, final, tmp_path)
    assert final.read_bytes() == b"first"
    assert source.exists()
    assert not list(tmp_path.glob(".tmp-*"))


class _Full(Disk):
    """No space for anything new."""

    def write_all(self, file: object, data: bytes | memoryview) -> None:
        raise DiskFull("no space left")

    def place(self, temp: Path, final: Path) -> None:
        if temp.name.startswith("private"):
            raise DiskFull("no space left")
        super().place(temp, final)


def test_a_full_disk_leaves_the_private_file_and_nothing_half_written(source: Path, tmp_path: Path) -> None:
    """An error names itself; no temporary file stays and the name stays free."""
    with pytest.raises(DiskError):
        move_new(_Full(), source, tmp_path / "final", tmp_path)
    assert source.exists()
    assert not (tmp_path / "final").exists()
    assert not list(tmp_path.glob(".tmp-*"))
