"""A few threads of a target's own: a share that hangs in the kernel holds up nobody else, nor the exit."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple["Future[Any]", Callable[[], Any]]


class Hands:
    """At most `count` daemon threads that run blocking calls, started when first needed."""

    def __init__(self, name: str, count: int) -> None:
        self._name = name
        self._count = count
        self._lock = threading.Lock()
        self._crew = _Crew()

    def start(self, call: Callable[[], T]) -> "Future[T]":
        """Have a call made in one of the threads; its result comes with the future."""
        answer: Future[T] = Future()
        with self._lock:
            crew = self._crew
            crew.jobs.put((answer, call))
            if crew.jobs.qsize() > crew.idle and crew.threads < self._count:
                name = f"{self._name}-{crew.threads}"
                crew.threads += 1
                threading.Thread(target=crew.work, name=name, daemon=True).start()
        return answer

    async def run(self, call: Callable[[], T]) -> T:
        """The result of a call made in one of the threads; raises what it raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def tell(done: "Future[T]") -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the service has ended
                loop.call_soon_threadsafe(_deliver, done, answer)

        self.start(call).add_done_callback(tell)
        return await answer

    def close(self) -> None:
        """Let the threads end after what they are doing; does not wait for one that hangs. New work starts new ones."""
        with self._lock:
            for _ in range(self._crew.threads):
                self._crew.jobs.put(None)
            self._crew = _Crew()


class _Crew:
    """Threads that share one line of jobs."""

    def __init__(self) -> None:
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.threads = 0
        self.idle = 0
        self._lock = threading.Lock()

    def work(self) -> None:
        while (job := self._next()) is not None:
            answer, call = job
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - handed to the one who waits
                answer.set_exception(error)
            else:
                answer.set_result(result)
                del result
            del job, answer, call

    def _next(self) -> _Job | None:
        with self._lock:
            self.idle += 1
        try:
            return self.jobs.get()
        finally:
            with self._lock:
                self.idle -= 1


def _deliver(done: "Future[T]", answer: "asyncio.Future[T]") -> None:
    if answer.done():  # nobody waits any more
        return
    error = done.exception()
    if error is None:
        answer.set_result(done.result())
    else:
        answer.set_exception(error)
