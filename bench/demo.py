"""Three copies, two media, one off-site, shown: `make demo`, or `make demo INPUT=path` with ticks of your own.

Runs the two installed commands as two processes on loopback, with four targets: the home archive, a NAS
folder, a disk that is pulled and comes back, and a cloud (an encrypted rclone remote on an S3 server that
rclone itself plays). Feeds them a growing file at market pace and in a burst, cuts the link once, waits
until the 3-2-1 rule holds for every segment, has `resync` compare every target, exports from each target,
compares digests and prints the page of `status`. Ends with 0 only if every byte came back from every target.
"""

import argparse
import contextlib
import gzip
import hashlib
import random
import re
import shutil
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard
from rich.console import Console

from tests.support.proxy import Proxy
from tests.support.rclone_servers import Remotes
from tests.support.road import Road

console = Console(highlight=False, soft_wrap=True)
PACE_SECONDS, PACE_RATE, BURST_ROWS = 12.0, 400, 400_000
CUT_AT, MEND_AT, GIVE_UP = 4.0, 8.0, 600.0
PULL_AT, AWAY = 6.0, 10.0


def lifelike(seed: int, rows: int) -> Iterator[bytes]:
    """CSV quotes of a made-up market: a random walk in ticks, bursts, repeats, and one-sided rows."""
    rng = random.Random(seed)
    now, bid, spread = 1_763_700_000_000, 6_170_000, 20
    yield b"ts_ms,symbol,bid,bid_size,ask,ask_size\n"
    for _ in range(rows):
        now += rng.choice((0, 0, 0, 1, 1, 2, 5, 20, 250))
        bid += rng.choice((-10, -5, 0, 0, 0, 0, 5, 10))
        spread = max(5, spread + rng.choice((-5, 0, 0, 5)))
        bid_size, ask_size = rng.randrange(1, 4000), rng.randrange(1, 4000)
        left = f"{bid // 100}.{bid % 100:02d},{bid_size / 1000:.3f}" if rng.random() > 0.001 else ","
        ask = bid + spread
        yield f"{now},BTCUSDT,{left},{ask // 100}.{ask % 100:02d},{ask_size / 1000:.3f}\n".encode("ascii")


def lines_of(source: Path) -> Iterator[bytes]:
    """The lines of the user's file; a compressed one as a recorder would have written it."""
    if source.suffix == ".zip":
        with zipfile.ZipFile(source) as folder:
            for name in folder.namelist():
                yield from folder.open(name)
    elif source.suffix == ".gz":
        with gzip.open(source) as packed:
            yield from packed
    elif source.suffix == ".zst":
        with zstandard.open(source, "rb") as packed:
            yield from packed
    else:
        with source.open("rb") as plain:
            yield from plain


def feed(ticks: Path, source: Path | None) -> None:
    """Write the file: market pace first, then everything left in a burst."""
    lines = lifelike(7, BURST_ROWS + round(PACE_SECONDS * PACE_RATE)) if source is None else lines_of(source)
    started = time.monotonic()
    with ticks.open("ab", buffering=0) as file:
        for written, line in enumerate(lines, 1):
            file.write(line)
            ahead = written / PACE_RATE - (time.monotonic() - started)
            if ahead > 0:
                time.sleep(ahead)
            if written >= PACE_SECONDS * PACE_RATE:
                break
        rest = b""
        for line in lines:
            rest += line
            if len(rest) >= 1 << 18:
                file.write(rest)
                rest = b""
        file.write(rest)


