"""AES-GCM for SSH packets (RFC 5647) with fewer copies than the library's own.

At a megabyte a packet, copying costs more than the cipher: the library cuts the ciphertext from its tag and joins it to
the header and the tag again; on the way in it joins a packet twice and cuts it twice. Here it is joined once before it
leaves, and a large packet of channel data is given on as a view of what was decrypted. The cipher itself is that of
`cryptography`, as the library's own is.
"""

import functools
import inspect
from typing import Any, Self

from asyncssh import encryption
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NAMES = {"aes128-gcm@openssh.com": "aes128-gcm", "aes256-gcm@openssh.com": "aes256-gcm"}
"""SSH's names of the ciphers, and the library's."""
TAG = 16
"""Bytes of the tag behind each packet."""
BLOCK = 16
"""Bytes of a packet, its length's four among them, that the library looks at before the rest has come."""
LARGE = 512 << 10
"""A packet of channel data from this size on is given on as a view: whoever takes such packets copes with one."""
_CHANNEL_DATA = 94
_CALLED_WITH = {
    "new": "cipher_name key iv mac_alg mac_key etm",
    "needs_mac": "",
    "get_mac_params": "mac_alg",
    "encrypt_packet": "self seq header packet",
    "decrypt_header": "self seq first_block header_len",
    "decrypt_packet": "self seq first rest header_len mac",
}


class Gcm(encryption.GCMEncryption):
    """One direction of a connection, from one key exchange to the next."""

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._aead = AESGCM(key)
        self._algorithm = algorithms.AES(key)
        self._fixed = iv[:4]
        self._count = int.from_bytes(iv[4:], "big")

    @classmethod
    def new(cls, *words: Any, **_named: Any) -> Self:
        """As the library asks for one: of what it says only the key and where the count begins matter."""
        _, key, iv, *_ = words
        return cls(key, iv)

    def _nonce(self) -> bytes:
        nonce = self._fixed + self._count.to_bytes(8, "big")
        self._count = (self._count + 1) & 0xFFFF_FFFF_FFFF_FFFF
        return nonce

    def encrypt_packet(self, _seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        """The header as it is, and the ciphertext with its tag behind it: the library joins both."""
        return header, self._aead.encrypt(self._nonce(), packet, header)

    def decrypt_packet(  # type: ignore[override] # a view of bytes, where the reader copes with it
        self, _seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes
    ) -> bytes | memoryview | None:
        """What the packet holds, after its length; None if its tag does not fit."""
        header, start, nonce = first[:header_len], first[header_len:], self._nonce()
        try:
            if len(rest) < LARGE:
                return self._aead.decrypt(nonce, b"".join((start, rest, mac)), header)
            return self._open_large(nonce, header, start, rest, mac)
        except InvalidTag:
            return None

    def _open_large(self, nonce: bytes, header: bytes, start: bytes, rest: bytes, mac: bytes) -> bytes | memoryview:
        size = len(start) + len(rest)
        room = memoryview(bytearray(size + BLOCK))  # it asks for a block more than it writes
        engine = Cipher(self._algorithm, modes.GCM(nonce, mac)).decryptor()
        engine.authenticate_additional_data(header)
        engine.update_into(start, room)
        engine.update_into(rest, room[len(start) :])
        engine.finalize()
        found = room[:size]
        return found if found[1] == _CHANNEL_DATA else bytes(found)


@functools.cache
def install() -> bool:
    """Have the connections of this process use it; False, and nothing done, where the library's own differs."""
    if not fits(encryption.GCMEncryption):
        return False
    for name, cipher in NAMES.items():
        encryption.register_encryption_alg(name.encode("ascii"), Gcm, cipher, default=False)
    return True


def fits(own: type[object]) -> bool:
    """Whether it can stand in for the library's class: one that is called with the arguments we know."""

    def arguments(name: str) -> str:
        method = getattr(own, name, None)
        return "" if method is None else " ".join(inspect.signature(method).parameters)

    return all(arguments(name) == known for name, known in _CALLED_WITH.items())
