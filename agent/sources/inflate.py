"""Deflate, streamed with bounded memory: what gzip files and zip members are made of.

Everything that decodes is given out before an error is told, to the last byte: zlib itself drops the
output of a failing call, so a failing block is decoded again in ever smaller steps.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from tape.errors import Damaged

BLOCK = 1 << 20
_INPUT = 1 << 17
_STEPS = ((4096, 4096), (64, 64), (1, 1))
_GZIP = b"\x1f\x8b"


class Input:
    """A file read in blocks; what was read too far can be pushed back."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._rest = b""

    def take(self) -> bytes:
        """Some bytes; empty at the end."""
        if self._rest:
            out, self._rest = self._rest, b""
            return out
        return self._file.read(_INPUT)

    def back(self, data: bytes) -> None:
        """Give bytes back, to be taken next."""
        self._rest = data + self._rest

    def go(self, position: int) -> None:
        """Take from there next."""
        self._file.seek(position)
        self._rest = b""

    @property
    def position(self) -> int:
        """The offset in the file of the next byte."""
        return self._file.tell() - len(self._rest)


def inflate(source: Input, wbits: int) -> Iterator[bytes]:
    """Decode one stream (wbits as zlib wants them); raises Damaged where it ends too early or is wrong."""
    engine = zlib.decompressobj(wbits)
    data = b""
    while not engine.eof:
        data = data or source.take()
        before = engine.copy()
        try:
            out = engine.decompress(data, BLOCK)
        except zlib.error as error:
            yield from _salvage(before, data, _STEPS)
            raise Damaged(f"does not decode near compressed byte {source.position}: {error}") from None
        if out:
            yield out
        elif not data and not engine.eof:
            raise Damaged(f"ends too early, at compressed byte {source.position}")
        data = engine.unconsumed_tail
    source.back(engine.unused_data)


def _salvage(engine: Any, data: bytes, steps: tuple[tuple[int, int], ...]) -> Iterator[bytes]:
    size, room = steps[0]
    at, piece = 0, b""
    while True:
        if not piece:
            piece, at = data[at : at + size], at + size
        before = engine.copy()
        try:
            out = engine.decompress(piece, room)
        except zlib.error:
            if len(steps) > 1:
                yield from _salvage(before, piece, steps[1:])
            return
        if out:
            yield out
        elif not piece:
            return
        piece = engine.unconsumed_tail


def members(file: BinaryIO, magic: bytes, kind: str, decode: Callable[[Input], Iterator[bytes]]) -> Iterator[bytes]:
    """Decode a file of any number of streams of one kind; zero padding behind one is allowed. Raises Damaged."""
    source = Input(file)
    count = 0
    while True:
        lead = source.take()
        if count:
            while lead and not lead.lstrip(b"\0"):
                lead = source.take()
            lead = lead.lstrip(b"\0")
            if not lead:
                return
        if len(lead) < len(magic):
            lead += source.take()
        source.back(lead)
        if not lead.startswith(magic):
            what = "is empty" if not lead else "has foreign bytes behind its end" if count else f"holds no {kind} data"
            raise Damaged(f"{what}, at compressed byte {source.position}")
        yield from decode(source)
        count += 1


def gunzip(file: BinaryIO) -> Iterator[bytes]:
    """Decode a gzip file. Raises Damaged."""
    return members(file, _GZIP, "gzip", lambda source: inflate(source, 31))
