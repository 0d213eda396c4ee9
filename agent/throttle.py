"""How much may be under way: one budget of bytes over all connections, the size of a write, a rate limit.

A link is full when round trip times rate is under way; more only fills queues: memory here, waiting for
everything that comes behind. So the budget follows the rate that is measured, up to the configured limit, and a slow
link is given small writes, so that each is answered long before it counts as stalled.
"""

import asyncio
import heapq
from collections.abc import Callable

from tape.clock import Clock

KIB = 1 << 10
MIB = 1 << 20
START = MIB
FLOOR = 512 * KIB
SMALLEST_PIECE = 32 * KIB
_WINDOW = 0.1
_QUEUE_SECONDS = 0.25
_HALF_LIFE = 10.0
_GROW_AFTER = 32


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
        self.rate = 0.0
        """Bytes a second that were answered lately; falls when nothing is sent."""
        self.round_trip = 0.0
        """Shortest time a request took, seconds; 0.0 while unknown."""
        self.changed = changed
        self._clock = clock
        self._bandwidth = bandwidth
        self._largest = largest
        self._cap = largest
        self._answered_at_cap = 0
        self._waiting: list[tuple[int, int, int, asyncio.Future[None]]] = []
        self._turns = 0
        self._shares = 0
        self._free_at = 0.0
        self._capacity = 0.0
        self._window_start = clock.monotonic()
        self._window_bytes = 0
        self._window_full = False

    @property
    def allowed(self) -> int:
        """Bytes that may be under way now."""
        wanted = self._capacity * (2 * self.round_trip + _QUEUE_SECONDS) + FLOOR
        return min(self.limit, max(int(wanted), START))

    @property
    def satisfied(self) -> bool:
        """Whether the uploads that were started are enough to keep the link full: no more at a time than that,
        so that the oldest are whole at home as soon as can be.
        """
        return self.used + self.backlog >= self.allowed

    def announce(self, size: int) -> "Share":
        """An upload of this size begins; its bytes count as backlog until they are taken. Older ones go first."""
        self._shares += 1
        return Share(self, size, self._shares)

    def piece(self, largest: int) -> int:
        """The size of the next write, at most `largest`."""
        size = min(largest, self._cap, self.limit)
        if self._bandwidth:
            size = min(size, max(self._bandwidth // 4, SMALLEST_PIECE))
        return max(size, 1)

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
            self.used += count
        if self._bandwidth:
            await self._pace(count)

    def give(self, count: int, *, answered: bool = False) -> None:
        """Bytes are not under way any more; `answered`: because the server has them."""
        self.used -= count
        if answered:
            self._measure(count)
            self._answered_at_cap += count
            if self._cap < self._largest and self._answered_at_cap > _GROW_AFTER * self._cap:
                self._cap = min(self._cap * 2, self._largest)
                self._answered_at_cap = 0
        while self._waiting and (self._waiting[0][3].done() or self._fits(self._waiting[0][2])):
            _, _, size, turn = heapq.heappop(self._waiting)
            if not turn.done():
                self.used += size
                turn.set_result(None)

    def took(self, seconds: float) -> None:
        """A short request was answered after this long."""
        self.round_trip = min(self.round_trip or seconds, seconds)

    def lost(self, answered: int) -> None:
        """A connection broke after `answered` bytes: if these were few, the writes were too large for the link."""
        if answered < 4 * self._cap:
            self._cap = max(self._cap // 4, min(SMALLEST_PIECE, self._largest))
            self._answered_at_cap = 0
        self._capacity /= 2

    def tick(self) -> None:
        """Let the rate fall while nothing is answered; call about once a second."""
        self._measure(0)

    def _fits(self, count: int) -> bool:
        return self.used == 0 or self.used + count <= self.allowed

    def _measure(self, count: int) -> None:
        self._window_bytes += count
        now = self._clock.monotonic()
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

    async def _pace(self, count: int) -> None:
        now = self._clock.monotonic()
        self._free_at = max(self._free_at, now) + count / self._bandwidth
        if (wait := self._free_at - count / self._bandwidth - now) > 0:
            try:
                await self._clock.sleep(wait)
            except asyncio.CancelledError:
                self.give(count)
                raise


class Share:
    """One upload's part of the budget."""

    def __init__(self, throttle: Throttle, size: int, rank: int) -> None:
        self._throttle = throttle
        self._rank = rank
        self._left = size
        throttle.backlog += size

    async def take(self, count: int) -> None:
        """`Throttle.take`, and that much less is left to write."""
        await self._throttle.take(count, self._rank)
        self._less(min(count, self._left))

    def close(self) -> None:
        """The upload ended, however it did."""
        self._less(self._left)

    def _less(self, count: int) -> None:
        self._left -= count
        self._throttle.backlog -= count
        self._throttle.changed()
