"""AES-GCM with fewer copies says on the wire, byte for byte, what the library's own says, and reads the same."""

from typing import Any

import pytest
from asyncssh import encryption
from hypothesis import given
from hypothesis import strategies as st

from tape import sshgcm, sshtune
from tape.sshgcm import BLOCK, LARGE, TAG, Gcm

KEY, IV = bytes(range(16)), bytes(range(100, 112))
DATA, OTHER = 94, 80
packets = st.lists(st.integers(12, 5000).map(lambda size: bytes(n % 251 for n in range(size - size % 4))), max_size=8)


def wire(pair: tuple[Any, Any]) -> bytes:
    """What asyncssh writes to the socket: both parts joined."""
    return bytes(pair[0] + pair[1])


def own(key: bytes = KEY, iv: bytes = IV) -> Any:
    """The library's class."""
    return encryption.GCMEncryption.new(f"aes{len(key) * 8}-gcm", key, iv)


def opened(engine: Any, sealed: bytes) -> Any:
    """As asyncssh cuts a packet: the first block, the rest, the tag."""
    first, header = engine.decrypt_header(0, sealed[:BLOCK], 4)
    assert header == sealed[:4]
    return engine.decrypt_packet(0, first, sealed[BLOCK:-TAG], 4, sealed[-TAG:])


def large(kind: int, size: int = LARGE + 1000) -> bytes:
    """A packet's inside: the padding's length, the type, the rest."""
    return bytes([4, kind]) + b"ticks" * (size // 5)


@given(inside=packets, key=st.sampled_from([KEY, bytes(range(32))]), iv=st.binary(min_size=12, max_size=12))
def test_the_same_bytes_as_the_librarys_own(inside: list[bytes], key: bytes, iv: bytes) -> None:
    """Sealed alike, and each opens what the other sealed, packet after packet."""
    sealing, opening, theirs, back = Gcm(key, iv), Gcm(key, iv), own(key, iv), own(key, iv)
    for packet in inside:
        header = len(packet).to_bytes(4, "big")
        sealed = wire(sealing.encrypt_packet(0, header, packet))
        assert sealed == wire(theirs.encrypt_packet(0, header, packet))
        assert opened(opening, sealed) == opened(back, sealed) == packet


@pytest.mark.parametrize("iv", [IV, IV[:4] + b"\xff" * 8], ids=["usual", "the counter's end"])
def test_large_packets_and_the_counter(iv: bytes) -> None:
    """Small packets after large ones, and the counter beginning anew after 2^64."""
    sealing, opening, theirs = Gcm(KEY, iv), Gcm(KEY, iv), own(KEY, iv)
    for packet in (large(DATA), b"\4\2" + bytes(10), large(DATA, 3 << 20), large(OTHER), b"\4\2" + bytes(10)):
        header = len(packet).to_bytes(4, "big")
        sealed = wire(sealing.encrypt_packet(0, header, packet))
        assert sealed == wire(theirs.encrypt_packet(0, header, packet))
        assert opened(opening, sealed) == packet


def test_only_large_channel_data_is_a_view() -> None:
    """Everything else is taken apart by code that wants bytes."""
    sealing, opening = Gcm(KEY, IV), Gcm(KEY, IV)
    made = (large(DATA), large(OTHER), large(DATA, LARGE - 1000))
    kinds = [type(opened(opening, wire(sealing.encrypt_packet(0, bytes(4), packet)))) for packet in made]
    assert kinds == [memoryview, bytes, bytes]


@pytest.mark.parametrize("packet", [large(DATA), b"\4\2" + bytes(30)], ids=["large", "small"])
@pytest.mark.parametrize("where", [0, 3, 4, BLOCK - 1, BLOCK, -TAG - 1, -TAG, -1])
def test_a_bit_that_was_changed_is_found(packet: bytes, where: int) -> None:
    """In the length, the first block, the rest or the tag: None, as the library wants it."""
    sealed = bytearray(wire(Gcm(KEY, IV).encrypt_packet(0, len(packet).to_bytes(4, "big"), packet)))
    sealed[where] ^= 1
    assert opened(Gcm(KEY, IV), bytes(sealed)) is None


def test_a_packet_that_comes_twice_or_late_is_found() -> None:
    """The count of packets is part of the proof."""
    sealing, opening = Gcm(KEY, IV), Gcm(KEY, IV)
    first, second = (wire(sealing.encrypt_packet(0, bytes(4), bytes(16))) for _ in range(2))
    assert opened(opening, first) == bytes(16)
    assert opened(opening, first) is None
    assert opened(Gcm(KEY, IV), second) is None


def test_connections_use_it() -> None:
    """From the moment somebody asks for our algorithms."""
    sshtune.algorithms()
    assert sshgcm.install()
    for name, cipher in sshgcm.NAMES.items():
        key = bytes(int(cipher[3:6]) // 8)
        assert isinstance(encryption.get_encryption(name.encode("ascii"), key, IV), Gcm)


def test_another_version_of_the_library_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its methods take other arguments, or there is no such method any more."""
    assert sshgcm.fits(encryption.GCMEncryption)

    class Later(encryption.GCMEncryption):
        def encrypt_packet(self, seq: int, packet: bytes) -> tuple[bytes, bytes]:  # type: ignore[override] # the point
            return packet, bytes(seq)

    assert not sshgcm.fits(Later)
    assert not sshgcm.fits(object)
    monkeypatch.setattr(encryption, "GCMEncryption", Later)
    monkeypatch.setattr(encryption, "register_encryption_alg", None)
    assert sshgcm.install.__wrapped__() is False
