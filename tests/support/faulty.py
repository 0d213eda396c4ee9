"""A whole home side whose targets can be harmed: home, a folder, a removable disk, an S3 store; and a judge beside it.

The service runs in a thread of this process, so that a target can be made to lie; everything else is real: drop
box, ingest, catalog, receipts, rclone and its server, files, and where the machine allows it full and read-only
file systems. The judge reads each new receipt and looks for itself, at the places, whether what it calls safe is there.
"""

import asyncio
import contextlib
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from receiver import following
from receiver.catalog import Catalog
from receiver.fanout import Pace
from receiver.service import Service
from receiver.settings import ReceiverSettings, TargetSettings
from receiver.targets import opening, remote_presence
from receiver.targets.contract import Target
from receiver.targets.marker import prepare
from receiver.targets.remote_setup import prepare_remote
from tape.clock import SYSTEM, Clock
from tape.keys import RECEIPT_KEY, make_receipt_key
from tape.notify import Notifier
from tape.supervise import Stop
from tests.support import rclone_servers as servers
from tests.support.archive import Mischief
from tests.support.disks import need_disks
from tests.support.segments import Made, Maker
from tests.support.waiting import wait_until

AGENT = "box"
OTHERS = ("nas", "usb", "cloud")
COPIES = 3
_QUICK = partial(Pace, rescan=0.5, absent=0.2, refused=0.2, longest=0.5, grace=2.0)


class _Ready(Notifier):
    """Waits for the service to say that it works."""

    def __init__(self, ready: threading.Event) -> None:
        super().__init__("")
        self._ready = ready

    def send(self, *lines: str) -> bool:
        if "READY=1" in lines:
            self._ready.set()
        return False


