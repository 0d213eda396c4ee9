"""The grammar for names."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tape.errors import NameRefused
from tape.names import (
    BundleName,
    SegmentName,
    SegmentPath,
    check_agent,
    check_stream,
    new_epoch,
    stream_from,
    utc_day,
)

DIGEST = "0123456789abcdef" * 2
EPOCH = "00112233445566ff"


@pytest.mark.parametrize("name", ["a", "server1", "my-server", "0", "a" * 32])
def test_good_agent_names(name: str) -> None:
    """Plain names pass unchanged."""
    assert check_agent(name) == name


@pytest.mark.parametrize(
    "name", ["", "A", "-a", "a-", "a_b", "a.b", "a/b", "..", "con", "nul", "lpt1", "a" * 33, "ä", "a\n", "a:b", " a"]
)
def test_bad_agent_names(name: str) -> None:
    """Whatever could collide, escape or be a device is refused."""
    with pytest.raises(NameRefused):
        check_agent(name)


@pytest.mark.parametrize(
    "name", ["a", "binance/btcusdt/frames", "x/y.z/1_2-3", "/".join("abcdefgh"), "hometape/events"]
)
def test_good_stream_names(name: str) -> None:
    """Parts joined by slashes pass unchanged."""
    assert check_stream(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "a/../b",
        ".a",
        "a.",
        "a/b.",
        "A/b",
        "a/con",
        "con.txt",
        "a\\b",
        "a:b",
        "date=2024-01-01",
        "/".join("abcdefghi"),
        "x/" * 100 + "x",
        "a/ b",
        "é",
        "a\x00b",
        "a\n",
        "a/" + "b" * 65,
    ],
)
def test_bad_stream_names(name: str) -> None:
    """Traversal, case, devices, trailing dots, control characters and over-long names are refused."""
    with pytest.raises(NameRefused):
        check_stream(name)


@given(st.text(max_size=300))
def test_stream_from_any_text_is_a_stream_or_an_error(text: str) -> None:
    """Free text becomes a name of the grammar, or is refused; never anything else."""
    try:
        made = stream_from(text)
    except NameRefused:
        return
    assert check_stream(made) == made


def test_segment_name_round_trip() -> None:
    """A segment's name reads back as it was written."""
    name = SegmentName(EPOCH, 42, DIGEST)
    assert str(name) == f"{EPOCH}-000000000042-{DIGEST}.parquet"
    assert SegmentName.parse(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x.parquet",
        f"{EPOCH}-42-{DIGEST}.parquet",
        f"{EPOCH}-000000000042-{DIGEST}",
        f"{EPOCH}-000000000042-{DIGEST}.parquet\n",
        f"{EPOCH.upper()}-000000000042-{DIGEST}.parquet",
        f"{EPOCH}-000000000042-{DIGEST}.parquet.part",
        f"{EPOCH}-٤٤٤٤٤٤٤٤٤٤٤٤-{DIGEST}.parquet",
    ],
)
def test_bad_segment_names(text: str) -> None:
    """Anything but the exact form is refused."""
    with pytest.raises(NameRefused):
        SegmentName.parse(text)


def test_bundle_name_round_trip() -> None:
    """A bundle's name reads back as it was written, and nothing else does."""
    name = BundleName(EPOCH, DIGEST)
    assert BundleName.parse(str(name)) == name
    with pytest.raises(NameRefused):
        BundleName.parse(str(name) + ".part")


def test_segment_path_round_trip() -> None:
    """The path below a target's root reads back as it was written."""
    path = SegmentPath("server1", "a/b", date(2026, 11, 21), SegmentName(EPOCH, 0, DIGEST))
    assert str(path) == f"server1/a/b/date=2026-11-21/{EPOCH}-000000000000-{DIGEST}.parquet"
    assert SegmentPath.parse(str(path)) == path


@pytest.mark.parametrize("day", ["date=2026-13-01", "date=2026-02-30", "2026-02-03", "date=26-2-3"])
def test_segment_path_with_a_bad_day(day: str) -> None:
    """A folder that is no date is refused."""
    with pytest.raises(NameRefused):
        SegmentPath.parse(f"server1/a/{day}/{SegmentName(EPOCH, 0, DIGEST)}")


def test_epochs_differ() -> None:
    """Two epochs are never the same and always follow the grammar."""
    found = {new_epoch() for _ in range(100)}
    assert len(found) == 100
    assert all(len(epoch) == 16 for epoch in found)


def test_utc_day_at_midnight() -> None:
    """The last ns of a day belongs to it, the next one to the following day."""
    midnight = 1_763_683_200_000_000_000
    assert utc_day(midnight) == date(2025, 11, 21)
    assert utc_day(midnight - 1) == date(2025, 11, 20)
