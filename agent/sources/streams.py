"""Bzip2 and xz, streamed with bounded memory.

Everything that decodes is given out before an error is told: the decoders drop the output of a failing call and can't
be copied, so what they had is decoded again, byte by byte where the first time a block was asked for.
"""

import bz2
import lzma
from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO

from agent.sources.inflate import BLOCK, Input, members
from tape.errors import Damaged

XZ_MEMORY = 96 << 20
"""Bytes a decoder may take for its dictionary: `xz -9` makes archives that need 65 MiB."""
_Engine = bz2.BZ2Decompressor | lzma.LZMADecompressor


def bunzip2(file: BinaryIO) -> Iterator[bytes]:
    """Decode a bzip2 file of any number of streams. Raises Damaged."""
    file.seek(0)
    return members(file, b"BZh", "bzip2", partial(_decode, make=bz2.BZ2Decompressor))


def unxz(file: BinaryIO) -> Iterator[bytes]:
    """Decode an xz file of any number of streams. Raises Damaged."""
    file.seek(0)
    make = partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, XZ_MEMORY)
    return members(file, b"\xfd7zXZ\0", "xz", partial(_decode, make=make))


def _decode(source: Input, make: Callable[[], _Engine]) -> Iterator[bytes]:
    """One stream."""
    start, done, engine = source.position, 0, make()
    while not engine.eof:
        data = source.take() if engine.needs_input else b""
        if engine.needs_input and not data:
            raise Damaged(f"ends too early, at compressed byte {source.position}")
        try:
            out = engine.decompress(data, BLOCK)
        except (OSError, lzma.LZMAError) as error:
            at = source.position
            yield from _behind(source, start, done, make)
            raise Damaged(f"does not decode near compressed byte {at}: {error}") from None
        if out:
            done += len(out)
            yield out
    source.back(engine.unused_data)


def _behind(source: Input, start: int, done: int, make: Callable[[], _Engine]) -> Iterator[bytes]:
    """What the stream at `start` gives behind its first `done` bytes, up to where it fails."""
    source.go(start)
    engine, kept = make(), bytearray()
    try:
        while not engine.eof and len(kept) < BLOCK:
            data = source.take() if engine.needs_input else b""
            out = engine.decompress(data, min(done, BLOCK) or 1)
            if done:
                done -= len(out)
            else:
                kept += out
    except (OSError, lzma.LZMAError):
        pass  # that is where it ends
    if kept:
        yield bytes(kept)
