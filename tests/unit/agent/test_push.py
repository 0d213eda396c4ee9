"""Delivery against the real ingress: everything arrives once, whatever the line and the receiver do."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.jobs import Queue
from agent.model import State
from agent.outbox import Outbox
from agent.push import Push
from tape.clock import SYSTEM
from tape.errors import SyncFailed
from tape.names import SegmentName
from tests.support import wait_until_async
from tests.unit.agent.deliveries import CONFLICT, REFUSED, RESEND, Delivery, delivery
from tests.unit.agent.outboxes import ORIGIN, open_outbox


@pytest.fixture
async def road(tmp_path: Path) -> AsyncIterator[Delivery]:
    """A home, a line and an outbox."""
    async with delivery(tmp_path / "road") as made:
        yield made


def states(outbox: Outbox) -> dict[State, int]:
    """How many segments are in each state."""
    found: dict[State, int] = {}
    for stream in outbox.totals():
        for state, (count, _) in stream.states.items():
            found[state] = found.get(state, 0) + count
    return found


async def test_everything_arrives_once_and_as_it_was(road: Delivery) -> None:
    """Segments of all sizes and streams arrive with their bytes, and the outbox knows it."""
    road.seal(40, 900)
    road.seal(3, 3_000_000, "big/one")
    road.seal(5, 300_000, "big/two")
    push = road.start()
    await road.until_held()
    assert road.home.seqs() == list(range(40))
    for stream in ("demo/ticks", "big/one", "big/two"):
        for name in road.home.held("alpha", stream):
            there = road.home.path("alpha", stream, name).read_bytes()
            assert there == (road.outbox.spool / stream / str(name)).read_bytes()
    await wait_until_async(lambda: push.progress.held == 48)
    assert push.progress.held_bytes == sum(t.bytes for t in road.outbox.totals())
    assert not any(one.unconfirmed for one in road.outbox.totals()), "a receiver of ours has the word"
    assert push.progress.last_ok_ns > 0
    assert push.progress.last_error == ""
    assert push.progress.connections >= 1
    assert "Hometape" in push.progress.server


async def test_small_segments_that_wait_travel_together(road: Delivery) -> None:
    """Many small ones take few uploads; one alone, or one that is large, is not wrapped."""
    road.seal(200, 500)
    road.seal(1, 400_000)
    push = road.start(connections=1)
    await road.until_held()
    assert road.home.bundles == 1
    assert push.progress.bundles == 1
    assert road.home.seqs() == list(range(201))
    before = len(road.home.uploads)
    road.seal(1, 500)
    await road.until_held()
    assert (len(road.home.uploads), road.home.bundles) == (before + 1, 1)


async def test_bundles_can_be_switched_off_and_are_bounded(road: Delivery) -> None:
    """With `bundle_below = 0` nothing is wrapped; `bundle_max` splits what is."""
    road.seal(10, 500)
    road.start(bundle_below=0)
    await road.until_held()
    assert road.home.bundles == 0
    await road.stop()
    road.seal(20, 1000)
    road.start(bundle_max=6000)
    await road.until_held()
    assert road.home.bundles >= 4
    assert all(upload.size <= 6000 for upload in road.home.uploads)


async def test_what_is_sealed_later_is_sent_at_once(road: Delivery) -> None:
    """A new segment wakes the push: no polling interval has to pass."""
    road.start()
    await wait_until_async(lambda: road.push is not None and road.push.progress.connections == 2)
    for count in range(1, 4):
        road.seal(1)
        await road.until_held(within=2)
        assert road.home.seqs() == list(range(count))


async def test_more_wait_than_are_looked_at_once(road: Delivery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long outbox is taken in parts, and none is forgotten."""
    monkeypatch.setattr(Queue, "LIMIT", 7)
    road.seal(30, 300)
    road.start()
    await road.until_held()
    assert road.home.seqs() == list(range(30))


async def test_oldest_first(road: Delivery) -> None:
    """With room for one at a time, segments arrive in the order of sealing, over all streams."""
    for number in range(12):
        road.seal(1, 300_000, f"s{number % 3}")
    road.start(connections=1, in_flight=100_000, bundle_below=0)
    await road.until_held()
    assert [upload.stream for upload in road.home.uploads] == [f"s{number % 3}" for number in range(12)]
    assert road.home.seqs("s0") == [0, 1, 2, 3]


@pytest.mark.parametrize("answer", [REFUSED, CONFLICT])
async def test_a_refused_segment_is_set_aside_with_its_reason(road: Delivery, answer: object) -> None:
    """One that home will not take is kept with the reason, and the others are delivered."""
    road.seal(1, 300_000)
    road.home.answers[ORIGIN.stream, 1] = answer  # type: ignore[assignment]  # one of two outcomes
    road.seal(3, 300_000)
    push = road.start()
    await road.until_held()
    assert road.home.seqs() == [0, 2, 3]
    assert states(road.outbox)[State.REFUSED] == 1
    (reason,) = next(t.reasons for t in road.outbox.totals() if t.stream == ORIGIN.stream)
    assert answer.reason in reason  # type: ignore[attr-defined]  # an outcome
    assert push.progress.refused == 1
    assert answer.reason in push.progress.last_error  # type: ignore[attr-defined]  # an outcome
    count = len(road.home.uploads)
    road.seal(1, 300_000)
    await road.until_held()
    assert len(road.home.uploads) == count + 1


