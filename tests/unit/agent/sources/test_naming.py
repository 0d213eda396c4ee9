"""Streams from file names, and which names belong together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sources.naming import stream_of
from tape.filenames import archive_suffix, base_of, kin
from tape.names import check_stream


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("btcusdt.csv", "btcusdt"),
        ("btcusdt-2026-11-21.csv.1.gz", "btcusdt"),
        ("spot_btcusdt_20240808.gz", "spot_btcusdt"),
        ("20131007_aig_tick_quote.csv", "aig_tick_quote"),
        ("access.log-20261121.zst", "access"),
        ("x-20261121-trades.csv", "x-trades"),
        ("x-2026-11-21T13-05.csv", "x"),
        ("x.20261121_13.csv.12", "x"),
        ("x.2026-11-21T13.05.59Z.csv", "x"),
        ("BITMEX.ws.1.0", "BITMEX"),
        ("2026-11-21.csv", ""),
        ("12345678.csv", "12345678"),
        ("202611211.csv", "202611211"),
        ("noextension", "noextension"),
        ("btc.usdt.csv", "btc.usdt"),
    ],
)
def test_base_drops_dates_numbers_and_extensions(name: str, base: str) -> None:
    """What remains of a name is what its rotated forms share."""
    assert base_of(name) == base


@pytest.mark.parametrize(
    ("template", "path", "stream"),
    [
        ("binance/{stem}", "/d/BTC USDT.csv", "binance/btc-usdt"),
        ("{parent}/{base}", "/d/Binance/btc-20261121.csv.gz", "binance/btc"),
        ("{name}", "/d/x.csv.gz", "x.csv.gz"),
        ("{parent}/{base}", "/d/20131007_quote.zip!20131007_aig.csv", "20131007_quote/aig"),
        ("{parent}/{base}", "/d/q/20131007_quote.zip", "q/quote"),
        ("ticks/{base}", "/d/2026-11-21.csv", "ticks"),
        ("{base}", "/d/2026-11-21.csv", "fallback"),
        ("{stem}", "/d/con.csv", "x-con"),
        ("{stem}", "/d/\udcff\udcfe.csv", "fallback"),
    ],
)
def test_stream_follows_the_template(template: str, path: str, stream: str) -> None:
    """Each placeholder means what the docstring says; where nothing is left the source's name is taken."""
    assert stream_of(template, path, "fallback") == stream


@given(st.text(min_size=1, max_size=60).filter(lambda t: "\0" not in t))
def test_any_file_name_gives_a_valid_stream(name: str) -> None:
    """No file name, however odd, breaks the grammar."""
    check_stream(stream_of("{parent}/{base}", f"/d/{name}", "fallback"))
    check_stream(stream_of("{stem}", f"/d/{name}", "fallback"))


@pytest.mark.parametrize(
    ("later", "earlier", "related"),
    [
        ("/d/x.csv.1", "/d/x.csv", True),
        ("/d/x.csv.2.gz", "/d/x.csv.1", True),
        ("/old/x-20261121.csv", "/d/x.csv", True),
        ("/d/x-20261121.csv.gz", "/d/x-20261121.csv", True),
        ("/d/x-20261122.csv", "/d/x-20261121.csv", False),
        ("/d/x.csv", "/d/x.csv.1", False),
        ("/d/x.csv", "/d/x-20261121.csv", False),
        ("/d/y.csv", "/d/x.csv", False),
    ],
)
def test_kin_are_rotated_forms_of_a_name(later: str, earlier: str, related: bool) -> None:
    """A rotation adds a number, a date or a suffix; it never exchanges or drops one."""
    assert kin(later, earlier) is related


def test_archive_suffix_ignores_case() -> None:
    """Archives are known by their suffix in any case."""
    assert [archive_suffix(n) for n in ("a.gz", "A.ZST", "b.Zip", "c.csv", "gz")] == [".gz", ".zst", ".zip", "", ""]
