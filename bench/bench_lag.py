"""Lag from the line in the file to the verified home copy, and the agent's CPU share, at three rates.

A writer appends lines at 1,000, 10,000 and 100,000 a second (in 5 ms steps, each step's time noted); agent
and receiver run as two processes on this machine with `max_age` 1 s. A line is home when the catalog has
committed its segment (`committed_ns`, after hash, fsync and transaction). The writer and both ends share the
machine's cores.
"""

import argparse
import json
import sys
import tempfile
import time
from bisect import bisect_left
from pathlib import Path

import numpy as np
import psutil

from receiver.catalog import Catalog
from tape.clock import SYSTEM
from tests.support.road import Road

RATES = (1_000, 10_000, 100_000)


def write_at(path: Path, rate: int, seconds: float) -> list[tuple[int, int, int]]:
    """Append quotes at a rate; per step: bytes in the file after it, its time in ns, lines in it."""
    steps: list[tuple[int, int, int]] = []
    size, written, price = 0, 0, 6_170_000
    with path.open("ab", buffering=0) as file:
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < seconds:
            due = int(elapsed * rate) - written
            if due > 0:
                now = time.time_ns()
                price += (written % 7) - 3
                block = b"".join(b"%d,%d.%02d,%d\n" % (now + n, price // 100, price % 100, n) for n in range(due))
                size += file.write(block)
                written += due
                steps.append((size, now, due))
            time.sleep(0.005)
    return steps


def lags(state: Path, stream: str, steps: list[tuple[int, int, int]]) -> np.ndarray:
    """Seconds from writing to home for every line, from the catalog's record."""
    ends = [step[0] for step in steps]
    found: list[np.ndarray] = []
    with Catalog.open(state, clock=SYSTEM, read_only=True) as catalog:
        for held in catalog.segments("server1", stream):
            footer = held.footer
            if footer is None:
                raise SystemExit("the catalog lists a segment without its footer facts")
            first, last = bisect_left(ends, footer.source.start + 1), bisect_left(ends, footer.source.end)
            for _, at, count in steps[first : last + 1]:
                found.append(np.full(count, (held.committed_ns - at) / 1e9))
    return np.concatenate(found)


def measure(rate: int, seconds: float) -> dict[str, float]:
    """One rate: median and 99th percentile lag in s, CPU share of both processes (1.0: one core)."""
    with tempfile.TemporaryDirectory(prefix="bench-lag-") as scratch, Road(Path(scratch)) as road:
        road.configure(stream="lag/{base}")
        receiver = psutil.Process(road.start_receiver().pid)
        agent = psutil.Process(road.start_agent().pid)
        time.sleep(3)  # start-up is not what is measured
        path = road.ticks / "quotes.csv"
        path.touch()
        before = [sum(p.cpu_times()[:2]) for p in (agent, receiver)]
        started = time.monotonic()
        steps = write_at(path, rate, seconds)
        elapsed = time.monotonic() - started
        after = [sum(p.cpu_times()[:2]) for p in (agent, receiver)]
        road.wait_level(steps[-1][0])
        seen = lags(road.folder / "home" / "state", "lag/quotes", steps)
        return {
            "rate": rate,
            "lines": len(seen),
            "median_s": round(float(np.median(seen)), 3),
            "p99_s": round(float(np.percentile(seen, 99)), 3),
            "agent_cpu": round((after[0] - before[0]) / elapsed, 3),
            "receiver_cpu": round((after[1] - before[1]) / elapsed, 3),
            "agent_rss_mb": round(agent.memory_info().rss / 1e6, 1),
            "receiver_rss_mb": round(receiver.memory_info().rss / 1e6, 1),
        }


def main(argv: list[str] | None = None) -> int:
    """Measure every rate and print a table, then JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each rate is kept up")
    given = parser.parse_args(argv)
    rows = [measure(rate, given.seconds) for rate in RATES]
    print("ticks/s     median s   p99 s   agent CPU   receiver CPU   agent RSS MB   receiver RSS MB")
    for row in rows:
        print(
            f"{row['rate']:>7,} {row['median_s']:>12.3f} {row['p99_s']:>7.3f} {row['agent_cpu']:>10.1%}"
            f" {row['receiver_cpu']:>13.1%} {row['agent_rss_mb']:>14.1f} {row['receiver_rss_mb']:>16.1f}"
        )
    print(json.dumps({"lag": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
