"""The agent's end of the wire in a process of its own: sends what an outbox holds, then says how it went.

Arguments: state folder, `ReceiverSettings` as JSON, private key file. Prints one JSON object: `seconds` from the
start of the push until home holds everything, CPU seconds, resident memory before and at most, MB.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import uvloop

from agent.outbox import Outbox
from agent.push import Push
from agent.settings import ReceiverSettings
from tape import log, sshtune
from tape.clock import SYSTEM

LIMIT = 600.0


async def deliver(state: Path, settings: ReceiverSettings, key: Path) -> dict[str, Any]:
    """Send everything; the figures. Raises SystemExit if it does not end."""
    outbox = Outbox.open(state, "server1", clock=SYSTEM)
    count, size = outbox.waiting()
    me = psutil.Process()
    before = peak = me.memory_info().rss
    push = Push(outbox, settings, agent="server1", key=key, receipt_key=None, clock=SYSTEM)
    cpu, began = time.process_time(), time.monotonic()
    running = asyncio.ensure_future(push.run())
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
    sshtune.tune_allocator()
    log.configure(level="error")
    state, settings, key = Path(sys.argv[1]), ReceiverSettings.model_validate_json(sys.argv[2]), Path(sys.argv[3])
    print(json.dumps(uvloop.run(deliver(state, settings, key))))


if __name__ == "__main__":
    main()
