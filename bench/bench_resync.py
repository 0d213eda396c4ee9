"""Resync toward home: a million segments on both sides, a hundred missing at home at random.

Real outbox, real catalog, real `tape-receiver run`; rows made through their schemas. Between them lies a proxy that
delays each way by half the round trip and counts the bytes that pass. Processing is CPU seconds of each side's
processes while the comparison runs, connecting included; the plan must name the hundred exactly. Beside it, through
the same proxy and over ssh, `rclone check` and `rsync -n` on as many small files as they can take.
"""

import argparse
import asyncio
import json
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from agent import outbox_blocks
from agent.outbox import Outbox
from agent.push import Push
from agent.resync import Resync
from agent.resync_desk import Ask
from agent.settings import ReceiverSettings
from bench.wire_road import Home, Line, Peer
from receiver.catalog import Catalog
from receiver.catalog_tables import ATTESTED, COPIES, HELD, IDS, fill
from tape import log, sshtune
from tape.clock import SYSTEM
from tape.digest import xxh3
from tape.names import utc_day
from tests.support.needs import PROJECT
from tests.support.proxy import Proxy

AGENT, EPOCH = "server1", "00c0ffee00c0ffee"
STREAMS = tuple(f"bench/{name}" for name in "abcd")
SIZE = 50_000
FILE_SIZE = 1000
GOALS = {"bytes": 1_000_000, "cpu": 2.0, "seconds": 5.0, "equal bytes": 50_000}


def segments(total: int) -> Iterator[tuple[int, int, str]]:
    """(stream, seq, digest) of every segment, the same on both sides."""
    for number in range(total):
        stream, seq = number % len(STREAMS), number // len(STREAMS)
        yield stream, seq, xxh3(b"%d %d" % (stream, seq))


