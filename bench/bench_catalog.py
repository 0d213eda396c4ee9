"""What status asks, on catalogs of 10 thousand, 1 million and 10 million segments.

Each catalog has five targets, one of them a million behind, and gaps in what is held and copied (see
bench/catalogs.py). Queries: all that one `tape-receiver status` asks, together; median of five. Command:
the whole `tape-receiver status --json` as a process, best and median of five; nothing else runs.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bench.catalogs import STREAMS, TARGETS, build
from receiver.catalog import Catalog
from receiver.catalog_state import growth
from receiver.policy import rules_of, wheres
from receiver.report_policy import lacks_of, survey
from receiver.settings import ReceiverSettings
from tape.clock import SYSTEM
from tape.inventory import ROOT, Level, Page
from tape.settings import load

ROUNDS = 5
GOAL_QUERIES, GOAL_COMMAND = 0.200, 1.0


def questions(catalog: Catalog, settings: ReceiverSettings) -> dict[str, Callable[[], object]]:
    """What status asks, by name."""
    rules, places = rules_of(settings), wheres(settings)
    today = datetime.now(UTC).toordinal()
    return {
        "streams": catalog.streams,
        "survey": lambda: lacks_of(catalog.ask(lambda base: survey(base, rules, places)), rules, places),
        "growth": lambda: catalog.ask(lambda base: growth(base, today=today, days=14)),
        "targets, look": lambda: (catalog.targets(), catalog.looked()),
        "incidents": lambda: (catalog.incidents(limit=20), catalog.quarantined(limit=20)),
    }


def others(catalog: Catalog, settings: ReceiverSettings) -> dict[str, Callable[[], object]]:
    """What the service asks for its work, by name."""
    agent, stream = STREAMS[0]
    rule, places = rules_of(settings).release(agent, stream), wheres(settings)
    return {
        "receipt": lambda: catalog.held_and_safe(agent, stream, rule=rule, places=places),
        "a page of the backlog": lambda: catalog.behind("usb-a", limit=1000),
        "inventory root": lambda: catalog.inventory(agent, ROOT),
        "inventory spans": lambda: catalog.inventory(agent, Page(Level.SPANS, f"{0:016x}", stream)),
        "inventory block": lambda: catalog.inventory(agent, Page(Level.ENTRIES, f"{0:016x}", stream, 3)),
    }


def timed(ask: Callable[[], object]) -> float:
    """Seconds, the median of some rounds."""
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def command(folder: Path) -> list[float]:
    """Seconds of whole `status` processes."""
    program = Path(sys.executable).with_name("tape-receiver")
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        done = subprocess.run(
            [program, "status", "--json", "--config", folder / "receiver.toml"], capture_output=True, check=False
        )
        taken.append(time.perf_counter() - began)
        assert done.stdout, done.stderr.decode()
        report = json.loads(done.stdout)
        assert {target["id"] for target in report["targets"]} == set(TARGETS), done.stderr
    return sorted(taken)


def measure(root: Path, total: int) -> dict[str, object]:
    """Build, measure, delete."""
    folder = root / str(total)
    began = time.perf_counter()
    build(folder, total)
    print(f"\n{total:,} segments (made in {time.perf_counter() - began:.0f} s)", flush=True)
    settings = load(ReceiverSettings, folder / "receiver.toml")
    with Catalog.open(folder / "state", clock=SYSTEM, read_only=True) as catalog:
        asked = {name: timed(ask) for name, ask in questions(catalog, settings).items()}
        other = {name: timed(ask) for name, ask in others(catalog, settings).items()}
    whole = command(folder)
    for name, seconds in (asked | other).items():
        print(f"  {name:24} {seconds * 1000:9.1f} ms")
    print(f"  {'all of status':24} {sum(asked.values()) * 1000:9.1f} ms (goal {GOAL_QUERIES * 1000:.0f} ms)")
    print(f"  {'the whole command':24} {statistics.median(whole) * 1000:9.1f} ms (best {whole[0] * 1000:.0f} ms,"
          f" goal {GOAL_COMMAND * 1000:.0f} ms)", flush=True)  # fmt: skip
    size = (folder / "state" / "catalog.db").stat().st_size
    shutil.rmtree(folder)
    return {"segments": total, "bytes": size, "queries_s": asked, "others_s": other, "command_s": whole}


def main(argv: list[str] | None = None) -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, nargs="*", default=[10_000, 1_000_000, 10_000_000], help="sizes")
    parser.add_argument("--folder", type=Path, help="where to make the catalogs (default: the temporary folder)")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench-catalog-", dir=given.folder) as scratch:
        found = [measure(Path(scratch), total) for total in given.segments]
    print(json.dumps({"catalog": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
