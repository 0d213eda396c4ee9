"""The receiver's settings: what receiver.toml may hold."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from tape.names import check_agent
from tape.settings import Duration, Section, Size


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
    """A place copies live."""

    id: str = Field(description="a short name for status and catalog; never reuse one for another place")
    kind: Literal["directory"] = Field("directory", description="`directory`: a disk, a NAS mount, a UNC path")
    path: Path = Field(description="its root folder")
    home: bool = Field(default=False, description="true for exactly one: the archive that uploads are committed to")
    medium: str = Field(
        "disk",
        description="what it lives on: targets with the same word share a fate (`pc-disk`, `nas`, `usb`)",
    )
    site: str = Field("home", description="where it stands (`home`, `office`, `cloud`)")
    concurrency: int = Field(2, ge=1, le=32, description="copies made at the same time")
    max_age: Duration = Field(26 * 3600, description="warn when its recovery point is behind by more than this")

    @field_validator("id")
    @classmethod
    def _id(cls, value: str) -> str:
        return check_agent(value)


class PolicySettings(Section):
    """When a segment is safe, so that the server may free it."""

    copies: int = Field(2, ge=1, le=16, description="verified copies, the home archive included")


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
        if self.policy.copies > len(self.target):
            raise ValueError(
                f"policy.copies is {self.policy.copies}, but there are only {len(self.target)} targets: "
                "no segment could ever be safe"
            )
        return self

    @property
    def home(self) -> TargetSettings:
        """The home archive's target."""
        return next(t for t in self.target if t.home)
