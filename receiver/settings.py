"""The receiver's settings: what receiver.toml may hold."""

import os
import re
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from receiver.timetable import Timetable
from tape.names import check_agent
from tape.settings import Duration, Section, Size, parse_duration

_REMOTE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


class ListenSettings(Section):
    """The embedded SFTP ingress."""

    enabled: bool = Field(default=True, description="serve SFTP; false: only drop boxes")
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: int = Field(2222, ge=0, le=65535, description="port to listen on; 0: any free one, printed at start")
    window: Size = Field(
        16 * 2**20,
        description="SSH window for each session: what one may have under way; more for a long link",
    )
    max_connections: int = Field(64, ge=1, description="connections at a time over all agents")
    max_unauthenticated: int = Field(
        16, ge=1, description="connections that have not logged in, at a time; 4 of them from one address"
    )
    login_timeout: Duration = Field(10, description="time to log in")
    idle_timeout: Duration = Field(600, description="close a connection that does nothing for this long")
    keepalive: Duration = Field(15, description="ask an idle connection for a sign of life this often")
    uvloop: bool = Field(default=True, description="use uvloop where it exists (not on Windows)")


class AgentEntry(Section):
    """One agent that may deliver."""

    name: str = Field(description="the agent's name: its login and the first folder of all its segments")
    key: str = Field(
        "",
        description="its public key, `ssh-ed25519 AAAA...` as `tape-agent init` prints it; empty: drop box only",
    )
    dropbox: Path | None = Field(None, description="a folder that a plain SFTP server fills for this agent; watched")
    quota_bytes: Size = Field(0, description="what this agent may have stored at home; 0 B: no limit")
    max_segment: Size = Field(1 * 2**30, description="largest upload accepted")
    max_sessions: int = Field(64, ge=1, description="SFTP sessions at a time")
    max_handles: int = Field(64, ge=1, description="open uploads at a time in one session")

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_agent(value)


