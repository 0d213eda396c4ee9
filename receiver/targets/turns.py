"""Turns: no more threads work through many small files at a time than there are processors for them.

More of them only hand the interpreter to each other at every call to the system. A turn lasts some
milliseconds while others wait. It is nothing to hold on to: who hangs in the system loses it to the next
one, so that a slow or stuck disk delays the others by that once, not for as long as it hangs.
"""

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tape.clock import SYSTEM, Clock

T = TypeVar("T")
_TURN = 0.01  # seconds
_HANGS = 0.03


class Turns:
    """At most `most` turns at a time. Thread-safe."""

    def __init__(self, most: int, *, clock: Clock = SYSTEM) -> None:
        self._most = most
        self._clock = clock
        self._lock = threading.Condition()
        self._since: dict[object, float] = {}  # of each turn that counts, oldest first
        self._line: deque[object] = deque()

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """The items, one after the other, while it is the caller's turn; others get theirs in between."""
        turn = object()
        try:
            for item in items:
                self._take(turn)
                yield item
        finally:
            with self._lock:
                self._since.pop(turn, None)
                self._lock.notify_all()

    def _take(self, turn: object) -> None:
        """Go on with a turn, or stand in line for one."""
        since = self._since.get(turn)
        if since is not None and (not self._line or self._clock.monotonic() - since < _TURN):
            return
        with self._lock:
            self._since.pop(turn, None)
            self._line.append(turn)
            self._lock.notify_all()
            while self._line[0] is not turn or len(self._since) >= self._most:
                self._lock.wait(self._patience() if self._line[0] is turn else None)
            self._line.popleft()
            self._since[turn] = self._clock.monotonic()
            self._lock.notify_all()

    def _patience(self) -> float:
        """Seconds until the oldest turn counts as lost; 0 if it is lost now."""
        oldest = next(iter(self._since))
        left = self._since[oldest] + _HANGS - self._clock.monotonic()
        if left <= 0:
            del self._since[oldest]
        return max(0.0, left)


TURNS = Turns(os.cpu_count() or 1)
"""Those of this process."""
