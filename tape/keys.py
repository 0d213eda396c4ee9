"""SSH and receipt keys on disk: made once, readable by their owner only, shown as one line."""

import contextlib
import sys
from pathlib import Path

import asyncssh
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tape.durable import DISK, Disk
from tape.errors import ConfigError
from tape.receipt import load_private, new_key, private_text, public_text

HOST_KEY = "host_key"
RECEIPT_KEY = "receipt_key"


def make_ssh_key(path: Path, comment: str, *, disk: Disk = DISK) -> asyncssh.SSHKey:
    """Create an ed25519 key pair (`path`, `path`.pub), or load the one that is there. Raises ConfigError, DiskError."""
    if path.exists():
        return load_ssh_key(path)
    key = asyncssh.generate_private_key("ssh-ed25519", comment=comment)
    disk.make_dirs(path.parent)
    disk.write_new(path, key.export_private_key())
    _owner_only(path)
    disk.replace(path.with_name(path.name + ".pub"), key.export_public_key())
    return key


def load_ssh_key(path: Path) -> asyncssh.SSHKey:
    """Read a private key; raises ConfigError."""
    try:
        return asyncssh.read_private_key(path)
    except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise ConfigError(f"{path}: the private key can't be read: {error}", hint="run `init` to make one") from error


def public_line(key: asyncssh.SSHKey) -> str:
    """`ssh-ed25519 AAAA...` without the comment, as configurations hold it."""
    return " ".join(key.export_public_key().decode("ascii").split()[:2])


def make_receipt_key(path: Path, *, disk: Disk = DISK) -> Ed25519PrivateKey:
    """Create the receipt signing key, or load the one that is there. Raises ReceiptError, DiskError."""
    if not path.exists():
        disk.make_dirs(path.parent)
        disk.write_new(path, private_text(new_key()))
        _owner_only(path)
    return load_receipt_key(path)


def load_receipt_key(path: Path) -> Ed25519PrivateKey:
    """Read the receipt signing key; raises ConfigError, ReceiptError."""
    try:
        return load_private(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: the receipt key can't be read: {error}", hint="run `tape-receiver init`") from error


def receipt_line(key: Ed25519PrivateKey) -> str:
    """The public half as one line for agent.toml."""
    return public_text(key.public_key())


def _owner_only(path: Path) -> None:
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # a file system without modes
            path.chmod(0o600)
