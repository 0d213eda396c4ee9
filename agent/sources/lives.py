"""The lives of one source in memory, and the fingerprints by which they are found again.

For every life two fingerprints are kept: of the first and of the last bytes that were read. While its
file is open the last bytes themselves are kept (they are compared at every read, which costs nothing),
else only their digest, so that ten thousand quiet files cost little memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePath

from agent.identity import FINGERPRINT
from agent.model import KnownFile, Origin
from tape.digest import xxh3
from tape.filenames import base_of

LADDER = (1, 16, 256, FINGERPRINT)
COMPARED = 32


@dataclass(slots=True, eq=False)
class Life:
    """One life of one file. `offset`: everything before it was taken by the intake. `size` is the last
    size seen (None: unknown, the agent was not running), `there` whether its file is in place and intact,
    `leaving` whether it will be finished once it is quiet, `lost` whether its content has to be looked
    for elsewhere. `since`: monotonic time of the last change. `packed`: read from an archive.
    `busy`: being read just now. `header`: length of its first line, its end included (0: not
    known yet, -1: too long to be one).

    Of NULs at the end of its file (agent.sources.room): `room_to`: up to there they were seen; `written_at`: where
    other bytes were seen behind some; `closing`: they are to be read now; `hollow`: where some begin that were read
    (None: there are none).
    """

    origin: Origin
    path: str
    device: int = 0
    inode: int = 0
    offset: int = 0
    head_length: int = 0
    head: str = ""
    tail_length: int = 0
    tail: str = ""
    last: bytes | None = b""
    size: int | None = 0
    mtime_ns: int = -1
    there: bool = True
    leaving: bool = False
    lost: bool = False
    finished: bool = False
    packed: bool = False
    busy: bool = False
    reason: str = ""
    since: float = 0.0
    room_to: int = 0
    written_at: int = -1
    closing: bool = False
    header: int = 0
    hollow: int | None = None
    rungs: tuple[tuple[int, str], ...] = ()

    @property
    def key(self) -> str:
        """The life's id."""
        return self.origin.file_id

    @property
    def strong(self) -> bool:
        """Whether enough was read of it for a match to prove something: FINGERPRINT bytes behind its first line.

        The first line may be a header that many files have, however long it is.
        """
        return self.header > 0 and self.offset - self.header >= FINGERPRINT

    @property
    def at_room(self) -> bool:
        """Whether nothing but NULs are left of its file, as last looked."""
        return self.size is not None and self.offset < self.size <= self.room_to

    @property
    def ends_in_nuls(self) -> bool:
        """Whether the last bytes that were read say nothing of the content."""
        length, digest = self.end_mark()
        return length > 0 and digest == xxh3(bytes(length))

    def end_mark(self) -> tuple[int, str]:
        """Length and digest of the last bytes before the offset."""
        if self.last is not None:
            self.tail_length, self.tail = len(self.last), xxh3(self.last)
        return self.tail_length, self.tail

    def close(self) -> None:
        """Keep the digest of the last bytes instead of the bytes."""
        self.end_mark()
        self.last = None

    @classmethod
    def known(cls, file: KnownFile, now: float) -> "Life":
        """A life as the outbox remembers it; nothing is known of its file yet."""
        return cls(
            file.origin, file.path, file.device, file.inode, file.offset, file.head_length, file.head,
            file.tail_length, file.tail, last=None, size=None, there=False, finished=file.finished, since=now,
        )  # fmt: skip