class FaultySide:
    """As a context manager it is stopped and cleaned away. `trouble`: what can be done to each target by itself."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.drop = folder / "drop"
        self.drop.mkdir()
        self.disks = {name: folder / "disks" / name for name in ("home", *OTHERS)}
        for disk in self.disks.values():
            disk.mkdir(parents=True)
        self.server = servers.s3(self.disks["cloud"])
        self.trouble: dict[str, Mischief] = {}
        self.made: list[Made] = []
        self.broken: list[str] = []
        """What a receipt called safe and was not there."""
        self.judged = 0
        """How many segments were called safe, and looked at."""
        self._maker = Maker(agent=AGENT)
        self._mounted: list[Path] = []
        self._thread: threading.Thread | None = None
        self._stop: Stop | None = None
        self._failure: BaseException | None = None
        self._over = threading.Event()
        patch.setattr(following, "Pace", _QUICK)
        patch.setattr(remote_presence, "_BLOCKED", 0.5)
        patch.setattr(remote_presence, "_FRESH", 0.5)
        patch.setattr(opening, "wrapped", partial(self._wrapped, opening.wrapped))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.server.stop()
        for place in self._mounted:
            subprocess.run(["umount", "-l", str(place)], check=False)

    # ------------------------------------------------------------------------------------------ the places

    def small(self, name: str) -> None:
        """Lay a target on a small file system of its own, before `start`."""
        need_disks()
        place = self.disks[name]
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], check=True)
        self._mounted.append(place)
        (place / servers.BUCKET).mkdir()

    def remount(self, name: str, options: str) -> None:
        """Mount it anew, read-only or not."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.disks[name])], check=True)

    def root(self, name: str) -> Path:
        """Where the segments of a target lie in truth."""
        below = {"home": "", "nas": "tape", "usb": "hometape", "cloud": f"{servers.BUCKET}/tape"}
        return self.disks[name] / below[name]

    def entry(self, name: str) -> TargetSettings:
        """The settings of a target."""
        more: dict[str, Any] = {"path": self.root(name)}
        if name == "usb":
            more = {"kind": "removable", "path": "hometape", "mounted": False}
        if name == "cloud":
            more = {
                "kind": "remote",
                "remote": f"s3:{servers.BUCKET}/tape",
                "rclone_config": self.folder / "rclone.conf",
            }
        return TargetSettings.model_validate({"id": name, "home": name == "home", "medium": name, "retries": 1, **more})

    @property
    def settings(self) -> ReceiverSettings:
        """The receiver's: three copies make a segment safe, one of them at home."""
        return ReceiverSettings.model_validate(
            {
                "state": self.folder / "state",
                "listen": {"enabled": False},
                "policy": {"copies": COPIES, "release_after": COPIES},
                "agent": [{"name": AGENT, "dropbox": self.drop}],
                "disks": {"look_in": [str(self.folder / "disks" / "*")], "every": 0.2},
                "target": [self.entry(name) for name in ("home", *OTHERS)],
            }
        )

    def _wrapped(self, real: Callable[..., Target], target: Target, entry: TargetSettings, *, clock: Clock) -> Target:
        if not entry.home:
            target = self.trouble[entry.id] = Mischief(target, lambda path: self.root(entry.id) / path)
        return real(target, entry, clock=clock)

    # ---------------------------------------------------------------------------------------- the service

    def start(self) -> None:
        """Prepare what is not prepared yet, and run the service and the judge."""
        settings = self.settings
        if not settings.state.exists():
            settings.state.mkdir()
            make_receipt_key(settings.state / RECEIPT_KEY)
            self.server.start()
            lines = ["[s3]", *(f"{key} = {value}" for key, value in self.server.options.items())]
            (self.folder / "rclone.conf").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
            for name in ("home", "nas", "usb"):
                prepare(self.root(name), name, clock=SYSTEM)
            prepare_remote(self.entry("cloud"), settings.state / "targets" / "cloud", clock=SYSTEM)
        ready = threading.Event()
        self._over.clear()

        async def life() -> None:
            self._stop = Stop()
            await Service(settings, clock=SYSTEM, notifier=_Ready(ready)).run(self._stop)

        def run() -> None:
            try:
                asyncio.run(life())
            except BaseException as error:  # noqa: BLE001 - told by `stop`
                self._failure = error

        self._thread = threading.Thread(target=run, name="service")
        self._thread.start()
        assert ready.wait(20), self._failure
        threading.Thread(target=self._judge, name="judge", daemon=True).start()

    def stop(self) -> None:
        """End the service; raises what ended it before."""
        self._over.set()
        for trouble in self.trouble.values():
            trouble.gate.set()
        if self._thread is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed: it has ended by itself
                self._stop.ask()
            self._thread.join(30)
            assert not self._thread.is_alive()
            self._thread = None
        if self._failure is not None:
            raise self._failure

    # ------------------------------------------------------------------------------------ what goes through

    def deliver(self, count: int) -> None:
        """Put the next segments into the drop box."""
        for made in self._maker.many(count):
            self.made.append(made)
            path = self.drop / made.path.stream / str(made.path.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(made.data)

    def copied(self, name: str) -> int:
        """How many verified copies the catalog knows at a target."""
        with Catalog.open(self.folder / "state", clock=SYSTEM, read_only=True) as catalog:
            return sum(one.targets[name].segments for one in catalog.streams() if name in one.targets)

    def wait_copied(self, *names: str, within: float = 30.0) -> float:
        """Wait until all that was delivered has a copy at each of these; how many seconds it took."""
        began = SYSTEM.monotonic()
        for name in names:
            wait_until(lambda: self.copied(name) == len(self.made), within=within, every=0.05, what=f"all at {name}")  # noqa: B023 - called here
        return SYSTEM.monotonic() - began

    def holds(self, name: str, made: Made) -> bool:
        """Whether the very bytes of a segment lie at a target, as a stranger sees it."""
        try:
            return (self.root(name) / str(made.path)).read_bytes() == made.data
        except OSError:
            return False

    def safe(self) -> set[int]:
        """What the stream's receipt calls safe now."""
        with contextlib.suppress(FileNotFoundError):
            text = (self.drop / ".receipts" / f"{self._maker.stream}.json").read_text(encoding="utf-8")
            ranges = [span for epoch in json.loads(text)["receipt"]["epochs"].values() for span in epoch["safe"]]
            return {seq for first, last in ranges for seq in range(first, last + 1)}
        return set()

    def _judge(self) -> None:
        known: set[int] = set()
        while not self._over.wait(0.02):
            for seq in self.safe() - known:
                known.add(seq)
                made = self.made[seq]
                places = [name for name in self.disks if self.holds(name, made)]
                self.judged += 1
                if "home" not in places or len(places) < COPIES:
                    self.broken.append(f"{made.path} is called safe, and lies at {places}")

    def wait_safe(self, within: float = 30.0) -> None:
        """Wait until the receipt calls everything safe."""
        wait_until(lambda: len(self.safe()) == len(self.made), within=within, every=0.05, what="all to be safe")
        wait_until(lambda: self.judged >= len(self.made), within=5, what="the judge to have looked")


@contextlib.contextmanager
def elsewhere(place: Path) -> Iterator[Path]:
    """A folder is gone from its place for a while; where it is."""
    away = place.with_name(f".{place.name}-away")
    place.rename(away)
    try:
        yield away
    finally:
        away.rename(place)
