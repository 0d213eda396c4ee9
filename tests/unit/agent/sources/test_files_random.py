"""Seeded worlds: random appends, rotations of all kinds, compressions and crashes, judged by what was written."""

import asyncio
import contextlib
import gzip
import os
import random
from pathlib import Path

import pytest
import zstandard

from agent.sources.files import FileSource
from tests.support import wait_until_async
from tests.unit.agent.sources.ledger import Ledger, settings

NAMES = ("eur.csv", "btc-2026-11-21.csv", "log")


class World:
    """A folder in which feeds write and rotate. `written`: the content of every life there ever was."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder = folder
        self.rng = rng
        self.ledger = Ledger()
        self.settings = settings(folder / "**" / "*", copy_settle=0.8, archive_settle=0.1)
        self.written: list[bytearray] = []
        self.now: dict[str, bytearray] = {}  # the life each name holds
        self.turn = dict.fromkeys(NAMES, 0)
        self.rotated: list[tuple[Path, bytearray]] = []
        self.task: asyncio.Task[None] | None = None

    # -- the agent

    def start(self) -> None:
        self.source = FileSource(self.settings)
        self.task = asyncio.create_task(self.source.run(self.ledger, self.ledger))

    async def stop(self) -> None:
        assert self.task is not None
        if self.task.done():
            self.task.result()
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def crash(self) -> None:
        """The agent dies; sealed is a random part of what was taken (nothing, or enough to tell lives apart)."""
        await self.stop()
        for life in self.ledger.lives.values():
            place = self.rng.randint(life.sealed, len(life.data))
            if self.rng.random() < 0.3:
                place = len(life.data)
            life.sealed = place if place > 29 or place == len(life.data) else life.sealed
            life.sealed_finished = life.finished and life.sealed == len(life.data)
        self.ledger.restart()
        for _ in range(self.rng.randint(0, 4)):
            await self.act(running=False)
        self.start()

    # -- the feeds

    def append(self, name: str) -> None:
        path, life = self.folder / name, self.now.get(name)
        if life is None:
            life = self.now[name] = bytearray()
            self.written.append(life)
            data = b"time,bid,ask\n" * (self.rng.random() < 0.5) + self.rng.randbytes(8).hex().encode()
        else:
            size = self.rng.choice([1, 1, 3, 40, 700, 5000, 60_000])
            data = self.rng.randbytes(size // 2 + 1).hex().encode()[:size]
        data += b"\n" * (self.rng.random() < 0.7)
        with path.open("ab") as file:
            file.write(data)
        life += data

    def free_name(self, name: str) -> Path:
        self.turn[name] += 1
        return self.folder / f"{name}.{self.turn[name]}"

    def rename(self, name: str) -> None:
        if name in self.now:
            new = self.free_name(name)
            (self.folder / name).rename(new)
            self.rotated.append((new, self.now.pop(name)))

    async def copytruncate(self, name: str) -> None:
        if name in self.now:
            path, new = self.folder / name, self.free_name(name)
            data = path.read_bytes()
            cut = self.rng.randint(0, len(data))
            with new.open("wb") as copy:
                for part in (data[:cut], data[cut:]):
                    copy.write(part)
                    copy.flush()
                    await asyncio.sleep(self.rng.choice([0, 0, 0.05]))
            os.truncate(path, 0)
            self.rotated.append((new, self.now.pop(name)))

    async def compress(self) -> None:
        if self.rotated:
            path, _ = self.rotated.pop(self.rng.randrange(len(self.rotated)))
            data = path.read_bytes()
            suffix = self.rng.choice([".gz", ".zst"])
            packed = gzip.compress(data) if suffix == ".gz" else zstandard.compress(data)
            cut = self.rng.randint(0, len(packed))
            with path.with_name(path.name + suffix).open("wb") as file:
                for part in (packed[:cut], packed[cut:]):
                    file.write(part)
                    file.flush()
                    await asyncio.sleep(self.rng.choice([0, 0, 0.2]))
            path.unlink()

    async def recreate(self, name: str) -> None:
        """Delete and write anew; only what was read and sealed before can survive that."""
        if name in self.now:
            await self.caught_up()
            self.ledger.seal()
            (self.folder / name).unlink()
            del self.now[name]
            self.append(name)

    async def caught_up(self) -> None:
        wanted = sorted(bytes(life) for life in self.written)
        try:
            await wait_until_async(
                lambda: (self.task is not None and self.task.done()) or self.ledger.contents == wanted,
                within=20,
                what="the agent to have read everything once",
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{explain(self)}") from None
        if self.task is not None and self.task.done():
            self.task.result()

    async def act(self, *, running: bool = True) -> None:
        name = self.rng.choice(NAMES)
        what = self.rng.choices(["append", "rename", "copytruncate", "compress", "recreate"], [60, 6, 6, 8, 2])[0]
        if what == "append":
            self.append(name)
        elif what == "rename":
            self.rename(name)
        elif what == "copytruncate":
            await self.copytruncate(name)
        elif what == "compress":
            await self.compress()
        elif running:
            await self.recreate(name)


FIRST = int(os.environ.get("TAPE_SEED", "0"))


@pytest.mark.parametrize("seed", range(FIRST, FIRST + 3))
async def test_every_byte_is_delivered_once_in_a_random_world(tmp_path: Path, seed: int) -> None:
    """Whatever befalls the files and the agent, each life arrives whole, in order, once."""
    world = World(tmp_path, random.Random(seed))
    world.start()
    for _ in range(120):
        await world.act()
        await asyncio.sleep(world.rng.choice([0, 0, 0, 0.01, 0.06]))
        if world.rng.random() < 0.06:
            await world.crash()
    await world.caught_up()
    await wait_until_async(lambda: not world.source.busy, what="nothing to be held back any more")
    await world.caught_up()
    await world.stop()
    assert not [event for event in world.ledger.gaps() if event.fault == "feed"]


def explain(world: World) -> str:
    """Which lives are missing, cut, or there twice, what happened last, and what lies there now."""
    wanted, lives = [bytes(life) for life in world.written], list(world.ledger.lives.values())
    found = [bytes(life.data) for life in lives]
    lines = [f"missing: {len(content)} bytes, {content[:30]!r}" for content in wanted if content not in found]
    for life, content in zip(lives, found, strict=True):
        if content not in wanted or found.count(content) > wanted.count(content):
            lines.append(f"too many: {life.origin.name} now {life.path}: {len(content)} bytes, {life.finished=}")
    lines += [f"{e.kind} {Path(e.file).name} {e.detail} {e.fault}" for e in world.ledger.events[-40:]]
    lines += [f"{path.name} {path.stat().st_size}" for path in sorted(world.folder.iterdir())]
    return "\n".join(lines)
