"""The footer: what a segment says of itself, enough to rebuild a catalog from the files alone.

It is stored as canonical JSON (sorted keys, no spaces, ASCII) in the Parquet key/value metadata
under the key `hometape`. Format version 1.
"""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import date
from typing import Any

from tape.errors import NameRefused, SegmentError
from tape.names import check_agent, check_epoch, check_stream

FORMAT = 1
KEY = b"hometape"
LATEST_NS = 1 << 62  # ns until the year 2116: anything above is no time


@dataclass(frozen=True, slots=True)
class Head:
    """Fingerprint of the first bytes of a file: recognises it after a rename, a copy, a compression."""

    length: int
    xxh3: str


@dataclass(frozen=True, slots=True)
class SourceRange:
    r"""The bytes of the source that a segment covers: [start, end) of one life of one file.

    `digest` is XXH3-128 over exactly those bytes. `file` is the file's name as first seen, with
    undecodable bytes as surrogate escapes written `\udcXX` in JSON. `final`: nothing follows.
    """

    kind: str  # file | events
    file: str
    file_id: str
    start: int
    end: int
    head: Head
    digest: str = ""
    final: bool = False


@dataclass(frozen=True, slots=True)
class ClockState:
    """What the agent knew of its clock when it sealed. `synchronised` is None where it can't be known."""

    synchronised: bool | None = None
    max_error_us: int | None = None


@dataclass(frozen=True, slots=True)
class Footer:
    """Everything the catalog needs of one segment. Times in ns since 1970 UTC; rows count from 0.

    `row_first` is the index of the first row within (stream, epoch). `layout` is the text form that
    rebuilds the source's bytes from the columns (see tape.layout).
    """

    agent: str
    stream: str
    epoch: str
    seq: int
    previous: str
    day: date
    sealed_ns: int
    row_first: int
    source: SourceRange
    rows: int = 0
    recv_first_ns: int | None = None
    recv_last_ns: int | None = None
    schema: str = ""
    layout: dict[str, Any] = field(default_factory=dict)
    agent_version: str = ""
    clock: ClockState = ClockState()
    kind: str = "rows"
    format: int = FORMAT

    def to_json(self) -> bytes:
        """Canonical JSON."""
        plain = asdict(self)
        plain["day"] = self.day.isoformat()
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")

    def completed(self, **changes: Any) -> "Footer":
        """A copy with fields filled in."""
        return replace(self, **changes)

    @classmethod
    def from_json(cls, data: bytes, *, where: str = "segment") -> "Footer":
        """Read canonical JSON; raises SegmentError that names `where` and the field."""
        try:
            plain = json.loads(data)
            if not isinstance(plain, dict):
                raise TypeError("not an object")
            version = plain.get("format")
            if version != FORMAT:
                raise SegmentError(
                    f"{where}: footer format {version!r} is not known to this version",
                    hint="update hometape on this machine",
                )
            values = {key: value for key, value in plain.items() if key in _NAMES}
            source = dict(values["source"])
            source["head"] = Head(**source["head"])
            values["source"] = SourceRange(**source)
            values["clock"] = ClockState(**values.get("clock", {}))
            values["day"] = date.fromisoformat(values["day"])
            footer = cls(**values)
        except SegmentError:
            raise
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise SegmentError(f"{where}: footer can't be read: {error}") from error
        footer._check(where)
        return footer

    def _check(self, where: str) -> None:
        try:
            check_agent(self.agent)
            check_stream(self.stream)
            check_epoch(self.epoch)
        except (NameRefused, TypeError, AttributeError) as error:
            raise SegmentError(f"{where}: footer names something not allowed: {error}") from error
        numbers = (
            self.seq,
            self.sealed_ns,
            self.row_first,
            self.rows,
            self.source.start,
            self.source.end,
            self.source.head.length,
        )
        if not all(map(_is_count, numbers)) or self.source.end < self.source.start:
            raise SegmentError(f"{where}: footer holds a number out of range")
        if not (_is_hex(self.previous, 64) and _is_hex(self.source.digest, 32) and _is_hex(self.source.file_id, 32)):
            raise SegmentError(f"{where}: footer holds a malformed digest")


_NAMES = frozenset(f.name for f in fields(Footer))


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_hex(value: object, length: int) -> bool:
    return isinstance(value, str) and len(value) == length and not value.strip("0123456789abcdef")
