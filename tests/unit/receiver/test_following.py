"""The fan-out follows the configuration: what hangs holds up nothing, what is unchanged keeps what it knows."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from receiver import following as module
from receiver.following import Following
from receiver.ingest import Ingest
from receiver.reload import compare
from receiver.settings import ReceiverSettings
from receiver.targets.contract import Target
from receiver.targets.marker import prepare
from receiver.targets.opening import open_targets
from tape.clock import SYSTEM
from tape.durable import DISK
from tests.support.archive import Archive, Mischief
from tests.support.segments import Maker
from tests.support.waiting import wait_until_async


class Scene:
    """An archive with home and nas, and the fan-out that follows its settings. Each target can be made to hang."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.archive = Archive(root)
        self.opened: list[Mischief] = []
        self.told: set[tuple[str, int]] = set()  # streams told of, with how many copies of them nas had then
        monkeypatch.setattr(module, "open_targets", self.open)
        settings = self.settings("home", "nas")
        ingest = Ingest(settings, self.archive.catalog, Ed25519PrivateKey.generate(), clock=SYSTEM)
        self.following = Following(
            settings, self.archive.catalog, ingest, clock=SYSTEM, disk=DISK, changed=self.changed, busy=lambda: False
        )

    def open(self, settings: ReceiverSettings, **how: Any) -> list[Target]:
        """The real targets, each in a wrapper that can hang."""
        wrapped = [Mischief(target) for target in open_targets(settings, **how)]
        self.opened += wrapped
        return list(wrapped)

    def changed(self, streams: Collection[tuple[str, str]]) -> None:
        for one in self.archive.catalog.streams():
            if (one.agent, one.stream) in streams:
                self.told.add((one.stream, one.targets["nas"].segments if "nas" in one.targets else 0))

    def settings(self, *names: str, **more: Any) -> ReceiverSettings:
        root = self.archive.root
        places = [{"id": name, "path": str(root / name), "home": name == "home"} for name in names]
        return ReceiverSettings.model_validate({"state": str(root / "state"), "target": places, **more})

    def use(self, *names: str, **more: Any) -> None:
        self.following.use(compare(self.following.settings, self.settings(*names, **more)))

    async def copied(self, target: str, count: int) -> None:
        await wait_until_async(lambda: self.archive.copied(target) == count, within=40, what=f"{count} at {target}")


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    """See the class; at work."""
    made = Scene(tmp_path, monkeypatch)
    task = asyncio.ensure_future(made.following.run())
    try:
        yield made
    finally:
        for target in made.opened:
            target.gate.set()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        made.archive.catalog.close()


async def test_a_hanging_target_does_not_hold_up_a_change(scene: Scene) -> None:
    """One target hangs in the midst of its work; another is added all the same, and filled."""
    scene.archive.commit(3)
    await scene.copied("nas", 3)
    scene.opened[1].gate.clear()
    scene.archive.commit(2)
    await scene.copied("home", 5)
    prepare(scene.archive.root / "attic", "attic", clock=SYSTEM)
    scene.use("home", "nas", "attic")
    await scene.copied("attic", 5)
    scene.archive.assert_complete("attic")
    assert [view.target for view in scene.following.views()] == ["home", "nas", "attic"]
    for target in scene.opened:
        target.gate.set()
    await scene.copied("nas", 5)
    scene.archive.assert_complete("nas")


async def test_what_is_unchanged_stays_and_a_policy_stops_nothing(scene: Scene) -> None:
    """Targets whose entry is the same are the same objects; another policy alone does not end the fan-out."""
    scene.archive.commit(1)
    await scene.copied("nas", 1)
    before = scene.following._fanout
    scene.use("home", "nas", policy={"copies": 1})
    await asyncio.sleep(0)
    assert scene.following._fanout is before
    assert scene.following.settings.policy.copies == 1
    prepare(scene.archive.root / "attic", "attic", clock=SYSTEM)
    scene.use("home", "nas", "attic")
    await scene.copied("attic", 1)
    assert scene.following._targets[:2] == scene.opened[:2]


async def test_a_replaced_target_changes_the_receipts(scene: Scene) -> None:
    """Another instance under a known id: its copies are dropped, all receipts are told stale, and it is filled anew."""
    scene.archive.commit(4)
    await scene.copied("nas", 4)
    scene.told.clear()
    nas = scene.archive.root / "nas"
    nas.rename(scene.archive.root / "old")
    prepare(nas, "nas", clock=SYSTEM)
    scene.archive.take(Maker(stream="demo/other", epoch="00000000000000bb", file_id="e" * 32, real=False).many(1))
    await wait_until_async(lambda: ("demo/ticks", 0) in scene.told, within=60, what="the receipts to be stale")
    await scene.copied("nas", 5)
    await wait_until_async(lambda: len(list(nas.glob("box/**/*.parquet"))) == 5, within=40)
    assert [one.kind for one in scene.archive.catalog.incidents(closed=True)] == ["replaced"]
