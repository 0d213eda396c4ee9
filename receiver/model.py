"""The receiver's nouns as plain values."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from tape.footer import Footer
from tape.inventory import Page
from tape.names import BundleName, SegmentName, SegmentPath


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment of a bundle in a private file of its own. `digest`: XXH3-128 of its bytes as they arrived."""

    stream: str
    name: SegmentName
    size: int
    path: Path
    digest: str


@dataclass(frozen=True, slots=True)
class Pieces:
    """A bundle that was taken apart on the way in. `digest`: XXH3-128 of its head as it arrived.

    `problem`: why these are not the segments that the head tells of; "" if they are.
    """

    digest: str
    found: tuple[Piece, ...]
    problem: str


@dataclass(frozen=True, slots=True)
class Upload:
    """A finished upload in private storage: no handle of the agent is left on `path`, nothing else knows it.

    `digest` is XXH3-128 of the bytes as they arrived (computed on the way in; "" where it was not, and of a bundle,
    whose head proves it). `stream` is "" for a bundle. `pieces`: what a bundle that was taken apart on the way became;
    then nothing lies at `path`. The committer owns all of its files from here on.
    """

    agent: str
    stream: str
    name: SegmentName | BundleName
    path: Path
    size: int
    digest: str
    received_ns: int
    pieces: Pieces | None = None

    @property
    def files(self) -> list[Path]:
        """Its private files; where they are moved to, they are gone from here."""
        return [self.path] if self.pieces is None else [piece.path for piece in self.pieces.found]


class Answer(StrEnum):
    """What became of an upload."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"  # the same bytes are held already: OK at once
    CONFLICT = "conflict"  # same identity, other bytes: an incident
    QUARANTINED = "quarantined"  # breaks a rule; kept aside with the reason
    RESEND = "resend"  # damaged on the way or not made durable; nothing kept


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer with its reason (lower case, the fact first; empty when all is well)."""

    answer: Answer
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether the agent may be told OK."""
        return self.answer in (Answer.ACCEPTED, Answer.DUPLICATE)


class Committer(Protocol):
    """What ingress and drop box hand uploads to (receiver.ingest implements it)."""

    async def commit(self, upload: Upload) -> Outcome:
        """Returns once the outcome is durable; safe to call for the same identity at the same time."""

    async def ask_again(self, agent: str, segments: Sequence[tuple[str, SegmentName]], why: str) -> None:
        """Have the receipts ask for those of (stream, name) that are not held; durable when it returns."""

    async def receipt(self, agent: str, stream: str, *, anew: bool = False) -> bytes | None:
        """The signed receipt of a stream, fresh; None if the stream is not known. `anew`: issued now, no older one.

        Of the stream of events, which every agent has, there is always one.
        """

    async def inventory(self, agent: str, page: Page) -> bytes | None:
        """A page over what is held of an agent, fresh; None if nothing is."""


@dataclass(frozen=True, slots=True)
class Held:
    """A segment in the home archive, as the catalog knows it. `sha256`/`chain` are "" until attested."""

    id: int
    path: SegmentPath
    size: int
    rows: int
    sha256: str
    chain: str
    recv_first_ns: int | None
    recv_last_ns: int | None
    committed_ns: int
    footer: Footer | None = None


@dataclass(frozen=True, slots=True)
class Copy:
    """One verified instance of a segment at a target. `method`: how it was proven, e.g. `read-back xxh3`."""

    segment: int
    target: str
    verified_ns: int
    method: str


class ExportForm(StrEnum):
    """What comes out: the source's own bytes, or all rows as one table."""

    ORIGINAL = "original"
    CSV = "csv"
    PARQUET = "parquet"
