"""What a remote is, and what it can truly prove of the bytes it keeps. Asked of rclone once.

A checksum proves a copy only where the store computed it from the bytes it got. Some stores hand back what the
uploader claimed (Nextcloud, Azure, the parts of a multipart upload): those count as having none. Kinds that
are not listed here, or are stacked on one another in ways that hide the store, are proven by downloading.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

from receiver.targets.rclone import Patience, Rclone
from receiver.targets.rclone_errors import fault_of
from tape.digest import Hasher
from tape.durable import WINDOWS
from tape.errors import TargetAbsent, TargetError

DOWNLOAD = "download"
# Kinds whose store computes (or checks on arrival) the checksums that rclone reads from it.
_COMPUTED = {"local", "sftp", "s3", "b2", "drive", "dropbox", "google cloud storage", "box", "onedrive", "pcloud"}
_IN_PARTS = {"s3", "b2"}  # above this size only the uploader's claim is left
_SECRET = ("pass", "secret", "key", "token", "credential", "auth", "sas_url", "url")
_CAUTIOUS = Patience(idle=60, whole=90, connect=10, silent=30, tries=2)
_DEEPEST = 8


@dataclass(frozen=True, slots=True)
class Kind:
    """A remote as rclone knows it.

    type: rclone's name of its kind; crypt: what is stored is encrypted here, over `base`; hash: the checksum a copy
    is proven with ("": none, so it is downloaded); parts: whether large files may be stored in parts.
    """

    type: str
    crypt: bool = False
    base: str = ""
    hash: str = ""
    parts: bool = False
    secrets: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """How copies are proven there, in words."""
        if not self.hash:
            return DOWNLOAD
        return f"cryptcheck {self.hash}" if self.crypt else f"remote {self.hash}"


def learn(rclone: Rclone, remote: str) -> Kind:
    """Find out what a remote is; raises TargetError and its children."""
    config = configuration(rclone)
    name = remote.partition(":")[0]
    kind, base = _resolve(config, remote)
    crypt = kind == "crypt"
    store = base if crypt else kind
    found = _hashes(rclone, _base_of(config, remote) if crypt else remote) if store in _COMPUTED else []
    usable = found[:1] if crypt else [one for one in HASHES if one in found]
    return Kind(
        type=kind,
        crypt=crypt,
        base=base,
        hash=usable[0] if usable else "",
        parts=store in _IN_PARTS,
        secrets=secrets_of(config, name),
    )


def configuration(rclone: Rclone) -> dict[str, dict[str, str]]:
    """Every remote that rclone knows, its options included: it stays in memory. Raises TargetError and its children."""
    ended = rclone.run("config", "dump", patience=_CAUTIOUS)
    if ended.code != 0:
        raise fault_of(rclone.name, ended, doing="reading rclone's configuration")
    try:
        plain: Any = json.loads(ended.out or b"{}")
    except ValueError as error:
        raise TargetError(f"target {rclone.name}: rclone's configuration can't be read: {error}") from error
    known = {str(name): {str(k): str(v) for k, v in options.items()} for name, options in plain.items()}
    return {**known, **_from_environment(os.environ, known)}


def _from_environment(given: Mapping[str, str], known: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Remotes, or options of remotes, that stand in variables `RCLONE_CONFIG_NAME_OPTION`."""
    found: dict[str, dict[str, str]] = {}
    by_upper = {_upper(name): name for name in known}
    types = [key for key in given if key.startswith("RCLONE_CONFIG_") and key.endswith("_TYPE")]
    for key in types:
        upper = key.removeprefix("RCLONE_CONFIG_").removesuffix("_TYPE")
        by_upper.setdefault(upper, upper.lower())
    for upper, name in by_upper.items():
        prefix = f"RCLONE_CONFIG_{upper}_"
        options = {key.removeprefix(prefix).lower(): value for key, value in given.items() if key.startswith(prefix)}
        if options:
            found[name] = {**known.get(name, {}), **options}
    return found


def _upper(name: str) -> str:
    return name.upper().replace("-", "_")


