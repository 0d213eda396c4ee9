"""Proving copies at a remote by what it can truly prove, the cheapest honest way first.

crypt         `rclone cryptcheck`: our good bytes, encrypted again with the nonce that is stored there, give the
              checksum that the store computed of what it keeps
checksum      the store's own checksum against ours of known good bytes
download      the bytes themselves, all of them, or of a random share with the sizes of the rest

The good bytes are read anew and must have the digest that the segment's name promises; where they can't be had
(home is what is bad), the copy is downloaded: a copy is never blamed for what is wrong elsewhere.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from receiver.targets.contract import Parcel, Proof
from receiver.targets.rclone import SINGLE_PART
from receiver.targets.rclone_kinds import DOWNLOAD
from receiver.targets.remote_stage import Known, common_root, digests_of, know
from receiver.targets.remote_store import RemoteStore
from tape.durable import named
from tape.errors import DigestMismatch, HometapeError, NotFound

_AT_A_TIME = 256 * 2**20
_GRAIN = 10**6
Answer = Proof | HometapeError


class Prover:
    """Proves copies at one remote. sample: the share that is downloaded where there is no checksum."""

    def __init__(
        self, store: RemoteStore, sample: float, known: Callable[[Parcel], Known | None] = lambda _: None
    ) -> None:
        self._store = store
        self._sample = sample
        self._remembered = known

    def prove(self, parcels: Sequence[Parcel]) -> list[Answer]:
        """One answer a parcel; raises what concerns the whole target."""
        answers: dict[str, Answer] = {}
        kind = self._store.kind
        if kind.hash:
            checkable = [parcel for parcel in parcels if not (kind.parts and parcel.size > SINGLE_PART)]
            answers = self._by_cryptcheck(checkable) if kind.crypt else self._by_checksum(checkable)
            self._by_download([parcel for parcel in parcels if parcel.path not in answers], answers)
        else:
            self._by_sample(parcels, answers)
        return [answers[parcel.path] for parcel in parcels]

    # ---------------------------------------------------------------------------------------- checksums

    def _by_checksum(self, parcels: Sequence[Parcel]) -> dict[str, Answer]:
        answers: dict[str, Answer] = {}
        good = {parcel.path: found for parcel in parcels if (found := self._known(parcel)) is not None}
        there = self._store.sizes([parcel.path for parcel in parcels], hash_name=self._store.kind.hash)
        for parcel in parcels:
            if parcel.path not in there:
                answers[parcel.path] = NotFound(f"target {self._store.id} has no {parcel.path}")
                continue
            size, value = there[parcel.path]
            ours = good.get(parcel.path)
            if size not in (parcel.size, -1):
                answers[parcel.path] = self._wrong(parcel, f"it has {size} bytes, not {parcel.size}")
            elif ours is not None and value:
                method = self._store.kind.method
                answers[parcel.path] = (
                    Proof(ours.size, ours.digest, ours.sha256, method)
                    if value.lower() == ours.value
                    else self._wrong(parcel, f"{method} gives {value}, not {ours.value}")
                )
        return answers

    def _by_cryptcheck(self, parcels: Sequence[Parcel]) -> dict[str, Answer]:
        answers: dict[str, Answer] = {}
        with self._store.stage.fresh() as folder:
            root = common_root(parcels)
            good: dict[str, Known] = {}
            for parcel in parcels:
                found = self._known(parcel) if root is not None else self._staged(parcel, folder)
                if found is not None:
                    good[parcel.path] = found
            if not good:
                return answers
            signs = self._store.cryptcheck(root or folder, list(good))
        lacking = [path for path, sign in signs.items() if sign == "+"]
        there = self._store.sizes(lacking) if lacking else {}  # what could not be looked at is not missing
        for parcel in parcels:
            ours, sign = good.get(parcel.path), signs.get(parcel.path, "")
            if ours is not None and sign == "=":
                answers[parcel.path] = Proof(ours.size, ours.digest, ours.sha256, self._store.kind.method)
            elif sign == "*" and self._fresh(parcel):
                answers[parcel.path] = self._wrong(parcel, f"{self._store.kind.method} differs")
            elif sign == "+" and parcel.path not in there:
                answers[parcel.path] = NotFound(f"target {self._store.id} has no {parcel.path}")
        return answers

    def _staged(self, parcel: Parcel, folder: Path) -> Known | None:
        copy = folder / parcel.path
        try:
            with named(copy, "writing"):
                copy.parent.mkdir(parents=True, exist_ok=True)
                with copy.open("wb") as file:
                    return know(parcel, self._hash, file.write)
        except HometapeError:
            copy.unlink(missing_ok=True)
            return None

    def _known(self, parcel: Parcel) -> Known | None:
        """What the good bytes are; None if they can't be had."""
        found = self._remembered(parcel)
        if found is not None:
            return found
        try:
            return know(parcel, self._hash)
        except HometapeError:
            return None

    def _fresh(self, parcel: Parcel) -> bool:
        """Whether our side is still good: it was read some time ago."""
        try:
            know(parcel, "")
        except HometapeError:
            return False
        return True

    @property
    def _hash(self) -> str:
        return "" if self._store.kind.crypt else self._store.kind.hash

    # ----------------------------------------------------------------------------------------- download

    def _by_sample(self, parcels: Sequence[Parcel], answers: dict[str, Answer]) -> None:
        if self._sample >= 1 or not parcels:
            self._by_download(parcels, answers)
            return
        chosen = [parcel for parcel in parcels if secrets.randbelow(_GRAIN) < self._sample * _GRAIN]
        chosen = chosen or [parcels[secrets.randbelow(len(parcels))]]
        self._by_download(chosen, answers)
        rest = [parcel for parcel in parcels if parcel.path not in answers]
        there = self._store.sizes([parcel.path for parcel in rest]) if rest else {}
        method = f"size; download of {self._sample:.3g}"
        for parcel in rest:
            if parcel.path not in there:
                answers[parcel.path] = NotFound(f"target {self._store.id} has no {parcel.path}")
            elif there[parcel.path][0] != parcel.size:
                answers[parcel.path] = self._wrong(parcel, f"it has {there[parcel.path][0]} bytes, not {parcel.size}")
            elif parcel.sha256:
                answers[parcel.path] = Proof(parcel.size, parcel.digest, parcel.sha256, method)
            elif (ours := self._known(parcel)) is not None:
                answers[parcel.path] = Proof(ours.size, ours.digest, ours.sha256, method)
        self._by_download([parcel for parcel in rest if parcel.path not in answers], answers)

    def _by_download(self, parcels: Sequence[Parcel], answers: dict[str, Answer]) -> None:
        for batch in batches(parcels, _AT_A_TIME):
            with self._store.stage.fresh() as folder:
                found = self._store.fetch([parcel.path for parcel in batch], folder)
                for parcel in batch:
                    copy = found[parcel.path]
                    if isinstance(copy, HometapeError):
                        answers[parcel.path] = copy
                        continue
                    both = digests_of(copy)
                    answers[parcel.path] = Proof(both.size, both.digest, both.sha256, DOWNLOAD)

    def _wrong(self, parcel: Parcel, why: str) -> DigestMismatch:
        return DigestMismatch(f"target {self._store.id}: {parcel.path}: {why}")


def batches(parcels: Sequence[Parcel], most: int) -> Iterator[list[Parcel]]:
    """Parcels in groups of at most so many bytes (one at least)."""
    group: list[Parcel] = []
    held = 0
    for parcel in parcels:
        if group and held + parcel.size > most:
            yield group
            group, held = [], 0
        group.append(parcel)
        held += parcel.size
    if group:
        yield group
