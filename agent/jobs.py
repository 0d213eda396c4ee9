"""What is to be sent next: oldest first, small segments together, what failed later and later. No I/O.

What home held once and lacks now travels behind what is new: it has a queue of its own, from which every eighth job
is taken while there is something new, and all of them while there is not.
"""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from agent.model import Spooled
from agent.settings import ReceiverSettings
from tape.bundle import MAX_BYTES, MAX_ITEMS, overhead
from tape.clock import Clock

LINKS_LOST = 3
FAILED_IN_A_ROW = 3
ONE_IN = 8


@dataclass(frozen=True, slots=True)
class Job:
    """One upload: a segment, or several small ones in a bundle."""

    items: tuple[Spooled, ...]

    @property
    def size(self) -> int:
        """Bytes of segments."""
        return sum(item.size for item in self.items)

    @property
    def behind(self) -> bool:
        """Whether it travels behind what is new."""
        return self.items[0].again

    def __str__(self) -> str:
        first = self.items[0]
        more = f" and {len(self.items) - 1} more" if len(self.items) > 1 else ""
        return f"{first.stream}/{first.name}{more}"


class Queue:
    """Segments between the outbox and the wire. Every job taken with `next` ends in one of the verbs."""

    LIMIT = 4096

    def __init__(self, settings: ReceiverSettings, *, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._ready: deque[Spooled] = deque()
        self._behind: deque[Spooled] = deque()
        self._since = 0
        self._busy: set[int] = set()
        self._later: dict[int, float] = {}
        self._tries: dict[int, int] = {}
        self._lost: dict[int, int] = {}
        self._alone: set[int] = set()
        self._row = 0
        self._rounds = 0
        self._pause_until = 0.0

    @property
    def empty(self) -> bool:
        """Nothing new is ready: ask the outbox."""
        return not self._ready

    @property
    def none_behind(self) -> bool:
        """Nothing that travels behind is ready: ask the outbox."""
        return not self._behind

    @property
    def troubled(self) -> bool:
        """Several deliveries in a row failed: the fault is not theirs, so one at a time is tried."""
        return self._row >= FAILED_IN_A_ROW

    @property
    def pausing(self) -> bool:
        """Troubled, and not yet time for the next try."""
        return self.troubled and self._clock.monotonic() < self._pause_until

    def excluded(self) -> Collection[int]:
        """Ids the outbox need not name: under way, or failed and not found to be due yet."""
        return self._busy | self._later.keys()

    def due(self) -> bool:
        """Whether something that failed may come again: from then on the outbox names it, and has to be asked."""
        now = self._clock.monotonic()
        over = [number for number, when in self._later.items() if when <= now]
        for number in over:
            del self._later[number]
        return bool(over)

    def wait(self) -> float | None:
        """Seconds until something changes by time alone; None: only by news."""
        times = [self._pause_until] if self.pausing else self._later.values()
        return max(min(times) - self._clock.monotonic(), 0.001) if times else None

    def add(self, found: Sequence[Spooled]) -> None:
        """Segments from the outbox, oldest first."""
        for one in found:
            if one.id not in self._busy:
                (self._behind if one.again else self._ready).append(one)

    def next(self, *, behind: bool = True) -> Job | None:
        """The next upload: the oldest segment, with other small ones if it is small. `behind`: may it be such a one."""
        turn = bool(self._behind) and behind and (not self._ready or self._since >= ONE_IN - 1)
        queue = self._behind if turn else self._ready
        if not queue:
            return None
        self._since = 0 if turn else self._since + 1
        job = Job(tuple(self._together(queue)))
        self._busy.update(item.id for item in job.items)
        return job

    def _together(self, queue: deque[Spooled]) -> list[Spooled]:
        """The first of a queue, and what travels in one bundle with it."""
        first = queue.popleft()
        items = [first]
        if self._bundles(first):
            size = first.size + overhead(first.stream, first.name)
            most = min(self._settings.bundle_max, MAX_BYTES)
            left: deque[Spooled] = deque()
            while queue and len(items) < MAX_ITEMS:
                one = queue.popleft()
                more = one.size + overhead(one.stream, one.name)
                if not self._bundles(one) or one.name.epoch != first.name.epoch:
                    left.append(one)
                elif size + more > most:
                    left.append(one)
                    break
                else:
                    items.append(one)
                    size += more
            queue.extendleft(reversed(left))
        return items

    def worked(self) -> None:
        """A delivery succeeded; its job still ends with `done`, once that is on record."""
        self._row = self._rounds = 0

    def done(self, job: Job) -> None:
        """It is on record: nothing more to do for it."""
        self._end(job)
        for item in job.items:
            self._tries.pop(item.id, None)
            self._lost.pop(item.id, None)
            self._alone.discard(item.id)

    def again(self, job: Job) -> None:
        """It was not tried."""
        self._end(job)

    def link_lost(self, job: Job) -> None:
        """The connection broke: try again at once, but not for ever what may be the cause."""
        self._end(job)
        for item in job.items:
            count = self._lost.get(item.id, 0) + 1
            self._lost[item.id] = count
            if count >= LINKS_LOST:
                self._alone.add(item.id)
                self._delay(item, count - LINKS_LOST)

    def failed(self, job: Job) -> None:
        """The receiver could not take it now: try again later, and later still."""
        self._end(job)
        for item in job.items:
            count = self._tries.get(item.id, 0)
            self._tries[item.id] = count + 1
            self._delay(item, count)
        self._row += 1
        if self.troubled and not self.pausing:  # what was under way together counts once
            self._pause_until = self._clock.monotonic() + self._backoff(self._rounds)
            self._rounds += 1

    def one_by_one(self, job: Job) -> None:
        """A bundle was refused: its segments travel alone from now on, so that the one at fault is found."""
        self._end(job)
        self._alone.update(item.id for item in job.items)

    def _bundles(self, one: Spooled) -> bool:
        return one.size < self._settings.bundle_below and one.id not in self._alone

    def _end(self, job: Job) -> None:
        self._busy.difference_update(item.id for item in job.items)

    def _delay(self, item: Spooled, count: int) -> None:
        self._later[item.id] = self._clock.monotonic() + self._backoff(count)

    def _backoff(self, count: int) -> float:
        longest = max(self._settings.retry_max, self._settings.retry_min)
        wait = min(self._settings.retry_min * 2.0 ** min(count, 30), longest)
        return self._clock.jitter(0.5 * wait, 1.5 * wait)
