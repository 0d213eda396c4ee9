"""Finished compressed files of several kinds, read as streams. Memory stays bounded whatever they unfold to."""

import struct
from collections.abc import Iterator
from typing import BinaryIO

import zstandard

from agent.sources.inflate import BLOCK, gunzip
from agent.sources.streams import bunzip2, unxz
from agent.sources.zips import Zip
from tape.errors import Damaged

_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_ZSTD = 0xFD2FB528
_WINDOW = 1 << 27  # what zstd itself takes without being asked: 128 MiB


class Archive:
    """An open compressed file. `suffix` is one of tape.filenames.ARCHIVES; the file must be seekable and stay open."""

    def __init__(self, file: BinaryIO, suffix: str) -> None:
        self._file = file
        self._suffix = suffix
        self._zip = Zip(file) if suffix == ".zip" else None

    def members(self) -> list[str]:
        """Names of the contents, in order; one empty name where there is just one."""
        if self._zip is None:
            return [""]
        names = self._zip.names()
        return [""] if len(names) == 1 else names

    @property
    def flaw(self) -> str:
        """What is wrong with the archive as a whole, beside its members; empty if nothing is."""
        return self._zip.flaw if self._zip is not None else ""

    def stated_size(self, number: int = 0) -> int | None:
        """What the archive itself says of a content's length, without unpacking it; None if it doesn't say.

        A gzip file states the length of its last member only: right for a file of one, as nearly all are.
        """
        if self._zip is not None:
            return self._zip.stated_size(number)
        if self._suffix == ".zst":
            return _zstd_size(self._file)
        if self._suffix != ".gz" or self._file.seek(0, 2) < 18:
            return None
        self._file.seek(-4, 2)
        return int.from_bytes(self._file.read(4), "little")

    def blocks(self, number: int = 0) -> Iterator[bytes]:
        """The content of a member in blocks of at most 1 MiB; raises Damaged after the last good byte."""
        if self._zip is not None:
            return self._zip.blocks(number)
        self._file.seek(0)
        return _UNPACK[self._suffix](self._file)


def _unzstd(file: BinaryIO) -> Iterator[bytes]:
    flaw = _frames_flaw(file)
    done = 0
    try:
        for block in _zstd_reader(file, BLOCK):
            done += len(block)
            yield block
    except zstandard.ZstdError as error:
        flaw = flaw or f"does not decode: {error}"
        yield from _rest_by_bytes(file, done)
    if flaw:
        raise Damaged(flaw)


def _zstd_size(file: BinaryIO) -> int | None:
    """The content size in the header of a file that is one whole frame."""
    size = file.seek(0, 2)
    if size < 5 or _frame_end(file, 0) != size:
        return None
    file.seek(0)
    stated = zstandard.frame_content_size(file.read(18))
    return stated if stated >= 0 else None


def _zstd_reader(file: BinaryIO, step: int) -> Iterator[bytes]:
    file.seek(0)
    engine = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    with engine.stream_reader(file, read_size=1 << 17, read_across_frames=True, closefd=False) as reader:
        while block := reader.read(step):
            yield block


def _rest_by_bytes(file: BinaryIO, done: int) -> Iterator[bytes]:
    """What decodes behind `done`: the failing read's output is lost, so it is read again byte by byte."""
    file.seek(0)
    engine = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    kept = bytearray()
    with engine.stream_reader(file, read_size=1 << 17, read_across_frames=True, closefd=False) as reader:
        try:
            while done:
                done -= len(reader.read(min(done, BLOCK)))
            while byte := reader.read(1):
                kept += byte
        except zstandard.ZstdError:
            pass  # that is where it ends
    if kept:
        yield bytes(kept)


def _frames_flaw(file: BinaryIO) -> str:
    """Walk the frames without decoding: the decoder itself takes a file that ends too early for a whole one."""
    size = file.seek(0, 2)
    at = 0
    if not size:
        return "is empty, at compressed byte 0"
    while at < size:
        start, at = at, _frame_end(file, at)
        if at == start:
            return f"holds no zstd data at compressed byte {at}"
        if at > size or at < 0:
            return f"ends too early, at compressed byte {size}"
    return ""


def _frame_end(file: BinaryIO, start: int) -> int:
    """The offset behind the frame at `start`; `start` itself if none is there, -1 if it is cut short."""
    file.seek(start)
    head = file.read(18)
    if len(head) < 5:
        return -1
    magic = int.from_bytes(head[:4], "little")
    if magic in _SKIPPABLE:
        return start + 8 + struct.unpack("<I", head[4:8])[0] if len(head) >= 8 else -1
    if magic != _ZSTD:
        return start
    flags = head[4]
    single = bool(flags & 0x20)
    at = start + 5 + (not single) + (0, 1, 2, 4)[flags & 3] + (1 if single else 0, 2, 4, 8)[flags >> 6]
    last = False
    while not last:
        file.seek(at)
        word = file.read(3)
        if len(word) < 3:
            return -1
        number = int.from_bytes(word, "little")
        last = bool(number & 1)
        at += 3 + (1 if (number >> 1) & 3 == 1 else number >> 3)
    return at + (4 if flags & 4 else 0)


_UNPACK = {".gz": gunzip, ".zst": _unzstd, ".bz2": bunzip2, ".xz": unxz}
