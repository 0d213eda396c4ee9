"""Zip files, whole or cut short. A whole one is read by its directory; one without a directory (an
incomplete copy) by the headers in front of its members.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from agent.sources.inflate import BLOCK, Input, inflate
from tape.errors import Damaged

_LOCAL = b"PK\x03\x04"
_HEADER = struct.Struct("<4s5H3I2H")
_WIDE = 0xFFFFFFFF
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _SIZES_BEHIND = 0x1, 0x8


@dataclass(frozen=True, slots=True)
class Part:
    """A member: where its data lies and what is known of it (None: not known beforehand)."""

    name: str
    start: int
    method: int
    packed: int | None
    size: int | None
    crc: int | None
    encrypted: bool
    info: zipfile.ZipInfo | None = None


class Zip:
    """An open zip file. `flaw`: what is wrong with it as a whole, empty if nothing is."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.flaw = ""
        self._whole: zipfile.ZipFile | None = None
        try:
            self._whole = zipfile.ZipFile(file)
            self._parts = [self._listed(info) for info in self._whole.infolist() if not info.is_dir()]
        except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, OSError) as error:
            self.flaw = f"has no readable directory at its end ({str(error).lower()})"
            self._whole = None
            self._parts = list(self._walked())

    def names(self) -> list[str]:
        """The members that are files, in order."""
        return [part.name for part in self._parts]

    def stated_size(self, number: int) -> int | None:
        """A member's length as the directory states it; None without one."""
        return self._parts[number].size if not self.flaw and number < len(self._parts) else None

    def blocks(self, number: int) -> Iterator[bytes]:
        """The content of a member; raises Damaged after the last good byte."""
        if not self._parts and self.flaw:
            raise Damaged(self.flaw)
        part = self._parts[number]
        if part.encrypted:
            raise Damaged(f"{part.name!r} in it is encrypted")
        crc = size = 0
        for block in self._decoded(part):
            crc, size = zlib.crc32(block, crc), size + len(block)
            yield block
        if part.size is not None and part.size != size:
            raise Damaged(f"{part.name!r} in it unpacks to {size} bytes, not the {part.size} that are stated")
        if part.crc is not None and part.crc != crc:
            raise Damaged(f"{part.name!r} in it has another checksum than stated")

    def _decoded(self, part: Part) -> Iterator[bytes]:
        self._file.seek(part.start)
        if part.start < 0:
            raise Damaged(f"the header of {part.name!r} in it is damaged")
        if part.method == _DEFLATED:
            yield from inflate(Input(self._file), -15)
        elif part.method == _STORED and part.packed is not None:
            yield from self._stored(part.packed)
        elif self._whole is not None and part.info is not None:
            yield from self._foreign(part.info)
        else:
            raise Damaged(f"{part.name!r} in it uses compression method {part.method}, which can't be read here")

    def _stored(self, left: int) -> Iterator[bytes]:
        while left:
            block = self._file.read(min(left, BLOCK))
            if not block:
                raise Damaged(f"ends too early, at compressed byte {self._file.tell()}")
            left -= len(block)
            yield block

    def _foreign(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        """Methods beside deflate: bzip2 and lzma, by the standard library."""
        assert self._whole is not None
        try:
            with self._whole.open(info) as member:
                while block := member.read(1 << 16):
                    yield block
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, zlib.error) as error:
            raise Damaged(f"{info.filename!r} in it does not decode: {error}") from None

    def _listed(self, info: zipfile.ZipInfo) -> Part:
        self._file.seek(info.header_offset)
        head = self._file.read(_HEADER.size)
        start = -1
        if len(head) == _HEADER.size and head.startswith(_LOCAL):
            fields = _HEADER.unpack(head)
            start = info.header_offset + _HEADER.size + fields[9] + fields[10]
        encrypted = bool(info.flag_bits & _ENCRYPTED)
        return Part(
            info.filename, start, info.compress_type, info.compress_size, info.file_size, info.CRC, encrypted, info
        )

    def _walked(self) -> Iterator[Part]:
        at = 0
        while True:
            self._file.seek(at)
            head = self._file.read(_HEADER.size)
            if len(head) < _HEADER.size or not head.startswith(_LOCAL):
                return
            _, _, flags, method, _, _, crc, packed, size, name_size, extra_size = _HEADER.unpack(head)
            raw = self._file.read(name_size)
            extra = self._file.read(extra_size)
            start = at + _HEADER.size + name_size + extra_size
            if len(raw) < name_size or len(extra) < extra_size:
                return
            name = raw.decode("utf-8" if flags & 0x800 else "cp437", "surrogateescape")
            packed, size = _wide(extra, packed, size)
            behind = bool(flags & _SIZES_BEHIND)
            if not name.endswith("/"):
                known: tuple[int | None, int | None, int | None] = (None, None, None) if behind else (packed, size, crc)
                yield Part(name, start, method, known[0], known[1], known[2], bool(flags & _ENCRYPTED))
            following = self._behind(start, method) if behind else start + packed
            if following is None:
                return
            at = following

    def _behind(self, start: int, method: int) -> int | None:
        """Where the next header is, for a member whose size stands behind its data."""
        if method != _DEFLATED:
            return None
        self._file.seek(start)
        source = Input(self._file)
        try:
            for _ in inflate(source, -15):
                pass
        except Damaged:
            return None
        end = source.position
        self._file.seek(end)
        found = self._file.read(32).find(_LOCAL)
        return None if found < 0 else end + found


def _wide(extra: bytes, packed: int, size: int) -> tuple[int, int]:
    """Sizes from the zip64 field where the plain ones are full."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1 and length >= 16:
            wide_size, wide_packed = struct.unpack_from("<QQ", extra, at + 4)
            return (wide_packed if packed == _WIDE else packed), (wide_size if size == _WIDE else size)
        at += 4 + length
    return packed, size
