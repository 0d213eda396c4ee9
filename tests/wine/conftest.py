"""The Windows Python, for the tests of this room."""

import pytest

from tests.support.wine import WindowsPython


@pytest.fixture(scope="session")
def winpy() -> WindowsPython:
    """A Windows CPython with the project's packages."""
    return WindowsPython()
