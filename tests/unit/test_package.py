"""The wheel: what is installed is the three packages and the two commands, and nothing else."""

import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support import run
from tests.support.needs import PROJECT
from tests.support.tidiness import PRODUCT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel built from a copy of the tree, without a network."""
    tree = tmp_path_factory.mktemp("tree")
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in PRODUCT:
        shutil.copytree(PROJECT / name, tree / name, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, tree)
    options: list[str | Path] = [
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--quiet",
        "--wheel-dir",
        tree / "wheels",
    ]
    run([sys.executable, "-m", "pip", "wheel", *options, tree], code=0)
    (path,) = (tree / "wheels").glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_all_of_the_product_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """Each module of the three packages is in the wheel, their type marks too; tests and data are not."""
    there = {Path(name).as_posix() for name in wheel.namelist() if ".dist-info/" not in name}
    wanted = {
        path.relative_to(PROJECT).as_posix()
        for room in PRODUCT
        for path in (PROJECT / room).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    assert there == wanted


def test_the_wheel_says_who_it_is(wheel: zipfile.ZipFile) -> None:
    """Name, licence with its full text, commands and oldest Python are those of the project."""
    info = {Path(name).name: wheel.read(name).decode("utf-8") for name in wheel.namelist() if ".dist-info/" in name}
    assert re.search(r"^Name: hometape$", info["METADATA"], re.MULTILINE)
    assert re.search(r"^License-Expression: Apache-2.0$", info["METADATA"], re.MULTILINE)
    assert re.search(r"^Requires-Python: >=3.11$", info["METADATA"], re.MULTILINE)
    assert "TERMS AND CONDITIONS FOR USE" in info["LICENSE"]
    assert info["entry_points.txt"].split() == [
        "[console_scripts]",
        *("tape-agent", "=", "agent.cli:main"),
        *("tape-receiver", "=", "receiver.cli:main"),
    ]
