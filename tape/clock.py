"""The only room that reads the wall clock, sleeps, or draws random numbers for timing."""

import asyncio
import random
import time
from dataclasses import dataclass


class Clock:
    """Wall time, monotonic time and sleep. Everything that needs time takes one of these."""

    def now_ns(self) -> int:
        """Wall clock, ns since 1970 UTC."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Seconds on a clock that never steps."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait without blocking the event loop."""
        await asyncio.sleep(seconds)

    def wait(self, seconds: float) -> None:
        """Wait, blocking this thread: for commands, never on an event loop."""
        time.sleep(seconds)

    def jitter(self, low: float, high: float) -> float:
        """A random number of seconds between low and high, to keep retries apart."""
        return random.uniform(low, high)  # noqa: S311 - spreads retries, hides nothing


SYSTEM = Clock()


def pause(seconds: float) -> None:
    """Block this thread for a moment: for retries of a disk operation, never on an event loop."""
    time.sleep(seconds)


@dataclass
class ManualClock(Clock):
    """A clock that only moves when told to: for tests and simulations. Times in ns."""

    wall_ns: int = 1_700_000_000_000_000_000
    mono_ns: int = 0

    def now_ns(self) -> int:
        """Wall clock, ns since 1970 UTC."""
        return self.wall_ns

    def monotonic(self) -> float:
        """Seconds since this clock was made, as advanced."""
        return self.mono_ns / 1e9

    async def sleep(self, seconds: float) -> None:
        """Advance and let other tasks run once."""
        self.advance(seconds)
        await asyncio.sleep(0)

    def wait(self, seconds: float) -> None:
        """Advance."""
        self.advance(seconds)

    def jitter(self, low: float, high: float) -> float:
        """The middle, always."""
        return (low + high) / 2

    def advance(self, seconds: float) -> None:
        """Move both times forward."""
        step = round(seconds * 1e9)
        self.wall_ns += step
        self.mono_ns += step
