"""Fan-out: a home archive to three local targets, verified, beside three times `rclone copy` and `rclone check`.

Ours is a whole process: interpreter, catalog, `Fanout.drain` over targets as settings make them; every copy is
fsynced and read back from its medium. The home archive was read back before, as it is when segments have arrived;
`--home` leaves that to the fan-out as well. rclone neither fsyncs nor gets past the page cache; what a sync after each
of its copies takes is measured beside it. Both start from the same files in the same run. Then: resident memory while a
target that is a million segments behind catches up, with home and target made of nothing, so that only the fan-out
itself is measured.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil

from bench import catalogs
from bench.fanout_child import NAMES, entry
from bench.installed import environment
from receiver.catalog import Catalog
from receiver.fanout import Fanout
from receiver.model import Copy
from receiver.targets.contract import Parcel, Place, Proof, Target
from receiver.targets.marker import prepare
from receiver.targets.memory import MemoryTarget
from receiver.targets.opening import open_target
from tape.clock import SYSTEM
from tape.errors import HometapeError
from tape.log import configure
from tests.support.segments import Maker, finish, put

MIB = 2**20
CASES = {"small": (2_000, 256 * 1024), "large": (20, 64 * MIB)}


# ----------------------------------------------------------------------------------------------- the rate


def fill(folder: Path, count: int, size: int, *, proven: bool = True) -> None:
    """A home archive of so many segments, read back (`proven`), and the catalog of it before anything was copied."""
    rng = random.Random(size)
    maker = Maker(real=False)
    (folder / "state").mkdir(parents=True)
    prepare(folder / "home", "home", clock=SYSTEM)
    with Catalog.open(folder / "state", clock=SYSTEM) as catalog:
        for _ in range(count):
            made = finish(maker.make().footer, rng.randbytes(size))
            maker.chain = made.chain
            put(folder / "home", made)
            catalog.record([made.new])
        if proven:
            asyncio.run(Fanout(catalog, [open_target(entry(folder, "home"), folder / "state")], clock=SYSTEM).drain())
    subprocess.run(["sync"], check=True)


def ours(folder: Path, count: int, *, proven: bool) -> tuple[float, float]:
    """Seconds, and seconds of processor time, of one whole drain into fresh targets."""
    state = folder / "state"
    shutil.copytree(state, folder / "state-before", dirs_exist_ok=True)
    for name in NAMES:
        prepare(folder / name, name, clock=SYSTEM)
    took = timed([sys.executable, "-m", "bench.fanout_child", str(folder)])
    for name in NAMES:
        assert sum(1 for _ in (folder / name).rglob("*.parquet")) == count
    shutil.rmtree(state)
    (folder / "state-before").rename(state)
    for sums in () if proven else (folder / "home").rglob("SHA256SUMS"):
        sums.unlink()
    clear(folder)
    return took


def theirs(folder: Path, check: Sequence[str]) -> tuple[float, float, float]:
    """The same for rclone, one target after the other, as a script would; and the seconds of a sync after each copy."""
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert rclone is not None
    seconds = processor = synced = 0.0
    for name in NAMES:
        road = [str(folder / "home" / "box"), str(folder / name / "box"), "--config", os.devnull]
        for words in (["copy"], check):
            one = timed([rclone, *words, *road])
            seconds, processor = seconds + one[0], processor + one[1]
        synced += timed(["sync", "--file-system", str(folder / name)])[0]
    clear(folder)
    return seconds, processor, synced


def clear(folder: Path) -> None:
    """Targets out of the way, nothing left to write: the next run starts level. On a disk nothing is deleted before the
    end, for ext4 passes over the numbers of files deleted in the last minutes, one by one, at the cost of who comes
    next; in memory all is, for pages that were never used cost more than others.
    """
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], check=True, capture_output=True, text=True).stdout
    if kind.strip() == "tmpfs":
        for name in NAMES:
            shutil.rmtree(folder / name)
        return
    away = Path(tempfile.mkdtemp(prefix="done-", dir=folder))
    for name in NAMES:
        (folder / name).rename(away / name)
    subprocess.run(["sync"], check=True)


def timed(argv: Sequence[str]) -> tuple[float, float]:
    """Run a program: seconds, and seconds of processor time with all it started."""
    env = environment("bench.fanout_child")
    before, began = psutil.Process().cpu_times(), time.monotonic()
    done = subprocess.run(argv, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env)
    took, after = time.monotonic() - began, psutil.Process().cpu_times()
    assert done.returncode == 0, done.stderr[-4000:].decode(errors="replace")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return took, used


def compare(
    name: str, folder: Path, count: int, size: int, rounds: int, check: Sequence[str], *, proven: bool
) -> dict[str, object]:
    """Medians of so many rounds, ours and theirs in turn."""
    fill(folder, count, size, proven=proven)
    mine: list[tuple[float, float]] = []
    other: list[tuple[float, float, float]] = []
    for _ in range(rounds):
        mine.append(ours(folder, count, proven=proven))
        other.append(theirs(folder, check))
    found: dict[str, object] = {"files": count, "bytes": count * size, "rounds": rounds, "check": " ".join(check)}
    for who, runs in (("ours", mine), ("rclone", other)):
        found[f"{who}_s"] = round(statistics.median(run[0] for run in runs), 2)
        found[f"{who}_cpu_s"] = round(statistics.median(run[1] for run in runs), 2)
    found["rclone_synced_s"] = round(statistics.median(run[0] + run[2] for run in other), 2)
    pairs = list(zip(mine, other, strict=True))
    found["ratio"] = round(statistics.median(theirs[0] / ours[0] for ours, theirs in pairs), 2)
    found["ratio_synced"] = round(statistics.median((theirs[0] + theirs[2]) / ours[0] for ours, theirs in pairs), 2)
    found["cpu_ratio"] = round(statistics.median(theirs[1] / ours[1] for ours, theirs in pairs), 2)
    rate = count * size * len(NAMES) / MIB / float(str(found["ours_s"]))
    print(
        f"{name:<6} {count:>6} x {size // 1024:>6} KiB  ours {found['ours_s']:>7} s ({rate:.0f} MiB/s)  "
        f"rclone {found['rclone_s']:>7} s, {found['rclone_synced_s']} s synced  ratio {found['ratio']}, "
        f"{found['ratio_synced']} synced  cpu {found['ours_cpu_s']} s : {found['rclone_cpu_s']} s",
        flush=True,
    )
    return found


# --------------------------------------------------------------------------------------------- the memory


class Nowhere(MemoryTarget):
    """Takes any segment and keeps nothing; gives as many bytes as one has, and proves what its name says."""

    stored = 0

    def put_many(self, parcels: Sequence[Parcel]) -> list[HometapeError | None]:
        """Take the bytes of each."""
        for parcel in parcels:
            for _ in parcel.read():
                pass
        self.stored += len(parcels)
        return [None] * len(parcels)

    def read(self, path: str) -> Iterator[bytes]:
        """A kilobyte."""
        del path
        return iter([bytes(1000)])

    def verify_many(self, parcels: Sequence[Parcel]) -> Sequence[Proof]:
        """Whatever is promised."""
        strong = [one.sha256 or hashlib.sha256(one.path.encode()).hexdigest() for one in parcels]
        return [Proof(one.size, one.digest, sha256) for one, sha256 in zip(parcels, strong, strict=True)]

    def note_sums(self, sums: Sequence[tuple[str, str]]) -> None:
        """They go nowhere either."""
        del sums


async def behind(folder: Path, total: int) -> list[float]:
    """Peak resident MB over each tenth of catching up with so many segments."""
    targets: list[Target] = [Nowhere(Place("home", home=True)), Nowhere(Place("far", medium="far"))]
    far = targets[1]
    assert isinstance(far, Nowhere)
    process, peaks = psutil.Process(), [0.0] * 10
    with Catalog.open(folder / "state", clock=SYSTEM) as catalog:
        catalog.add_copies([Copy(held.id, "home", 1, "made up") for held in catalog.behind("home", limit=1000)])
        work = asyncio.create_task(Fanout(catalog, targets, clock=SYSTEM).drain())
        while not work.done():
            await asyncio.sleep(0.1)
            part = min(9, far.stored * 10 // total)
            peaks[part] = max(peaks[part], process.memory_info().rss / 1e6)
        await work
    assert far.stored >= total * 0.99
    return [round(peak, 1) for peak in peaks]


def main(argv: list[str] | None = None) -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*CASES, "memory"], help="one part of it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="part of the files, and of the million")
    parser.add_argument("--folder", type=Path, help="where to work, /dev/shm to leave the disk out of it")
    parser.add_argument("--home", action="store_true", help="the fan-out reads the home archive back, too")
    parser.add_argument("--download", action="store_true", help="`rclone check --download` instead of hashes")
    given = parser.parse_args(argv)
    configure(level="error")
    found: dict[str, object] = {}
    check = ["check", "--download"] if given.download else ["check"]
    for name, (count, size) in CASES.items():
        if given.only in (None, name):
            with tempfile.TemporaryDirectory(prefix="bench-fanout-", dir=given.folder) as scratch:
                some = max(1, int(count * given.scale))
                found[name] = compare(name, Path(scratch), some, size, given.rounds, check, proven=not given.home)
    if given.only in (None, "memory"):
        total = int(1_000_000 * given.scale)
        with tempfile.TemporaryDirectory(prefix="bench-fanout-", dir=given.folder) as scratch:
            with ProcessPoolExecutor(1) as pool:  # what building needs is not what is measured
                pool.submit(catalogs.build, Path(scratch), total).result()
            peaks = asyncio.run(behind(Path(scratch), total))
        print("part   peak MB")
        for number, peak in enumerate(peaks, 1):
            print(f"{number:>4} {peak:>9.1f}")
        found["memory"] = {"segments": total, "peaks_mb": peaks}
    print(json.dumps({"fanout": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
