"""A sign of life from inside a long step: who waits for it in another thread knows that it still moves.

A target that works through many bytes in one call says `moved()` now and then; what listens (the time-out
around the target, the lane above it) is set for the thread that runs the call.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator


class _Ear(threading.local):
    hear: Callable[[], None] | None = None


_ear = _Ear()


def moved() -> None:
    """Something moved: a block, an entry, a line of progress. Costs next to nothing where nobody listens."""
    if _ear.hear is not None:
        _ear.hear()


@contextlib.contextmanager
def heard_by(hear: Callable[[], None]) -> Iterator[None]:
    """Have `hear` called, in this thread, at each sign of life of what runs inside."""
    before, _ear.hear = _ear.hear, hear
    try:
        yield
    finally:
        _ear.hear = before
