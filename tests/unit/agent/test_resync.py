"""A resync against a real home: what it finds, what it sends, and what it survives."""

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agent import outbox_moves
from agent.cli.resync import show
from agent.model import Spooled
from agent.resync import Facts, Phase, Resync
from agent.resync_desk import Ask, Desk
from agent.resync_rules import Fate
from agent.resync_turn import Turn
from tape.clock import SYSTEM
from tape.digest import xxh3
from tape.durable import DISK
from tape.errors import ConfigError, NotFound
from tape.inventory import Page
from tape.receipt import EpochReceipt, Receipt, to_ranges
from tests.support import wait_until_async
from tests.unit.agent.deliveries import Delivery, delivery
from tests.unit.agent.outboxes import ORIGIN, receipt


@pytest.fixture
async def road(tmp_path: Path) -> AsyncIterator[Delivery]:
    """A home, a line and an outbox."""
    async with delivery(tmp_path / "road") as made:
        yield made


def ask(*streams: str, dry_run: bool = False, bandwidth: int = 0) -> Ask:
    """A resync as a person asks for it."""
    return Ask("0" * 16, 0, streams, dry_run, bandwidth)


def resync(road: Delivery, told: list[Phase] | None = None) -> Resync:
    """A resync over the running push."""
    assert road.push is not None
    seen = told if told is not None else []
    return Resync(
        road.outbox,
        road.push,
        receipt_key=road.home.sign_key.public_key(),
        clock=SYSTEM,
        tell=lambda facts: seen.append(facts.phase),
    )


def at_home(road: Delivery, one: Spooled) -> Path:
    """Where home keeps a segment."""
    return road.home.path("alpha", one.stream, one.name)


async def held(road: Delivery, count: int, **more: Any) -> list[Spooled]:
    """So many segments made, sent and held."""
    made = road.seal(count, 2000)
    if road.push is None:
        road.start(**more)
    await road.until_held()
    return made


def count(facts: Facts, fate: Fate, *, after: bool = False) -> int:
    """Segments of a fate."""
    plan = facts.after if after else facts.plan
    assert plan is not None
    return plan.total(fate)[0]


async def test_equal_sides_cost_one_page(road: Delivery) -> None:
    """Where home holds exactly what was made, the root says so and nothing else is read."""
    await held(road, 30)
    told: list[Phase] = []
    facts = await resync(road, told).run(ask())
    assert (facts.exit_code, facts.pages, facts.after) == (0, 1, None)
    assert facts.page_bytes < 1000
    assert told[-1] is Phase.DONE
    assert facts.plan is not None
    assert facts.plan.streams[ORIGIN.stream].made == 30


async def test_what_home_lost_is_sent_again_and_nothing_else(road: Delivery) -> None:
    """Exactly the segments that vanished at home are sent once more; then both are level and nothing is marked."""
    made = await held(road, 600)
    gone = [made[n] for n in (0, 17, 255, 256, 599)]
    for one in gone:
        at_home(road, one).unlink()
    before = len(road.home.seqs())
    facts = await resync(road).run(ask())
    assert facts.exit_code == 0
    assert facts.again == (5, sum(one.size for one in gone))
    assert facts.plan is not None
    assert facts.plan.streams[ORIGIN.stream].counts[Fate.MISSING].ranges == {
        road.outbox.epoch: [(0, 0), (17, 17), (255, 256), (599, 599)]
    }
    assert before == 595
    assert road.home.seqs() == list(range(600))
    with road.outbox._store.reading() as db:
        assert db.execute("SELECT count(*) FROM segments WHERE again OR state <> 'held'").fetchone()[0] == 0


async def test_a_dry_run_changes_nothing(road: Delivery) -> None:
    """The plan is told, the outbox stays as it is and home gets nothing."""
    made = await held(road, 5)
    at_home(road, made[2]).unlink()
    facts = await resync(road).run(ask(dry_run=True))
    assert (facts.exit_code, count(facts, Fate.MISSING), facts.after) == (1, 1, None)
    assert road.outbox.waiting() == (0, 0)
    assert road.home.seqs() == [0, 1, 3, 4]


