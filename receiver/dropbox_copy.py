"""The private copy of one file of a drop box: hashed on the way, a bundle taken apart."""

from pathlib import Path

from receiver.ingress.storing import Room, Split, Store, Whole
from receiver.model import Upload
from tape.digest import new_xxh3
from tape.durable import Disk
from tape.names import BundleName, SegmentName


class BoxCopy:
    """`size` in bytes. Written by one thread after the other. Raises DiskError."""

    def __init__(self, path: Path, name: SegmentName | BundleName, disk: Disk, room: Room) -> None:
        self.store: Store = Split(path, disk, name, room) if isinstance(name, BundleName) else Whole(path, disk)
        self.size = 0
        self._name = name
        self._hash = None if isinstance(name, BundleName) else new_xxh3()

    def write(self, content: bytes) -> None:
        """The next bytes."""
        self.size += len(content)
        if self._hash is not None:
            self._hash.update(content)
        self.store.write(memoryview(content))

    def end(self) -> None:
        """There are no more."""
        self.store.end()

    def fits(self) -> bool:
        """Whether it holds what its name says; after the end."""
        if self._hash is not None:
            return self._hash.hexdigest() == self._name.digest
        pieces = self.store.pieces()
        if pieces is None or pieces.problem or pieces.digest != self._name.digest:
            return False
        return all(piece.digest == piece.name.digest for piece in pieces.found)

    def segments(self, stream: str) -> list[tuple[str, SegmentName]]:
        """(stream, name) of what it was to hold; none of a bundle whose head is damaged. `stream`: of a segment."""
        if isinstance(self._name, SegmentName):
            return [(stream, self._name)]
        return [(item.stream, item.name) for item in self.store.index()] if isinstance(self.store, Split) else []

    def upload(self, agent: str, stream: str, received_ns: int) -> Upload:
        """What the committer is given; after the end."""
        digest = "" if self._hash is None else self._hash.hexdigest()
        return Upload(
            agent, stream, self._name, self.store.path, self.size, digest, received_ns, pieces=self.store.pieces()
        )
