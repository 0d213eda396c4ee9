"""The floors: the import contracts of pyproject.toml hold, and each finds a breach planted in a copy."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.support import run
from tests.support.needs import PROJECT
from tests.support.processes import Finished, environment
from tests.support.tidiness import PRODUCT

BREACHES = {
    "sideways": ("agent/collect.py", "import agent.push", "floors of the agent"),
    "upwards": ("receiver/catalog.py", "import receiver.fanout", "floors of the receiver"),
    "between the sides": ("agent/model.py", "import receiver.model", "agent and receiver never import each other"),
    "out of the common ground": ("tape/names.py", "import agent.model", "tape imports neither"),
    "an unclean rule": ("receiver/gaps.py", "import sqlite3", "rules are pure"),
    "a module without a place": ("agent/newcomer.py", '"""New."""', "floors of the agent"),
}


def lint(tree: Path) -> Finished:
    """What import-linter says of a tree."""
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return run([sys.executable, "-c", program], cwd=tree, env=environment(PYTHONPATH=str(tree)))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the product with its contracts."""
    folder = tmp_path_factory.mktemp("floors")
    for name in PRODUCT:
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", folder)
    return folder


def test_the_floors_hold(tree: Path) -> None:
    """Every contract is kept."""
    ended = lint(tree)
    assert ended.code == 0, ended.out[-4000:]
    assert " 0 broken" in ended.out


@pytest.mark.parametrize("kind", BREACHES)
def test_a_breach_is_found(kind: str, tree: Path) -> None:
    """A planted import, or a module nobody placed, breaks the contract that it should break."""
    name, line, contract = BREACHES[kind]
    path = tree / name
    before = path.read_bytes() if path.exists() else None
    try:
        path.write_bytes((before or b"") + f"\n{line}\n".encode())
        ended = lint(tree)
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)
    assert ended.code != 0
    broken = [line for line in ended.out.splitlines() if line.endswith(" BROKEN")]
    assert any(contract in line for line in broken), ended.out
