"""Which worker gets which tests: modules that carry `xdist_group` go as a whole to one, all others test by test.

pytest-xdist 3.8 writes a test's group into its name, which pytest 9.2 no longer lets it do: the mark counts for
nothing, and nothing says so. Here the mark is read from the module that carries it.
"""

import functools
import re
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # it has no types

_MARKED = re.compile(r'^pytestmark = .*xdist_group\("(\w+)"\)', flags=re.MULTILINE)


@functools.cache
def group_of(module: Path) -> str | None:
    """The group that a module's `pytestmark` names; None if it is in none."""
    marked = _MARKED.search(module.read_text(encoding="utf-8"))
    return marked[1] if marked else None


class Grouped(LoadScopeScheduling):  # type: ignore[misc]  # as above
    """Large groups first, then test by test in the order of collection."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(self.config.rootpath / nodeid.partition("::")[0]) or nodeid
