"""The receiver is killed again and again while it fills four targets: the server frees nothing too early."""

import random
import threading
from pathlib import Path

import pytest

from receiver.settings import ReceiverSettings
from receiver.targets.marker import prepare
from receiver.targets.opening import prepare_target
from tape.clock import SYSTEM
from tape.settings import load
from tests.support import rclone_servers as servers
from tests.support.rclone_servers import Remotes
from tests.support.road import Road
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process
COPIES = 3
KILLS = 4


class SpoolWatch:
    """Sees every segment the server holds, and looks at the targets whenever one is gone from there."""

    def __init__(self, spool: Path, places: dict[str, Path]) -> None:
        self.early: list[str] = []
        self.released = 0
        self._spool = spool
        self._places = places
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="spool watch")
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join(10)

    def _watch(self) -> None:
        known: dict[Path, bytes] = {}
        while not self._over.wait(0.02):
            there = set(self._spool.rglob("*.parquet"))
            for path in there - known.keys():
                try:
                    known[path] = path.read_bytes()
                except OSError:  # it went between two looks: the next one has no bytes to compare
                    continue
            for path in known.keys() - there:
                self._judge(path, known.pop(path))

    def _judge(self, path: Path, data: bytes) -> None:
        holds = [name for name, root in self._places.items() if self._has(root, path.name, data)]
        self.released += 1
        if "home" not in holds or len(holds) < COPIES:
            self.early.append(f"{path.name} was released, and lies at {holds}")

    @staticmethod
    def _has(root: Path, name: str, data: bytes) -> bool:
        return any(found.read_bytes() == data for found in root.rglob(name) if ".hometape-tmp" not in found.parts)


def add_targets(road: Road, remotes: Remotes) -> dict[str, Path]:
    """A removable disk and an S3 store beside `nas`; where each target's files lie."""
    place = remotes.place("s3")
    config = road.receiver_toml.read_text(encoding="utf-8")
    config = config.replace("#look_in = []", f'look_in = ["{road.folder / "media"}/*"]').replace(
        'every = "2 s"', 'every = "200 ms"'
    )
    config += '\n[[target]]\nid = "usb"\nkind = "removable"\nmounted = false\nmedium = "usb"\n'
    config += f'\n[[target]]\nid = "cloud"\nkind = "remote"\nremote = "{place}"\nrclone_config = "{remotes.config}"\n'
    road.receiver_toml.write_text(config, encoding="utf-8", newline="\n")
    stick = road.folder / "media" / "stick" / "hometape"
    prepare(stick, "usb", clock=SYSTEM)
    settings = load(ReceiverSettings, road.receiver_toml)
    prepare_target(next(entry for entry in settings.target if entry.id == "cloud"), settings.state)
    bucket = remotes.folder / "s3" / servers.BUCKET / place.rpartition("/")[2]
    return {**road.targets, "usb": stick, "cloud": bucket}


@pytest.mark.timeout(180)
def test_a_killed_receiver_frees_nothing_early(tmp_path: Path) -> None:
    """SIGKILL at any moment, between put, proof, record and receipt: what the server deletes lies at three targets by
    then, byte for byte; afterwards all four are level.
    """
    rng = random.Random(20261121)
    remotes = Remotes(tmp_path / "remotes")
    remotes.folder.mkdir()
    with Road(tmp_path) as road:
        road.configure(receiver_set=(f"policy.copies={COPIES}", f"policy.release_after={COPIES}"))
        places = add_targets(road, remotes)
        stop = threading.Event()
        watch = SpoolWatch(road.folder / "server" / "state", places)
        try:
            road.start_receiver()
            road.start_agent()
            source = road.ticks / "quotes.csv"
            writer = threading.Thread(target=_write, args=(source, stop))
            writer.start()
            for _ in range(KILLS):
                released = watch.released
                stop.wait(rng.uniform(0.8, 2.5))
                assert road.receiver is not None
                road.receiver.close()
                road.start_receiver()
                wait_until(lambda: watch.released > released, within=40, what="something to be released")  # noqa: B023 - called here
            stop.set()
            writer.join()
            road.wait_level(source.stat().st_size)
            wait_until(lambda: level(places), within=40, every=0.2, what="all targets to be level")
        finally:
            stop.set()
            watch.end()
            remotes.close()
    assert watch.early == []
    assert watch.released >= KILLS


def _write(path: Path, stop: threading.Event) -> None:
    number = 0
    while not stop.wait(0.05):
        with path.open("ab") as file:
            file.write(b"".join(b"%d,%d.50,%d\n" % (number + n, n % 97, n) for n in range(200)))
        number += 200


def level(places: dict[str, Path]) -> bool:
    """Whether every target has the same segments, by their names and bytes."""
    trees = [
        {path.name: path.read_bytes() for path in root.rglob("*.parquet") if ".hometape" not in str(path)}
        for root in places.values()
    ]
    return bool(trees[0]) and all(tree == trees[0] for tree in trees[1:])
