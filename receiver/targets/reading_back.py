"""Reading a copy back: digests of what the medium gives, not of what memory still holds."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from receiver.targets import pulse
from receiver.targets.contract import READ_BACK, READ_BACK_FRESH, Proof
from receiver.targets.files import Digests, digests, drop_pages
from tape.digest import BLOCK
from tape.durable import named


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
    """The proof of an open file; see `digests`. `size`: None where the medium was not asked for it yet."""
    if size is None:
        drop_pages(file.fileno())
    return proof_of(digests(file, known, again=again, size=-1 if size is None else size, moved=pulse.moved), known)


def proof_of(found: Digests, known: str) -> Proof:
    """Digests as a proof; `known` as they were asked for."""
    return Proof(*found, READ_BACK_FRESH if known else READ_BACK)