def hold_down(link: Proxy, seconds: float) -> None:
    """Reset whatever connects for a while."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        link.cut()
        time.sleep(0.05)


class Stick:
    """A disk that comes and goes: a folder where disks appear, or in the drawer."""

    def __init__(self, folder: Path) -> None:
        self.plugged, self._drawer = folder / "mounts" / "stick", folder / "drawer" / "stick"
        self.plugged.mkdir(parents=True)
        self._drawer.parent.mkdir()

    def pull(self) -> None:
        """Take it out, whatever is being written."""
        self.plugged.rename(self._drawer)

    def plug(self) -> None:
        """Put it back."""
        self._drawer.rename(self.plugged)


def furnish(road: Road, stick: Stick, remotes: Remotes) -> None:
    """Add the disk and the cloud as a user would, then ask for three copies on two media, one off-site."""
    road.tape_receiver("disk", "init", "usb", str(stick.plugged), "--folder-ok")
    cloud = remotes.place("crypt")
    road.tape_receiver("remote", "add", "cloud", "--remote", f"{cloud}tape", "--rclone-config", str(remotes.config))
    text = road.receiver_toml.read_text(encoding="utf-8")
    for key, value in (("copies", 3), ("media", 2), ("sites", 2)):
        text, found = re.subn(rf"(?m)^#?{key} = \d+$", f"{key} = {value}", text, count=1)
        assert found, f"no {key} in {road.receiver_toml}"
    road.receiver_toml.write_text(text, encoding="utf-8", newline="\n")
    road.targets |= {"usb": stick.plugged, "cloud": Path()}


def watch(road: Road, link: Proxy, stick: Stick, ticks: Path, source: Path | None) -> None:
    """Feed in the background, cut the link and pull the disk once, and show what arrives until all is level."""
    feeder = threading.Thread(target=feed, args=(ticks, source))
    feeder.start()
    started = time.monotonic()
    was_down = False
    pulled = back = False
    while (elapsed := time.monotonic() - started) < GIVE_UP:
        down = CUT_AT <= elapsed < MEND_AT
        if down and not was_down:
            threading.Thread(target=hold_down, args=(link, MEND_AT - elapsed)).start()
        if down != was_down:
            console.print(f"{'':9} -- the link is {'cut' if down else 'back'} --")
            was_down = down
        if not pulled and elapsed > PULL_AT:
            stick.pull()
            pulled = True
            console.print(f"{'':9} -- the disk is pulled --")
        if not back and elapsed > PULL_AT + AWAY:
            stick.plug()
            back = True
            console.print(f"{'':9} -- the disk is plugged in again --")
        facts, agent = road.status(), road.agent_status()
        show(elapsed, ticks, facts, agent)
        fed = not feeder.is_alive() and elapsed > MEND_AT and back
        if fed and agent.get("sealed_bytes") == ticks.stat().st_size and agent.get("unreleased_segments") == 0:
            counts = {target["segments"] for target in facts["targets"]}
            if len(counts) == 1 and facts["policy"]["satisfied"] == facts["policy"]["segments"]:
                return
        time.sleep(0.3)
    raise SystemExit(f"the copies did not become level within {GIVE_UP:.0f} s")


def show(elapsed: float, ticks: Path, facts: dict[str, Any], agent: dict[str, Any]) -> None:
    """One line of progress."""
    copies = "  ".join(f"{target['id']} {target['segments']:>3}" for target in facts.get("targets", []))
    size = ticks.stat().st_size if ticks.exists() else 0
    waiting = agent.get("waiting_segments", "-")
    console.print(f"{elapsed:6.1f} s  file {size:>12,} B   waiting at the server {waiting:>3}   copies: {copies}")


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prove(road: Road, ticks: Path) -> bool:
    """Export the stream from every target and compare with the file the bot wrote."""
    streams = [s["stream"] for s in road.status()["streams"] if not s["stream"].startswith("hometape/")]
    wanted = sha256(ticks)
    console.print(f"\nwritten by the bot     {wanted}  {ticks.stat().st_size:,} B")
    good = True
    for name in road.targets:
        found = sha256(road.export(streams[0], name) / ticks.name)
        good &= found == wanted
        console.print(f"exported from {name:<8} {found}  {'identical' if found == wanted else 'DIFFERENT'}")
    return good


def _name(source: Path | None) -> str:
    if source is None:
        return "btcusdt-quotes.csv"
    return source.stem if source.suffix in (".zip", ".gz", ".zst") else source.name


def main() -> int:
    """Run the demo; 0 if every byte came back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", nargs="?", type=Path, help="a file of ticks to feed (default: a generated one)")
    parser.add_argument("--keep", type=Path, help="work in this new folder and keep it")
    given = parser.parse_args()
    if given.input is not None and not given.input.is_file():
        parser.error(f"{given.input}: no such file")
    folder = given.keep.absolute() if given.keep else Path(tempfile.mkdtemp(prefix="hometape-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        stick, remotes = Stick(folder), Remotes(folder / "cloud")
        with Road(folder) as road, Proxy(road.port) as link, contextlib.closing(remotes):
            road.configure(through=link.port, receiver_set=(f'disks.look_in=["{stick.plugged.parent}/*"]',))
            furnish(road, stick, remotes)
            road.start_receiver()
            road.start_agent()
            console.print("a bot writes its file; once, the link will be cut and the disk pulled\n")
            ticks = road.ticks / _name(given.input)
            watch(road, link, stick, ticks, given.input)
            console.print(f"\n{road.tape_receiver('resync').out}", markup=False)
            good = prove(road, ticks)
            console.print()
            console.print(road.tape_receiver("status", codes=(0, 1, 2)).out, markup=False)
            console.print("every byte came back from every target" if good else "an export differs: this is a fault")
            return 0 if good else 2
    finally:
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
