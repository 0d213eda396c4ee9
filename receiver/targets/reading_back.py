"""Reading a copy back: digests of what the medium gives, not of what memory still holds."""

import io
import threading

from receiver.targets import pulse
from receiver.targets.contract import READ_BACK, READ_BACK_FRESH, Proof
from receiver.targets.medium import drop_pages
from tape.digest import BLOCK, BothDigests, new_xxh3


class _Buffer(threading.local):
    """One block for each thread: a fresh one for every read costs more than the digest of it."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(BLOCK))


_buffer = _Buffer()


def read_back(file: io.FileIO, known: str, *, again: bool, asked: bool) -> Proof:
    """The proof of an open file. `known`: its SHA-256, where only XXH3-128 is asked for; `again`: it is read again
    soon, so that its pages may stay; `asked`: what memory held was dropped already, and the medium asked.
    """
    if not asked:
        drop_pages(file.fileno())
    both, fast, size = BothDigests(), new_xxh3(), 0
    digests = fast if known else both
    while count := file.readinto(_buffer.view):
        digests.update(_buffer.view[:count])
        size += count
        pulse.moved()
    if not again:
        drop_pages(file.fileno())
    if known:
        return Proof(size, fast.hexdigest(), known, READ_BACK_FRESH)
    return Proof(size, both.digest, both.sha256, READ_BACK)
