"""How much arrives at the moment, so that work that can wait gives way to a burst."""

from tape.clock import Clock

WINDOW = 0.2
BUSY_RATE = 25 * 10**6


class Traffic:
    """Bytes that arrive, in windows of a fifth of a second. For one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = clock.monotonic()
        self._bytes = 0
        self._rate = 0.0

    def add(self, count: int) -> None:
        """Bytes have arrived."""
        self._turn()
        self._bytes += count

    def busy(self) -> bool:
        """Whether more arrives than an ordinary line brings: both ends then need the processor."""
        self._turn()
        return self._rate >= BUSY_RATE or self._bytes >= BUSY_RATE * WINDOW

    def _turn(self) -> None:
        elapsed = self._clock.monotonic() - self._start
        if elapsed >= WINDOW:
            self._rate = self._bytes / elapsed
            self._start += elapsed
            self._bytes = 0
