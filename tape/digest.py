"""Digests and the chain.

XXH3-128 of a file's bytes is its identity (fast scrub, dedupe); SHA-256 beside it is tamper
evidence; the chain binds each segment to all before it in its (stream, epoch).
"""

import hashlib
from pathlib import Path
from typing import Protocol

import xxhash

BLOCK = 1 << 20


class Hasher(Protocol):
    """What hashlib and xxhash objects share."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """The value so far, lower-case hex."""


def xxh3(data: bytes | memoryview) -> str:
    """XXH3-128 of some bytes, 32 lower-case hex digits."""
    return xxhash.xxh3_128_hexdigest(data)


def new_xxh3() -> Hasher:
    """A streaming XXH3-128."""
    return xxhash.xxh3_128()


class BothDigests:
    """XXH3-128 and SHA-256 of the same bytes, streaming."""

    def __init__(self) -> None:
        self._fast = xxhash.xxh3_128()
        self._strong = hashlib.sha256()
        self.size = 0

    def update(self, data: bytes | memoryview) -> None:
        """Add bytes."""
        self._fast.update(data)
        self._strong.update(data)
        self.size += len(data)

    @property
    def digest(self) -> str:
        """XXH3-128, hex."""
        return self._fast.hexdigest()

    @property
    def sha256(self) -> str:
        """SHA-256, hex."""
        return self._strong.hexdigest()


def digests_of(path: Path) -> BothDigests:
    """Read a whole file; raises OSError."""
    both = BothDigests()
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            both.update(block)
    return both


def digest_of(path: Path) -> str:
    """XXH3-128 of a whole file, hex; raises OSError."""
    fast = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            fast.update(block)
    return fast.hexdigest()


def genesis(agent: str, stream: str, epoch: str) -> str:
    """The chain value before the first segment of a (stream, epoch): 64 hex digits."""
    return hashlib.sha256(
        b"\0".join([b"hometape chain 1", agent.encode(), stream.encode(), epoch.encode()])
    ).hexdigest()


def link(previous: str, agent: str, stream: str, epoch: str, seq: int, sha256: str) -> str:
    """The chain value after a segment: SHA-256 over the previous value, its identity and its SHA-256."""
    identity = b"\0".join([agent.encode(), stream.encode(), epoch.encode(), str(seq).encode()])
    return hashlib.sha256(bytes.fromhex(previous) + identity + bytes.fromhex(sha256)).hexdigest()
