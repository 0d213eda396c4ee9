"""The one grammar for names: agents, streams, epochs, segments, and their paths.

A name that passes here is safe as a path on every system a copy may live on: lower case only (no
collision by case or Unicode form), no traversal, no Windows device name, no trailing dot, no `:`.
"""

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache

from tape.errors import NameRefused

_AGENT = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?\Z")
_PART = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9_-])?\Z")
_EPOCH = re.compile(r"[0-9a-f]{16}\Z")
_SEGMENT = re.compile(
    r"(?P<epoch>[0-9a-f]{16})-(?P<seq>[0-9]{12})-(?P<digest>[0-9a-f]{32})\.(?P<suffix>[a-z0-9]{1,16})\Z"
)
_BUNDLE = re.compile(r"(?P<epoch>[0-9a-f]{16})-(?P<digest>[0-9a-f]{32})\.bundle\Z")
_DATE = re.compile(r"date=([0-9]{4}-[0-9]{2}-[0-9]{2})\Z")
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"} | {f"{kind}{n}" for kind in ("com", "lpt") for n in range(10)}
)
_REMEMBERED = 1024  # names that passed: the same few come with every segment
MAX_STREAM = 200
MAX_PARTS = 8
SUFFIX = "parquet"
EVENTS_STREAM = "hometape/events"


@lru_cache(maxsize=_REMEMBERED)
def check_agent(name: str) -> str:
    """The agent name itself, if it follows the grammar; raises NameRefused."""
    if not _AGENT.match(name) or name in _DEVICES:
        raise NameRefused(
            f"agent name {name!r} is not allowed",
            hint="use 1-32 of a-z, 0-9 and '-', starting and ending with a letter or digit",
        )
    return name


@lru_cache(maxsize=_REMEMBERED)
def check_stream(name: str) -> str:
    """The stream name itself, if it follows the grammar; raises NameRefused."""
    parts = name.split("/")
    good = len(name) <= MAX_STREAM and len(parts) <= MAX_PARTS
    if not good or not all(_PART.match(p) and p.split(".")[0] not in _DEVICES for p in parts):
        raise NameRefused(
            f"stream name {name[:220]!r} is not allowed",
            hint="use 1-8 parts joined by '/', each 1-64 of a-z, 0-9, '.', '_', '-', starting with a letter or digit",
        )
    return name


def stream_from(text: str) -> str:
    """A stream name made from free text such as a file's path: the nearest name the grammar allows.

    Not injective: callers that need distinct streams compare and say so. Raises NameRefused if
    nothing usable is left.
    """
    parts = []
    for part in re.split(r"[/\\]+", text.lower()):
        clean = re.sub(r"[^a-z0-9._-]+", "-", part)
        clean = re.sub(r"^[._-]+|[.]+$", "", clean)[:64].rstrip(".")
        if clean.split(".")[0] in _DEVICES:
            clean = "x-" + clean[:62]
        if clean:
            parts.append(clean)
    return check_stream("/".join(parts[-MAX_PARTS:]))


def new_epoch() -> str:
    """A random epoch: 16 hex digits."""
    return secrets.token_hex(8)


def check_epoch(text: str) -> str:
    """The epoch itself, if it is 16 lower-case hex digits; raises NameRefused."""
    if not _EPOCH.match(text):
        raise NameRefused(f"epoch {text[:40]!r} is not 16 lower-case hex digits")
    return text


@dataclass(frozen=True, slots=True, order=True)
class SegmentName:
    """A segment's file name: `<epoch>-<seq:012d>-<digest>.<suffix>`."""

    epoch: str
    seq: int
    digest: str
    suffix: str = SUFFIX

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq:012d}-{self.digest}.{self.suffix}"

    @classmethod
    def parse(cls, text: str) -> "SegmentName":
        """Read a file name; raises NameRefused."""
        found = _SEGMENT.match(text)
        if not found:
            raise NameRefused(f"{text[:120]!r} is not a segment name")
        return cls(found["epoch"], int(found["seq"]), found["digest"], found["suffix"])


@dataclass(frozen=True, slots=True, order=True)
class BundleName:
    """A bundle's file name: `<epoch>-<digest>.bundle`."""

    epoch: str
    digest: str

    def __str__(self) -> str:
        return f"{self.epoch}-{self.digest}.bundle"

    @classmethod
    def parse(cls, text: str) -> "BundleName":
        """Read a file name; raises NameRefused."""
        found = _BUNDLE.match(text)
        if not found:
            raise NameRefused(f"{text[:120]!r} is not a bundle name")
        return cls(found["epoch"], found["digest"])


@dataclass(frozen=True, slots=True, order=True)
class SegmentPath:
    """Where a segment lives below every target's root, the same everywhere."""

    agent: str
    stream: str
    day: date
    name: SegmentName

    def __str__(self) -> str:
        return f"{self.agent}/{self.stream}/date={self.day.isoformat()}/{self.name}"

    @property
    def folder(self) -> str:
        """The day's folder, relative to the target's root, with forward slashes."""
        return f"{self.agent}/{self.stream}/date={self.day.isoformat()}"

    @classmethod
    def parse(cls, text: str) -> "SegmentPath":
        """Read a relative path with forward slashes; raises NameRefused."""
        parts = text.split("/")
        day = _DATE.match(parts[-2]) if len(parts) >= 4 else None
        if day is None:
            raise NameRefused(f"{text[:300]!r} is not the path of a segment")
        try:
            when = date.fromisoformat(day[1])
        except ValueError:
            raise NameRefused(f"{text[:300]!r} has no valid date") from None
        return cls(check_agent(parts[0]), check_stream("/".join(parts[1:-2])), when, SegmentName.parse(parts[-1]))


def upload_path(stream: str, name: SegmentName) -> str:
    """Where the agent delivers a segment, as it sees the receiver: `/<stream>/<name>`."""
    return f"/{stream}/{name}"


def utc_day(ns: int) -> date:
    """The UTC day of a time in ns since 1970."""
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC).date()
