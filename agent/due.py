"""Which lanes want attention when: a heap of times, for ten thousand lanes that mostly rest."""

import heapq
import itertools

from agent.lane import Lane


class Dues:
    """Lanes by the time at which they are due, monotonic seconds. Equal times come in the order they were asked for."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Lane]] = []
        self._order = itertools.count()

    def watch(self, lane: Lane, due: float | None) -> None:
        """A lane is due then, or earlier if that was asked before; None: no wish."""
        if due is not None and (lane.queued_due is None or due < lane.queued_due):
            lane.queued_due = due
            heapq.heappush(self._heap, (due, next(self._order), lane))

    def ready(self, now: float) -> list[Lane]:
        """Lanes that may be due by now, each once; they are not watched any more."""
        found: list[Lane] = []
        while self._heap and self._heap[0][0] <= now:
            due, _, lane = heapq.heappop(self._heap)
            if lane.queued_due == due:
                lane.queued_due = None
                found.append(lane)
        return found
