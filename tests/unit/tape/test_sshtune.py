"""SSH settings: they are taken by the library, and the system really uses them."""

import socket
import sys
from pathlib import Path

import asyncssh
import pytest

from tape import sshtune
from tests.support import run


def test_the_lists_are_taken_and_the_fast_cipher_is_first() -> None:
    """Asyncssh accepts every algorithm on offer; weak ones are not on offer, and compression is off."""
    offered = sshtune.algorithms()
    options = asyncssh.SSHClientConnectionOptions(config=None, **offered)
    assert options.encryption_algs[0] == b"aes128-gcm@openssh.com"
    assert b"curve25519-sha256" in options.kex_algs
    names = " ".join(name for kind, names in offered.items() if kind.endswith("_algs") for name in names or ())
    assert not any(weak in names for weak in ("sha1", "cbc", "md5", "arcfour", "3des", "umac-64", "ssh-rsa", "dss"))
    assert options.compression_algs == [b"none"]


def test_what_this_installation_lacks_is_not_offered() -> None:
    """An algorithm the library does not know is left out instead of failing the start."""
    assert sshtune._known("kex_algs", ("no-such-kex", "curve25519-sha256")) == ("curve25519-sha256",)


def test_a_pinned_rsa_key_is_never_used_with_sha1() -> None:
    """Host keys are asked for by the pinned types, RSA with SHA-2 only, unknown types not at all."""
    assert sshtune.host_key_algorithms(["ssh-rsa", "ssh-ed25519", "ssh-dss", "ssh-rsa"]) == [
        "rsa-sha2-512",
        "rsa-sha2-256",
        "ssh-ed25519",
    ]


def test_only_our_own_client_gets_the_large_packet() -> None:
    """OpenSSH keeps its ordinary packet size, a Hometape client sends a write in one packet."""
    assert sshtune.packet_for("SSH-2.0-Hometape_0.1") > sshtune.WRITE
    assert sshtune.packet_for("SSH-2.0-OpenSSH_9.2p1") == sshtune.PACKET_PLAIN


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator is glibc's")
def test_the_allocator_keeps_what_a_packet_needed() -> None:
    """With the tuning a megabyte allocated again and again costs no page faults; without it, it does."""
    code = (
        "import resource, sys; from tape import sshtune\n"
        "assert sys.argv[1] == 'no' or sshtune.tune_allocator()\n"
        "bytes(2 << 20)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(50): a, b = b'x' * (2 << 20), b'y' * (2 << 20); del a, b\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    faults = {word: int(run([sys.executable, "-c", code, word], code=0).out) for word in ("yes", "no")}
    assert faults["yes"] < 5_000 < faults["no"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not let a socket choose")
def test_a_socket_gets_the_congestion_control_asked_for() -> None:
    """One the kernel has is used, one it does not have changes nothing, a socket without TCP is left alone."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        default = sshtune.tune_socket(sock)
        assert sshtune.tune_socket(sock, "no-such-control") == default
        available = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
        for name in available.read_text(encoding="ascii").split() if available.exists() else []:
            assert sshtune.tune_socket(sock, name) == name
    assert sshtune.tune_socket(None, "bbr") == ""
