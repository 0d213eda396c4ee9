"""Parcels of a few bytes, as any target takes them."""

from datetime import date

from receiver.targets.contract import Parcel
from tape.digest import xxh3
from tape.names import SegmentName, SegmentPath

EPOCH = "00112233445566aa"


def segment_path(seq: int, data: bytes, *, stream: str = "binance/btcusdt/frames", day: int = 1) -> str:
    """The path of a segment that holds these bytes."""
    return str(SegmentPath("bot", stream, date(2026, 1, day), SegmentName(EPOCH, seq, xxh3(data))))


def parcel(seq: int, data: bytes, **more: int) -> Parcel:
    """A parcel of these bytes, read in blocks of 3."""
    blocks = [data[at : at + 3] for at in range(0, len(data), 3)]
    return Parcel(segment_path(seq, data, **more), len(data), xxh3(data), lambda: blocks)  # type: ignore[arg-type] # day
