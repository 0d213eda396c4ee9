"""Durable file operations on a real file system."""

import errno
import os
import re
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from tape.durable import DISK, Disk, is_temp, named
from tape.errors import AlreadyThere, DiskError, DiskFull, SyncFailed


class ShortWrites:
    """A file whose write takes a few bytes at a time, then fails once it holds `room` bytes."""

    def __init__(self, file: BinaryIO, room: int) -> None:
        self.file, self.room, self.name = file, room, file.name

    def write(self, data: memoryview) -> int:
        """Take at most 3 bytes; ENOSPC when full."""
        if self.file.tell() >= self.room:
            raise OSError(errno.ENOSPC, "no space")
        return self.file.write(data[: min(3, self.room - self.file.tell())])

    def tell(self) -> int:
        """Where the next byte goes."""
        return self.file.tell()

    def truncate(self, size: int) -> int:
        """Cut the file."""
        return self.file.truncate(size)


def test_short_writes_are_completed(tmp_path: Path) -> None:
    """A write that takes only part of the bytes is carried on until all are there."""
    with DISK.create(tmp_path / "x") as file:
        DISK.write_all(ShortWrites(file, 1000), b"0123456789")  # type: ignore[arg-type] # quacks like a file
    assert (tmp_path / "x").read_bytes() == b"0123456789"


def test_a_full_disk_cuts_back_to_the_last_good_length(tmp_path: Path) -> None:
    """What was half written when the space ran out is taken away again."""
    with DISK.create(tmp_path / "x") as file:
        DISK.write_all(file, b"good")
        with pytest.raises(DiskFull, match="no space left"):
            DISK.write_all(ShortWrites(file, 8), b"0123456789")  # type: ignore[arg-type] # quacks like a file
    assert (tmp_path / "x").read_bytes() == b"good"


def test_place_never_replaces(tmp_path: Path) -> None:
    """A name that exists stays as it is, and the temporary file stays too."""
    (tmp_path / "final").write_bytes(b"old")
    (tmp_path / "temp").write_bytes(b"new")
    with pytest.raises(AlreadyThere):
        DISK.place(tmp_path / "temp", tmp_path / "final")
    assert (tmp_path / "final").read_bytes() == b"old"
    assert (tmp_path / "temp").read_bytes() == b"new"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows renames without replacing by itself")
def test_place_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without hard links the same promise holds."""

    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "temp").write_bytes(b"new")
    DISK.place(tmp_path / "temp", tmp_path / "final")
    assert (tmp_path / "final").read_bytes() == b"new"
    (tmp_path / "temp").write_bytes(b"newer")
    with pytest.raises(AlreadyThere):
        DISK.place(tmp_path / "temp", tmp_path / "final")
    assert (tmp_path / "final").read_bytes() == b"new"


def test_write_new_and_replace(tmp_path: Path) -> None:
    """A new file is all there or not at all; only `replace` replaces; no temporary name is left."""
    DISK.write_new(tmp_path / "a", b"1")
    with pytest.raises(AlreadyThere):
        DISK.write_new(tmp_path / "a", b"2")
    assert (tmp_path / "a").read_bytes() == b"1"
    DISK.replace(tmp_path / "a", b"3")
    assert (tmp_path / "a").read_bytes() == b"3"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


class Recorder(Disk):
    """Writes down the order of what makes things durable."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def sync(self, file: BinaryIO) -> None:
        """Record, then do."""
        self.seen.append("sync file")
        super().sync(file)

    def place(self, temp: Path, final: Path) -> None:
        """Record, then do."""
        self.seen.append("name")
        super().place(temp, final)

    def sync_dir(self, path: Path) -> None:
        """Record, then do."""
        self.seen.append(f"sync {path.name}")
        super().sync_dir(path)


def test_publish_orders_fsync_name_fsync(tmp_path: Path) -> None:
    """Bytes first, then the name, then both folders: any other order loses files in a power cut."""
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "from" / "x").write_bytes(b"1")
    disk = Recorder()
    disk.publish(tmp_path / "from" / "x", tmp_path / "to" / "y")
    assert disk.seen == ["sync file", "name", "sync to", "sync from"]


def test_sync_many_few_and_many(tmp_path: Path) -> None:
    """Few files are synced one by one, many by their file system; both work on real paths."""
    files = [tmp_path / str(n) for n in range(20)]
    for path in files:
        path.write_bytes(b"x")
    disk = Recorder()
    disk.sync_many(files[:2], [tmp_path])
    assert disk.seen.count("sync file") == 2
    disk.sync_many(files, [tmp_path])


def test_append_creates_and_extends(tmp_path: Path) -> None:
    """Appending makes the file where it is missing and leaves what is there."""
    DISK.append(tmp_path / "sums", b"a\n")
    DISK.append(tmp_path / "sums", b"b\n")
    assert (tmp_path / "sums").read_bytes() == b"a\nb\n"


def test_errors_name_the_path(tmp_path: Path) -> None:
    """An error of the system becomes one of ours that names the file."""
    with pytest.raises(DiskError, match="missing"):
        DISK.sync_path(tmp_path / "missing")
    place = tmp_path / "some where"
    with pytest.raises(DiskError, match=re.escape(f"reading {place} failed")), named(place, "reading"):
        raise OSError(errno.EIO, "input/output error")


def test_a_replacement_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """When a file can't be replaced, the new bytes are cleared away."""
    (tmp_path / "name").mkdir()
    with pytest.raises(DiskError, match="replacing"):
        DISK.replace(tmp_path / "name", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


def test_a_failed_fsync_is_not_an_ordinary_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed fsync has a class of its own, so that nobody retries it."""

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    with DISK.create(tmp_path / "x") as file:
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(SyncFailed):
            DISK.sync(file)


def test_temps_are_known_and_cleared(tmp_path: Path) -> None:
    """Leftover temporary files are recognised and deleted; others stay."""
    (tmp_path / "keep").write_bytes(b"")
    DISK.temp_path(tmp_path).write_bytes(b"")
    assert [is_temp(p) for p in DISK.clear_temps(tmp_path)] == [True]
    assert [p.name for p in tmp_path.iterdir()] == ["keep"]
    assert DISK.clear_temps(tmp_path / "absent") == []


def test_make_dirs_and_remove(tmp_path: Path) -> None:
    """Folders are made with their parents; deleting what is gone is fine."""
    DISK.make_dirs(tmp_path / "a" / "b")
    DISK.make_dirs(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "a" / "x").write_bytes(b"")
    DISK.remove(tmp_path / "a" / "x", durable=True)
    DISK.remove(tmp_path / "a" / "x")
    assert not (tmp_path / "a" / "x").exists()
