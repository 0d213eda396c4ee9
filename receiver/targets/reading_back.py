"""Reading a copy back: digests of what the medium gives, not of what memory still holds."""

import io
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from receiver.targets import pulse
from receiver.targets.contract import READ_BACK, READ_BACK_FRESH, Proof
from receiver.targets.medium import ask_medium, drop_pages
from tape.digest import BLOCK, BothDigests, new_xxh3
from tape.durable import named
from tape.errors import HometapeError, TargetError

T = TypeVar("T")
_OPEN = 64


class _Buffer(threading.local):
    """One block for each thread: a fresh one for every read costs more than the digest of it."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(BLOCK))


_buffer = _Buffer()


def opened_ahead(
    items: Iterable[T], opening: Callable[[T], io.FileIO]
) -> Iterator[tuple[T, io.FileIO | HometapeError]]:
    """Items with their files, opened some way ahead and the medium asked for them: it fetches the next ones meanwhile.

    Who takes a file closes it. One that can't be opened is given as its error; raises TargetError.
    """
    ahead: deque[tuple[T, io.FileIO | HometapeError]] = deque()
    try:
        for item in items:
            try:
                file = opening(item)
                ask_medium(file.fileno())
                ahead.append((item, file))
            except TargetError:
                raise
            except HometapeError as error:
                ahead.append((item, error))
            if len(ahead) >= _OPEN:
                yield ahead.popleft()
        while ahead:
            yield ahead.popleft()
    finally:
        for _, left in ahead:
            if not isinstance(left, HometapeError):
                left.close()


def blocks_of(file: io.FileIO, guarded: Callable[[], AbstractContextManager[None]]) -> Iterator[bytes]:
    """The bytes of an open file in blocks of at most 1 MiB, each read `guarded`; it is closed at the end."""
    with file:
        left: int | None = None
        while True:
            with guarded(), named(Path(file.name), "reading"):
                left = os.fstat(file.fileno()).st_size if left is None else left
                asked = min(BLOCK, left + 1) if left >= 0 else BLOCK
                block = file.read(asked)
            if block:
                yield block
            left -= len(block)
            if not block or (left == 0 and len(block) < asked):  # it gave all it has
                return


def read_back(file: io.FileIO, known: str, *, again: bool, size: int | None = None) -> Proof:
    """The proof of an open file. `known`: its SHA-256, where only XXH3-128 is asked for; `again`: it is read again
    soon, so that its pages may stay; `size`: how many bytes it should have, where the medium was asked for them.
    """
    if size is None:
        drop_pages(file.fileno())
    both, fast, done = BothDigests(), new_xxh3(), 0
    digests = fast if known else both
    while count := file.readinto(_buffer.view):
        digests.update(_buffer.view[:count])
        done += count
        pulse.moved()
        if done == size and count < BLOCK:  # it gave all it has
            break
    if not again:
        drop_pages(file.fileno())
    if known:
        return Proof(done, fast.hexdigest(), known, READ_BACK_FRESH)
    return Proof(done, both.digest, both.sha256, READ_BACK)