class Roll:
    """All lives of a source, found by id, path, inode and content."""

    def __init__(self) -> None:
        self.by_id: dict[str, Life] = {}
        self.by_path: dict[str, Life] = {}
        self.by_inode: dict[tuple[int, int], Life] = {}
        self._exact: dict[tuple[int, str], dict[str, Life]] = {}  # by the whole head fingerprint
        self._lengths: dict[int, int] = {}
        self._rungs: dict[tuple[int, str], dict[str, Life]] = {}  # by fingerprints of fixed lengths
        self._names: dict[tuple[str, str], dict[str, Life]] = {}  # by folder and base
        self.former: dict[str, Life] = {}  # the life that lay at a path last, where it is gone from there

    def __iter__(self) -> Iterator[Life]:
        return iter(list(self.by_id.values()))

    def __len__(self) -> int:
        return len(self.by_id)

    def add(self, life: Life) -> None:
        """Enter a life, in place or not."""
        self.by_id[life.key] = life
        self._index(life)
        if life.there:
            self.place(life, life.path, life.device, life.inode)

    def place(self, life: Life, path: str, device: int, inode: int) -> None:
        """The life's file is here, and intact."""
        self.unplace(life)
        life.path, life.device, life.inode, life.there = path, device, inode, True
        self.by_path[path] = life
        if not life.packed:
            self.by_inode[device, inode] = life
        self._names.setdefault(family(path), {})[life.key] = life

    def unplace(self, life: Life) -> None:
        """The life's file is not where it was; path and inode are kept as the last known ones."""
        if self.by_path.get(life.path) is life:
            del self.by_path[life.path]
            self.former[life.path] = life
        if self.by_inode.get((life.device, life.inode)) is life:
            del self.by_inode[life.device, life.inode]
        self._names.get(family(life.path), {}).pop(life.key, None)
        life.there = False

    def _index(self, life: Life) -> None:
        if not life.head_length:
            return
        whole = (life.head_length, life.head)
        if life.key not in self._exact.setdefault(whole, {}):
            self._exact[whole][life.key] = life
            self._lengths[life.head_length] = self._lengths.get(life.head_length, 0) + 1
        for rung in life.rungs:
            self._rungs.setdefault(rung, {})[life.key] = life

    def _unindex(self, life: Life) -> None:
        whole = (life.head_length, life.head)
        bucket = self._exact.get(whole)
        if bucket and bucket.pop(life.key, None):
            self._lengths[life.head_length] -= 1
            if not self._lengths[life.head_length]:
                del self._lengths[life.head_length]
            if not bucket:
                del self._exact[whole]

    def read(self, life: Life, data: bytes) -> None:
        """More bytes of the life were taken: move its offset and fingerprints."""
        assert life.last is not None, "a life is opened and compared before it is read"
        before = life.last
        joined = before + data if len(data) < FINGERPRINT else data
        if life.offset < FINGERPRINT:
            self._unindex(life)
            start = (before + data)[:FINGERPRINT] if life.offset else data[:FINGERPRINT]
            life.head_length, life.head = len(start), xxh3(start)
            life.rungs = rungs_of(start)
            self._index(life)
        if not life.header:
            life.header = life.offset + data.find(b"\n") + 1 if b"\n" in data else 0
        life.last = joined[-FINGERPRINT:]
        life.offset += len(data)

    def opened(self, life: Life, head: bytes, last: bytes) -> None:
        """The life's file was opened and compared: keep its last bytes, find it by its first ones."""
        life.last = last
        if not life.rungs:
            life.rungs = rungs_of(head)
            self._index(life)

    def starting_like(self, head: bytes) -> Iterator[Life]:
        """Lives whose whole first fingerprint fits a content's first bytes: the longest fingerprint first, then
        those without a file, then those read furthest. Of weak ones with equal content only some are given.
        """
        for length in sorted(self._lengths, reverse=True):
            if length > len(head):
                continue
            bucket = self._exact.get((length, xxh3(head[:length])), {})
            enough = len(bucket) if length >= FINGERPRINT else 8 * COMPARED
            some = list(islice(reversed(bucket.values()), enough))
            yield from sorted(some, key=lambda life: (life.there, -life.offset))

    def beginning_with(self, path: str, head: bytes) -> Iterator[Life]:
        """Intact lives whose content may begin with these first bytes: relatives by name first, bounded."""
        names = self._names.get(family(path), {})
        rung = max((r for r in LADDER if r <= len(head)), default=0)
        bucket = self._rungs.get((rung, xxh3(head[:rung])), {}) if rung else {}
        tried: set[str] = set()
        for group in (names, bucket):
            for count, life in enumerate(reversed(group.values())):
                if count >= COMPARED:
                    break
                if life.there and not life.packed and life.key not in tried:
                    tried.add(life.key)
                    yield life


def rungs_of(head: bytes) -> tuple[tuple[int, str], ...]:
    """Fingerprints of the first 1, 16, 256 and 4096 bytes, as far as there are as many."""
    return tuple((r, xxh3(head[:r])) for r in LADDER if r <= len(head))


def family(path: str) -> tuple[str, str]:
    """Folder and base of a path: what a file shares with its rotated forms."""
    pure = PurePath(path)
    return str(pure.parent), base_of(pure.name)
