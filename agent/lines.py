"""The connections to the receiver, kept up for as long as the agent runs.

The first is tried with a growing, jittered pause between attempts; the others follow once one has worked, so a
receiver that is down sees one attempt at a time. A refused key is tried too, but slowly and loudly: only a person
can mend it.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from agent.login import connect
from agent.settings import ReceiverSettings
from agent.sftp import Connection
from agent.throttle import Throttle
from tape import sshtune
from tape.clock import Clock
from tape.errors import AuthError, ConfigError, HometapeError, LinkError
from tape.log import get_logger

log = get_logger(__name__)

AUTH_PAUSE = 60.0
SETTLED = 10.0
_READERS = 2
_CANCEL_AGAIN = 0.5


class Lines:
    """Keeps `settings.connections` connections. `changed` is called in the loop when one came or went.

    `key`: the agent's private key file.
    """

    def __init__(
        self, settings: ReceiverSettings, *, agent: str, key: Path, clock: Clock, changed: Callable[[], None]
    ) -> None:
        self.up: list[Connection] = []
        self.throttle = Throttle(
            settings.in_flight, clock=clock, bandwidth=settings.bandwidth, largest=sshtune.WRITE, changed=changed
        )
        self.error: HometapeError | None = None
        """Why there is no connection; None while there is one, or before the first attempt ended."""
        self.error_ns = 0
        self.server = ""
        """What the server called itself last."""
        self._settings = settings
        self._agent = agent
        self._key = key
        self._clock = clock
        self._changed = changed
        self._reached = asyncio.Event()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="push-read")

    def best(self) -> Connection | None:
        """The connection with the least to do; None while there is none."""
        return min(self.up, key=lambda line: (line.lane.writing, line.uploads), default=None)

    def calmest(self) -> Connection | None:
        """The connection on which least is read; None while there is none."""
        return min(self.up, key=lambda line: line.reading, default=None)

    async def run(self) -> None:
        """Connect, and connect again, until cancelled; then close everything."""
        keepers = [asyncio.ensure_future(self._keep(number)) for number in range(self._settings.connections)]
        try:
            while True:
                await self._clock.sleep(1)
                self.throttle.tick()
        finally:
            await end_all(keepers)
            await asyncio.gather(*(line.close() for line in list(self.up)), return_exceptions=True)
            self.up.clear()
            self._readers.shutdown(wait=False, cancel_futures=True)

    async def _keep(self, number: int) -> None:
        pause = self._settings.retry_min
        while True:
            if number:
                await self._reached.wait()
            began = self._clock.monotonic()
            error = await self._once(number)
            lived = self._clock.monotonic() - began
            if isinstance(error, (AuthError, ConfigError)):
                pause = max(pause, min(AUTH_PAUSE, self._settings.retry_max))
            elif lived > SETTLED + pause:
                pause = self._settings.retry_min
            wait = self._clock.jitter(0.5 * pause, 1.5 * pause)
            self._tell(number, error, wait)
            await self._clock.sleep(wait)
            pause = min(max(pause, 0.01) * 2, max(self._settings.retry_max, self._settings.retry_min))

    async def _once(self, number: int) -> HometapeError:
        """One connection from its attempt to its end; returns why it ended."""
        try:
            line = await connect(
                self._settings,
                agent=self._agent,
                key=self._key,
                throttle=self.throttle,
                clock=self._clock,
                readers=self._readers,
            )
        except HometapeError as error:
            return error
        self.up.append(line)
        self.error, self.server = None, line.server
        self._reached.set()
        log.info("connected", line=number, server=line.server, congestion=line.congestion)
        self._changed()
        try:
            why = await line.wait_closed()
        except asyncio.CancelledError:
            await line.close()
            raise
        finally:
            self.up.remove(line)
            self._changed()
        self.throttle.lost(line.answered)
        return LinkError(f"{self._settings.host}:{self._settings.port}: {why}")

    def _tell(self, number: int, error: HometapeError, wait: float) -> None:
        if self.up:
            log.warning("a connection ended", line=number, error=str(error), again_in_s=round(wait, 2))
            return
        self._reached.clear()
        self.error, self.error_ns = error, self._clock.now_ns()
        say = log.error if isinstance(error, (AuthError, ConfigError)) else log.warning
        say("no connection", error=str(error), hint=error.hint, again_in_s=round(wait, 2))


async def end_all(tasks: "Sequence[asyncio.Task[Any]]") -> None:
    """Cancel tasks until all have ended: before Python 3.12 `asyncio.wait_for`, which the SSH library waits with,
    loses a cancel that comes at the moment of success.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN)
    for task in tasks:
        if not task.cancelled():
            task.exception()
