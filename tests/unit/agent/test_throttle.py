"""The budget of bytes under way, the rate limit and the size of writes."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.throttle import MIB, SMALLEST_PIECE, START, Throttle
from tape.clock import ManualClock


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_budget_is_kept_and_given_in_order() -> None:
    """Takers wait when it is used up, and are served first come first served."""
    made = Throttle(MIB, clock=ManualClock())
    await made.take(MIB // 2)
    order: list[int] = []

    async def taker(number: int, size: int) -> None:
        await made.take(size)
        order.append(number)

    tasks = [asyncio.ensure_future(taker(n, size)) for n, size in enumerate((3 * MIB // 4, MIB // 8, MIB // 8))]
    await settle()
    assert order == []  # the small ones fit, but it is not their turn
    made.give(MIB // 2)
    await settle()
    assert order == [0, 1, 2]
    assert made.used == MIB
    await asyncio.gather(*tasks)


async def test_something_always_may_go() -> None:
    """A piece larger than the whole budget waits for an empty line and then goes."""
    made = Throttle(SMALLEST_PIECE, clock=ManualClock())
    await made.take(10 * MIB)
    made.give(10 * MIB)
    assert made.used == 0


async def test_a_taker_that_gives_up_leaves_no_hole() -> None:
    """Cancelled before or just after its turn, a taker's bytes go to the next."""
    made = Throttle(SMALLEST_PIECE, clock=ManualClock())
    await made.take(SMALLEST_PIECE)
    first, second, third = (asyncio.ensure_future(made.take(SMALLEST_PIECE)) for _ in range(3))
    await settle()
    first.cancel()
    await settle()
    made.give(SMALLEST_PIECE)
    second.cancel()  # its turn has come, it only does not know yet
    await settle()
    assert third.done()
    assert made.used == SMALLEST_PIECE
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_a_bandwidth_limit_is_kept() -> None:
    """Ten megabytes at one megabyte a second take ten seconds of the clock."""
    clock = ManualClock()
    made = Throttle(64 * MIB, clock=clock, bandwidth=1_000_000)
    for _ in range(100):
        await made.take(100_000)
        made.give(100_000, answered=True)
    assert 9.8 <= clock.monotonic() <= 10.2
    assert made.piece(MIB) == 250_000


def test_the_budget_follows_the_link() -> None:
    """Round trip times rate, with some room, is what may be under way: not less than the floor, not more than set."""
    clock = ManualClock()
    made = Throttle(64 * MIB, clock=clock)
    assert made.allowed == START
    made.took(0.08)
    for _ in range(40):  # 100 MB a second over 80 ms
        clock.advance(0.05)
        made.used += 5_000_000
        made.give(5_000_000, answered=True)
    assert made.rate == pytest.approx(100e6, rel=0.05)
    assert 3 * 0.08 * 100e6 < made.allowed < 6 * 0.08 * 100e6
    made.took(10)
    assert made.round_trip == 0.08
    for _ in range(40):
        clock.advance(0.05)
        made.used += 50_000_000
        made.give(50_000_000, answered=True)
    assert made.allowed == 64 * MIB
    for _ in range(100):
        clock.advance(1)
        made.tick()
    assert made.rate == 0


async def test_a_server_that_pauses_keeps_its_budget_and_a_slow_one_loses_it() -> None:
    """A second without answers costs little; a link that became slow is given less within a minute."""
    clock = ManualClock()
    made = Throttle(64 * MIB, clock=clock)
    await made.take(64 * MIB)
    waiting = asyncio.ensure_future(made.take(100 * MIB))
    await settle()

    def answer(size: int, seconds: float) -> None:
        made.used += size
        clock.advance(seconds)
        made.give(size, answered=True)

    for _ in range(30):
        answer(10_000_000, 0.1)
    before = made.allowed
    answer(1, 1.0)
    assert made.allowed > 0.9 * before
    for _ in range(600):
        answer(10_000, 0.1)
    assert made.allowed < 0.1 * before
    assert made.allowed >= START
    waiting.cancel()


async def test_uploads_announce_what_they_have_left() -> None:
    """The backlog is what started uploads have not taken yet; a change is told, an early end leaves nothing."""
    told: list[int] = []
    made = Throttle(64 * MIB, clock=ManualClock(), changed=lambda: told.append(made.backlog))
    one, other = made.announce(MIB), made.announce(MIB // 4)
    await one.take(MIB // 2)
    assert (made.backlog, made.used) == (3 * MIB // 4, MIB // 2)
    assert [made.satisfied, made.allowed] == [True, START]
    other.close()
    other.close()
    await one.take(MIB // 4)
    made.give(MIB // 2, answered=True)
    assert [made.satisfied, made.backlog] == [False, MIB // 4]
    await one.take(MIB // 2)  # a bundle is a little longer than announced
    one.close()
    assert made.backlog == 0
    assert told == [3 * MIB // 4, MIB // 2, MIB // 2, MIB // 4, 0, 0]


async def test_the_oldest_upload_goes_first() -> None:
    """Whoever waits for the budget, the upload that was started first is served first."""
    made = Throttle(MIB, clock=ManualClock())
    await made.take(MIB)
    shares = [made.announce(MIB) for _ in range(3)]
    order: list[int] = []

    async def taker(number: int) -> None:
        await shares[number].take(MIB)
        order.append(number)

    tasks = [asyncio.ensure_future(taker(number)) for number in (2, 0, 1)]
    for _ in range(3):
        await settle()
        made.give(MIB)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]


def test_writes_shrink_on_a_link_that_breaks_and_grow_again() -> None:
    """A connection that ends with almost nothing answered makes writes smaller, a working one larger."""
    clock = ManualClock()
    made = Throttle(64 * MIB, clock=clock)
    assert made.piece(MIB) == MIB
    assert made.piece(255 * 1024) == 255 * 1024
    made.lost(100 * MIB)
    assert made.piece(MIB) == MIB
    for expected in (256 * 1024, 64 * 1024, SMALLEST_PIECE, SMALLEST_PIECE):
        made.lost(0)
        assert made.piece(MIB) == expected
    for _ in range(3000):
        clock.advance(0.01)
        made.used += SMALLEST_PIECE
        made.give(SMALLEST_PIECE, answered=True)
    assert made.piece(MIB) > SMALLEST_PIECE


@given(st.lists(st.tuples(st.integers(1, 3 * MIB), st.booleans()), max_size=40))
def test_books_balance(steps: list[tuple[int, bool]]) -> None:
    """Whatever is taken and given, the budget ends at zero and was never overdrawn by more than one piece."""

    async def run() -> None:
        made = Throttle(4 * MIB, clock=ManualClock())
        going: list[tuple[int, asyncio.Task[None]]] = []
        for size, give in steps:
            going.append((size, asyncio.ensure_future(made.take(size))))
            await settle()
            assert made.used <= max(START, 3 * MIB)
            if give and going[0][1].done():
                made.give(going.pop(0)[0], answered=True)
        while going:
            await settle()
            size, task = going.pop(0)
            assert task.done()
            made.give(size)
        assert made.used == 0

    asyncio.run(run())