def lost(total: int, count: int, seed: int) -> set[tuple[int, int]]:
    """Which home lacks, as (stream, seq)."""
    chosen = random.Random(seed).sample(range(total), count)
    return {(number % len(STREAMS), number // len(STREAMS)) for number in chosen}


# ---------------------------------------------------------------------------------------------- home's side


def build_catalog(state: Path, total: int, missing: set[tuple[int, int]]) -> None:
    """A catalog that holds all but the missing, attested and copied at home."""
    Catalog.open(state, clock=SYSTEM).close()
    base = sqlite3.connect(state / "catalog.db", isolation_level=None)
    base.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN;")
    base.execute("INSERT OR IGNORE INTO target (id, name) VALUES (1, 'home')")
    base.execute("INSERT OR IGNORE INTO method VALUES (1, 'read-back xxh3+sha256')")
    base.executemany("INSERT INTO fact VALUES (?,?,'{}')", [(1, b"1"), (2, b"2")])
    now = SYSTEM.now_ns()
    for number, name in enumerate(STREAMS, 1):
        base.execute("INSERT INTO stream (id, agent, name) VALUES (?,?,?)", (number, AGENT, name))
        base.execute("INSERT INTO epoch (id, stream, name, added) VALUES (?,?,?,0)", (number, number, EPOCH))
        file = (number, number, bytes([number]) * 16, b"/x/t.csv")
        base.execute("INSERT INTO file (id, stream, file_id, name, kind) VALUES (?,?,?,?,'file')", file)
    day = utc_day(now).toordinal()
    base.executemany(
        "INSERT INTO segment VALUES (?1,?2,?2,?3,?4,?5,?6,1000,?7,?7,?7,?7,?3*1000,zeroblob(32),?8,0,?2,?3*90000,"
        "(?3+1)*90000,0,zeroblob(16),1,2,1,500)",
        (
            (number, stream + 1, seq, day, bytes.fromhex(digest), SIZE, now, bytes(32))
            for number, (stream, seq, digest) in enumerate(segments(total), 1)
            if (stream, seq) not in missing
        ),
    )
    base.execute("INSERT INTO copy SELECT 1, id, ?, 1 FROM segment", (now,))
    _sum_up(base, now)
    fill(base)
    base.execute("COMMIT")
    base.execute("PRAGMA journal_mode=WAL")
    base.close()


def _sum_up(base: sqlite3.Connection, now: int) -> None:
    """The sums and ranges that the writer keeps beside the rows."""
    base.execute(
        "UPDATE stream AS t SET (segments, rows, bytes, source_bytes, recv_first, recv_last, committed) = (SELECT"
        " count(*), sum(rows), sum(size), sum(stop-start), ?1, ?1, ?1 FROM segment WHERE stream=t.id)",
        (now,),
    )
    base.execute("UPDATE epoch AS e SET (segments, top) = (SELECT count(*), max(seq) FROM segment WHERE epoch=e.id)")
    base.execute(
        "UPDATE file AS f SET (segments, rows, bytes, stop) = (SELECT count(*), sum(rows), sum(stop-start), max(stop)"
        " FROM segment WHERE file=f.id)"
    )
    base.execute(
        "INSERT INTO stream_target SELECT id, 1, segments, rows, bytes, ?1, ?1 FROM stream",
        (now,),
    )
    for owner, kinds, numbers in (
        ("epoch", (HELD, ATTESTED, COPIES + 1), "seq"),
        ("(0 - 1)", (IDS,), "id"),
    ):
        for kind in kinds:
            base.execute(
                f"INSERT INTO span SELECT {owner}, {kind}, min({numbers}), max({numbers}) FROM (SELECT *,"  # noqa: S608 - of this file
                f" {numbers} - row_number() OVER (PARTITION BY {owner} ORDER BY {numbers}) AS run FROM segment)"
                f" GROUP BY {owner}, run"
            )


# --------------------------------------------------------------------------------------------- agent's side


def build_outbox(outbox: Outbox, total: int, *, without: set[tuple[int, int]], compacted: bool) -> None:
    """Rows of everything this outbox made, held at home; or what is left of them long after their release."""
    store = outbox._store  # noqa: SLF001 - rows without spool files would not outlive an opening
    with store.transaction() as db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (EPOCH,))
        for number, name in enumerate(STREAMS, 1):
            made = total // len(STREAMS) + (total % len(STREAMS) >= number)
            db.execute("INSERT INTO streams (id, name, chain, next_seq) VALUES (?, ?, '', ?)", (number, name, made))
        db.executemany(
            "INSERT INTO segments (stream, epoch, seq, digest, suffix, size, sha256, chain, rows, sealed_ns, state)"
            " VALUES (?, ?, ?, ?, 'parquet', ?, '', '', 1000, 0, 'held')",
            ((s + 1, EPOCH, seq, digest, SIZE) for s, seq, digest in segments(total) if (s, seq) not in without),
        )
        outbox_blocks.fill(db)
        if compacted:
            db.execute("DELETE FROM segments")


async def compare(outbox: Outbox, settings: ReceiverSettings, key: Path) -> dict[str, Any]:
    """Connect and compare, as `tape-agent resync --dry-run` does; what it took and what it found."""
    cpu, began = time.process_time(), time.monotonic()
    push = Push(outbox, settings, agent=AGENT, key=key, receipt_key=None, clock=SYSTEM)
    running = asyncio.ensure_future(push.run())
    facts = await Resync(outbox, push, receipt_key=None, clock=SYSTEM).run(Ask("0" * 16, 0, dry_run=True))
    found = {"seconds": time.monotonic() - began, "cpu": time.process_time() - cpu, **facts.to_plain(ranges=True)}
    await push.stop(grace=0)
    await asyncio.gather(running, return_exceptions=True)
    return found


def child(words: list[str]) -> int:
    """The agent's process: state folder, settings, key, total, missing, seed, which case. Prints one JSON object."""
    state, settings, key, total, count, seed, case = words
    log.configure(level="error")
    sshtune.tune_allocator()
    with tempfile.TemporaryDirectory(dir=state) as folder:
        path = Path(folder) / "state"
        first = Outbox.open(path, AGENT, clock=SYSTEM)
        without = lost(int(total), int(count), int(seed)) if case == "equal" else set()
        build_outbox(first, int(total), without=without, compacted=case == "compacted")
        first.inventory._epoch = EPOCH  # noqa: SLF001 - as after an opening
        import uvloop

        found = uvloop.run(compare(first, ReceiverSettings.model_validate_json(settings), Path(key)))
        first.close()
    print(json.dumps(found))
    return 0


# ------------------------------------------------------------------------------------------------ the run


@dataclass
class Road:
    """A home with its proxy, and how to reach it."""

    home: Home
    proxy: Proxy
    scratch: Path
    total: int
    count: int
    seed: int

    def resync(self, case: str) -> dict[str, Any]:
        """One comparison in a process of its own."""
        settings = self.home.settings.model_copy(update={"host": self.proxy.host, "port": self.proxy.port})
        sent, cpu = self.proxy.sent + self.proxy.received, self.home.cpu()
        words = [self.scratch, settings.model_dump_json(), self.home.key, self.total, self.count, self.seed, case]
        argv = [sys.executable, "-m", "bench.bench_resync", "--child", *map(str, words)]
        done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, encoding="utf-8", check=False)
        if done.returncode:
            raise SystemExit(f"{case}: {done.stderr[-3000:]}\n{self.home.program.report()}")
        found: dict[str, Any] = json.loads(done.stdout)
        found["wire"] = self.proxy.sent + self.proxy.received - sent
        found["home cpu"] = self.home.cpu() - cpu
        return found

    def exact(self, found: dict[str, Any], fate: str) -> bool:
        """Whether the plan names exactly what is missing."""
        named = {
            (STREAMS.index(stream["stream"]), seq)
            for stream in found["plan"]["streams"]
            for ranges in stream[fate]["ranges"].values()
            for first, last in ranges
            for seq in range(first, last + 1)
        }
        return named == lost(self.total, self.count, self.seed)


