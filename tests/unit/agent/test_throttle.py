"""The budget of bytes under way, the rate limit and the size of writes."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.throttle import BEHIND, MIB, SMALLEST_PIECE, START, Lane, Throttle
from tape.clock import ManualClock


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def one_lane(limit: int, **more: Any) -> tuple[Throttle, Lane]:
    """A throttle with one connection on which only the limit over all binds."""
    made = Throttle(limit, **{"clock": ManualClock(), **more})
    lane = made.lane()
    lane._capacity = 1e12
    return made, lane


async def test_the_budget_is_kept_and_given_in_order() -> None:
    """Takers wait when it is used up, and are served first come first served."""
    made, lane = one_lane(MIB)
    await lane.take(MIB // 2)
    order: list[int] = []

    async def taker(number: int, size: int) -> None:
        await lane.take(size)
        order.append(number)

    tasks = [asyncio.ensure_future(taker(n, size)) for n, size in enumerate((3 * MIB // 4, MIB // 8, MIB // 8))]
    await settle()
    assert order == []  # the small ones fit, but it is not their turn
    lane.give(MIB // 2)
    await settle()
    assert order == [0, 1, 2]
    assert made.used == MIB
    await asyncio.gather(*tasks)


async def test_something_always_may_go() -> None:
    """A piece larger than the whole budget waits for an empty line and then goes."""
    made = Throttle(SMALLEST_PIECE, clock=ManualClock())
    lane = made.lane()
    await lane.take(10 * MIB)
    lane.give(10 * MIB)
    assert made.used == 0


async def test_a_taker_that_gives_up_leaves_no_hole() -> None:
    """Cancelled before or just after its turn, a taker's bytes go to the next."""
    made, lane = one_lane(SMALLEST_PIECE)
    await lane.take(SMALLEST_PIECE)
    first, second, third = (asyncio.ensure_future(lane.take(SMALLEST_PIECE)) for _ in range(3))
    await settle()
    first.cancel()
    await settle()
    lane.give(SMALLEST_PIECE)
    second.cancel()  # its turn has come, it only does not know yet
    await settle()
    assert third.done()
    assert made.used == SMALLEST_PIECE
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_a_bandwidth_limit_is_kept() -> None:
    """Ten megabytes at one megabyte a second take ten seconds of the clock."""
    clock = ManualClock()
    _, lane = one_lane(64 * MIB, clock=clock, bandwidth=1_000_000)
    for _ in range(100):
        await lane.take(100_000)
        lane.give(100_000, answered=True)
    assert 9.8 <= clock.monotonic() <= 10.2
    assert lane.piece(MIB) == 250_000


def send(clock: ManualClock, lane: Lane, size: int, seconds: float, times: int) -> None:
    """Bytes that are answered after some time, again and again."""
    for _ in range(times):
        lane._add(size)
        clock.advance(seconds)
        lane.give(size, answered=True)


def test_each_connections_budget_follows_what_it_carries() -> None:
    """Round trip times rate, with some room, is what may be under way; the others' is not touched."""
    clock = ManualClock()
    made = Throttle(64 * MIB, clock=clock)
    lane, other = made.lane(), made.lane()
    assert lane.allowed == START
    made.took(0.08)
    made.took(10)
    assert made.round_trip == 0.08
    send(clock, lane, 5_000_000, 0.05, 40)  # 100 MB a second over 80 ms
    assert made.rate == pytest.approx(100e6, rel=0.05)
    assert 3 * 0.08 * 100e6 < lane.allowed < 6 * 0.08 * 100e6
    assert other.allowed == START
    assert lane.piece(MIB) == MIB
    assert other.piece(MIB) == START // 2
    for _ in range(100):
        clock.advance(1)
        made.tick()
    assert made.rate == 0


async def test_a_server_that_pauses_keeps_its_budget_and_a_slow_one_loses_it() -> None:
    """A second without answers costs little; a link that became slow is given less within a minute."""
    clock = ManualClock()
    made = Throttle(1024 * MIB, clock=clock)
    lane = made.lane()
    await lane.take(64 * MIB)
    waiting = asyncio.ensure_future(lane.take(200 * MIB))
    await settle()
    send(clock, lane, 10_000_000, 0.1, 30)
    before = lane.allowed
    send(clock, lane, 1, 1.0, 1)
    assert lane.allowed > 0.9 * before
    send(clock, lane, 10_000, 0.1, 600)
    assert START <= lane.allowed < 0.1 * before
    waiting.cancel()


async def test_the_limit_over_all_is_kept() -> None:
    """Connections share the limit; what one gives back, the oldest upload on any of them gets."""
    made, lane = one_lane(MIB)
    other = made.lane()
    other._capacity = 1e12
    await lane.take(MIB)
    late, early = asyncio.ensure_future(lane.take(MIB, 2)), asyncio.ensure_future(other.take(MIB, 1))
    await settle()
    assert not late.done()
    lane.give(MIB)
    await settle()
    assert [early.done(), late.done()] == [True, False]
    other.give(MIB)
    await late
    assert (made.used, lane.used, other.used) == (MIB, MIB, 0)


