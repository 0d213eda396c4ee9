"""Waiting for a condition, with a deadline: the only way tests let time pass."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


def _complaint(within: float, what: str, last: object) -> str:
    return f"waited {within} s in vain for {what or 'the condition'}; it last gave {last!r}"


def wait_until(condition: Callable[[], T], *, within: float = 15.0, every: float = 0.01, what: str = "") -> T:
    """Call `condition` until it gives something true, and return that; AssertionError after `within` s."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(_complaint(within, what, value))
        time.sleep(every)
    return value


async def wait_until_async(
    condition: Callable[[], Any | Awaitable[Any]],
    *,
    within: float = 15.0,
    every: float = 0.01,
    what: str = "",
) -> Any:
    """The same inside a coroutine; `condition` may be a plain function or return an awaitable."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(_complaint(within, what, value))
        await asyncio.sleep(every)
