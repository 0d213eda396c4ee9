"""SFTP packets: cut from any chunking, bounded, and never read past their end."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.ingress import wire
from tape.errors import LinkError


def framed(*packets: bytes) -> bytes:
    """The packets as they go over the wire."""
    return b"".join(struct.pack(">I", len(packet)) + packet for packet in packets)


def cut(chunks: list[bytes]) -> list[bytes]:
    """The packets found when the chunks arrive one after the other."""
    packets, found = wire.Packets(), []
    for chunk in chunks:
        packets.feed(chunk)
        while (packet := packets.next()) is not None:
            found.append(bytes(packet))
    return found


@given(st.lists(st.binary(min_size=5, max_size=300), max_size=20), st.lists(st.integers(1, 2000), max_size=50))
def test_packets_survive_any_chunking(sent: list[bytes], sizes: list[int]) -> None:
    """However the stream is cut up, the packets come out whole and in order."""
    data = framed(*sent)
    chunks, at = [], 0
    for size in [*sizes, len(data) + 1]:
        chunks.append(data[at : at + size])
        at += size
    assert cut([chunk for chunk in chunks if chunk]) == sent
    assert cut([data[n : n + 1] for n in range(len(data))]) == sent


def test_feeding_before_taking_is_fine() -> None:
    """Chunks may pile up while nobody takes packets."""
    packets = wire.Packets()
    data = framed(b"first", b"second", b"the third")
    for start in range(0, len(data), 7):
        packets.feed(data[start : start + 7])
    assert [bytes(packets.next() or b"") for _ in range(3)] == [b"first", b"second", b"the third"]
    assert packets.next() is None


def test_a_large_packet_in_one_piece_is_not_copied() -> None:
    """It is handed on as a view of what arrived."""
    data = framed(bytes(1 << 20))
    packets = wire.Packets()
    packets.feed(data)
    packet = packets.next()
    assert packet is not None
    assert packet.obj is data


@pytest.mark.parametrize("length", [0, 4, wire.MAX_PACKET + 1, 0xFFFFFFFF])
def test_lengths_out_of_bounds_end_the_session(length: int) -> None:
    """Before anything is collected for them."""
    packets = wire.Packets()
    packets.feed(struct.pack(">I", length) + b"x")
    with pytest.raises(LinkError):
        packets.next()


@given(st.binary(max_size=40))
def test_fields_never_reach_past_the_end(data: bytes) -> None:
    """Whatever the bytes claim, reading gives what is there or an error."""
    for read in (wire.Fields.string, wire.Fields.u32, wire.Fields.u64, wire.Fields.attrs):
        fields = wire.Fields(memoryview(data))
        try:
            read(fields)
            fields.end()
        except LinkError:
            pass


def test_answers_as_the_protocol_has_them() -> None:
    """Their bytes, written out."""
    assert wire.ok(7).hex() == "000000116500000007000000000000000000000000"
    assert wire.status(7, wire.FAILURE, "no").hex() == "00000013650000000700000004000000026e6f00000000"
    assert wire.handle(1, b"ab").hex() == "0000000b6600000001000000026162"
    assert wire.file_attrs(1, 258).hex() == "00000015690000000100000005000000000000010200008180"
    assert wire.version([b"e"]).hex() == "0000000f020000000300000001650000000131"
    assert len(wire.status(1, wire.FAILURE, "x" * 10_000)) < 1000
