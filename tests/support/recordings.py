"""Recorded market ticks, read where they lie (../shared/data), unpacked where they are packed."""

import gzip
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from tests.support.needs import need_shared_data

# Every recording by its path below ../shared/data.
RECORDINGS: tuple[str, ...] = (
    "binance-raw/spot_btcusdt_20240808.gz",
    "binance-raw/spot_btcusdt_20240809.gz",
    "binance-raw/usdm_btcusdt_20240808.gz",
    "cryptofeed-ws/BINANCE_FUTURES.ws.1.0",
    "cryptofeed-ws/BITMEX.ws.1.0",
    "cryptofeed-ws/BYBIT.ws.25.0",
    "cryptofeed-ws/GATEIO.ws.1.0",
    "cryptofeed-ws/KRAKEN.ws.50.0",
    "cryptofeed-ws/KUCOIN.ws.1.0",
    "lean/equity/usa/tick/aig/20131007_quote.zip",
    "lean/equity/usa/tick/spy/20131008_trade.zip",
    "lean/forex/fxcm/tick/eurusd/20140508_quote.zip",
    "lean/forex/oanda/tick/eurusd/20140508_quote.zip",
)


@dataclass(frozen=True)
class Recording:
    """One recording: `path` is the file as it lies there, `name` what it is called unpacked."""

    path: Path
    name: str

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """A stream of the unpacked bytes."""
        if self.path.suffix == ".gz":
            with gzip.open(self.path, "rb") as stream:
                yield cast("IO[bytes]", stream)
        elif self.path.suffix == ".zip":
            with zipfile.ZipFile(self.path) as folder, folder.open(self.name) as member:
                yield member
        else:
            with self.path.open("rb") as plain:
                yield plain

    def read(self, limit: int = -1) -> bytes:
        """The unpacked bytes, or the first `limit` of them."""
        with self.open() as stream:
            return stream.read(limit)


def recording(name: str) -> Recording:
    """One of RECORDINGS; skips (in CI: fails) the test where the recordings are absent."""
    path = need_shared_data(*name.split("/"))
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as folder:
            members = folder.namelist()
        assert len(members) == 1, f"{path} holds {members}, not one file"
        return Recording(path, members[0])
    return Recording(path, path.name.removesuffix(".gz"))
