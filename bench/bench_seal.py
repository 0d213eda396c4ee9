"""Speed of sealing: a CSV file to sealed, proven, fsynced segments, rows a second on one core and on two.

Each measurement is a process of its own, pinned to its core. `work` is from the first byte read to the
last fsync (reading, detection, typing, proof, encoding, digests, fsync, decoding the file again); `whole`
adds the imports, from the process's first line of Python on. gzip and xz of the same bytes stand beside it.
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
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        started, cpu = time.perf_counter(), time.process_time()
        rows = seal(source, Path(folder))
        work, busy = time.perf_counter() - started, time.process_time() - cpu
    print(json.dumps({"rows": rows, "work": work, "cpu": busy, "whole": work + imports}))


def measured(source: Path, cores: list[int | None]) -> dict[str, float]:
    """Children on these cores at the same time: rows a second together, by work and by whole process."""
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
    return {
        "work": rows / max(one["work"] for one in found),
        "whole": rows / max(one["whole"] for one in found),
        "cpu": rows / sum(one["cpu"] for one in found),
    }


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
            for kind in ("work", "whole", "cpu"):
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
