"""The Windows Python, for the tests of this room."""

from collections.abc import Iterator

import pytest

from tests.support.wine import WindowsPython


@pytest.fixture(scope="session")
def winpy() -> Iterator[WindowsPython]:
    """A Windows CPython with the project's packages."""
    with WindowsPython() as made:
        yield made
