"""Segments for tests of the receiver: real Parquet files with a true footer, chained as an agent chains them."""

import dataclasses
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from receiver.catalog_rows import NewSegment
from tape.digest import genesis, link, xxh3
from tape.footer import KEY, Footer, Head, SourceRange
from tape.names import SegmentName, SegmentPath, utc_day

DAY_NS = 86_400_000_000_000
START_NS = 1_700_006_400_000_000_000  # 2023-11-15 00:00:00 UTC


@dataclass(frozen=True)
class Made:
    """A finished segment: its path below a target's root, its bytes, its footer, SHA-256 and chain value."""

    path: SegmentPath
    data: bytes
    footer: Footer
    sha256: str
    chain: str

    @property
    def new(self) -> NewSegment:
        """As the catalog takes it."""
        return NewSegment(self.path, len(self.data), self.footer)


@dataclass
class Maker:
    """Makes one stream's segments, seq after seq, each covering the next bytes of one file.

    With `real=False` the bytes are a few characters, not Parquet: enough where nobody looks inside.
    """

    agent: str = "box"
    stream: str = "demo/ticks"
    epoch: str = "00000000000000aa"
    file_id: str = "f" * 32
    real: bool = True
    rows: int = 3
    step_ns: int = 1_000_000_000
    start_ns: int = START_NS
    seq: int = 0
    position: int = 0
    row: int = 0
    chain: str = ""
    salt: bytes = b""
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chain = self.chain or genesis(self.agent, self.stream, self.epoch)

    def make(self, **changes: Any) -> Made:
        """The next segment; `changes` replace fields of its footer."""
        first = self.start_ns + self.seq * self.step_ns
        lines = [b"%d,%d%s\n" % (first + i, self.row + i, self.salt) for i in range(self.rows)]
        source = b"".join(lines)
        footer = Footer(
            agent=self.agent,
            stream=self.stream,
            epoch=self.epoch,
            seq=self.seq,
            previous=self.chain,
            day=utc_day(first),
            sealed_ns=first + self.step_ns,
            row_first=self.row,
            source=SourceRange(
                kind="file",
                file="ticks.csv",
                file_id=self.file_id,
                start=self.position,
                end=self.position + len(source),
                head=Head(4, "0" * 32),
                digest=xxh3(source),
            ),
            rows=self.rows,
            recv_first_ns=first,
            recv_last_ns=first + self.rows - 1,
            schema="0" * 32,
            layout={"kind": "lines"},
            agent_version="0.1.0",
        )
        footer = dataclasses.replace(footer, **{**self.extra, **changes})
        data = parquet(footer, lines) if self.real else footer.to_json() + source
        made = finish(footer, data)
        self.seq = footer.seq + 1
        self.position = footer.source.end
        self.row += self.rows
        self.chain = made.chain
        return made

    def many(self, count: int) -> list[Made]:
        """The next segments."""
        return [self.make() for _ in range(count)]


def finish(footer: Footer, data: bytes) -> Made:
    """Any bytes as the segment their footer says they are, named by their digest."""
    import hashlib

    sha256 = hashlib.sha256(data).hexdigest()
    name = SegmentName(footer.epoch, footer.seq, xxh3(data))
    path = SegmentPath(footer.agent, footer.stream, footer.day, name)
    chain = link(footer.previous, footer.agent, footer.stream, footer.epoch, footer.seq, sha256)
    return Made(path, data, footer, sha256, chain)


def parquet(footer: Footer, lines: list[bytes]) -> bytes:
    """A small Parquet file: receive times and lines, with the footer in its metadata."""
    first = footer.recv_first_ns or 0
    table = pa.table(
        {
            "ts_recv": pa.array([first + i for i in range(len(lines))], pa.timestamp("ns", tz="UTC")),
            "payload": pa.array(lines, pa.binary()),
        }
    )
    out = BytesIO()
    with pq.ParquetWriter(out, table.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({KEY.decode("ascii"): footer.to_json().decode("ascii")})
    return out.getvalue()


def put(root: Path, made: Made) -> Path:
    """Write a segment where it belongs below a root (not durably) and return its path."""
    path = root / str(made.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made.data)
    return path
