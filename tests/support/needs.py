"""What a test needs from the machine: skipped loudly where it is absent, a failure in CI."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

PROJECT = Path(__file__).resolve().parents[2]
SHARED = PROJECT.parent / "shared"

# Programs that live outside an ordinary user's PATH.
_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"


def in_ci() -> bool:
    """True where CI says so: nothing may be missing there, so nothing is skipped."""
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def missing(what: str, hint: str) -> NoReturn:
    """Skip the running test because `what` is absent; in CI fail it instead."""
    text = f"{what} is missing; hint: {hint}"
    if in_ci():
        pytest.fail(f"{text} (in CI nothing is skipped)", pytrace=False)
    pytest.skip(text)


def need_program(name: str, *, package: str | None = None) -> str:
    """The full path of a system program; skips (in CI: fails) the test if there is none."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{_SYSTEM_FOLDERS}")
    if found is None:
        missing(f"the program `{name}`", f"apt-get install {package or name}")
    return found


def need_shared_data(*parts: str) -> Path:
    """A path below ../shared/data; skips (in CI: fails) the test if it is not there."""
    path = SHARED.joinpath("data", *parts)
    if not path.exists():
        missing(f"recorded ticks at {path}", "put the folder `shared` beside the project's folder")
    return path
