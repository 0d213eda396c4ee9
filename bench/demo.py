"""Three copies, two media, one off-site, shown: `make demo`, or `make demo INPUT=path` with ticks of your own.

Runs the two installed commands as two processes on loopback, with four targets: the home archive, a NAS
folder, a disk that is pulled and comes back, and a cloud (an encrypted rclone remote on an S3 server that
rclone itself plays). Feeds them a growing file at market pace and in a burst, cuts the link, pulls the disk
and stops the cloud once, shows the page of `status` while the copies are too few, and waits until the 3-2-1 rule
holds for every segment. Then deletes a copy and has `resync` find and mend it, exports from each target, compares
digests and shows the page again. Ends with 0 only if every byte came back from every target.
"""

import argparse
import contextlib
import gzip
import hashlib
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import zstandard
from rich.console import Console

from tests.support.processes import command, environment, run
from tests.support.proxy import Proxy
from tests.support.rclone_servers import Remotes
from tests.support.road import Road

console = Console(highlight=False, soft_wrap=True)
PACE_SECONDS, PACE_RATE, BURST_ROWS = 8.0, 400, 400_000
CUT_AT, PULL_AT, MEND_AT, PLUG_AT, GIVE_UP = 3.0, 4.0, 6.0, 10.0, 600.0


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


def feed(ticks: Path, source: Path | None, burst: threading.Event) -> None:
    """Write the file: market pace first, then, once it is time for the `burst`, everything left."""
    lines = lifelike(7, BURST_ROWS + round(PACE_SECONDS * PACE_RATE)) if source is None else lines_of(source)
    started = time.monotonic()
    with ticks.open("ab", buffering=0) as file:
        for written, line in enumerate(lines, 1):
            file.write(line)
            ahead = written / PACE_RATE - (time.monotonic() - started)
            if ahead > 0:
                time.sleep(ahead)
            if written >= PACE_SECONDS * PACE_RATE and burst.is_set():
                break
        rest = b""
        for line in lines:
            rest += line
            if len(rest) >= 1 << 18:
                file.write(rest)
                rest = b""
        file.write(rest)


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


def said(road: Road, name: str, *words: str, codes: Sequence[int] = (0,)) -> str:
    """Run a command and show it with what it prints; AssertionError if its exit code is not one of `codes`."""
    config = {"tape-agent": road.agent_toml, "tape-receiver": road.receiver_toml}[name]
    width = shutil.get_terminal_size((160, 24)).columns
    done = run([*command(name), *words, "--config", config], within=120, env=environment(COLUMNS=str(width)))
    console.print(f"\n$ {' '.join([name, *words])}\n{done.out.strip()}", markup=False)
    assert done.code in codes, f"{name} {' '.join(words)} ended with {done.code}\n{done.err}"
    return done.out


class Troubles:
    """What happens while the bot writes, each in its turn, with a line of progress between any two."""

    def __init__(
        self, road: Road, link: Proxy, stick: Stick, remotes: Remotes, ticks: Path, source: Path | None
    ) -> None:
        self.burst = threading.Event()
        """Set once the bot may write all the rest at once."""
        self.feeder = threading.Thread(target=feed, args=(ticks, source, self.burst), daemon=True)
        self._road, self._link, self._stick, self._cloud = road, link, stick, remotes.server("s3")
        self._more_to_come = False
        self._left: deque[tuple[float, Callable[[], str]]] = deque(
            (
                (CUT_AT, self._cut),
                (PULL_AT, self._take_away),
                (MEND_AT, self._join),
                (MEND_AT, self._look),
                (MEND_AT, self._reach),
                (PLUG_AT, self._plug),
            )
        )

    @property
    def over(self) -> bool:
        """Whether all of it has happened and the file is written."""
        return not self._left and not self.feeder.is_alive()

    def go_on(self, elapsed: float, facts: dict[str, Any]) -> None:
        """Let the next one happen, if it is time for it and `status` says what it waits for."""
        if not self._left or elapsed < self._left[0][0]:
            return
        if self._left[0][1] == self._look and self._more_to_come and not _lacking(facts):
            return
        text = self._left.popleft()[1]()
        console.print(f"{'':9} -- {text} --" if text else "")

    def _cut(self) -> str:
        self._link.refusing = True
        self._link.cut()
        return "the link is cut"

    def _take_away(self) -> str:
        self._stick.pull()
        self._cloud.stop()
        return "the disk is pulled, the cloud is out of reach"

    def _join(self) -> str:
        self._more_to_come = self.feeder.is_alive()  # a short file of the user's may be safe everywhere by now
        self._link.refusing = False
        self.burst.set()
        return "the link is back"

    def _look(self) -> str:
        page = said(self._road, "tape-receiver", "status", codes=(0, 1))
        assert "degraded" in page or not self._more_to_come, "the page does not say that copies are lacking"
        return ""

    def _reach(self) -> str:
        self._cloud.start()
        return "the cloud is back"

    def _plug(self) -> str:
        self._stick.plug()
        return "the disk is plugged in again"


