"""Trying a remote out with one file of its own: what works there, what proves a copy, how fast it is."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from receiver.settings import TargetSettings
from receiver.targets.contract import Parcel, Proof
from receiver.targets.remote_proof import Prover
from receiver.targets.remote_stage import blocks_of
from receiver.targets.remote_store import RemoteStore
from tape.checks import Finding
from tape.clock import SYSTEM, Clock
from tape.digest import xxh3
from tape.durable import named
from tape.errors import DigestMismatch, HometapeError, NotFound

PROBE_FOLDER = ".hometape-probe"
_WARNING, _CRITICAL = 1, 2


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    root: Path
    data: bytes

    def parcel(self) -> Parcel:
        """The file as what is proven."""
        copy = self.root / self.path
        return Parcel(self.path, len(self.data), xxh3(self.data), lambda: blocks_of(copy), local=copy)


class Probe:
    """One try of one remote. Writes below `.hometape-probe/` only, and clears up behind itself."""

    def __init__(self, entry: TargetSettings, state: Path, *, size: int, clock: Clock = SYSTEM) -> None:
        self._entry = entry
        self._store = RemoteStore(entry, state, clock=clock)
        self._prover = Prover(self._store, 1.0)
        self._size = size
        self._clock = clock

    def run(self) -> Iterator[Finding]:
        """What each step found, as it is made; nothing after a step that the others need."""
        what = self._entry.id
        try:
            marker = self._store.marker()
            kind = self._store.kind
        except HometapeError as error:
            yield Finding(what, _CRITICAL, str(error), error.hint)
            return
        mine = marker["id"] == what
        name = f"crypt over {kind.base}" if kind.crypt else kind.type
        yield Finding(
            f"{what} place",
            0 if mine else _CRITICAL,
            f"{self._entry.remote} ({name}) is marked as target {marker['id']!r}",
            "" if mine else "the configuration names the wrong remote or folder",
        )
        with self._store.stage.fresh() as root:
            file = _File(f"{PROBE_FOLDER}/{secrets.token_hex(8)}.bin", root, secrets.token_bytes(self._size))
            with named(root / file.path, "writing"):
                (root / file.path).parent.mkdir()
                (root / file.path).write_bytes(file.data)
            yield from self._steps(file)

    def _steps(self, file: _File) -> Iterator[Finding]:
        steps: list[tuple[str, Callable[[_File], str], int]] = [
            ("write", self._write, _CRITICAL),
            ("proof", self._prove, _CRITICAL),
            ("read", self._read, _CRITICAL),
            ("list", self._list, _CRITICAL),
            ("never replaces", self._replace, _CRITICAL),
            ("set aside", self._move, _WARNING),
            ("delete", self._delete, _WARNING),
        ]
        for name, step, level in steps:
            what = f"{self._entry.id} {name}"
            try:
                yield Finding(what, 0, step(file))
            except HometapeError as error:
                yield Finding(what, level, str(error), error.hint)
                if name == "write":
                    return

    def _write(self, file: _File) -> str:
        began = self._clock.monotonic()
        self._send(file.root, file.path)
        return self._rate(began)

    def _send(self, root: Path, path: str) -> None:
        sent = self._store.send(root, [path])
        fault = sent.fault or sent.errors.get(path)
        if fault is not None:
            raise fault

    def _rate(self, began: float) -> str:
        seconds = max(self._clock.monotonic() - began, 1e-3)
        return (
            f"{self._size:,} bytes in {seconds:.2f} s, {self._size / seconds / 2**20:.2f} MiB/s with the start of a run"
        )

    def _prove(self, file: _File) -> str:
        proof = self._prover.prove([file.parcel()])[0]
        if not isinstance(proof, Proof):
            raise proof
        if proof.digest != xxh3(file.data):
            raise DigestMismatch(f"target {self._entry.id} gives other bytes back than it was given")
        share = self._entry.sample
        part = f", of {share:.3g} of the copies" if not self._store.kind.hash and share < 1 else ""
        return f"copies are proven by {proof.method}{part}"

    def _read(self, file: _File) -> str:
        began = self._clock.monotonic()
        with self._store.stage.fresh() as folder:
            copy = self._store.fetch([file.path], folder)[file.path]
            if isinstance(copy, HometapeError):
                raise copy
            data = b"".join(blocks_of(copy))
        if data != file.data:
            raise DigestMismatch(f"target {self._entry.id} gives other bytes back than it was given")
        return self._rate(began)

    def _list(self, file: _File) -> str:
        found: dict[str, int] = {}
        self._store.walk(PROBE_FOLDER, lambda path, size: found.update({path: size}))
        if found.get(file.path) != len(file.data):
            raise NotFound(f"target {self._entry.id} does not list what was just stored, or with a wrong size")
        return "what was stored is listed with its size"

    def _replace(self, file: _File) -> str:
        """Other bytes under the same name must not get in."""
        with self._store.stage.fresh() as other:
            with named(other / file.path, "writing"):
                (other / file.path).parent.mkdir()
                (other / file.path).write_bytes(b"other bytes")
            self._store.send(other, [file.path])
        size = self._store.stat(file.path)
        if size != len(file.data):
            raise DigestMismatch(f"target {self._entry.id} replaced a file that was there")
        return "other bytes under the same name were not taken"

    def _move(self, file: _File) -> str:
        self._store.move(file.path, f"{file.path}.aside")
        if self._store.stat(f"{file.path}.aside") != len(file.data):
            raise NotFound(f"target {self._entry.id} lost a file that was renamed")
        return "a bad copy can be put out of the way"

    def _delete(self, file: _File) -> str:
        self._store.delete([f"+ /{file.path}*"])
        left = [path for path in (file.path, f"{file.path}.aside") if self._store.stat(path) is not None]
        if left:
            raise NotFound(
                f"target {self._entry.id} keeps {left[0]}",
                hint="fine for a key that may only add; a bad copy can't be put aside there then",
            )
        return "the probe was cleared away"
