"""What comes from a socket is handed on as it was, and packet by packet where packets can be seen."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from receiver.ingress.reading import Reading
from tape.sshgcm import BLOCK, TAG

VERSION = b"SSH-2.0-Hometape_1\r\n"
GCM = "aes128-gcm@openssh.com"


class Ssh:
    """A connection: notes what it is handed, and agrees on `cipher` when new keys come.

    `fails_over`: which packet it fails over. `lives`: how often it was told that the other side lives.
    """

    def __init__(self, cipher: str = GCM) -> None:
        self.cipher = cipher
        self.agreed = ""
        self.handed: list[bytes] = []
        self.said: list[object] = []
        self.fails_over = 1 << 60
        self.lives = 0
        self.reading = Reading(self)

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        assert len(self.handed) < self.fails_over, "it would try again what it failed over"
        self.lives += not data
        self.handed += [data] if data else []
        if data[5:6] == bytes([21]) and not self.agreed:
            self.agreed = self.cipher

    def get_extra_info(self, name: str) -> object:
        if name == "socket":
            return None if len(self.handed) >= self.fails_over else self
        assert name == "recv_cipher"
        return self.agreed or None

    def eof_received(self) -> bool:
        self.said.append("eof")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.said.append(exc)

    def pause_writing(self) -> None:
        self.said.append("pause")

    def resume_writing(self) -> None:
        self.said.append("resume")

    def feed(self, data: bytes, most: int = 1 << 30) -> None:
        """As a transport does: as much at a time as there is room for, `most` at the most."""
        view = memoryview(data)
        while view:
            room = self.reading.get_buffer(-1)
            assert len(room)
            count = min(len(room), most, len(view))
            room[:count] = view[:count]
            view = view[count:]
            self.reading.buffer_updated(count)


def plain(kind: int, size: int = 30) -> bytes:
    """A packet before keys are agreed."""
    return (size + 2).to_bytes(4, "big") + bytes([4, kind]) + b"p" * size


def sealed(size: int, fill: bytes = b"s") -> bytes:
    """A packet whose length is in the clear."""
    return size.to_bytes(4, "big") + fill * (size + TAG)


START = VERSION + plain(20) + plain(30) + plain(21)


def whole(packet: bytes) -> list[bytes]:
    """How a sealed packet is handed on: a large one its head first."""
    return [packet] if len(packet) <= 65536 else [packet[:BLOCK], packet[BLOCK:]]


sizes = st.one_of(st.integers(16, 100), st.integers(60_000, 70_000), st.just((1 << 20) + 300))


@given(sizes=st.lists(sizes, max_size=6), most=st.integers(1, 300_000))
@example(sizes=[65516, 65517, 1 << 20, 32, 1 << 20, 70_000], most=1 << 18)
@example(sizes=[(1 << 20) + 16, 32] * 3, most=1 << 30)
def test_packets_come_whole_however_they_were_cut(sizes: list[int], most: int) -> None:
    """In order, nothing lost, nothing twice; a large one in two parts, of which the first is what it is judged by."""
    made = [sealed(size, bytes([65 + n])) for n, size in enumerate(sizes)]
    ssh = Ssh()
    ssh.feed(START + b"".join(made), max(most, 1 + sum(sizes) // 2000))
    assert b"".join(ssh.handed) == START + b"".join(made)
    assert ssh.handed[4:] == [part for packet in made for part in whole(packet)]


def test_a_large_packet_is_read_with_what_little_follows() -> None:
    """So what is read beyond it need not be moved far, and costs no read of its own."""
    ssh = Ssh()
    ssh.feed(START + sealed(32) + sealed(1 << 20)[:BLOCK])
    assert ssh.handed[-1] == sealed(1 << 20)[:BLOCK]
    room = ssh.reading.get_buffer(-1)
    left = len(sealed(1 << 20)) - BLOCK
    assert left < len(room) <= left + 100


@given(cut=st.lists(st.binary(min_size=1, max_size=300), min_size=1), most=st.integers(1, 400))
@example(cut=[b"GET / HTTP/1.0\r\n\r\n" * 40], most=100)
@example(cut=[VERSION, b"\xff" * 50], most=7)
@example(cut=[VERSION, bytes(50)], most=50)
@example(cut=[START, b"\xff" * 50], most=50)
@example(cut=[b"x" * 255, b"x", b"y"], most=500)
def test_what_is_not_ssh_is_handed_on_too(cut: list[bytes], most: int) -> None:
    """Once it is seen that it is not: the connection refuses it, not the reading. Little waits until then."""
    ssh = Ssh()
    data = b"".join(cut) + sealed(5000)
    ssh.feed(data, most)
    handed = b"".join(ssh.handed)
    assert data.startswith(handed)
    ssh.feed(b"\xff" * (1 << 17), 1 << 16)
    assert len(b"".join(ssh.handed)) > len(data)


@pytest.mark.parametrize("cipher", ["chacha20-poly1305@openssh.com", "aes256-ctr", ""])
def test_with_other_ciphers_bytes_are_handed_on_as_they_come(cipher: str) -> None:
    """Their lengths are encrypted."""
    ssh = Ssh(cipher)
    ssh.feed(START)
    for part in (b"\xff" * 10, b"\0" * 70_000, b"x"):
        before = len(b"".join(ssh.handed))
        ssh.feed(part)
        assert len(b"".join(ssh.handed)) == before + len(part)


def test_a_cipher_agreed_on_later_is_noticed() -> None:
    """With new keys in the midst of a connection, be it in the midst of a packet."""
    for begun in (b"", sealed(1 << 20)[:300_000]):
        ssh = Ssh()
        ssh.feed(START + sealed(100) + begun)
        ssh.agreed = "chacha20-poly1305@openssh.com"
        ssh.feed(b"\0" * 100)
        assert b"".join(ssh.handed) == START + sealed(100) + begun + b"\0" * 100
        assert len(ssh.reading.get_buffer(-1)) == 1 << 16


@pytest.mark.parametrize("most", [1 << 30, 150, 7])
def test_a_connection_that_has_failed_is_handed_nothing_more(most: int) -> None:
    """What came after the packet it failed over is nobody's, whether it came along with it or later."""
    ssh = Ssh()
    ssh.fails_over = 5
    ssh.feed(START + sealed(100) * 20 + sealed(1 << 20), most)
    assert ssh.handed[4:] == [sealed(100)]


def test_a_large_packet_that_comes_slowly_is_a_sign_of_life() -> None:
    """The connection would take a client for dead that is busy sending."""
    ssh = Ssh()
    ssh.feed(START + sealed(1 << 20)[:BLOCK])
    for number in range(20):
        ssh.feed(bytes(1000))
        assert ssh.lives == number + 1


def test_the_claim_of_a_large_packet_takes_no_memory_once_it_was_refused() -> None:
    """Its head is enough to refuse it; room is made when the rest is to be read."""
    ssh = Ssh()
    ssh.fails_over = 5
    ssh.feed(START + sealed(1 << 20)[:BLOCK])
    assert len(ssh.reading.get_buffer(-1)) <= len(ssh.reading._buffer) <= 1 << 16


def test_what_a_connection_is_told_of_its_socket() -> None:
    """The rest of the protocol goes through as it is."""
    ssh, error = Ssh(), OSError("gone")
    reading: Any = ssh.reading
    reading.pause_writing()
    reading.resume_writing()
    assert reading.eof_received() is True
    reading.connection_lost(error)
    assert ssh.said == ["pause", "resume", "eof", error]
