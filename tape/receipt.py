"""Receipts: what the receiver signs, per stream, and the only thing that flows back.

JSON with an ed25519 signature over its canonical form. Ranges are inclusive `[first, last]` of seq.
`issued` grows with every receipt of a stream, so that an old one can't be played again.
"""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tape.errors import ConfigError, ReceiptError

VERSION = 1
_PREFIX = "hometape-receipt-key "

Ranges = tuple[tuple[int, int], ...]


def to_ranges(numbers: Iterable[int]) -> Ranges:
    """Ascending distinct numbers as inclusive ranges."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return tuple(found)


def covers(ranges: Ranges, number: int) -> bool:
    """Whether a number lies in one of the ranges."""
    return any(first <= number <= last for first, last in ranges)


@dataclass(frozen=True, slots=True)
class EpochReceipt:
    """One epoch of a stream as the receiver holds it.

    held: durable at home. safe: as many verified copies as the policy demands. refused: quarantined
    or in conflict, with the reason. resend: arrived damaged or lost here; send again.
    """

    held: Ranges = ()
    safe: Ranges = ()
    refused: tuple[tuple[int, str], ...] = ()
    resend: Ranges = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """The signed answer for one stream. `issued_ns` is the receiver's clock and only ever grows."""

    agent: str
    stream: str
    issued_ns: int
    epochs: dict[str, EpochReceipt] = field(default_factory=dict)

    def sign(self, key: Ed25519PrivateKey) -> bytes:
        """The receipt as it is served."""
        body = _canonical(self._plain())
        signature = base64.b64encode(key.sign(body)).decode("ascii")
        return _canonical({"receipt": self._plain(), "signature": signature}) + b"\n"

    def _plain(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "agent": self.agent,
            "stream": self.stream,
            "issued_ns": self.issued_ns,
            "epochs": {
                epoch: {"held": e.held, "safe": e.safe, "refused": e.refused, "resend": e.resend}
                for epoch, e in self.epochs.items()
            },
        }


def open_receipt(data: bytes, key: Ed25519PublicKey, *, agent: str, stream: str, newer_than_ns: int = -1) -> Receipt:
    """Verify and read a receipt; raises ReceiptError if it is damaged, foreign, stale or not signed by `key`."""
    try:
        outer = json.loads(data)
        plain = outer["receipt"]
        key.verify(base64.b64decode(outer["signature"], validate=True), _canonical(plain))
    except InvalidSignature:
        raise ReceiptError(f"receipt of stream {stream}: the signature is wrong") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ReceiptError(f"receipt of stream {stream}: can't be read: {error}") from error
    if plain.get("version") != VERSION:
        raise ReceiptError(
            f"receipt of stream {stream}: version {plain.get('version')!r} is not known",
            hint="update hometape",
        )
    if (plain["agent"], plain["stream"]) != (agent, stream):
        raise ReceiptError(f"receipt of stream {stream}: it is for {plain['agent']}/{plain['stream']}")
    if plain["issued_ns"] < newer_than_ns:
        raise ReceiptError(f"receipt of stream {stream}: older than one already seen")
    return Receipt(agent, stream, plain["issued_ns"], {name: _epoch(part) for name, part in plain["epochs"].items()})


def _epoch(part: dict[str, Any]) -> EpochReceipt:
    def ranges(key: str) -> Ranges:
        return tuple((int(first), int(last)) for first, last in part[key])

    refused = tuple((int(seq), str(why)) for seq, why in part["refused"])
    return EpochReceipt(held=ranges("held"), safe=ranges("safe"), refused=refused, resend=ranges("resend"))


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def new_key() -> Ed25519PrivateKey:
    """A fresh signing key."""
    return Ed25519PrivateKey.generate()


def private_text(key: Ed25519PrivateKey) -> bytes:
    """PEM (PKCS 8, not encrypted) for a file only the receiver can read."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_private(data: bytes) -> Ed25519PrivateKey:
    """Read what `private_text` wrote; raises ReceiptError."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError) as error:
        raise ReceiptError(f"the receipt signing key can't be read: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ReceiptError("the receipt signing key is not an ed25519 key")
    return key


def public_text(key: Ed25519PublicKey) -> str:
    """The one line that goes into agent.toml as `receiver.receipt_key`."""
    return _PREFIX + base64.b64encode(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode("ascii")


def load_public(text: str) -> Ed25519PublicKey:
    """Read what `public_text` wrote, from agent.toml; raises ConfigError."""
    try:
        if not text.startswith(_PREFIX):
            raise ValueError(f"it does not start with {_PREFIX.strip()!r}")
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text[len(_PREFIX) :].strip(), validate=True))
    except ValueError as error:
        raise ConfigError(f"receiver.receipt_key can't be read: {error}", hint=ReceiptError.default_hint) from error