async def test_what_is_nowhere_is_told(road: Delivery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Released here and not at home: named exactly, whether its row is still there or was compacted long ago."""
    monkeypatch.setattr(outbox_moves, "KEEP_RELEASED", 10)
    made = await held(road, 40, receipts_every=3600)
    road.outbox.apply_receipt(receipt(road.outbox, SYSTEM.now_ns(), held=range(40), safe=range(35)))
    with road.outbox._store.reading() as db:
        rows = {row["seq"] for row in db.execute("SELECT seq FROM segments")}
    assert len(rows) == 15
    for seq in (3, 4, 30, 37):
        at_home(road, made[seq]).unlink()
    facts = await resync(road).run(ask())
    assert facts.after is not None
    assert facts.after.streams[ORIGIN.stream].counts[Fate.GONE].ranges == {road.outbox.epoch: [(3, 4), (30, 30)]}
    assert (facts.exit_code, facts.again[0], count(facts, Fate.MISSING)) == (2, 1, 1)
    assert 37 in road.home.seqs()


async def test_other_bytes_at_home_are_told(road: Delivery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong digest at home is found, for a live row by its number, for compacted ones among them."""
    monkeypatch.setattr(outbox_moves, "KEEP_RELEASED", 5)
    made = await held(road, 30, receipts_every=3600)
    road.outbox.apply_receipt(receipt(road.outbox, SYSTEM.now_ns(), held=range(30), safe=range(20)))
    for seq in (2, 25):
        path = at_home(road, made[seq])
        wrong = made[seq].name.__class__(made[seq].name.epoch, seq, xxh3(b"x"))
        path.rename(path.with_name(str(wrong)))
    facts = await resync(road).run(ask(dry_run=True))
    assert facts.plan is not None
    found = facts.plan.streams[ORIGIN.stream].counts[Fate.WRONG]
    assert found.ranges == {road.outbox.epoch: [(0, 14), (25, 25)]}
    assert (found.segments, facts.exit_code) == (2, 2)


async def test_what_this_outbox_never_made_is_foreign(road: Delivery) -> None:
    """Numbers of this epoch beyond the last one made here."""
    made = await held(road, 3)
    for seq in (3, 400):
        name = made[0].name.__class__(road.outbox.epoch, seq, "0" * 32)
        at_home(road, made[0]).with_name(str(name)).write_bytes(b"from a later life")
    facts = await resync(road).run(ask())
    assert facts.plan is not None
    assert facts.plan.streams[ORIGIN.stream].counts[Fate.FOREIGN].ranges == {road.outbox.epoch: [(3, 3), (400, 400)]}
    assert facts.exit_code == 2


async def test_epochs_of_earlier_outboxes_are_named_only(road: Delivery) -> None:
    """Home holds what a lost outbox sent: that is neither missing here nor foreign."""
    made = await held(road, 3)
    name = made[0].name.__class__("a" * 16, 0, "0" * 32)
    at_home(road, made[0]).with_name(str(name)).write_bytes(b"of an earlier life")
    facts = await resync(road).run(ask())
    assert facts.exit_code == 0
    assert facts.plan is not None
    assert facts.plan.others == ("a" * 16,)


async def test_a_backlog_is_followed_to_its_end(road: Delivery) -> None:
    """What was never sent counts as on its way; the resync ends when home has it."""
    road.seal(50, 2000)
    road.start()
    told: list[Phase] = []
    facts = await resync(road, told).run(ask())
    assert (facts.exit_code, facts.left) == (0, (0, 0))
    assert facts.again == (0, 0)
    assert road.home.seqs() == list(range(50))


async def test_only_the_streams_asked_for(road: Delivery) -> None:
    """The others are neither compared nor sent; a name that fits none is an error."""
    made = await held(road, 3)
    others = road.seal(3, 1000, "other/ticks")
    await road.until_held()
    for one in (made[1], others[1]):
        at_home(road, one).unlink()
    facts = await resync(road).run(ask("other/*"))
    assert facts.plan is not None
    assert list(facts.plan.streams) == ["other/ticks"]
    assert (facts.exit_code, facts.again[0]) == (0, 1)
    assert at_home(road, others[1]).exists()
    assert not at_home(road, made[1]).exists()
    with pytest.raises(NotFound, match="no stream here is called none"):
        await resync(road).run(ask("none"))


async def test_live_segments_pass_what_is_sent_again(road: Delivery) -> None:
    """A slow resync of many old segments does not hold up a new one, and keeps its rate."""
    made = await held(road, 40)
    for one in made:
        at_home(road, one).unlink()
    running = asyncio.ensure_future(resync(road).run(ask(bandwidth=20_000)))
    await wait_until_async(lambda: road.outbox.waiting()[0] >= 40, what="segments marked")
    began = SYSTEM.monotonic()
    new = road.seal(5, 2000, "live/ticks")
    await wait_until_async(lambda: all(at_home(road, one).exists() for one in new), within=2)
    assert not running.done()
    facts = await asyncio.wait_for(running, 30)
    assert facts.exit_code == 0
    assert SYSTEM.monotonic() - began > 2  # 80 kB at 20 kB a second, less what may burst
    assert road.home.seqs() == list(range(40))


async def test_a_line_that_breaks_is_no_end(road: Delivery) -> None:
    """Cut while pages are read and while segments are sent: the resync goes on where it was."""
    made = await held(road, 300)
    for one in made[::3]:
        at_home(road, one).unlink()
    running = asyncio.ensure_future(resync(road).run(ask()))

    async def cut(before: int) -> None:
        road.proxy.cut_after(15_000)
        await wait_until_async(lambda: road.proxy.cuts > before or running.done(), what="a cut")

    for _ in range(4):
        await cut(road.proxy.cuts)
    assert road.proxy.cuts >= 2
    facts = await asyncio.wait_for(running, 60)
    assert facts.exit_code == 0
    assert road.home.seqs() == list(range(300))


async def test_a_home_without_inventory_is_compared_by_receipts(
    road: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older receiver, or a drop box: its receipts tell the numbers, and the plan says that this is all they tell."""
    made = await held(road, 300)
    missing = {0, 1, 299}

    async def nothing(agent: str, page: Page) -> None:
        return None

    async def said(agent: str, stream: str) -> bytes:
        seqs = [name.seq for name in road.home.held(agent, stream)]
        parts = {road.outbox.epoch: EpochReceipt(held=to_ranges(seqs))}
        return Receipt(agent, stream, SYSTEM.now_ns(), parts).sign(road.home.sign_key)

    monkeypatch.setattr(road.home, "inventory", nothing)
    monkeypatch.setattr(road.home, "receipt", said)
    for seq in missing:
        at_home(road, made[seq]).unlink()
    facts = await resync(road).run(ask())
    assert facts.plan is not None
    assert facts.plan.by_receipts
    assert (facts.exit_code, facts.again[0]) == (0, 3)
    assert road.home.seqs() == list(range(300))
    assert road.push is not None
    with pytest.raises(ConfigError, match="no receipt key"):
        await Resync(road.outbox, road.push, receipt_key=None, clock=SYSTEM).run(ask())


# ------------------------------------------------------------------------------------------------ the desk


async def test_what_lies_on_the_desk_is_done_after_a_death(road: Delivery, tmp_path: Path) -> None:
    """Whoever worked on it died in the middle: the next one does it from the start, and leaves its last word."""
    made = await held(road, 20, bundle_below=0)
    for one in made[5:15]:
        at_home(road, one).unlink()
    desk = Desk(tmp_path, clock=SYSTEM, disk=DISK)
    wanted, new = desk.put(["demo/*"], dry_run=False, bandwidth=5_000)
    assert new
    assert desk.put(["demo/*"], dry_run=False, bandwidth=5_000) == (wanted, False)
    assert road.push is not None
    turn = Turn(desk, road.outbox, road.push, receipt_key=None, clock=SYSTEM)
    first = asyncio.ensure_future(turn.serve())
    await wait_until_async(lambda: desk.told(wanted).get("phase") == "sending", what="it to send")
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert desk.waiting() == [wanted]
    second = asyncio.ensure_future(Turn(desk, road.outbox, road.push, receipt_key=None, clock=SYSTEM).serve())
    await wait_until_async(lambda: desk.waiting() == [], within=30, what="its end")
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert desk.told(wanted)["done"]
    assert desk.told(wanted)["exit_code"] == 0
    assert road.home.seqs() == list(range(20))


async def test_a_resync_that_fails_says_why_and_the_next_one_is_done(road: Delivery, tmp_path: Path) -> None:
    """An error is the last word on its own ask only; a file that is none of ours is put out of the way."""
    await held(road, 2)
    desk = Desk(tmp_path, clock=SYSTEM, disk=DISK)
    bad, _ = desk.put(["nobody"], dry_run=True, bandwidth=0)
    good, _ = desk.put([], dry_run=True, bandwidth=0)
    (tmp_path / "resync" / "broken.ask").write_bytes(b"{")
    assert road.push is not None
    turn = asyncio.ensure_future(Turn(desk, road.outbox, road.push, receipt_key=None, clock=SYSTEM).serve())
    await wait_until_async(lambda: desk.waiting() == [], what="both to be done")
    turn.cancel()
    await asyncio.gather(turn, return_exceptions=True)
    assert desk.told(bad)["code"] == "not-found"
    assert "nobody" in desk.told(bad)["error"]
    assert desk.told(good)["exit_code"] == 0
    assert list((tmp_path / "resync").glob("*.ask")) == []


async def test_a_resync_that_breaks_does_not_end_the_service(road: Delivery, tmp_path: Path) -> None:
    """Whatever goes wrong in it, foreseen or not, is its last word; delivery goes on."""
    await held(road, 2)

    async def broken(agent: str, page: Page) -> bytes:
        return b"tinv nonsense"

    desk = Desk(tmp_path, clock=SYSTEM, disk=DISK)
    assert road.push is not None
    turn = Turn(desk, road.outbox, road.push, receipt_key=None, clock=SYSTEM)
    true = road.home.inventory
    road.home.inventory = broken  # type: ignore[method-assign]  # a home that talks nonsense
    refused, _ = desk.put([], dry_run=True, bandwidth=0)
    assert (await turn.attend(refused))["code"] == "inventory"
    road.home.inventory = true  # type: ignore[method-assign]  # and comes to its senses
    bug, _ = desk.put([], dry_run=True, bandwidth=1)
    road.outbox.inventory.newest = None  # type: ignore[method-assign,assignment]  # a bug of our own
    assert "failed" in (await turn.attend(bug))["error"]
    assert desk.waiting() == []
    road.seal(1, 2000)
    await road.until_held()


def test_a_new_outbox_is_not_called_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing sealed yet, after an outbox was lost say: there is nothing to compare, and that is what is said."""
    plan = {"streams": [], "by_receipts": False, "other_epochs": ["d6e5589ccc78128e"], "level": True}
    shown = io.StringIO()
    monkeypatch.setattr("agent.cli.resync.out", Console(file=shown, width=200))
    show({"plan": plan, "again_segments": 0, "done": True, "exit_code": 0}, dry_run=False)
    assert "home also holds 1 epoch of earlier outboxes" in shown.getvalue()
    assert "nothing was sealed here yet" in shown.getvalue()
    assert "level" not in shown.getvalue()
