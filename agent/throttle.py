"""How much may be under way: a budget of bytes for each connection and over all, the size of a write, a rate limit.

A link is full when round trip times rate is under way; more only fills queues: memory here, waiting for
everything that comes behind. So each connection's budget follows the rate that is measured on it, and all together keep
the configured limit. A slow link is given small writes, so that each is answered long before it counts as stalled.
"""

import asyncio
import heapq
from collections.abc import Callable

from tape.clock import Clock

KIB = 1 << 10
MIB = 1 << 20
START = 256 * KIB
SMALLEST_PIECE = 32 * KIB
_WINDOW = 0.1
_QUEUE_SECONDS = 0.25
_HALF_LIFE = 10.0
_GROW_AFTER = 32
BEHIND = 16
"""So many uploads that begin after one that travels behind still go before it."""


class Pace:
    """At most `rate` bytes a second, 0 for no limit; the rate may be changed at any time."""

    def __init__(self, rate: int, clock: Clock) -> None:
        self.rate = rate
        self._clock = clock
        self._free_at = 0.0

    def piece(self, largest: int) -> int:
        """The largest write that suits it."""
        return min(largest, max(self.rate // 4, SMALLEST_PIECE)) if self.rate else largest

    async def wait(self, count: int) -> None:
        """Until so many bytes may go."""
        if not self.rate:
            return
        now = self._clock.monotonic()
        begin = max(self._free_at, now)
        self._free_at = begin + count / self.rate
        if begin > now:
            await self._clock.sleep(begin - now)


class Throttle:
    """Shared by all connections; made for one event loop.

    `limit`: most bytes under way. `bandwidth`: most bytes a second, 0 for no limit. `largest`: largest write.
    `changed` is called when the backlog became smaller.
    """

    def __init__(
        self,
        limit: int,
        *,
        clock: Clock,
        bandwidth: int = 0,
        largest: int = MIB,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.limit = max(limit, SMALLEST_PIECE)
        self.used = 0
        """Bytes under way."""
        self.backlog = 0
        """Bytes of uploads that were started, not yet taken."""
        self.round_trip = 0.0
        """Shortest time a request took, seconds; 0.0 while unknown."""
        self.lanes: list[Lane] = []
        self.changed = changed
        self.clock = clock
        self.behind = Pace(0, clock)
        """The rate of uploads that travel behind the others, all together."""
        self._pace = Pace(bandwidth, clock)
        self._largest = largest
        self._cap = largest
        self._answered_at_cap = 0
        self._shares = 0

    @property
    def rate(self) -> float:
        """Bytes a second that were answered lately; falls when nothing is sent."""
        return sum(lane.rate for lane in self.lanes)

    @property
    def satisfied(self) -> bool:
        """Whether the uploads that were started are enough to keep the link full: no more at a time than that,
        so that the oldest are whole at home as soon as can be.
        """
        return self.used + self.backlog >= min(self.limit, sum(lane.allowed for lane in self.lanes))

    def lane(self) -> "Lane":
        """The part of a new connection; close it with the connection."""
        made = Lane(self)
        self.lanes.append(made)
        return made

    def announce(self, size: int, lane: "Lane", *, behind: bool = False) -> "Share":
        """An upload of this size begins; its bytes count as backlog until they are taken. Older ones go first.

        One that travels `behind` lets those pass that begin soon after it, and is no reason not to begin others.
        """
        self._shares += 1
        return Share(self, size, self._shares, lane, behind=behind)

    @property
    def largest(self) -> int:
        """The largest write that suits the link now."""
        return self._pace.piece(min(self._cap, self.limit))

    def took(self, seconds: float) -> None:
        """A short request was answered after this long."""
        self.round_trip = min(self.round_trip or seconds, seconds)

    def lost(self, answered: int) -> None:
        """A connection broke after `answered` bytes: if these were few, the writes were too large for the link."""
        if answered < 4 * self._cap:
            self._cap = max(self._cap // 4, min(SMALLEST_PIECE, self._largest))
            self._answered_at_cap = 0

    def tick(self) -> None:
        """Let the rates fall while nothing is answered; call about once a second."""
        for lane in self.lanes:
            lane.measure(0)

    def fits(self, count: int) -> bool:
        """Whether so many more bytes keep the limit; an empty line takes any."""
        return self.used == 0 or self.used + count <= self.limit

    def answered(self, count: int) -> None:
        """The server has so many bytes more: writes may grow again."""
        self._answered_at_cap += count
        if self._cap < self._largest and self._answered_at_cap > _GROW_AFTER * self._cap:
            self._cap = min(self._cap * 2, self._largest)
            self._answered_at_cap = 0

    def serve(self) -> None:
        """Let those go whose turn it is, the oldest upload first."""
        for lane in sorted((lane for lane in self.lanes if lane.first is not None), key=lambda lane: lane.first or 0):
            lane.serve()

    async def pace(self, count: int) -> None:
        """Keep the rate limit."""
        await self._pace.wait(count)


class Lane:
    """One connection's part: its own budget, measured on it."""

    def __init__(self, throttle: Throttle) -> None:
        self.used = 0
        """Bytes under way on it."""
        self.writing = 0
        """Uploads on it that have not taken all their bytes."""
        self.rate = 0.0
        """Bytes a second that were answered on it lately."""
        self._throttle = throttle
        self._waiting: list[tuple[int, int, int, asyncio.Future[None]]] = []
        self._turns = 0
        self._capacity = 0.0
        self._window_start = throttle.clock.monotonic()
        self._window_bytes = 0
        self._window_full = False
        self._closed = False

    @property
    def allowed(self) -> int:
        """Bytes that may be under way on it now."""
        return int(self._capacity * (2 * self._throttle.round_trip + _QUEUE_SECONDS)) + START

    @property
    def first(self) -> int | None:
        """The lowest rank that waits; None if nobody does."""
        return self._waiting[0][0] if self._waiting else None

    def piece(self, largest: int) -> int:
        """The size of the next write, at most `largest`: two at least fit the budget."""
        return max(min(largest, self._throttle.largest, max(self.allowed // 2, SMALLEST_PIECE)), 1)

    async def take(self, count: int, rank: int = 0) -> None:
        """Wait until `count` more bytes may go out, lower ranks first, then first come first served.

        Pair with `give`.
        """
        if self._waiting or not self._fits(count):
            self._window_full = True
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._turns += 1
            heapq.heappush(self._waiting, (rank, self._turns, count, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self.give(count)
                raise
        else:
            self._add(count)
        try:
            await self._throttle.pace(count)
        except asyncio.CancelledError:
            self.give(count)
            raise

    def give(self, count: int, *, answered: bool = False) -> None:
        """Bytes are not under way any more; `answered`: because the server has them."""
        whole = not self._throttle.fits(SMALLEST_PIECE)
        self._add(-count)
        if answered:
            self.measure(count)
            self._throttle.answered(count)
        if whole or self._throttle.used == 0:
            self._throttle.serve()  # others may have waited for the limit over all
        else:
            self.serve()

    def serve(self) -> None:
        """Let those go that fit."""
        while self._waiting and (self._waiting[0][3].done() or self._closed or self._fits(self._waiting[0][2])):
            _, _, size, turn = heapq.heappop(self._waiting)
            if not turn.done():
                self._add(size)
                turn.set_result(None)

    def close(self) -> None:
        """The connection is gone: nobody waits here any more, they find out when they write."""
        self._closed = True
        self.serve()
        if self in self._throttle.lanes:
            self._throttle.lanes.remove(self)

    def measure(self, count: int) -> None:
        """Note answered bytes."""
        self._window_bytes += count
        now = self._throttle.clock.monotonic()
        passed = now - self._window_start
        if passed < _WINDOW:
            return
        latest = self._window_bytes / passed
        self.rate = latest if not self.rate else 0.5 * self.rate + 0.5 * latest
        if self.rate < 1:
            self.rate = 0.0
        if latest > self._capacity:
            self._capacity = latest
        elif self._window_full:  # slowly: a server that pauses for a moment has not become a slow one
            self._capacity = max(self._capacity * 0.5 ** (passed / _HALF_LIFE), latest)
        self._window_start, self._window_bytes = now, 0
        self._window_full = bool(self._waiting)

    def _fits(self, count: int) -> bool:
        return self._throttle.fits(count) and (self.used == 0 or self.used + count <= self.allowed)

    def _add(self, count: int) -> None:
        self.used += count
        self._throttle.used += count


class Share:
    """One upload's part of the budget."""

    def __init__(self, throttle: Throttle, size: int, rank: int, lane: Lane, *, behind: bool = False) -> None:
        self._throttle = throttle
        self._lane = lane
        self._behind = behind
        self._rank = rank + (BEHIND if behind else 0)
        self._left = size
        self._writing = not behind
        if not behind:
            throttle.backlog += size
            lane.writing += 1

    def piece(self, largest: int) -> int:
        """The size of its next write, at most `largest`."""
        return self._lane.piece(self._throttle.behind.piece(largest) if self._behind else largest)

    async def take(self, count: int) -> None:
        """`Lane.take`, and that much less is left to write."""
        if self._behind:
            await self._throttle.behind.wait(count)
        await self._lane.take(count, self._rank)
        self._less(min(count, self._left))

    def close(self) -> None:
        """The upload ended, however it did."""
        self._less(self._left)

    def _less(self, count: int) -> None:
        self._left -= count
        if self._behind:
            return
        self._throttle.backlog -= count
        if self._left == 0 and self._writing:
            self._writing = False
            self._lane.writing -= 1
        self._throttle.changed()
