"""Speed of sealing: a CSV file to sealed, proven, fsynced segments, rows a second on one core and on two.

Each measurement is a process of its own, pinned to its core, that seals the same day three times. `first` is
the first day, in a cold process, and `next` the two after it: from the first byte read to the last fsync
(reading, detection, typing, proof, choice of encodings, encoding, digests, fsync, decoding the file again).
`whole` is all three days and the imports, from the process's first line of Python on; `cpu` the two warm days
by processor time, which other work on the machine disturbs least. gzip and xz of the same bytes stand beside it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_STARTED = time.perf_counter()
CHUNK = 4 << 20
LEVEL = 3
DAYS = 3
KINDS = ("first", "next", "whole", "cpu")
AIG = "lean/equity/usa/tick/aig/20131007_quote.zip"


def _pin(core: int | None) -> None:
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def _unpack(data: Path) -> bytes:
    import zipfile

    with zipfile.ZipFile(data) as folder:
        return folder.read(folder.namelist()[0])


def seal(source: Path, folder: Path) -> int:
    """The whole file as one segment, the way the agent drives the writer; returns the rows."""
    from tape.layout import Format, detect
    from tape.segment import SegmentWriter
    from tests.support.sealing import START_NS, footer_for

    with source.open("rb", buffering=0) as file:
        rest = b""
        writer = None
        size = 0
        while block := file.read(CHUNK):
            block = rest + block
            stop = block.rfind(b"\n") + 1
            chunk, rest = block[:stop], block[stop:]
            if writer is None:
                layout = detect(chunk[: 1 << 20], Format.AUTO, at_start=True, prior=None)
                writer = SegmentWriter(folder / "segment", layout, level=LEVEL)
            writer.append(chunk, [(len(chunk), START_NS)])
            size += len(chunk)
        assert writer is not None
        if rest:
            writer.append(rest, [(len(rest), START_NS)])
            size += len(rest)
        return writer.close(footer_for(0, size)).rows


def child(source: Path, core: int | None) -> None:
    """One measured process: waits for a line on standard input, seals, prints what it took."""
    _pin(core)
    import pyarrow as pa

    import tape.segment  # noqa: F401  (imported here so that the work can be told from the imports)

    pa.set_cpu_count(1)
    imports = time.perf_counter() - _STARTED
    sys.stdin.readline()
    rows, walls, busy = 0, [], []
    for _ in range(DAYS):
        with tempfile.TemporaryDirectory(dir=source.parent) as folder:
            started, cpu = time.perf_counter(), time.process_time()
            rows = seal(source, Path(folder))
            walls.append(time.perf_counter() - started)
            busy.append(time.process_time() - cpu)
    warm = DAYS - 1
    seconds = {"first": walls[0], "next": sum(walls[1:]) / warm, "whole": (sum(walls) + imports) / DAYS}
    print(json.dumps({"rows": rows, "cpu": sum(busy[1:]) / warm, **seconds}))


def measured(source: Path, cores: list[int | None]) -> dict[str, float]:
    """Children on these cores at the same time: rows a second together, by each kind of clock."""
    command = [sys.executable, "-m", "bench.bench_seal", "--child", str(source)]
    running = [
        subprocess.Popen(
            [*command, *([] if core is None else ["--core", str(core)])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for core in cores
    ]
    time.sleep(2.0)  # let all of them import before any begins
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [json.loads(process.communicate()[0]) for process in running]
    rows = sum(one["rows"] for one in found)
    return {kind: rows / max(one[kind] for one in found) for kind in KINDS}


def packed(source: Path, command: list[str]) -> float:
    """Seconds that a packer needs for the file, on one core."""
    started = time.perf_counter()
    with source.open("rb") as file:
        subprocess.run(["taskset", "-c", "0", *command], stdin=file, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main(argv: list[str] | None = None) -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the recordings")
    parser.add_argument("--repeat", type=int, default=5, help="measurements of each kind; the best counts")
    parser.add_argument("--packers", action="store_true", help="gzip -6 and xz -6 of the same bytes too (slow)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.child is not None:
        child(given.child, given.core)
        return 0
    if not (given.data / AIG).exists():
        print(f"SKIPPED: no {given.data / AIG}")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "aig.csv"
        source.write_bytes(_unpack(given.data / AIG))
        rows = source.read_bytes().count(b"\n") + 1
        result: dict[str, float] = {}
        for name, cores in (("one core", [0]), ("two cores", [0, 1])):
            runs = [measured(source, list(cores)) for _ in range(given.repeat)]
            for kind in KINDS:
                rates = [run[kind] / 1e6 for run in runs]
                result[f"{name}, {kind}"] = max(rates)
                print(f"{name:10} {kind:6} best {max(rates):5.2f}  median {statistics.median(rates):5.2f}  M rows/s")
        if given.packers:
            for command in (["gzip", "-6", "-c"], ["xz", "-6", "-T1", "-c"]):
                name = " ".join(command[:2])
                result[name] = rows / packed(source, command) / 1e6
                print(f"{name:17} {result[name]:5.2f} M rows/s")
    print(json.dumps({"bench": "seal", "unit": "million rows a second", **result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