async def test_nobody_waits_for_a_connection_that_is_gone() -> None:
    """Closing lets all go, whatever the budget says; their bytes are given back like any others."""
    made = Throttle(64 * MIB, clock=ManualClock())
    lane = made.lane()
    await lane.take(MIB)
    waiting = [asyncio.ensure_future(lane.take(MIB)) for _ in range(3)]
    await settle()
    lane.close()
    await asyncio.gather(*waiting)
    assert made.lanes == []
    for _ in range(4):
        lane.give(MIB)
    assert made.used == 0


async def test_uploads_announce_what_they_have_left() -> None:
    """The backlog is what started uploads have not taken yet; a change is told, an early end leaves nothing."""
    told: list[int] = []
    made = Throttle(64 * MIB, clock=ManualClock(), changed=lambda: told.append(made.backlog))
    lane = made.lane()
    one, other = made.announce(START, lane), made.announce(START // 4, lane)
    await one.take(START // 2)
    assert (made.backlog, made.used) == (3 * START // 4, START // 2)
    assert [made.satisfied, lane.allowed, lane.writing] == [True, START, 2]
    other.close()
    other.close()
    await one.take(START // 4)
    lane.give(START // 2)
    assert [made.satisfied, made.backlog, lane.writing] == [False, START // 4, 1]
    await one.take(START // 2)  # a bundle is a little longer than announced
    assert lane.writing == 0
    one.close()
    assert [made.backlog, lane.writing] == [0, 0]
    assert told == [3 * START // 4, START // 2, START // 2, START // 4, 0, 0]


async def test_the_oldest_upload_goes_first() -> None:
    """Whoever waits for the budget, the upload that was started first is served first."""
    made, lane = one_lane(MIB)
    await lane.take(MIB)
    shares = [made.announce(MIB, lane) for _ in range(3)]
    order: list[int] = []

    async def taker(number: int) -> None:
        await shares[number].take(MIB)
        order.append(number)

    tasks = [asyncio.ensure_future(taker(number)) for number in (2, 0, 1)]
    for _ in range(3):
        await settle()
        lane.give(MIB)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]


async def test_an_upload_behind_lets_new_ones_pass_and_is_not_left_behind_for_ever() -> None:
    """Those that begin soon after it go first, later ones do not; it is no reason not to begin another."""
    made, lane = one_lane(MIB)
    await lane.take(MIB)
    old = made.announce(MIB, lane, behind=True)
    assert [made.backlog, lane.writing] == [0, 0]
    new = [made.announce(MIB, lane) for _ in range(BEHIND + 4)]
    order: list[int] = []

    async def taker(number: int) -> None:
        await (old if number < 0 else new[number]).take(MIB)
        order.append(number)

    tasks = [asyncio.ensure_future(taker(number)) for number in range(-1, len(new))]
    for _ in tasks:
        await settle()
        lane.give(MIB)
    await asyncio.gather(*tasks)
    assert order.index(-1) == BEHIND - 1
    old.close()
    assert made.backlog == 0


async def test_uploads_behind_keep_a_rate_of_their_own() -> None:
    """Their rate slows them and only them; without one they go as fast as the rest; it may change at any time."""
    clock = ManualClock()
    made, lane = one_lane(64 * MIB, clock=clock)
    made.behind.rate = MIB
    old, new = made.announce(8 * MIB, lane, behind=True), made.announce(8 * MIB, lane)
    for _ in range(4):
        await old.take(MIB)
    assert clock.monotonic() == pytest.approx(3)
    await new.take(8 * MIB)
    assert clock.monotonic() == pytest.approx(3)
    assert old.piece(MIB) == MIB // 4
    assert new.piece(MIB) == MIB
    made.behind.rate = 0
    await old.take(MIB)
    assert clock.monotonic() == pytest.approx(3)


def test_writes_shrink_on_a_link_that_breaks_and_grow_again() -> None:
    """A connection that ends with almost nothing answered makes writes smaller, a working one larger."""
    clock = ManualClock()
    made, lane = one_lane(64 * MIB, clock=clock)
    assert lane.piece(MIB) == MIB
    assert lane.piece(255 * 1024) == 255 * 1024
    made.lost(100 * MIB)
    assert lane.piece(MIB) == MIB
    for expected in (256 * 1024, 64 * 1024, SMALLEST_PIECE, SMALLEST_PIECE):
        made.lost(0)
        assert lane.piece(MIB) == expected
    send(clock, lane, SMALLEST_PIECE, 0.01, 3000)
    assert lane.piece(MIB) > SMALLEST_PIECE


@given(st.lists(st.tuples(st.integers(1, 3 * MIB), st.booleans()), max_size=40))
def test_books_balance(steps: list[tuple[int, bool]]) -> None:
    """Whatever is taken and given, the budget ends at zero and was never overdrawn by more than one piece."""

    async def run() -> None:
        made, lane = one_lane(4 * MIB)
        going: list[tuple[int, asyncio.Task[None]]] = []
        for size, give in steps:
            going.append((size, asyncio.ensure_future(lane.take(size))))
            await settle()
            assert made.used <= 4 * MIB
            if give and going[0][1].done():
                lane.give(going.pop(0)[0], answered=True)
        while going:
            await settle()
            size, task = going.pop(0)
            assert task.done()
            lane.give(size)
        assert made.used == 0

    asyncio.run(run())