class TargetSettings(Section):
    """A place copies live. What is left at its default by kind is filled in when the entry is read."""

    id: str = Field(description="a short name for status and catalog; never reuse one for another place")
    kind: Literal["directory", "removable", "remote"] = Field(
        "directory",
        description="`directory`: a disk, a NAS mount, a UNC path; `removable`: a disk or stick that comes and goes,"
        " found by its marker wherever it is mounted; `remote`: an rclone remote",
    )
    path: Path | None = Field(None, description="directory: its root folder; removable: the folder on the disk")
    remote: str = Field("", description="remote: `NAME:PATH` as rclone knows it; `tape-receiver remote add` guides")
    home: bool = Field(default=False, description="true for exactly one: the archive that uploads are committed to")
    medium: str = Field(
        "",
        description="what it lives on: targets with the same word share a fate (`pc-disk`, `nas`, `usb`); empty:"
        " `disk`, `usb` or `cloud` by kind",
    )
    site: str = Field("", description="where it stands (`home`, `office`); empty: `home`, or `cloud` for a remote")
    concurrency: int = Field(2, ge=1, le=32, description="copies made at the same time")
    max_age: Duration = Field(
        0,
        description="warn when its recovery point is behind by more than this; 0 s: 15 min for the home archive,"
        " 31 d for a removable disk, else 26 h",
    )
    mounted: bool | None = Field(
        None,
        description="true: refuse the folder unless it lies on a mount of its own, so that nothing is written under"
        " an empty mount point; empty: only for removable disks",
    )
    bandwidth: str = Field(
        "",
        description="most bytes a second toward it, `2 MiB`, or by the time of day, `08:00 1 MiB, 23:00 off`; empty:"
        " no limit",
    )
    timeout: Duration = Field(
        0, description="give up a single step there after this long without progress; 0 s: 2 min, 5 min for a remote"
    )
    retries: int = Field(2, ge=0, le=20, description="tries of a step that failed for a passing reason, before a pause")
    batch_wait: Duration = Field(
        0, description="wait until so much time has passed, or a batch is full, before copying: fewer, larger runs"
    )
    transfers: int = Field(4, ge=1, le=64, description="remote: files on their way at a time")
    requests: float = Field(
        0,
        ge=0,
        description="remote: most requests a second, each run of rclone by itself; 0: no limit (Google Drive wants 8)",
    )
    sample: float = Field(
        1.0,
        gt=0,
        le=1,
        description="remote: where it can't prove copies by a checksum of its own, the share that is downloaded again",
    )
    rclone_config: Path | None = Field(None, description="remote: rclone's configuration file; empty: rclone's default")
    unmount: bool = Field(default=False, description="removable: unmount it by itself as soon as it is level")

    @field_validator("id")
    @classmethod
    def _id(cls, value: str) -> str:
        return check_agent(value)

    @field_validator("bandwidth")
    @classmethod
    def _bandwidth(cls, value: str) -> str:
        Timetable.parse(value)
        return value

    @field_validator("remote")
    @classmethod
    def _remote(cls, value: str) -> str:
        return check_remote(value) if value else value

    @model_validator(mode="after")
    def _by_kind(self) -> Self:
        if self.kind == "directory" and self.path is None:
            raise ValueError(f"target {self.id!r} of kind `directory` needs `path`")
        if self.kind == "removable" and self.path is not None and (self.path.is_absolute() or ".." in self.path.parts):
            raise ValueError(f"target {self.id!r}: `path` of a removable disk is relative to wherever it is mounted")
        if self.kind == "remote" and (not self.remote or self.path is not None):
            raise ValueError(f"target {self.id!r} of kind `remote` needs `remote` and no `path`")
        if self.kind != "remote" and self.remote:
            raise ValueError(f"target {self.id!r} has `remote`, so its kind must be `remote`")
        if self.home and self.kind != "directory":
            raise ValueError(f"target {self.id!r}: the home archive must be of kind `directory`")
        return self

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        """What depends on the kind."""
        if not isinstance(given, dict):
            return given
        kind = given.get("kind", "directory")
        medium, site = {"removable": ("usb", "home"), "remote": ("cloud", "cloud")}.get(kind, ("disk", "home"))
        age = 15 * 60 if given.get("home") is True else 31 * 86400 if kind == "removable" else 26 * 3600
        filled = {"medium": medium, "site": site, "max_age": age, "timeout": 300 if kind == "remote" else 120}
        filled["mounted"] = kind == "removable"
        return {**given, **{key: value for key, value in filled.items() if not _given(given.get(key))}}

    @property
    def folder(self) -> Path:
        """The root folder of a directory, or the folder on a removable disk."""
        return self.path or Path("hometape")


def _given(value: Any) -> bool:
    """Whether an option that may be left to the kind was chosen."""
    if isinstance(value, str):
        try:
            return bool(value) and parse_duration(value) != 0
        except ValueError:
            return True
    return value is not None and (isinstance(value, bool) or value != 0)


def _apart(targets: Sequence[TargetSettings]) -> None:
    """Raises ValueError where one folder lies in another: its copies would be that one's, and no second copy at all."""
    places = {one.id: Path(os.path.normcase(os.path.abspath(one.folder))) for one in targets}  # noqa: PTH100 - no look at a disk that may hang
    for (outer, above), (inner, below) in permutations(places.items(), 2):
        if below.is_relative_to(above):
            raise ValueError(f"the folder of target {inner!r} lies in that of {outer!r}: give each one of its own")


def check_remote(text: str) -> str:
    """`NAME:PATH` of an rclone remote that can be put into a command; raises ValueError."""
    name, colon, path = text.partition(":")
    if not colon or not _REMOTE.fullmatch(name):
        raise ValueError(f"{text!r} is not NAME:PATH of an rclone remote (letters, digits, `_`, `-` and `.` in NAME)")
    if any(ord(letter) < 32 for letter in path) or ".." in path.split("/"):
        raise ValueError(f"{text!r}: the path has control characters or `..`")
    return text


