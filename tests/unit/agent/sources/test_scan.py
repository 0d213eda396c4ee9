"""Patterns and folders: which files are reached, and what is watched."""

import os
import sys
from pathlib import Path

import pytest

from agent.sources.scan import Patterns
from tests.support import write_tree

TREE = {
    "a.csv": "1",
    "b.txt": "1",
    ".hidden.csv": "1",
    "one/c.csv": "1",
    "one/two/d.csv": "1",
    "one/.git/e.csv": "1",
    "tmp/f.csv": "1",
}


def reached(root: Path, *patterns: str, exclude: tuple[str, ...] = ()) -> list[str]:
    """The files below root that the patterns reach."""
    files = Patterns([str(root / p) for p in patterns], exclude).scan().files
    return sorted(Path(path).relative_to(root).as_posix() for path in files)


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        ("*.csv", ["a.csv"]),
        ("a.csv", ["a.csv"]),
        ("[ab].*", ["a.csv", "b.txt"]),
        ("?.csv", ["a.csv"]),
        ("*/*.csv", ["one/c.csv", "tmp/f.csv"]),
        ("**/*.csv", ["a.csv", "one/c.csv", "one/two/d.csv", "tmp/f.csv"]),
        ("one/**/d.csv", ["one/two/d.csv"]),
        ("one/**", ["one/c.csv", "one/two/d.csv"]),
        ("nothing/*/x.csv", []),
    ],
)
def test_patterns_reach_what_a_shell_would(tmp_path: Path, pattern: str, files: list[str]) -> None:
    """`*` stays in one name and off leading dots, `**` crosses folders."""
    write_tree(tmp_path, TREE)
    assert reached(tmp_path, pattern) == files


def test_exclude_by_name_and_by_path(tmp_path: Path) -> None:
    """A pattern without a separator speaks of names, one with a separator of whole paths."""
    write_tree(tmp_path, TREE)
    assert reached(tmp_path, "**/*.csv", exclude=("c*", str(tmp_path / "tmp" / "*"))) == ["a.csv", "one/two/d.csv"]


def test_overlapping_patterns_give_each_file_once(tmp_path: Path) -> None:
    """A file reached by two patterns is one file."""
    write_tree(tmp_path, TREE)
    assert reached(tmp_path, "*.csv", "a.*", "**/a.csv") == ["a.csv"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_loops_of_links_end_and_links_are_followed(tmp_path: Path) -> None:
    """A link to a folder above does not go round forever; the target's folder is watched."""
    write_tree(tmp_path / "data", {"a.csv": "1"})
    write_tree(tmp_path / "elsewhere", {"real.csv": "1"})
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "now.csv").symlink_to(tmp_path / "elsewhere" / "real.csv")
    (tmp_path / "data" / "dangling.csv").symlink_to(tmp_path / "nothing")
    scan = Patterns([str(tmp_path / "data" / "**" / "*.csv")]).scan()
    assert str(tmp_path / "data" / "now.csv") in scan.files
    assert scan.files[str(tmp_path / "data" / "now.csv")].link
    assert str(tmp_path / "elsewhere") in scan.folders
    assert not scan.denied


def test_the_nearest_folder_is_watched_while_one_is_missing(tmp_path: Path) -> None:
    """So the missing folder is seen when it appears."""
    scan = Patterns([str(tmp_path / "later" / "deep" / "*.csv")]).scan()
    assert list(scan.folders) == [str(tmp_path)]


def test_pipes_and_folders_are_no_files(tmp_path: Path) -> None:
    """Only regular files are read."""
    if sys.platform == "win32":
        pytest.skip("no pipes in folders there")
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    assert reached(tmp_path, "*.csv") == []


def test_hints_are_right_about_paths(tmp_path: Path) -> None:
    """Changes beside the patterns cause no scan."""
    patterns = Patterns([str(tmp_path / "*" / "x-*.csv"), str(tmp_path / "deep" / "**" / "*.log")])
    assert patterns.reaches(str(tmp_path / "any" / "x-1.csv"))
    assert patterns.reaches(str(tmp_path / "any"))
    assert patterns.reaches(str(tmp_path / "deep" / "a" / "b"))
    assert not patterns.reaches(str(tmp_path / "any" / "y-1.csv"))
    assert not patterns.reaches(str(tmp_path / "any" / "x-1.csv" / "more"))


@pytest.mark.skipif(sys.platform == "win32", reason="names are Unicode there")
def test_names_that_are_not_utf8_are_reached(tmp_path: Path) -> None:
    """Any bytes make a name."""
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.csv")).write_bytes(b"1")
    assert len(Patterns([str(tmp_path / "*.csv")]).scan().files) == 1