def make_files(folder: Path, count: int, missing: set[int]) -> None:
    """Small files in folders of a thousand."""
    for number in range(count):
        if number % 1000 == 0:
            (folder / f"d{number // 1000:04d}").mkdir(parents=True)
        if number not in missing:
            (folder / f"d{number // 1000:04d}" / f"{number:08d}.parquet").write_bytes(
                number.to_bytes(8, "big") * (FILE_SIZE // 8)
            )


def peers(scratch: Path, count: int, lacking: int, delay: float, limit: float) -> list[dict[str, Any]]:
    """`rclone check` and `rsync -n` over ssh through a proxy of the same delay; what each took. Who is not done within
    the limit gets a tenth of the files, and so on.
    """
    results = []
    with Peer(Line()) as peer, Proxy(peer.port, delay=delay) as proxy:
        shell = " ".join(["ssh", "-p", str(proxy.port), *peer.ssh_options()])
        remote = f":sftp,host=127.0.0.1,port={proxy.port},user={peer.user},key_file={peer.client_key},shell_type=unix:"
        rclone = [shutil.which("rclone") or str(PROJECT / ".venv/bin/rclone"), "--config", "", "check", "--one-way"]
        commands = {
            "rsync -rn": ["rsync", "-rn", "--size-only", "-i", "-e", shell],
            "rsync -rnc": ["rsync", "-rnc", "-i", "-e", shell],
            "rclone check --size-only": [*rclone, "--size-only"],
            "rclone check": rclone,
        }
        for name, argv in commands.items():
            far = f"{peer.user}@127.0.0.1:" if name.startswith("rsync") else remote
            files = count
            while files:
                here, there = both_sides(scratch, files, min(lacking, files))
                row = compared(name, [*argv, f"{here}/", f"{far}{there}/"], proxy, limit)
                results.append({**row, "files": files})
                files = files // 10 if row["seconds"] is None else 0
    return results


def compared(name: str, argv: Sequence[str], proxy: Proxy, limit: float) -> dict[str, Any]:
    """What one comparison of two folders took; `seconds` is None if it was not done within the limit."""
    before, used = proxy.sent + proxy.received, resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=limit, check=False)
        text = done.stdout + done.stderr
        found = text.count("<f") if name.startswith("rsync") else text.count("file not in")
        seconds: float | None = time.monotonic() - began
    except subprocess.TimeoutExpired:
        found, seconds = 0, None
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    wire = proxy.sent + proxy.received - before
    return {"what": name, "seconds": seconds, "cpu": cpu, "wire": wire, "found": found}


