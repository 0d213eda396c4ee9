"""Receipts on their way: only a true one frees anything, and a true one always does."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tape.clock import SYSTEM
from tape.receipt import EpochReceipt, Receipt, new_key
from tests.support import wait_until_async
from tests.unit.agent.deliveries import Delivery, delivery
from tests.unit.agent.outboxes import ORIGIN


@pytest.fixture
async def road(tmp_path: Path) -> AsyncIterator[Delivery]:
    """A home, a line and an outbox."""
    async with delivery(tmp_path / "road") as made:
        yield made


async def test_receipts_release_what_is_safe_and_only_that(road: Delivery) -> None:
    """A signed receipt with `safe` frees the spool; one that says `held` does not."""
    road.seal(4, 2000)
    push = road.start()
    await road.until_held()
    await wait_until_async(lambda: push.progress.last_receipt_ns > 0)
    assert len(list(road.outbox.spool.rglob("*.parquet"))) == 4

    async def safe(agent: str, stream: str, **_: Any) -> bytes:
        parts = {road.outbox.epoch: EpochReceipt(held=((0, 3),), safe=((0, 2),))}
        return Receipt(agent, stream, SYSTEM.now_ns(), parts).sign(road.home.sign_key)

    road.home.receipt = safe  # type: ignore[method-assign]  # another home from here on
    await wait_until_async(lambda: push.progress.released == 3)
    assert [int(p.name[17:29]) for p in road.outbox.spool.rglob("*.parquet")] == [3]


async def test_a_forged_receipt_is_ignored(road: Delivery) -> None:
    """A receipt signed by another key, or cut short, releases nothing and is told once; delivery goes on."""
    road.seal(2, 2000)
    forger = new_key()

    async def forged(agent: str, stream: str, **_: Any) -> bytes:
        parts = {road.outbox.epoch: EpochReceipt(safe=((0, 1),))}
        return Receipt(agent, stream, SYSTEM.now_ns(), parts).sign(forger)

    road.home.receipt = forged  # type: ignore[method-assign]  # a hostile home
    push = road.start()
    await road.until_held()
    await wait_until_async(lambda: "signature is wrong" in push.progress.receipt_errors.get(ORIGIN.stream, ""))

    async def cut(agent: str, stream: str, **_: Any) -> bytes:
        return b'{"receipt":'

    road.home.receipt = cut  # type: ignore[method-assign]  # a broken home
    await wait_until_async(lambda: "can't be read" in push.progress.receipt_errors.get(ORIGIN.stream, ""))
    assert len(list(road.outbox.spool.rglob("*.parquet"))) == 2
    assert push.progress.released == 0


async def test_a_receipt_that_asks_for_it_brings_a_segment_again(road: Delivery) -> None:
    """What home lost after its OK is sent again when the receipt says so."""
    (one,) = road.seal(1, 2000)
    road.start()
    await road.until_held()
    stored = road.home.path("alpha", ORIGIN.stream, one.name)
    stored.unlink()

    async def resend(agent: str, stream: str, **_: Any) -> bytes | None:
        if stored.exists():
            return None
        parts = {road.outbox.epoch: EpochReceipt(resend=((0, 0),))}
        return Receipt(agent, stream, SYSTEM.now_ns(), parts).sign(road.home.sign_key)

    road.home.receipt = resend  # type: ignore[method-assign]  # a home that lost something
    await wait_until_async(stored.exists)
    await road.until_held()


async def test_a_receipt_of_any_length_is_read(road: Delivery) -> None:
    """A receipt longer than one read of the protocol is put together."""
    road.seal(1)
    parts = {road.outbox.epoch: EpochReceipt(safe=((0, 0),)), **{f"{n:016x}": EpochReceipt() for n in range(9000)}}

    async def long(agent: str, stream: str, **_: Any) -> bytes:
        return Receipt(agent, stream, SYSTEM.now_ns(), parts).sign(road.home.sign_key)

    road.home.receipt = long  # type: ignore[method-assign]  # a home with a long memory
    push = road.start()
    await wait_until_async(lambda: push.progress.released == 1)


async def test_many_streams_ask_no_faster_than_home_allows(road: Delivery) -> None:
    """On a long line many receipts are read at a time; none is refused because too many are open."""
    for number in range(24):
        road.seal(1, 500, f"demo/s{number}")
    push = road.start(connections=1)
    await road.until_held()
    asked: set[str] = set()
    true = road.home.receipt

    async def noted(agent: str, stream: str, **_: Any) -> bytes | None:
        asked.add(stream)
        return await true(agent, stream)

    road.home.receipt = noted  # type: ignore[method-assign]  # the same home, watched
    road.proxy.delay = 0.05
    began = push.progress.last_receipt_ns
    await wait_until_async(lambda: len(asked) == 24 and push.progress.last_receipt_ns > began, within=30)
    assert push.progress.receipt_errors == {}
