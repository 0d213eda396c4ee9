"""The agent's end of the wire in a process of its own: sends what an outbox holds, then says how it went.

Arguments: state folder, `ReceiverSettings` as JSON, private key file. Prints one JSON object: `connect`, seconds until
all connections are up; `seconds`, from then until home holds everything; CPU seconds, resident memory before and
at most, MB. Nothing is sent before all connections are up: an agent keeps them for days.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import psutil
import uvloop

from agent.model import Spooled
from agent.outbox import Outbox
from agent.push import Push
from agent.settings import ReceiverSettings
from tape import console, log, sshtune
from tape.clock import SYSTEM

LIMIT = 600.0


class Held(Outbox):
    """An outbox that shows nothing to the push while `closed`."""

    closed = True

    def unsent(self, limit: int, *, excluding: Collection[int] = (), again: bool = False) -> list[Spooled]:
        """Nothing, or what there is."""
        return [] if self.closed else super().unsent(limit, excluding=excluding, again=again)

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Keep it, to open the outbox at the right moment."""
        super().subscribe(wake)
        self.wake = wake

    def show(self) -> None:
        """From here on the segments are seen."""
        self.closed = False
        self.wake()


async def deliver(state: Path, settings: ReceiverSettings, key: Path) -> dict[str, Any]:
    """Send everything; the figures. Raises SystemExit if it does not end."""
    outbox = Held.open(state, "server1", clock=SYSTEM)
    assert isinstance(outbox, Held)
    count, size = outbox.waiting()
    me = psutil.Process()
    before = peak = me.memory_info().rss
    push = Push(outbox, settings, agent="server1", key=key, receipt_key=None, clock=SYSTEM)
    started = time.monotonic()
    running = asyncio.ensure_future(push.run())
    while push.progress.connections < settings.connections:
        if running.done():
            running.result()
        await asyncio.sleep(0.002)
        if time.monotonic() - started > LIMIT:
            raise SystemExit(f"no connection after {LIMIT} s: {push.progress}")
    cpu, began = time.process_time(), time.monotonic()
    outbox.show()
    looked = began
    while push.progress.held < count:
        if running.done():
            running.result()
        if push.progress.refused:
            raise SystemExit(f"home refuses: {push.progress}")
        if time.monotonic() - began > LIMIT:
            raise SystemExit(f"not done after {LIMIT} s: {push.progress}")
        await asyncio.sleep(0.002)
        if time.monotonic() - looked > 0.05:
            looked = time.monotonic()
            peak = max(peak, me.memory_info().rss)
    seconds, used = time.monotonic() - began, time.process_time() - cpu
    progress = push.progress
    await push.stop(grace=0)
    await asyncio.wait([running])
    outbox.close()
    return {
        "connect": began - started,
        "seconds": seconds,
        "cpu": used,
        "bytes": size,
        "segments": count,
        "bundles": progress.bundles,
        "memory_before_mb": round(before / 1e6),
        "memory_peak_mb": round(peak / 1e6),
    }


def main() -> None:
    """Run and print."""
    console.spare_the_collector()  # as the agent's command does
    sshtune.tune_allocator()
    log.configure(level="error")
    state, settings, key = Path(sys.argv[1]), ReceiverSettings.model_validate_json(sys.argv[2]), Path(sys.argv[3])
    print(json.dumps(uvloop.run(deliver(state, settings, key))))


if __name__ == "__main__":
    main()
