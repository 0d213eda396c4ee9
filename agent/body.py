"""What is uploaded: a file of the spool, or a bundle of several, read piece by piece and checked on the way."""

from pathlib import Path
from typing import BinaryIO, Protocol

from tape.digest import new_xxh3
from tape.errors import DigestMismatch, SegmentError


class Readable(Protocol):
    """An open body."""

    def read(self, count: int, /) -> bytes:
        """The next `count` bytes, fewer only at the end."""

    def close(self) -> None:
        """Nothing more will be read."""


class Body(Protocol):
    """What is uploaded; `tape.bundle.Bundle` is one."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def open(self) -> Readable:
        """From the start; may be called again for another attempt. Raises OSError, HometapeError."""


class SpoolFile:
    """A segment in the spool. `size` in bytes; `digest` is the XXH3-128 that its bytes must have."""

    def __init__(self, path: Path, size: int, digest: str) -> None:
        self.path = path
        self.size = size
        self.digest = digest

    def open(self) -> Readable:
        """Open it; raises OSError."""
        return _Checked(self)


class _Checked:
    """Reads a file and proves with its last byte that it still has its digest."""

    def __init__(self, spooled: SpoolFile) -> None:
        self._spooled = spooled
        self._file: BinaryIO = spooled.path.open("rb", buffering=0)
        self._fast = new_xxh3()
        self._left = spooled.size

    def read(self, count: int) -> bytes:
        """The next bytes; raises DigestMismatch with the last if the file is not what was sealed."""
        found = self._file.read(count)
        while len(found) < count and (more := self._file.read(count - len(found))):
            found += more
        self._fast.update(found)
        self._left -= len(found)
        if self._left == 0 and found and self._fast.hexdigest() != self._spooled.digest:
            raise DigestMismatch(f"{self._spooled.path} does not have the bytes that were sealed")
        return found

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Reader:
    """Takes exactly `body.size` bytes from a body, piece by piece. For one worker thread at a time."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._file: Readable | None = None
        self._at = 0

    @property
    def is_open(self) -> bool:
        """Whether it still holds a file."""
        return self._file is not None

    def take(self, count: int) -> bytes:
        """The next bytes; raises SegmentError if the body is shorter or longer than promised.

        Opens it before the first and closes it after the last.
        """
        if self._file is None:
            self._file = self._body.open()
        data = self._file.read(count)
        self._at += len(data)
        if len(data) != count:
            raise SegmentError(f"what is to be sent ends after {self._at} of {self._body.size} bytes")
        if self._at == self._body.size:
            if self._file.read(1):
                raise SegmentError(f"what is to be sent is longer than {self._body.size} bytes")
            self.close()
        return data

    def close(self) -> None:
        """Close the body if it is open."""
        if self._file is not None:
            self._file.close()
            self._file = None
