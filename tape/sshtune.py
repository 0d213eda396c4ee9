"""SSH as both sides speak it: algorithms, packet and window sizes, the allocator, sockets.

Everything here was measured; docs/ssh-tuning.md says what each setting brings. Values are for both
sides, so that they fit each other; an ordinary OpenSSH on either end works with them too.
"""

import ctypes
import functools
import socket
import sys
from collections.abc import Sequence
from typing import Any

import asyncssh

from tape import sshgcm

BANNER = "Hometape"
"""Part of the version our server announces: only it may be sent close and rename unawaited."""

KIB = 1 << 10
MIB = 1 << 20
WRITE = MIB
"""One SFTP write to our receiver, bytes."""
WRITE_PLAIN = 255 * KIB
"""One SFTP write to any other server, bytes: the most that OpenSSH takes."""
PACKET = MIB + KIB
"""The SSH packet our receiver accepts from our agent: one write with its header."""
PACKET_PLAIN = 32 * KIB
"""The packet to accept from other clients: a larger one makes OpenSSH slower."""
WINDOW = 16 * MIB
"""Bytes one session may have under way; the server's memory is sessions times this at the worst."""
REKEY_BYTES = 32 << 30
REKEY_SECONDS = 3600

_KEX = (
    "mlkem768x25519-sha256",
    "sntrup761x25519-sha512",
    "sntrup761x25519-sha512@openssh.com",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
)
_ENCRYPTION = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes256-ctr",
)
_MAC = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
_SIGNATURE = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8


@functools.cache
def _known(kind: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """Those algorithms of a list that this installation has; which ones depends on its cryptography."""
    found = []
    for name in wanted:
        try:
            asyncssh.SSHClientConnectionOptions(config=None, **{kind: [name]})
        except ValueError:
            continue
        found.append(name)
    return tuple(found)


def algorithms() -> dict[str, Any]:
    """Keyword arguments for `asyncssh.connect`, `listen` and their reverse twins: what is offered, fastest first.

    Modern algorithms only, no compression; a new key after 32 GiB or an hour, so that rekeying does not show.
    From here on AES-GCM is `tape.sshgcm`'s in this process.
    """
    sshgcm.install()
    return {
        "kex_algs": list(_known("kex_algs", _KEX)),
        "encryption_algs": list(_known("encryption_algs", _ENCRYPTION)),
        "mac_algs": list(_known("mac_algs", _MAC)),
        "signature_algs": list(_known("signature_algs", _SIGNATURE)),
        "compression_algs": None,
        "rekey_bytes": REKEY_BYTES,
        "rekey_seconds": REKEY_SECONDS,
    }


def host_key_algorithms(key_types: Sequence[str]) -> list[str]:
    """What to ask a server whose pinned keys are of these types (`ssh-ed25519`, `ssh-rsa`, ...) to prove itself with.

    An RSA key is used with SHA-2 signatures only. Types that are not known are left out.
    """
    found: list[str] = []
    for kind in key_types:
        found += ["rsa-sha2-512", "rsa-sha2-256"] if kind == "ssh-rsa" else [kind] if kind in _SIGNATURE else []
    return list(dict.fromkeys(found))


def is_hometape(version: str) -> bool:
    """Whether an SSH version text (`SSH-2.0-...`) is that of our own server or client."""
    return BANNER in version


def packet_for(client_version: str) -> int:
    """The largest SSH packet to accept from a client, bytes: large from our agent, ordinary from others."""
    return PACKET if is_hometape(client_version) else PACKET_PLAIN


def tune_allocator() -> bool:
    """Keep freed memory for the next packet instead of handing it back; call once, at the start of a process.

    glibc otherwise maps and unmaps a megabyte for every packet, which costs three quarters of the rate.
    Returns whether the system took it: False where there is no glibc (Windows, macOS, musl).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    wanted = (
        (_M_MMAP_THRESHOLD, 32 * MIB),
        (_M_TRIM_THRESHOLD, 512 * MIB),
        (_M_TOP_PAD, 32 * MIB),
        (_M_ARENA_MAX, 1),  # threads share what is kept: each arena of its own would keep as much again
    )
    taken = [mallopt(option, value) for option, value in wanted]  # all of them, whatever one answers
    return taken == [1] * len(wanted)


def tune_socket(sock: Any, congestion: str = "") -> str:
    """Set a connection's options; returns the congestion control in use ("" where that can't be asked).

    `sock` is a socket or what an asyncio or uvloop transport gives as one. `congestion`, such as `bbr`, is
    used if the kernel has it, else its default stays. Never raises: a connection works without.
    """
    if sock is None or getattr(sock, "family", None) not in (socket.AF_INET, socket.AF_INET6):
        return ""
    number = getattr(socket, "TCP_CONGESTION", None)
    if number is None:
        return ""
    try:
        if congestion:
            sock.setsockopt(socket.IPPROTO_TCP, number, congestion.encode("ascii"))
    except (OSError, UnicodeEncodeError):
        pass  # the kernel has none of that name, or does not allow it
    try:
        found: bytes = sock.getsockopt(socket.IPPROTO_TCP, number, 16)
    except OSError:
        return ""
    return found.rstrip(b"\0").decode("ascii", "replace")