def both_sides(scratch: Path, count: int, lacking: int) -> tuple[Path, Path]:
    """Two folders of so many files, the second without some; made once."""
    here, there = scratch / f"here-{count}", scratch / f"there-{count}"
    if not here.exists():
        make_files(here, count, set())
        make_files(there, count, set(random.Random(1).sample(range(count), lacking)))
    return here, there


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    print(f"{'what':34}{'segments':>10}{'found':>7}{'wire kB':>10}{'seconds':>9}{'CPU here':>10}{'CPU home':>10}")
    for row in rows:
        seconds = "not done" if row["seconds"] is None else f"{row['seconds']:.2f}"
        home = f"{row['home cpu']:.2f}" if "home cpu" in row else "-"
        print(
            f"{row['what']:34}{row['files']:>10,}{row['found']:>7}{row['wire'] / 1000:>10,.1f}{seconds:>9}"
            f"{row['cpu']:>10.2f}{home:>10}"
        )


def run(total: int, count: int, rtt: float, files: int, scratch: Path, limit: float) -> list[dict[str, Any]]:
    """All cases; a row for each."""
    rows = []
    line = Line()
    home = Home(scratch / "home", line)
    home.program.terminate()
    home.close()
    state = home.road.folder / "home" / "state"
    for path in state.glob("catalog.db*"):
        path.unlink()
    build_catalog(state, total, lost(total, count, seed=7))
    home.restart()
    try:
        with Proxy(home.settings.port, delay=rtt / 2) as proxy:
            road = Road(home, proxy, scratch, total, count, 7)
            for case, fate in (("equal", None), ("missing", "missing"), ("compacted", "gone")):
                found = road.resync(case)
                good = found["plan"]["level"] if fate is None else road.exact(found, fate)
                if not good:
                    raise SystemExit(f"{case}: the plan is wrong: {json.dumps(found)[:2000]}")
                wanted = {"equal": "resync, equal sides", "missing": f"resync, {count} missing"}
                what = wanted.get(case, f"resync, {count} gone, compacted here")
                rows.append({**found, "what": what, "files": total, "found": 0 if fate is None else count})
    finally:
        home.close()
    if files:
        rows += peers(scratch, files, min(count, files), rtt / 2, limit)
    return rows


def main(argv: list[str] | None = None) -> int:
    """Print the table and a JSON line."""
    if argv is None and sys.argv[1:2] == ["--child"]:
        return child(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, default=1_000_000)
    parser.add_argument("--missing", type=int, default=100)
    parser.add_argument("--rtt", type=float, default=0.080, help="round trip, seconds")
    parser.add_argument("--files", type=int, default=20_000, help="small files for rclone and rsync; 0: leave them out")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds a peer may take")
    parser.add_argument("--folder", type=Path, help="where to work")
    given = parser.parse_args(argv)
    psutil.cpu_percent()
    with tempfile.TemporaryDirectory(prefix="bench-resync-", dir=given.folder) as scratch:
        rows = run(given.segments, given.missing, given.rtt, given.files, Path(scratch), given.limit)
    show(rows)
    keep = ("what", "files", "found", "wire", "seconds", "cpu", "home cpu", "pages")
    print(json.dumps([{key: row[key] for key in keep if key in row} for row in rows]))
    print(f"goals: {GOALS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
