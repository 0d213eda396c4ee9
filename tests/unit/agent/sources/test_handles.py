"""Open files: bounded, and no obstacle to their owner."""

import os
from pathlib import Path

import pytest

from agent.sources.handles import Handles, open_shared, raise_limit, read_at


def test_the_least_recently_used_are_closed(tmp_path: Path) -> None:
    """Room is made from the oldest on, and a refused one stays."""
    closed: list[str] = []

    def may_close(key: str) -> bool:
        closed.append(key)
        return key != "1"

    handles = Handles(8, may_close)
    for number in range(9):
        (tmp_path / str(number)).write_bytes(b"x")
    for number in range(8):
        handles.put(str(number), open_shared(str(tmp_path / str(number))))
    handles.get("0")
    handles.put("8", open_shared(str(tmp_path / "8")))
    assert closed == ["1", "2"]
    assert len(handles) == 8
    assert handles.get("1") is not None
    assert handles.get("2") is None
    handles.close_all()
    assert not len(handles)


def test_an_open_file_can_be_renamed_and_deleted(tmp_path: Path) -> None:
    """Reading stands in nobody's way, and goes on after the name is gone."""
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    fd = open_shared(str(path))
    try:
        path.rename(tmp_path / "y")
        (tmp_path / "y").unlink()
        assert read_at(fd, 3, 4) == b"3456"
        assert read_at(fd, 8, 40) == b"89"
    finally:
        os.close(fd)


def test_a_missing_file_is_an_oserror(tmp_path: Path) -> None:
    """So callers need to know one kind of error."""
    with pytest.raises(OSError):
        open_shared(str(tmp_path / "nothing"))


def test_the_limit_of_open_files_is_raised() -> None:
    """At least as many files as before may be open."""
    assert raise_limit() >= 1024