async def test_the_refused_one_in_a_bundle_is_found(road: Delivery) -> None:
    """A refused bundle goes again one by one, so that only the segment at fault is set aside."""
    road.home.answers[ORIGIN.stream, 7] = REFUSED
    road.seal(20, 500)
    road.start()
    await road.until_held()
    assert road.home.seqs() == [seq for seq in range(20) if seq != 7]
    assert states(road.outbox) == {State.HELD: 19, State.REFUSED: 1}


async def test_a_resend_comes_again(road: Delivery) -> None:
    """What home could not store is sent again, after a pause, until it is."""
    road.seal(4, 300_000)
    road.home.once = True
    road.home.answers[ORIGIN.stream, 2] = RESEND
    push = road.start()
    await road.until_held()
    assert road.home.seqs() == [0, 1, 2, 3]
    assert push.progress.refused == 0
    assert "no space left at home" in push.progress.last_error


async def test_what_failed_is_not_tried_before_its_time(road: Delivery) -> None:
    """While one waits for its next try, newer ones pass it; it is not sent again along with them."""
    road.home.answers[ORIGIN.stream, 1] = RESEND
    road.seal(3, 300_000)
    road.start(retry_min=60, retry_max=60)
    for waiting in range(2):
        await wait_until_async(lambda: road.outbox.waiting()[0] == 1)
        assert [upload.name.seq for upload in road.home.uploads if isinstance(upload.name, SegmentName)].count(1) == 1
        assert len(road.home.seqs()) == 2 + waiting
        road.seal(1, 300_000)


async def test_when_nothing_is_taken_home_is_left_alone(road: Delivery) -> None:
    """A home that can take nothing is asked with one upload at a time, and all arrives once it can."""
    road.seal(30, 300_000)
    for seq in range(30):
        road.home.answers[ORIGIN.stream, seq] = RESEND
    road.start(retry_min=0.2, retry_max=0.2, bundle_below=0)
    await wait_until_async(lambda: len(road.home.uploads) >= 34)
    asked = len(road.home.uploads)
    began = SYSTEM.monotonic()
    await wait_until_async(lambda: len(road.home.uploads) >= asked + 3)
    assert SYSTEM.monotonic() - began > 0.15
    road.home.answers.clear()
    await road.until_held()
    assert road.home.seqs() == list(range(30))


async def test_a_damaged_spool_file_is_never_sent(road: Delivery) -> None:
    """A spool file that changed is reported and left out, alone or in a bundle; the others arrive."""
    small = road.seal(5, 500)
    large = road.seal(2, 400_000)
    for one in (small[3], large[0]):
        path = road.outbox.spool / one.path
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(data)
    (road.outbox.spool / small[1].path).unlink()
    road.start()
    await wait_until_async(lambda: road.outbox.waiting() == (0, 0))
    assert road.home.seqs() == [0, 2, 4, 6]
    assert states(road.outbox)[State.LOST] == 3


async def test_stopping_waits_for_what_is_under_way(road: Delivery) -> None:
    """A graceful stop lets an upload finish and records it; nothing new is started."""
    road.home.hold = asyncio.Event()
    road.seal(1, 300_000)
    push = road.start()
    await wait_until_async(lambda: len(road.home.uploads) == 1)
    stopping = asyncio.ensure_future(push.stop(grace=20))
    await asyncio.sleep(0)
    road.seal(1, 300_000)
    road.home.hold.set()
    await stopping
    assert road.home.seqs() == [0]
    assert road.outbox.waiting()[0] == 1


async def test_stopping_does_not_wait_for_ever(road: Delivery) -> None:
    """An upload that does not end is given up when the grace is over; it comes again after a restart."""
    road.home.hold = asyncio.Event()
    road.seal(1, 300_000)
    push = road.start()
    await wait_until_async(lambda: len(road.home.uploads) == 1)
    began = SYSTEM.monotonic()
    await push.stop(grace=0.2)
    assert SYSTEM.monotonic() - began < 5
    assert road.outbox.waiting()[0] == 1
    road.home.hold.set()
    road.start()
    await road.until_held()
    assert road.home.seqs() == [0]


async def test_an_outbox_that_must_not_go_on_ends_the_push(road: Delivery, tmp_path: Path) -> None:
    """After a failed fsync nothing more is acknowledged: `run` ends with that error."""
    road.seal(1)
    other = open_outbox(tmp_path / "other", clock=SYSTEM, agent="alpha")
    push = Push(other, road.settings(), agent="alpha", key=road.key, receipt_key=None, clock=SYSTEM)
    running = asyncio.ensure_future(push.run())
    await wait_until_async(lambda: push.progress.connections > 0)
    other.fail(SyncFailed("fsync of the outbox failed"))
    push._on_sealed(asyncio.get_running_loop())
    with pytest.raises(SyncFailed):
        await asyncio.wait_for(running, 10)
    other.close()


async def test_more_segments_than_handles(tmp_path: Path) -> None:
    """A receiver that allows few uploads at a time still gets everything."""
    async with delivery(tmp_path / "few", max_handles=3) as road:
        road.seal(120, 300)
        road.start(bundle_below=0, connections=1)
        await road.until_held(within=40)
        assert road.home.seqs() == list(range(120))
