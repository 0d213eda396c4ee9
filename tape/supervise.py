"""How a long-running process of either side lives: event loop, signals, watchdog, a clean stop."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from tape.clock import Clock
from tape.errors import HometapeError, StoreError
from tape.log import get_logger
from tape.notify import Notifier

log = get_logger(__name__)

STUCK_AFTER = 120.0


class Stop:
    """Asked to stop: an event that signals, and an `ask` any thread may call."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def ask(self) -> None:
        """Request a clean stop."""
        self._loop.call_soon_threadsafe(self._event.set)

    @property
    def asked(self) -> bool:
        """Whether a stop was requested."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Return once a stop was requested."""
        await self._event.wait()


class Heartbeat:
    """What a service says of itself to its manager, and whether it still moves.

    A start may take its time (recovery reads files): only once it has beaten may it be found stuck.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: float | None = None
        self.line = "starting"

    def beat(self, line: str) -> None:
        """It moves, and this is what it does."""
        self._last, self.line = self._clock.monotonic(), line

    def alive(self) -> str:
        """One line for the service manager; raises StoreError if the service has hung."""
        silent = 0.0 if self._last is None else self._clock.monotonic() - self._last
        if silent > STUCK_AFTER:
            raise StoreError(f"nothing has moved for {silent:.0f} s")
        return self.line


def _catch_signals(stop: Stop) -> None:
    names = ("SIGINT", "SIGTERM", "SIGHUP") if sys.platform != "win32" else ("SIGINT", "SIGBREAK")
    loop = asyncio.get_running_loop()
    for name in names:
        number = getattr(signal, name)
        try:
            loop.add_signal_handler(number, stop.ask)
        except NotImplementedError:  # Windows event loops
            signal.signal(number, lambda *_: stop.ask())


async def _pulse(notifier: Notifier, clock: Clock, alive: Callable[[], str]) -> None:
    interval = notifier.watchdog_interval()
    while True:
        notifier.send(f"STATUS={alive()}", *(["WATCHDOG=1"] if interval else []))
        await clock.sleep(min(interval or 10.0, 10.0))


async def until_stopped(
    main: Callable[[Stop], Awaitable[Any]], *, notifier: Notifier, clock: Clock, alive: Callable[[], str]
) -> None:
    """Run `main` until it ends or a signal asks it to stop; it must return soon after `stop.asked`.

    `alive` gives one line of status and raises if the service is stuck: then the watchdog fires.
    `main` itself sends READY=1 through the notifier when it is ready.
    """
    stop = Stop()
    _catch_signals(stop)
    asyncio.get_running_loop().set_exception_handler(_unhandled)
    pulse = asyncio.create_task(_pulse(notifier, clock, alive))
    try:
        await main(stop)
    finally:
        notifier.send("STOPPING=1")
        pulse.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pulse


def _unhandled(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Exceptions nobody waited for (a cut connection leaves some): a log line, never a crash."""
    error = context.get("exception")
    known = isinstance(error, (HometapeError, OSError, asyncio.CancelledError))
    (log.debug if known else log.warning)("exception nobody waited for", what=context.get("message"), error=repr(error))


def run(main: Coroutine[Any, Any, None], *, uvloop: bool) -> None:
    """Run a coroutine on a fresh event loop; uvloop where wanted and installed."""
    if uvloop and sys.platform != "win32":
        with contextlib.suppress(ImportError):
            import uvloop as fast

            fast.run(main)
            return
    asyncio.run(main)
