"""Delivery on bad lines, to receivers that are away, and to ones that are not the right one."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import asyncssh
import pytest

from agent.lines import end_all
from tape import keys
from tape.clock import SYSTEM
from tests.support import wait_until_async
from tests.unit.agent.deliveries import Delivery, Pauses, delivery


@pytest.fixture
async def road(tmp_path: Path) -> AsyncIterator[Delivery]:
    """A home, a line and an outbox."""
    async with delivery(tmp_path / "road") as made:
        yield made


async def test_cuts_lose_nothing_and_resend_nothing_that_is_held(road: Delivery) -> None:
    """The line is cut again and again in the middle of uploads; each segment is stored once, none is missing."""
    road.seal(30, 500_000)

    def cut_or_done(cuts: int) -> bool:
        return road.proxy.cuts >= cuts or road.outbox.waiting() == (0, 0)

    road.start()
    for _ in range(5):
        await wait_until_async(lambda: road.proxy.open > 0)
        cuts = road.proxy.cuts + 1
        road.proxy.cut_after(1_200_000)
        await wait_until_async(partial(cut_or_done, cuts))
    await road.until_held()
    assert road.home.seqs() == list(range(30))
    assert road.proxy.cuts >= 5
    assert not list(road.house.inbox.glob("up-*"))
    await road.stop()
    held = len(road.home.uploads)
    road.start()
    await wait_until_async(lambda: road.push is not None and road.push.progress.connections == 2)
    road.seal(1, 500_000)
    await road.until_held()
    assert len(road.home.uploads) == held + 1


async def test_flipped_bits_end_in_a_new_attempt(road: Delivery) -> None:
    """A bit that flips on the way breaks the connection, never a segment."""
    road.seal(10, 400_000)
    for at in (100_000, 900_000, 2_000_000):
        road.proxy.flip(at)
    road.start()
    await road.until_held()
    assert road.proxy.flipped == 3
    assert road.home.seqs() == list(range(10))


async def test_a_stall_is_noticed_and_ended(road: Delivery) -> None:
    """A line on which nothing moves, and nobody says so, is given up after the stall time-out."""
    road.seal(10, 400_000)
    push = road.start(stall_timeout=0.5, keepalive=0)
    await wait_until_async(lambda: road.proxy.sent > 300_000)
    road.proxy.stalled = True
    await wait_until_async(lambda: "nothing was answered" in push.progress.last_error)
    road.proxy.stalled = False
    await road.until_held()
    assert road.home.seqs() == list(range(10))


async def test_an_idle_dead_line_is_noticed_by_keepalives(road: Delivery) -> None:
    """With nothing to send, a line that died is found by keepalives and replaced."""
    push = road.start(keepalive=0.1)
    await wait_until_async(lambda: push.progress.connections == 2)
    before = road.proxy.connections
    road.proxy.stalled = True
    await wait_until_async(lambda: road.proxy.connections > before)
    road.proxy.stalled = False
    await wait_until_async(lambda: push.progress.connections == 2)


async def test_a_slow_line_is_not_taken_for_a_stalled_one(road: Delivery) -> None:
    """On a line on which one large write takes longer than the time-out, writes become small and get through."""
    road.seal(2, 700_000)
    road.proxy.rate = 400_000
    push = road.start(stall_timeout=1, keepalive=0, bundle_below=0, connections=1)
    await road.until_held(within=40)
    assert road.home.seqs() == [0, 1]
    assert push.progress.connections == 1


async def test_a_receiver_that_is_away_is_waited_for(road: Delivery) -> None:
    """Attempts go on with a pause between them while nobody answers, one at a time, and end in success."""
    road.seal(5)
    road.proxy.refusing = True
    push = road.start(connections=4)
    await wait_until_async(lambda: road.proxy.connections >= 4)
    assert "can't be reached" in push.progress.last_error
    assert push.progress.connections == 0
    road.proxy.refusing = False
    await road.until_held()


async def test_pauses_between_attempts_grow(road: Delivery) -> None:
    """The time between attempts doubles up to its limit."""
    times: list[float] = []
    road.proxy.refusing = True
    road.start(retry_min=0.05, retry_max=0.8, connections=4)

    def seen() -> int:
        if road.proxy.connections > len(times):
            times.append(SYSTEM.monotonic())
        return len(times)

    await wait_until_async(lambda: seen() >= 6, every=0.002)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[0] < 0.3
    assert max(gaps[3:]) > 0.2


async def test_an_unknown_host_is_never_trusted(road: Delivery) -> None:
    """Another host key than the pinned one ends every attempt before a byte of data is sent."""
    road.seal(2)
    stranger = keys.public_line(asyncssh.generate_private_key("ssh-ed25519"))
    push = road.start(host_key=stranger)
    await wait_until_async(lambda: "pinned" in push.progress.last_error or "host key" in push.progress.last_error)
    await road.stop()
    assert road.home.uploads == []
    pinned = keys.public_line(road.house.host_key)
    road.start(host_key=f"{stranger}; {pinned}")
    await road.until_held()


async def test_a_refused_key_is_tried_slowly(road: Delivery) -> None:
    """A key home does not know is an error in the progress, and no storm of attempts."""
    road.seal(1)
    road.key.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    clock = Pauses()
    push = road.start(retry_min=0.01, retry_max=600, clock=clock)
    await wait_until_async(lambda: "refuses the key" in push.progress.last_error)
    await wait_until_async(lambda: max(clock.asked) >= 30)
    assert road.proxy.connections == 1


async def test_an_empty_host_key_is_a_configuration_error(road: Delivery) -> None:
    """Without a pinned key there is no connection at all."""
    road.seal(1)
    push = road.start(host_key="")
    await wait_until_async(lambda: "never trusted" in push.progress.last_error)
    assert road.proxy.connections == 0


async def test_a_cancel_that_gets_lost_is_repeated() -> None:
    """A task in which a cancel vanishes, as it may while it connects, still ends when everything is to end."""
    lost: list[bool] = []

    async def deaf() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            lost.append(True)
        await asyncio.Event().wait()

    async def failing() -> None:
        raise OSError("nobody waits for this")

    tasks = [asyncio.ensure_future(work) for work in (deaf(), failing())]
    await asyncio.sleep(0)
    await asyncio.wait_for(end_all(tasks), 10)
    assert lost == [True]
    assert all(task.done() for task in tasks)