def _entry(config: Mapping[str, dict[str, str]], name: str) -> dict[str, str]:
    if name in config:
        return config[name]
    return next((options for known, options in config.items() if _upper(known) == _upper(name)), {})


def _resolve(config: Mapping[str, dict[str, str]], remote: str) -> tuple[str, str]:
    """(kind, kind of what a crypt lies on or ""), aliases followed. Raises TargetAbsent for a name rclone lacks."""
    kind, at = _follow(config, remote)
    if kind != "crypt":
        return kind, ""
    return kind, _follow(config, at.get("remote", ""))[0]


def _base_of(config: Mapping[str, dict[str, str]], remote: str) -> str:
    return _follow(config, remote)[1].get("remote", "")


def _follow(config: Mapping[str, dict[str, str]], remote: str) -> tuple[str, dict[str, str]]:
    for _ in range(_DEEPEST):
        name, colon, _ = remote.partition(":")
        if not colon or "/" in name or (WINDOWS and len(name) == 1):  # one letter is a drive there, else a remote
            return "local", {}
        if not name:  # made up on the fly: `:type,options:path`
            return remote[1:].partition(":")[0].partition(",")[0], {}
        options = _entry(config, name)
        if not options:
            raise TargetAbsent(
                f"rclone knows no remote {name!r}",
                hint="`tape-receiver remote add` makes one; or set `rclone_config` of the target",
            )
        kind = options.get("type", "")
        if kind != "alias":
            return kind, options
        remote = options.get("remote", "")
    raise TargetError(f"{remote!r}: aliases in rclone's configuration go round in a circle")


def secrets_of(config: Mapping[str, dict[str, str]], name: str) -> tuple[str, ...]:
    """What must never be shown of a remote and of those it lies on."""
    found: set[str] = set()
    for _ in range(_DEEPEST):
        options = _entry(config, name)
        found |= {
            value
            for key, value in options.items()
            if len(value) >= 6 and any(word in key for word in _SECRET[:-1]) and value not in ("true", "false")
        }
        under = options.get("remote", "").partition(":")[0]
        if not under or under == name:
            break
        name = under
    return tuple(sorted(found, key=len, reverse=True))


def _hashes(rclone: Rclone, remote: str) -> list[str]:
    ended = rclone.run("backend", "features", remote, patience=_CAUTIOUS)
    if ended.code != 0:
        raise fault_of(rclone.name, ended, doing="asking what it can do")
    try:
        return [str(one) for one in json.loads(ended.out).get("Hashes") or []]
    except (ValueError, AttributeError) as error:
        raise TargetError(f"target {rclone.name}: rclone's answer about it can't be read") from error


class _DropboxHash:
    """SHA-256 over the SHA-256 of each 4 MiB, as Dropbox computes it."""

    _BLOCK = 4 * 2**20

    def __init__(self) -> None:
        self._outer = hashlib.sha256()
        self._inner = hashlib.sha256()
        self._room = self._BLOCK

    def update(self, data: bytes | memoryview, /) -> None:
        """Add bytes."""
        view = memoryview(data)
        while view:
            part = view[: self._room]
            self._inner.update(part)
            self._room -= len(part)
            view = view[len(part) :]
            if not self._room:
                self._close()

    def _close(self) -> None:
        self._outer.update(self._inner.digest())
        self._inner, self._room = hashlib.sha256(), self._BLOCK

    def hexdigest(self) -> str:
        """The value, hex; nothing can be added after."""
        if self._room < self._BLOCK:
            self._close()
        return self._outer.hexdigest()


def _md5() -> Hasher:
    return hashlib.md5(usedforsecurity=False)


def _sha1() -> Hasher:
    return hashlib.sha1(usedforsecurity=False)


# What we can compute ourselves, the best first where a remote offers several.
HASHES: dict[str, Any] = {
    "xxh128": xxhash.xxh3_128,
    "sha256": hashlib.sha256,
    "sha1": _sha1,
    "md5": _md5,
    "dropbox": _DropboxHash,
}


def new_hash(name: str) -> Hasher:
    """A streaming checksum by rclone's name of it."""
    made: Hasher = HASHES[name]()
    return made
