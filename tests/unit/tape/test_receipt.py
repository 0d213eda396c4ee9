"""Receipts: signed, readable, and refused when anything is off."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tape.errors import ConfigError, ReceiptError
from tape.receipt import (
    EpochReceipt,
    Receipt,
    covers,
    load_private,
    load_public,
    new_key,
    open_receipt,
    private_text,
    public_text,
    to_ranges,
)

KEY = new_key()
RECEIPT = Receipt(
    "server1",
    "a/b",
    1000,
    {"0" * 16: EpochReceipt(held=((0, 9),), safe=((0, 3), (5, 9)), refused=((11, "why"),), resend=((4, 4),))},
)


def test_round_trip() -> None:
    """What was signed opens to the same receipt."""
    assert open_receipt(RECEIPT.sign(KEY), KEY.public_key(), agent="server1", stream="a/b") == RECEIPT


def test_a_changed_byte_is_noticed() -> None:
    """A receipt that was made to say more than was signed does not open."""
    forged = RECEIPT.sign(KEY).replace(b'"safe":[[0,3]', b'"safe":[[0,4]')
    with pytest.raises(ReceiptError, match="signature is wrong"):
        open_receipt(forged, KEY.public_key(), agent="server1", stream="a/b")


def test_another_key_is_noticed() -> None:
    """A receipt signed by somebody else does not open."""
    with pytest.raises(ReceiptError, match="signature is wrong"):
        open_receipt(RECEIPT.sign(new_key()), KEY.public_key(), agent="server1", stream="a/b")


def test_a_receipt_of_another_stream_does_not_open() -> None:
    """A good receipt can't be passed off as that of another stream."""
    with pytest.raises(ReceiptError, match="it is for"):
        open_receipt(RECEIPT.sign(KEY), KEY.public_key(), agent="server1", stream="a/c")


def test_an_old_receipt_does_not_open() -> None:
    """A receipt older than one already seen is a replay."""
    with pytest.raises(ReceiptError, match="older"):
        open_receipt(RECEIPT.sign(KEY), KEY.public_key(), agent="server1", stream="a/b", newer_than_ns=1001)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_error_not_a_crash(data: bytes) -> None:
    """Garbage in place of a receipt is a ReceiptError."""
    with pytest.raises(ReceiptError):
        open_receipt(data, KEY.public_key(), agent="server1", stream="a/b")


def test_json_of_the_wrong_shape_is_an_error() -> None:
    """Valid JSON that is no receipt is a ReceiptError."""
    shapes: tuple[object, ...] = ([], {}, {"receipt": 1, "signature": 2}, {"receipt": {}, "signature": "AAAA"}, None)
    for value in shapes:
        with pytest.raises(ReceiptError):
            open_receipt(json.dumps(value).encode(), KEY.public_key(), agent="server1", stream="a/b")


def test_keys_round_trip() -> None:
    """Both halves of the key read back from their text."""
    again = load_private(private_text(KEY))
    assert public_text(again.public_key()) == public_text(KEY.public_key())
    assert public_text(load_public(public_text(KEY.public_key()))) == public_text(KEY.public_key())
    for text in ("", "ssh-ed25519 AAAA", "hometape-receipt-key !!", "hometape-receipt-key AAAA"):
        with pytest.raises(ConfigError, match=r"receiver\.receipt_key"):
            load_public(text)


@given(st.sets(st.integers(0, 60)))
def test_ranges_cover_exactly_their_numbers(numbers: set[int]) -> None:
    """Ranges hold the numbers they were made from and no others."""
    ranges = to_ranges(sorted(numbers))
    assert {n for n in range(62) if covers(ranges, n)} == numbers
    assert all(b[0] > a[1] + 1 for a, b in itertools.pairwise(ranges))