def _lacking(facts: dict[str, Any]) -> bool:
    """Whether `status` knows that the disk is away, and that segments have too few copies."""
    away = [target["id"] for target in facts["targets"] if target["condition"] == "absent"]
    return "usb" in away and facts["policy"]["degraded"] > 0


def _level(facts: dict[str, Any], agent: dict[str, Any], written: int) -> bool:
    """Whether all that was written is sealed and released, and every target has every segment."""
    counts = {target["segments"] for target in facts["targets"]}
    done = agent.get("sealed_bytes") == written and agent.get("unreleased_segments") == 0
    return done and len(counts) == 1 and facts["policy"]["satisfied"] == facts["policy"]["segments"]


def watch(road: Road, troubles: Troubles, ticks: Path) -> None:
    """Feed in the background, let things happen, and show what arrives until all is level."""
    troubles.feeder.start()
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < GIVE_UP:
        over = troubles.over
        facts, agent = road.status(), road.agent_status()
        show(elapsed, ticks, facts, agent)
        if over and _level(facts, agent, ticks.stat().st_size):
            return
        troubles.go_on(elapsed, facts)
        time.sleep(0.3)
    raise SystemExit(f"the copies did not become level within {GIVE_UP:.0f} s")


def show(elapsed: float, ticks: Path, facts: dict[str, Any], agent: dict[str, Any]) -> None:
    """One line of progress."""
    copies = "  ".join(f"{target['id']} {target['segments']:>2}" for target in facts.get("targets", []))
    size = ticks.stat().st_size / 1e6 if ticks.exists() else 0
    waiting = agent.get("waiting_segments", "-")
    console.print(f"{elapsed:6.1f} s   file {size:>5.1f} MB   to send {waiting:>2}   copies: {copies}")


def repair(road: Road) -> None:
    """Delete a copy, have every target compared, the one that lacks it mended, and the server compared with home."""
    copies = road.targets["nas"].glob(f"{road.agent}/ticks/**/*.parquet")
    copy = max(copies, key=lambda path: path.stat().st_size)
    copy.unlink()
    console.print("\nsomebody deletes a segment from the NAS:", copy.name)
    said(road, "tape-receiver", "resync", "--dry-run", codes=(1,))
    said(road, "tape-receiver", "resync", "nas")
    assert copy.exists(), f"{copy} was not put back"
    said(road, "tape-agent", "resync")


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
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit("stopped"))  # on the way out, all that was started is ended
    folder = given.keep.absolute() if given.keep else Path(tempfile.mkdtemp(prefix="hometape-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        stick, remotes = Stick(folder), Remotes(folder / "cloud")
        with Road(folder) as road, Proxy(road.port) as link, contextlib.closing(remotes):
            road.configure(through=link.port, receiver_set=(f'disks.look_in=["{stick.plugged.parent}/*"]',))
            furnish(road, stick, remotes)
            road.start_receiver()
            road.start_agent()
            console.print(
                "a bot writes its file; once each, the link is cut, the disk is pulled and the cloud is out of reach\n"
            )
            ticks = road.ticks / _name(given.input)
            watch(road, Troubles(road, link, stick, remotes, ticks, given.input), ticks)
            repair(road)
            good = prove(road, ticks)
            said(road, "tape-receiver", "status", codes=(0, 1, 2))
            console.print()
            console.print("every byte came back from every target" if good else "an export differs: this is a fault")
            return 0 if good else 2
    finally:
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
