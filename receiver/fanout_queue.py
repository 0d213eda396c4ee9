"""What a lane has before it: new segments first, then the backlog from its oldest on, one batch at a time.

Only positions are kept, and one page of segments: the catalog knows the rest. What was committed when a
pass began is its backlog; what came later is new, and goes first, so that an outage of weeks does not make
today's ticks wait. A removable disk takes the oldest first, whatever comes.
"""

from collections.abc import Callable

from receiver.model import Held
from receiver.placement import batches
from receiver.targets.contract import Target

_NEW_IN_A_ROW = 4


class Queue:
    """Blocking: asks the catalog. One thread at a time. `ask`: segments the target lacks with id > a number, at
    most so many, ascending; `newest`: the highest id there is; `taken` is told each batch just before the positions
    move past it.
    """

    def __init__(
        self,
        target: Target,
        ask: Callable[[int, int], list[Held]],
        newest: Callable[[], int],
        taken: Callable[[list[Held]], None] = lambda _: None,
    ) -> None:
        self._target = target
        self._ask = ask
        self._newest = newest
        self._taken = taken
        self._oldest_first = target.place.kind == "removable"
        self.restart()

    def restart(self) -> None:
        """Begin a pass over everything."""
        self.fresh = True
        """Nothing was asked for in this pass yet."""
        self._floor = 0
        self._old = self._new = 0  # the last ids given out
        self._drained = False  # nothing of the backlog is left
        self._page: list[Held] = []
        self._row = 0

    @property
    def positions(self) -> tuple[int, int]:
        """Ids after which this lane will still look for segments."""
        return self._new if self._drained else self._old, self._new

    def next(self, files: int) -> list[Held]:
        """The next batch of at most so many segments; empty when nothing is left."""
        self._begin()
        files = min(files, self._target.limits.batch_files)
        takes = [self._take_old] if self._oldest_first else [self._take_new, self._take_old]
        if self._row >= _NEW_IN_A_ROW:
            takes.reverse()
        for take in takes:
            if batch := take(files):
                self._row = self._row + 1 if take == self._take_new else 0
                return batch
        return []

    def wait(self, seconds: float, now_ns: int) -> float:
        """How long a batch should still gather: until it is full or its oldest segment waits for so many seconds."""
        files, size = self._target.limits.batch_files, self._target.limits.batch_bytes
        waiting = self._page or self._ask(min(self.positions), files)
        if not waiting or len(waiting) >= files or sum(held.size for held in waiting) >= size:
            return 0.0
        oldest = min(held.committed_ns for held in waiting)
        return max(0.0, min(seconds, seconds - (now_ns - oldest) / 1e9))

    def _begin(self) -> None:
        if self.fresh:
            self.fresh = False
            self._floor = self._new = self._newest()

    def _take_new(self, files: int) -> list[Held]:
        batch = self._cut(self._ask(self._new, files), files)
        if batch:
            self._taken(batch)
            self._new = batch[-1].id
        return batch

    def _take_old(self, files: int) -> list[Held]:
        if not self._page and not self._drained:
            page = self._ask(self._old, self._target.limits.batch_files)
            self._page = [held for held in page if self._oldest_first or held.id <= self._floor]
            self._drained = not self._page and not self._oldest_first
        batch = self._cut(self._page, files)
        if batch:
            self._taken(batch)
            self._page = self._page[len(batch) :]
            self._old = batch[-1].id
        return batch

    def _cut(self, page: list[Held], files: int) -> list[Held]:
        return next(batches(page, files=files, size=self._target.limits.batch_bytes), [])
