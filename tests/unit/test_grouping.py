"""Tests that share something go to one worker."""

import ast
import sys
from pathlib import Path

import pytest

pytest.importorskip("xdist", reason="only Linux runs tests with several workers")

from tests.support.grouping import group_of
from tests.support.needs import PROJECT
from tests.support.processes import environment, run


def test_each_mark_of_a_group_is_seen() -> None:
    """Every module whose code names a group is found to be in it, and no other."""
    said: dict[Path, str | None] = dict.fromkeys((PROJECT / "tests").rglob("test_*.py"))
    for module in said:
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "xdist_group":
                said[module] = ast.literal_eval(node.args[0])
    assert {"wine", "disks"} <= set(said.values())
    assert {module: group_of(module) for module in said} == said


def test_a_group_runs_on_one_worker(tmp_path: Path) -> None:
    """Two workers and twelve tests: the six of the module that carries the mark are all with one of them."""
    (tmp_path / "pytest.ini").write_bytes(b"[pytest]\nmarkers = xdist_group\n")
    (tmp_path / "conftest.py").write_bytes(b"from tests.conftest import pytest_xdist_make_scheduler\n")
    body = (
        b"@pytest.mark.parametrize('number', range(6))\n"
        b"def test_it(number):\n"
        b"    with pathlib.Path(__file__).with_suffix('.seen').open('a') as file:\n"
        b"        print(os.environ['PYTEST_XDIST_WORKER'], file=file)\n"
    )
    head = b"import os, pathlib, pytest\n"
    (tmp_path / "test_shared.py").write_bytes(head + b'pytestmark = pytest.mark.xdist_group("one")\n' + body)
    (tmp_path / "test_single.py").write_bytes(head + body)
    argv = ["-m", "pytest", "-n", "2", "--dist", "loadgroup", "-p", "no:cacheprovider", "-p", "no:randomly"]
    run([sys.executable, *argv], cwd=tmp_path, env=environment(PYTEST_ADDOPTS=""), code=0)
    seen = {name: (tmp_path / f"test_{name}.seen").read_bytes().split() for name in ("shared", "single")}
    assert [len(workers) for workers in seen.values()] == [6, 6]
    assert len(set(seen["shared"])) == 1
