"""The wire: from the agent's spool to home's OK, beside scp, sftp and rsync in the same run.

What is measured for us: until home holds every segment, which means re-hashed, inspected, fsynced and in the
catalog, while the fan-out reads it a second time on the same cores. The peers only write; they do not fsync. "whole"
counts from the start of the agent's connections, as a peer's run does; "up" from the moment they are up, for an
agent keeps them. Rounds are interleaved, figures are medians, ratios are medians of those within each round.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.wire_road import Home, Line, LongLine, Peer, make_segments

GCM = "aes128-gcm@openssh.com"
WHOLE, UP = "whole", "up"


@dataclass(frozen=True)
class Case:
    """One kind of load on one kind of line. `peers`: which are measured beside us."""

    name: str
    count: int
    size: int
    peers: tuple[str, ...]
    one_way_ms: float = 0.0
    mbit: int = 1000
    loss: float = 0.0

    @property
    def small(self) -> bool:
        """Counted in segments a second, not in MB."""
        return self.size < 1 << 20


def cases(scale: float) -> list[Case]:
    """All cases; `scale` changes how much is sent."""

    def some(count: int) -> int:
        return max(round(count * scale), 1)

    return [
        Case("loopback large", some(16), 64 << 20, ("scp", "sftp-gcm")),
        Case("loopback small", some(5000), 64 << 10, ("rsync", "scp")),
        Case("80 ms large", some(16), 64 << 20, ("scp",), 40),
        Case("80 ms long", some(48), 64 << 20, (), 40),  # what is left once the windows are open
        Case("80 ms small", some(3000), 64 << 10, ("rsync",), 40),
        Case("20 ms large", some(16), 64 << 20, ("scp",), 10),
        Case("20 ms small", some(3000), 64 << 10, ("rsync",), 10),
        Case("lossy large", some(4), 16 << 20, ("scp", "sftp-gcm"), 20, 100, 0.001),
    ]


def send_peer(peer: Peer, name: str, source: Path, target: Path) -> float:
    """Seconds one of the peers needs for a folder of files."""
    target.mkdir(parents=True)
    if name == "scp":
        return peer.timed(peer.scp(source, target))
    if name == "sftp-gcm":
        return peer.timed(peer.sftp("-c", GCM), commands=f"put -r {source}/* {target}/\n")
    return peer.timed(peer.rsync(source, target))


def run_case(case: Case, line: Line, scratch: Path, rounds: int) -> dict[str, object]:
    """One case, all rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in (WHOLE, UP, *case.peers)}
    facts: dict[str, object] = {}
    amount = case.count * case.size
    for number in range(rounds):
        folder = scratch / f"round{number}"
        home = Home(folder, line)
        try:
            state = folder / "wire"
            spool = make_segments(state, case.count, case.size, number)
            with Peer(line) as peer:
                for name in case.peers:
                    source = spool / "bench" / "ticks"
                    seconds[name].append(send_peer(peer, name, source, folder / name))
                    shutil.rmtree(folder / name)
            told = home.deliver(state)
            seconds[UP].append(told["seconds"])
            seconds[WHOLE].append(told["connect"] + told["seconds"])
            amount = int(told["bytes"])
            facts = {
                "memory_before_mb": told["memory_before_mb"],
                "memory_peak_mb": told["memory_peak_mb"],
                "bundles": told["bundles"],
                "agent_cpu_s": round(told["cpu"], 2),
                "home_cpu_s": round(told["home_cpu"], 2),
            }
        finally:
            home.close()
            shutil.rmtree(folder)
    unit, whole = ("segments/s", case.count) if case.small else ("MB/s", amount / 1e6)
    rates = {name: round(whole / statistics.median(times), 1) for name, times in seconds.items()}
    ratios = {
        f"{ours} / {name}": round(
            statistics.median(t / own for t, own in zip(seconds[name], seconds[ours], strict=True)), 2
        )
        for name in case.peers
        for ours in (WHOLE, UP)
    }
    return {"case": case.name, "unit": unit, "rates": rates, "ratios": ratios, **facts}


def in_line(
    case: Case, tools: Path | None, scratch: Path, congestion: str, work: Callable[[Line], dict[str, object]]
) -> dict[str, object]:
    """Lay the line that a case wants, work, take it up. `congestion`: what programs get that ask for none."""
    if not case.one_way_ms:
        return work(Line())
    if tools is None or not hasattr(os, "geteuid") or os.geteuid():
        return {"case": case.name, "skipped": "a long line needs root and --netbox"}
    line = LongLine(tools, scratch, one_way_ms=case.one_way_ms, mbit=case.mbit, loss=case.loss)
    try:
        if congestion:
            line.use(congestion)
        return work(line)
    finally:
        line.close()


def show(found: dict[str, object]) -> None:
    """A line of the table."""
    if "skipped" in found:
        print(f"{found['case']:16} SKIPPED: {found['skipped']}", flush=True)
        return
    rates, ratios = found["rates"], found["ratios"]
    assert isinstance(rates, dict)
    assert isinstance(ratios, dict)
    parts = [f"{name} {rate}" for name, rate in rates.items()]
    parts += [f"{pair} {ratio:.2f}" for pair, ratio in ratios.items()]
    memory = f"agent {found['memory_before_mb']} -> {found['memory_peak_mb']} MB"
    memory += f", cpu agent {found['agent_cpu_s']} s, home {found['home_cpu_s']} s"
    print(f"{found['case']:16} {found['unit']:10} {', '.join(parts)}; {memory}", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the chosen cases and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each case")
    parser.add_argument("--scale", type=float, default=1.0, help="how much is sent: 0.1 is a tenth")
    parser.add_argument("--folder", type=Path, help="scratch folder, e.g. on tmpfs (default: the system's)")
    parser.add_argument("--netbox", type=Path, help="folder of netbox.c and netns.sh, for the long lines")
    parser.add_argument(
        "--congestion",
        default="",
        help="congestion control of the peers on long lines, e.g. cubic (default: the system's)",
    )
    given = parser.parse_args(argv)
    found = []
    with tempfile.TemporaryDirectory(prefix="bench-wire-", dir=given.folder) as name:
        scratch = Path(name)
        for case in cases(given.scale):
            if given.only in case.name:
                result = in_line(
                    case,
                    given.netbox,
                    scratch,
                    given.congestion,
                    lambda line, case=case: run_case(case, line, scratch, given.rounds),  # type: ignore[misc]  # bound now
                )
                show(result)
                found.append(result)
    default = Path("/proc/sys/net/ipv4/tcp_congestion_control")  # the peers use it; a lossy line shows which it is
    congestion = given.congestion or (default.read_text(encoding="ascii").strip() if default.exists() else "")
    print(json.dumps({"bench": "wire", "peers_congestion": congestion, "cases": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
