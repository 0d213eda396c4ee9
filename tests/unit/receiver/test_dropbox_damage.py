"""What lies damaged in a drop box, before the real ingest: its receipts ask for it again until it came."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from receiver.dropbox import AGAIN, SETTLE, DropBox
from receiver.dropbox_receipts import RENEW
from receiver.settings import AgentEntry
from tape.clock import ManualClock
from tape.errors import StoreError
from tape.names import EVENTS_STREAM
from tape.receipt import Ranges
from tests.support.ingesting import Bench, ingesting
from tests.support.segments import Made, Maker


class Yard:
    """A drop box `box` of the agent `box` before a real ingest."""

    def __init__(self, bench: Bench, root: Path, clock: ManualClock) -> None:
        self.bench = bench
        self.root = root
        self.clock = clock
        self.box = DropBox(
            AgentEntry(name="box", dropbox=root), bench.settings.state, bench.ingest, streams=tuple, clock=clock
        )
        self.box.start()

    def put(self, name: str, content: bytes) -> Path:
        """A file as a plain server leaves it."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def put_one(self, made: Made, content: bytes | None = None) -> Path:
        """A segment, with its own bytes or others."""
        return self.put(f"{made.path.stream}/{made.path.name}", made.data if content is None else content)

    def put_bundle(self, made: Sequence[Made]) -> Path:
        """Segments in one bundle."""
        upload = self.bench.bundle(made)
        return self.put(f".bundles/{upload.name}", upload.path.read_bytes())

    async def take(self) -> int:
        """Two looks, as far apart as damaged files need."""
        taken = await self.box.take_all()
        self.clock.advance(SETTLE + 0.1)
        return taken + await self.box.take_all()

    async def said(self, made: Made) -> tuple[Ranges, Ranges]:
        """What the stream's receipt calls held, and what it asks for."""
        part = (await self.bench.receipt(made)).epochs[made.path.name.epoch]
        return part.held, part.resend

    def incidents(self) -> list[str]:
        """The open ones."""
        return [one.text for one in self.bench.catalog.incidents(limit=100)]


@asynccontextmanager
async def a_yard(folder: Path) -> AsyncIterator[Yard]:
    """A drop box before a real ingest."""
    clock = ManualClock()
    (folder / "drop").mkdir()
    async with ingesting(folder, clock=clock) as bench:
        yield Yard(bench, folder / "drop", clock)


