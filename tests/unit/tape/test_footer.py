"""The footer: canonical, complete, and suspicious of what it reads."""

import json
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tape.digest import genesis, xxh3
from tape.errors import SegmentError
from tape.footer import ClockState, Footer, Head, SourceRange

FOOTER = Footer(
    agent="server1",
    stream="a/b",
    epoch="0" * 16,
    seq=3,
    previous=genesis("server1", "a/b", "0" * 16),
    day=date(2026, 11, 21),
    sealed_ns=1_795_219_200_000_000_000,
    row_first=100,
    source=SourceRange("file", "/srv/\udcfftick\u00e4.csv", "ab" * 16, 10, 20, Head(20, xxh3(b"head")), xxh3(b"x")),
    rows=5,
    recv_first_ns=1,
    recv_last_ns=2,
    layout={"format": "csv"},
    clock=ClockState(synchronised=True, max_error_us=12),
)


def test_round_trip() -> None:
    """A footer reads back as it was written, odd file names included."""
    assert Footer.from_json(FOOTER.to_json()) == FOOTER


def test_canonical() -> None:
    """Keys are sorted, nothing is padded, all is ASCII: the same footer is always the same bytes."""
    data = FOOTER.to_json()
    assert data == json.dumps(json.loads(data), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode(
        "ascii"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("agent", "../x"),
        ("agent", 7),
        ("stream", "A"),
        ("epoch", "xyz"),
        ("seq", -1),
        ("seq", True),
        ("seq", 1 << 63),
        ("seq", "1"),
        ("previous", "00"),
        ("previous", None),
        ("day", "2026-13-01"),
        ("source", None),
        ("source", {}),
        ("rows", 1.5),
        ("format", 2),
        ("clock", {"unknown": 1}),
    ],
)
def test_a_wrong_value_is_named(key: str, value: Any) -> None:
    """Each wrong value is an error that names the file, never a crash or a guess."""
    plain = json.loads(FOOTER.to_json())
    plain[key] = value
    with pytest.raises(SegmentError, match="some file"):
        Footer.from_json(json.dumps(plain).encode(), where="some file")


def test_a_range_that_ends_before_it_starts() -> None:
    """A source range must not run backwards."""
    plain = json.loads(FOOTER.to_json())
    plain["source"]["end"] = 9
    with pytest.raises(SegmentError, match="out of range"):
        Footer.from_json(json.dumps(plain).encode())


def test_keys_of_a_later_version_are_ignored() -> None:
    """A key that this version does not know does not stop it from reading what it knows."""
    plain = json.loads(FOOTER.to_json())
    plain["later"] = 1
    assert Footer.from_json(json.dumps(plain).encode()) == FOOTER


@given(st.binary(max_size=300))
def test_any_bytes_are_an_error(data: bytes) -> None:
    """Garbage is a SegmentError."""
    with pytest.raises(SegmentError):
        Footer.from_json(data)


def test_deep_nesting_is_an_error() -> None:
    """JSON nested beyond all reason is a SegmentError."""
    with pytest.raises(SegmentError):
        Footer.from_json(b"[" * 100_000)
