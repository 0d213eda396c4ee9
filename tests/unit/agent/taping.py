"""Shared ground of the collector's tests: fed like a source feeds it, judged from the spool."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.collect import Collector
from agent.model import Chunk, Origin
from agent.outbox import Outbox
from agent.settings import SealSettings, SpoolSettings
from tape.clock import SYSTEM, Clock
from tape.durable import DISK, Disk
from tape.footer import Footer
from tape.segment import read_footer, source_chunks, verify
from tests.support import wait_until_async


def origin(number: int = 1, stream: str = "demo/ticks", format: str = "auto") -> Origin:  # noqa: A002 - the field's name
    """An origin that differs by its number."""
    return Origin(f"{number:032x}", "feed", stream, f"/data/{number}.csv", format)


@dataclass
class Taping:
    """A running collector with its outbox."""

    outbox: Outbox
    collector: Collector
    clock: Clock

    async def feed(self, one: Origin, data: bytes, *, sizes: Iterable[int] = (), start: int = 0) -> int:
        """Take bytes in chunks of these sizes (the rest at once); the offset behind them."""
        at = 0
        for size in [*sizes, len(data)]:
            piece = data[at : at + size]
            if piece:
                chunk = Chunk(one, start + at, piece, self.clock.now_ns())
                await self.collector.take(chunk, path=one.name, device=1, inode=2)
            at += len(piece)
        return start + at

    async def sealed(self, one: Origin, offset: int) -> None:
        """Wait until everything before an offset is in the outbox."""

        def there() -> bool:
            stored = self.outbox.file(one.file_id)
            return stored is not None and stored.known.offset >= offset

        await wait_until_async(there, what=f"{one.name} sealed up to {offset}")


@contextlib.asynccontextmanager
async def taping(
    state: Path, *, clock: Clock = SYSTEM, disk: Disk = DISK, spool: SpoolSettings | None = None, **seal: Any
) -> AsyncIterator[Taping]:
    """A collector that runs inside the block and is stopped behind it. `seal`: settings other than the defaults."""
    outbox = Outbox.open(state, "bot", clock=clock, disk=disk)
    collector = Collector(
        outbox,
        SealSettings(**{"level": 1, **seal}),
        spool or SpoolSettings(keep_free=0),
        clock=clock,
        disk=disk,
    )
    running = asyncio.create_task(collector.run())
    try:
        yield Taping(outbox, collector, clock)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await collector.stop(within=30)
        outbox.close()


def footers(spool: Path) -> list[tuple[Path, Footer]]:
    """Every segment in a spool, verified wholly, in the order of streams and seqs."""
    found = [(path, verify(path)) for path in spool.rglob("*.parquet")]
    return sorted(found, key=lambda pair: (pair[1].stream, pair[1].seq))


def exported(spool: Path, file_id: str) -> bytes:
    """The bytes of one origin as its segments give them back; fails if they overlap or leave a gap."""
    parts = sorted(
        (
            (footer.source.start, footer.source.end, path)
            for path, footer in footers(spool)
            if footer.source.file_id == file_id
        ),
        key=lambda part: part[:2],
    )
    data = b""
    for start, end, path in parts:
        assert start == len(data), f"{path} starts at {start}, {len(data)} bytes came before it"
        data += b"".join(source_chunks(path))
        assert end == len(data)
    return data


def events_in(spool: Path) -> bytes:
    """The lines of the stream `hometape/events`."""
    return b"".join(b"".join(source_chunks(path)) for path, footer in footers(spool) if footer.source.kind == "events")


def open_files() -> int:
    """Descriptors of this process, where the system tells."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough, and the folder lists itself


def read_all(spool: Path) -> list[Footer]:
    """Footers without the full check."""
    return [read_footer(path) for path in sorted(spool.rglob("*.parquet"))]