class StreamPolicy(Section):
    """Another policy for some streams; what is left out is as in [policy]."""

    match: str = Field(
        description="AGENT/STREAM, with `*` for any part: `*/btcusdt/*`; the first entry that fits counts"
    )
    copies: int | None = Field(None, ge=1, le=16, description="verified copies")
    media: int | None = Field(None, ge=1, le=16, description="different media")
    sites: int | None = Field(None, ge=1, le=16, description="different sites")
    release_after: int | Literal["policy"] | None = Field(None, description="copies before the server may free it")
    live_age: Duration | None = Field(None, description="warn when it brings nothing new for this long; 0 s: never")


class PolicySettings(Section):
    """The 3-2-1 rule, and when a segment is safe, so that the server may free it. One copy must be at home."""

    copies: int = Field(2, ge=1, le=16, description="verified copies, the home archive included")
    media: int = Field(1, ge=1, le=16, description="different media among them")
    sites: int = Field(1, ge=1, le=16, description="different sites among them")
    release_after: int | Literal["policy"] = Field(
        2,
        description="the server may free a segment once it has so many verified copies, one of them at home (never"
        " more than `copies`); `policy`: once the whole rule holds, which a disk in a drawer can delay by weeks",
    )
    stream: list[StreamPolicy] = Field(default_factory=list, description="other rules for some streams")

    @field_validator("release_after")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("at least 1")
        return value


class DiskSettings(Section):
    """Removable disks."""

    look_in: list[str] = Field(
        default_factory=list,
        description="folders where disks appear, `*` for any name; empty: where this system mounts them",
    )
    every: Duration = Field(2, gt=0, description="pause between looks")
    sample: int = Field(20, ge=0, description="copies that were there before, checked each time a disk comes back")


class LimitSettings(Section):
    """What a segment may cost to inspect: limits against hostile files, checked before decoding."""

    max_columns: int = Field(2_000, ge=1, description="columns")
    max_rows: int = Field(50_000_000, ge=1, description="rows")
    max_footer: Size = Field(16 * 2**20, description="size of the Parquet footer")
    max_decoded: Size = Field(16 * 2**30, description="size after decoding, as the footer states it")
    memory: Size = Field(1 * 2**30, description="address space of the inspecting process beyond what it starts with")
    seconds: Duration = Field(60, description="time to inspect one file")
    quarantine: Size = Field(
        2 * 2**30, description="what refused uploads may take up in quarantine; beyond it their bytes are not kept"
    )


class ReceiverSettings(Section):
    """receiver.toml."""

    name: str = Field("home", description="this receiver's name in messages")
    state: Path = Field(
        description="folder for catalog, inbox, quarantine and keys; on the same file system as the home archive"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is logged")
    verify_every: Duration = Field(0, description="pause between passes of `verify` in the service; 0 s: only by hand")
    live_age: Duration = Field(26 * 3600, description="warn when a stream brings nothing new for this long; 0 s: never")
    listen: ListenSettings = ListenSettings()
    limits: LimitSettings = LimitSettings()
    policy: PolicySettings = PolicySettings()
    agent: list[AgentEntry] = Field(default_factory=list, description="the agents")
    disks: DiskSettings = DiskSettings()
    target: list[TargetSettings] = Field(default_factory=list, description="the targets")

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_agent(value)

    @model_validator(mode="after")
    def _consistent(self) -> "ReceiverSettings":
        for kind, names in (("agent", [a.name for a in self.agent]), ("target", [t.id for t in self.target])):
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                raise ValueError(f"{kind} {twice[0]!r} is there twice")
        if sum(t.home for t in self.target) != 1:
            raise ValueError("exactly one target must have `home = true`: the archive uploads are committed to")
        _apart([t for t in self.target if t.kind == "directory"])
        return self

    @property
    def home(self) -> TargetSettings:
        """The home archive's target."""
        return next(t for t in self.target if t.home)
