"""The agent's settings: what agent.toml may hold."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from tape.names import check_agent, check_stream
from tape.settings import Duration, Section, Size


class ReceiverSettings(Section):
    """Where home is, and the keys it is pinned to."""

    host: str = Field("127.0.0.1", description="address of the receiver (or of any SFTP server with a drop box)")
    port: int = Field(2222, ge=1, le=65535, description="its port")
    user: str = Field("", description="login name; empty: the agent's name, as the Hometape receiver wants it")
    host_key: str = Field("", description="pinned host key(s), `ssh-ed25519 AAAA...`; several are separated by ';'")
    client_key: Path | None = Field(
        None, description="the agent's private key; empty: `agent_key` in the state directory"
    )
    receipt_key: str = Field("", description="the receiver's receipt key, as `tape-receiver check` prints it")
    path: str = Field("/", description="folder of the inbox as this login sees it; '/' for the Hometape receiver")
    connections: int = Field(4, ge=1, le=32, description="parallel connections; more fill a long or lossy link")
    in_flight: Size = Field(64 * 2**20, description="bytes under way over all connections together")
    bundle_below: Size = Field(
        256 * 2**10, description="segments smaller than this travel bundled when several wait; 0 B: never"
    )
    bundle_max: Size = Field(16 * 2**20, description="size of one bundle at the most")
    connect_timeout: Duration = Field(20, description="give up a connection attempt after this")
    stall_timeout: Duration = Field(60, description="give up an operation that makes no progress for this long")
    keepalive: Duration = Field(15, description="ask an idle connection for a sign of life this often")
    retry_min: Duration = Field(
        1, description="first wait after a failed connection; doubles up to retry_max, with jitter"
    )
    retry_max: Duration = Field(120, description="longest wait between two attempts")
    receipts_every: Duration = Field(5, description="ask for receipts this often while segments wait to be released")
    congestion: str = Field(
        "bbr", description="TCP congestion control wanted, used where the kernel has it; empty: its default"
    )
    bandwidth: Size = Field(0, description="upper limit in bytes a second; 0 B: none")


class SpoolSettings(Section):
    """The bounded store of segments that are not yet safe."""

    max_bytes: Size = Field(
        5 * 2**30, description="sealed segments kept on this server at the most; when full, files wait unread"
    )
    keep_free: Size = Field(
        1 * 2**30,
        description="stop sealing when the file system has less free than this: the bot comes first",
    )


class AlarmSettings(Section):
    """What `tape-agent status` calls a warning or critical."""

    warn_after: Duration = Field(900, description="warning: a sealed segment waits this long for home to hold it")
    critical_after: Duration = Field(26 * 3600, description="critical: it waits this long")
    warn_spool: float = Field(0.8, ge=0, le=1, description="warning: this share of spool.max_bytes is in use")


class SealSettings(Section):
    """When a segment is sealed, and how."""

    max_age: Duration = Field(60, description="seal at the latest this long after a segment's first byte was read")
    max_bytes: Size = Field(64 * 2**20, description="seal when a segment covers this much source text")
    max_rows: int = Field(4_000_000, ge=1, description="seal when a segment has this many rows")
    partial_age: Duration = Field(
        30, description="keep a last line without its newline as a fragment after this long without growth"
    )
    level: int = Field(3, ge=1, le=22, description="zstd level")
    workers: int = Field(2, ge=1, le=32, description="segments encoded at the same time; 1 leaves a core to the bot")
    buffer: Size = Field(
        12 * 2**20, description="text held in memory over all streams; above it the largest is sealed early"
    )


class SourceSettings(Section):
    """One source: files that grow, or finished ones."""

    name: str = Field(description="a name for messages and status, unique")
    kind: Literal["file"] = Field(
        "file", description="`file`: text files that grow, rotate, or are finished (.gz, .zst, .zip, .bz2, .xz)"
    )
    paths: list[str] = Field(min_length=1, description="absolute glob patterns; `**` crosses folders")
    exclude: list[str] = Field(default_factory=list, description="glob patterns of files to leave alone")
    stream: str = Field(
        description="stream name; may hold {stem}, {name}, {parent}, {base} (stem without dates and rotation numbers)"
    )
    format: Literal["auto", "csv", "tsv", "lines", "frames"] = Field(
        "auto", description="how lines are read; bytes survive whatever is said here"
    )
    encoding_hint: str = Field(
        "",
        description="free text kept with the stream for readers, e.g. `latin-1`; bytes are never converted",
    )
    poll: Duration = Field(5, description="look at all files this often even if the system reports no change")
    copy_settle: Duration = Field(
        60,
        description="a new file that starts like a live one waits this long to show whether it is its copy",
    )
    room_settle: Duration = Field(
        3 * 86_400,
        description="NULs at the end of a file count as room its writer has yet to fill, until it rests this long",
    )
    archive_settle: Duration = Field(
        5, description="a compressed file counts as finished after this long without change"
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_agent(value)

    @field_validator("stream")
    @classmethod
    def _stream(cls, value: str) -> str:
        try:
            check_stream(value.format(stem="x", name="x", parent="x", base="x"))
        except (KeyError, IndexError) as error:
            raise ValueError(
                f"unknown placeholder {error} (there are {{stem}}, {{name}}, {{parent}}, {{base}})"
            ) from None
        return value


class AgentSettings(Section):
    """agent.toml."""

    agent: str = Field(description="this agent's name, as the receiver knows it")
    state: Path = Field(description="folder for outbox, spool and keys; on a local disk, only for this agent")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is logged")
    receiver: ReceiverSettings = ReceiverSettings()
    spool: SpoolSettings = SpoolSettings()
    seal: SealSettings = SealSettings()
    alarm: AlarmSettings = AlarmSettings()
    source: list[SourceSettings] = Field(default_factory=list, description="the sources")

    @field_validator("agent")
    @classmethod
    def _agent(cls, value: str) -> str:
        return check_agent(value)

    @property
    def key_path(self) -> Path:
        """Where the agent's private key is."""
        return self.receiver.client_key or self.state / "agent_key"

    @model_validator(mode="after")
    def _distinct(self) -> "AgentSettings":
        names = [s.name for s in self.source]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"source name {twice[0]!r} is used twice")
        return self
