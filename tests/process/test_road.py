"""The road home as its users travel it: real files, real processes, SIGKILL at random moments."""

import math
import random
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import RECORDINGS, recording, run
from tests.support.processes import command
from tests.support.road import Road
from tests.support.waiting import wait_until


@dataclass
class Bot:
    """Writes one file in random pieces; rotates it by rename midway. `lives` is what each life got."""

    folder: Path
    name: str
    data: bytes
    seed: int
    lives: list[bytes] = field(default_factory=list)

    def write(self) -> None:
        """Append all of the data: pieces from one byte to a megabyte, one rotation."""
        rng = random.Random(self.seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / self.name
        middle = rng.randrange(len(self.data) // 3, 2 * len(self.data) // 3)
        for number, part in enumerate((self.data[:middle], self.data[middle:])):
            with path.open("ab", buffering=0) as file:
                place = 0
                while place < len(part):
                    size = round(math.exp(rng.uniform(0, math.log(1 << 20))))
                    place += file.write(part[place : place + size])
                    if rng.random() < 0.02:
                        time.sleep(rng.uniform(0, 0.05))
            self.lives.append(part)
            if number == 0:
                path.rename(path.with_name(self.name + ".1"))


def oddities(seed: int) -> dict[str, bytes]:
    """Files that no recorder should write, and some do."""
    rng = random.Random(seed)
    quotes = [b"%d,%d.%02d,%d" % (n, n % 97, n % 100, n * 7) for n in range(20_000)]
    lf, crlf = b"\n".join(quotes), b"\r\n".join(quotes)
    return {
        "bom-crlf.csv": b"\xef\xbb\xbfts,price,size\r\n" + crlf + b"\r\n",
        "mixed-ends.csv": lf[:90_000] + crlf[:90_000] + b"\r" + lf,
        "no-final-newline.csv": b"ts,price,size\n" + lf,
        "headers-change.csv": b"a,b,c\n"
        + lf
        + b"\na;b;c;d\n"
        + lf.replace(b",", b";")
        + b"\nx\ty\n"
        + lf.replace(b",", b"\t"),
        "nuls-and-latin1.csv": lf.replace(b"7", b"\0").replace(b"13", b"\xe4\xff") + b"\n",
        "long-lines.jsonl": b'{"a":1}\n' + b'{"b":"' + b"x" * 9_000_000 + b'"}\n' + b'{"c":2}\n' * 3,
        "quotes.csv": b'1,"a,b",2\n"",""\n"unclosed,3\n' * 5_000,
        "random.bin": rng.randbytes(700_000),
        "empty-lines.txt": b"\n" * 5_000 + b"\r\n" * 5_000 + b"x",
        "numbers.csv": b"007,-0,+5,1e-5,9223372036854775808, 1,NaN,0.10,1.1000000000000000000001\n" * 9_000,
    }


def kill_now_and_then(road: Road, done: threading.Event, rng: random.Random, at_least: int) -> int:
    """SIGKILL one side, start it again after a while; until the bots are done and enough were killed."""
    kills = 0
    while not done.wait(rng.uniform(0.3, 2.5)) or kills < at_least:
        kills += 1
        if rng.random() < 0.5:
            assert road.agent_process is not None
            road.agent_process.close()
            time.sleep(rng.uniform(0, 0.5))
            road.start_agent()
        else:
            assert road.receiver is not None
            road.receiver.close()
            time.sleep(rng.uniform(0, 0.5))
            road.start_receiver()
        if kills > 200:
            break
    return kills


def exported(folder: Path) -> list[bytes]:
    """Every file of an export; which name a life got depends on when the agent first saw it."""
    return sorted(path.read_bytes() for path in folder.iterdir())


@pytest.mark.timeout(480)
def test_every_recording_comes_back_through_kills(tmp_path: Path) -> None:
    """Each recorded or odd file, appended in random pieces and rotated midway, is exported byte for byte from
    either target although both sides were killed again and again.
    """
    rng = random.Random(20261121)
    bots = []
    for number, name in enumerate(RECORDINGS):
        source = recording(name)
        bots.append(Bot(tmp_path / "server" / "ticks" / f"r{number}", source.name.lower(), source.read(), number))
    for name, data in oddities(7).items():
        bots.append(Bot(tmp_path / "server" / "ticks" / f"r{len(bots)}", name, data, len(bots)))
    with Road(tmp_path) as road:
        road.configure(patterns=("**/*",), stream="rec/{parent}")
        road.start_receiver()
        road.start_agent()
        done = threading.Event()

        def write_all() -> None:
            threads = [threading.Thread(target=bot.write) for bot in bots]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            done.set()

        writer = threading.Thread(target=write_all)
        writer.start()
        kills = kill_now_and_then(road, done, rng, at_least=10)
        writer.join()
        assert kills >= 10
        road.wait_level(sum(len(bot.data) for bot in bots), within=240)
        for number, bot in enumerate(bots):
            target = list(road.targets)[number % 2]  # verify then proves that the other copies are the same bytes
            assert exported(road.export(f"rec/r{number}", target)) == sorted(bot.lives), (bot.name, target)
        road.tape_receiver("verify")


def test_the_whole_road_with_plain_commands(tmp_path: Path) -> None:
    """init, check with its canary, run, status, verify and export do what the README says, once, in order."""
    with Road(tmp_path) as road:
        road.configure()
        (road.ticks / "quotes-2026-11-21.csv").write_bytes(b"ts,bid\r\n" + b"1,2.50\r\n" * 1000 + b"3,4.")
        road.start_receiver()
        assert "canary" in road.tape_agent("check", codes=(0, 1)).out
        road.start_agent()
        road.wait_level(8 + 8 * 1000 + 4)
        facts = road.status()
        assert {t["id"] for t in facts["targets"]} == {"home", "nas"}
        assert road.receiver is not None
        if sys.platform == "linux":  # what decodes segments has no business in the exposed process, and costs 60 MB
            assert b"arrow" not in Path(f"/proc/{road.receiver.pid}/maps").read_bytes()
        folder = road.export("ticks/quotes", "nas")
        assert (folder / "quotes-2026-11-21.csv").read_bytes()[-12:] == b"1,2.50\r\n3,4."
        for target in road.targets.values():
            for sums in target.rglob("SHA256SUMS"):
                assert run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=sums.parent).code == 0
        road.tape_receiver("verify")
        lose_the_catalog(road)


def test_what_is_not_sealed_yet_is_told(tmp_path: Path) -> None:
    """Who has just begun sees that his file is read, and how long a segment may take; later that all is sealed."""
    with Road(tmp_path) as road:
        road.configure(agent_set=("seal.max_age=6s",))
        (road.ticks / "quotes.csv").write_bytes(b"ts,bid\r\n" + b"1,2.50\r\n" * 1000)
        road.start_receiver()
        road.start_agent()

        def told(what: str) -> bool:
            return what in road.tape_agent("status", codes=(0, 1, 2, 3)).out

        wait_until(
            lambda: told("reading 1 file; 0.0 MB in memory, not sealed yet for "), within=30, what="it to be told"
        )
        assert told("(`seal.max_age` is 6 s)")
        wait_until(lambda: told("reading 1 file, all of it sealed"), within=30, what="the first segment")
        assert road.agent_process is not None
        road.agent_process.terminate()
        assert not told("reading ")


def lose_the_catalog(road: Road) -> None:
    """The catalog is gone: the home archive rebuilds it, and the stream comes back from it."""
    assert road.receiver is not None
    assert road.agent_process is not None
    road.agent_process.terminate()
    road.receiver.terminate()
    for path in (road.folder / "home" / "state").glob("catalog.db*"):
        path.unlink()
    assert "segments added" in road.tape_receiver("check", "--rebuild", codes=(0, 1)).err
    again = road.folder / "again"
    road.tape_receiver("export", "ticks/quotes", "--from", "home", "--output", str(again))
    assert (again / "quotes-2026-11-21.csv").read_bytes()[-12:] == b"1,2.50\r\n3,4."
    bare = road.folder / "bare"
    road.tape_receiver("export", "ticks/quotes", "--from", str(road.targets["nas"]), "--output", str(bare))
    assert (bare / "quotes-2026-11-21.csv").read_bytes()[-12:] == b"1,2.50\r\n3,4."
    road.tape_receiver("verify", "--folder", str(road.targets["nas"]))


def test_a_second_agent_process_is_refused(tmp_path: Path) -> None:
    """Two agents on one state folder would seal twice; the second says what to do and leaves."""
    with Road(tmp_path) as road:
        road.configure()
        road.start_receiver()
        road.start_agent().wait_for("running")
        second = run([*command("tape-agent"), "run", "--config", road.agent_toml])
        assert second.code == 75
        assert "hint:" in second.err
