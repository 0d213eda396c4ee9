"""A few threads of a target's own: a share that hangs in the kernel holds up nobody else, nor the exit."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[], Any]]


class Hands:
    """At most `count` daemon threads that run blocking calls for coroutines, started when first needed."""

    def __init__(self, name: str, count: int) -> None:
        self._name = name
        self._count = count
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    async def run(self, call: Callable[[], T]) -> T:
        """The result of a call made in one of the threads; raises what it raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._jobs.put((loop, answer, call))
        if len(self._threads) < self._count:
            thread = threading.Thread(
                target=_work, args=(self._jobs,), name=f"{self._name}-{len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        return await answer

    def close(self) -> None:
        """Let the threads end after what they are doing; does not wait for one that hangs. New work starts new ones."""
        for _ in self._threads:
            self._jobs.put(None)
        self._jobs = queue.SimpleQueue()
        self._threads = []


def _work(jobs: "queue.SimpleQueue[_Job | None]") -> None:
    while (job := jobs.get()) is not None:
        loop, answer, call = job
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001 - handed to the one who waits
            _tell(loop, answer, None, error)
        else:
            _tell(loop, answer, result, None)
        del job, answer, call


def _tell(
    loop: asyncio.AbstractEventLoop, answer: "asyncio.Future[Any]", result: object, error: BaseException | None
) -> None:
    def deliver() -> None:
        if answer.done():  # nobody waits any more
            return
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)

    with contextlib.suppress(RuntimeError):  # the loop is closed: the service has ended
        loop.call_soon_threadsafe(deliver)
