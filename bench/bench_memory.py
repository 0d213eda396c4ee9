"""Memory of agent and receiver while many million rows go home: it must stay flat and under 300 MB.

A generated file is appended while both run; resident memory of each process (with its children) is sampled
every half second. Printed: peak over each tenth of the run, so that a slope shows.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from tests.support.road import Road


def resident(process: psutil.Process) -> int:
    """Bytes resident, children included."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def append(path: Path, rows: int) -> None:
    """Write quotes in blocks of 100,000 rows, as fast as the file takes them."""
    now, price = 1_763_700_000_000, 6_170_000
    with path.open("ab", buffering=0) as file:
        for first in range(0, rows, 100_000):
            count = min(100_000, rows - first)
            lines = []
            for n in range(count):
                now += (n * 7919) % 11
                price += (n * 104_729) % 7 - 3
                lines.append(b"%d,%d.%02d,%d\n" % (now, price // 100, price % 100, n % 977))
            file.write(b"".join(lines))


def main(argv: list[str] | None = None) -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000_000, help="rows to send")
    given = parser.parse_args(argv)
    samples: list[tuple[int, int]] = []
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as scratch, Road(Path(scratch)) as road:
        road.configure(stream="memory/{base}", agent_set=("seal.partial_age=1s", "receiver.receipts_every=1s"))
        receiver = psutil.Process(road.start_receiver().pid)
        agent = psutil.Process(road.start_agent().pid)
        path = road.ticks / "quotes.csv"
        path.touch()
        started = time.monotonic()
        writer = threading.Thread(target=append, args=(path, given.rows))
        writer.start()
        while writer.is_alive() or not road.level(path.stat().st_size):
            for _ in range(10):
                samples.append((resident(agent), resident(receiver)))
                time.sleep(0.5)
        elapsed = time.monotonic() - started
    tenth = max(1, len(samples) // 10)
    print("part   agent peak MB   receiver peak MB")
    peaks = []
    for number in range(0, len(samples), tenth):
        part = samples[number : number + tenth]
        peaks.append([round(max(s[side] for s in part) / 1e6, 1) for side in (0, 1)])
        print(f"{number // tenth + 1:>4} {peaks[-1][0]:>15.1f} {peaks[-1][1]:>18.1f}")
    print(json.dumps({"memory": {"rows": given.rows, "seconds": round(elapsed, 1), "peaks_mb": peaks}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
