"""The Windows Python, for the tests of this room."""

from collections.abc import Iterator

import pytest
from filelock import FileLock

from tests.support.wine import WindowsPython


@pytest.fixture(scope="session")
def kept_up() -> Iterator[WindowsPython]:
    """A Windows CPython with the project's packages, up for the whole run."""
    with WindowsPython() as made:
        yield made


@pytest.fixture
def winpy(kept_up: WindowsPython) -> Iterator[WindowsPython]:
    """The same for one test at a time, of all that run on this machine: drives and the end of Wine are for all."""
    with FileLock(kept_up.folder / ".one-test-at-a-time"):
        yield kept_up