def flipped(content: bytes) -> bytes:
    """The bytes with one bit wrong in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("content", [b"", b"\0" * 50, b"x"], ids=["flipped", "zeros", "cut"])
async def test_a_damaged_segment_is_asked_for_until_it_came(tmp_path: Path, content: bytes) -> None:
    """Also the only one of its stream: the receipt asks, status shows it, and both end when it came whole."""
    (made,) = Maker(agent="box").many(1)
    async with a_yard(tmp_path) as yard:
        path = yard.put_one(made, content or flipped(made.data))
        assert await yard.take() == 1
        assert not path.exists()
        assert await yard.said(made) == ((), ((0, 0),))
        assert await yard.box.write_receipts() == 2, "the other one is of the agent's events"
        (told,) = yard.incidents()
        assert "came damaged and is asked for again" in told
        yard.put_one(made)
        assert await yard.take() == 1
        assert await yard.said(made) == (((0, 0),), ())
        assert not yard.incidents()


async def test_a_receipt_is_issued_anew_though_it_says_the_same(tmp_path: Path) -> None:
    """Not the one that was made before: by its time the agent sees that home looked into the box since."""
    made = Maker(agent="box").make()
    receipt = tmp_path / "drop" / ".receipts" / f"{made.path.stream}.json"
    async with a_yard(tmp_path) as yard:
        yard.put_one(made)
        await yard.take()
        assert await yard.box.write_receipts() == 2
        before = json.loads(receipt.read_bytes())["receipt"]
        yard.clock.advance(RENEW + 1)
        assert await yard.box.write_receipts() == 2
        after = json.loads(receipt.read_bytes())["receipt"]
        assert after.pop("issued_ns") > before.pop("issued_ns")
        assert after == before


async def test_an_agent_of_which_nothing_came_hears_that_the_box_is_looked_at(tmp_path: Path) -> None:
    """All that it left may have been deleted there: the receipt of its events tells of nothing, again and again."""
    receipt = tmp_path / "drop" / ".receipts" / f"{EVENTS_STREAM}.json"
    async with a_yard(tmp_path) as yard:
        assert await yard.box.write_receipts() == 1
        first = json.loads(receipt.read_bytes())["receipt"]
        assert first["epochs"] == {}
        yard.clock.advance(RENEW + 1)
        assert await yard.box.write_receipts() == 1
        assert json.loads(receipt.read_bytes())["receipt"]["issued_ns"] > first["issued_ns"]


async def test_what_is_held_is_not_asked_for(tmp_path: Path) -> None:
    """A damaged duplicate of a held segment changes nothing."""
    made = Maker(agent="box").make()
    async with a_yard(tmp_path) as yard:
        yard.put_one(made)
        await yard.take()
        yard.put_one(made, b"damaged")
        assert await yard.take() == 1
        assert await yard.said(made) == (((0, 0),), ())
        assert not yard.incidents()


@pytest.mark.parametrize("cut", [False, True])
async def test_of_a_damaged_bundle_what_is_not_held_is_asked_for(tmp_path: Path, cut: bool) -> None:
    """A segment in it is damaged, or its end is missing: what its head tells of and is not held, is asked for."""
    made = Maker(agent="box").many(3)
    async with a_yard(tmp_path) as yard:
        path = yard.put_bundle(made)
        content = path.read_bytes()
        path.write_bytes(content[:-10] if cut else content.replace(made[1].data, flipped(made[1].data)))
        assert await yard.take() == 1
        held, asked = await yard.said(made[0])
        assert (held, asked) == ((), ((0, 2),)) if cut else (held, asked) == (((0, 0), (2, 2)), ((1, 1),))
        for one in made:
            yard.put_one(one)
        await yard.take()
        assert await yard.said(made[0]) == (((0, 2),), ())
        assert not yard.incidents()


async def test_of_a_bundle_without_a_head_nothing_is_known(tmp_path: Path) -> None:
    """It is removed and told for a day: the agent finds out by itself what no receipt confirms."""
    made = Maker(agent="box").many(3)
    async with a_yard(tmp_path) as yard:
        path = yard.put_bundle(made)
        path.write_bytes(b"\0" * path.stat().st_size)
        assert await yard.take() == 1
        (told,) = yard.box.troubles.facts()["troubles"]
        assert f"{path.name}' came damaged and was removed" in told["text"]
        assert "sends again" in told["hint"]
        yard.clock.advance(24 * 3600 + 1)
        assert not yard.box.troubles.facts()["troubles"]


async def test_it_is_asked_for_before_it_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that can't be recorded now, the file stays and is tried again."""

    def broken(*_: object) -> None:
        raise StoreError("the catalog is busy")

    made = Maker(agent="box").make()
    async with a_yard(tmp_path) as yard:
        with monkeypatch.context() as patch:
            patch.setattr(yard.bench.catalog, "ask_again", broken)
            path = yard.put_one(made, b"damaged")
            assert await yard.take() == 0
            assert path.exists()
            assert "can't be asked for again now" in yard.box.troubles.facts()["troubles"][0]["text"]
        yard.clock.advance(AGAIN + 1)
        assert await yard.take() == 1
        assert await yard.said(made) == ((), ((0, 0),))


async def test_one_that_is_refused_is_not_asked_for(tmp_path: Path) -> None:
    """It came whole the second time, but breaks a rule: that is for a person to decide, not to be sent for ever."""
    made = Maker(agent="somebody-else").make()
    async with a_yard(tmp_path) as yard:
        yard.put_one(made, b"damaged")
        await yard.take()
        yard.put_one(made)
        await yard.take()
        data = await yard.bench.ingest.receipt("box", made.path.stream)
        assert data is not None
        (part,) = json.loads(data)["receipt"]["epochs"].values()
        assert part["resend"] == []
        assert part["refused"]
        assert [text for text in yard.incidents() if "asked for" in text] == []
