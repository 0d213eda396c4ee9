"""The small files of a batch: those that the working processes of a folder are asked to write and to read back.

They are asked for many of them only. What is not in an answer is for the caller to do, who finds out what is wrong.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from receiver.targets.contract import Parcel, Proof, check_relative
from receiver.targets.inside import Ways
from receiver.targets.reading_back import proof_of
from receiver.targets.worker import Worker
from tape.errors import NameRefused

FEWEST = 16
"""A batch of fewer files is not worth a process."""
LARGEST = 4 * 2**20
"""Bytes of a file; larger ones spend their time outside of the interpreter anyway."""


def known(parcel: Parcel) -> str:
    """The SHA-256 of a copy that need not be computed again."""
    return parcel.sha256 if parcel.fresh else ""


def read(worker: Worker, root: Path, parcels: Sequence[Parcel], ways: Ways) -> dict[int, Proof]:
    """Proofs, by number, of the copies that it could read."""
    chosen = _chosen(enumerate(parcels), ways)
    if not chosen:
        return {}
    answers = worker.read([(f"{root}{os.sep}{one.path}", one.size, known(one)) for _, one in chosen])
    return {
        number: proof_of(answer, known(parcel))
        for (number, parcel), answer in zip(chosen, answers, strict=True)
        if answer is not None
    }


def write(
    worker: Worker, root: Path, parcels: Mapping[int, Parcel], ways: Ways, *, temp: Callable[[], Path]
) -> dict[int, Path]:
    """Temporary files, by number, that it has written from files of this machine, not synced yet; no others are left.

    `temp` makes a name for one.
    """
    chosen = _chosen(((number, one) for number, one in parcels.items() if one.local is not None), ways)
    if not chosen:
        return {}
    temps = [temp() for _ in chosen]
    answers = worker.write(
        [
            (str(one.local), str(where), f"{root}{os.sep}{one.path}", one.size, one.digest)
            for (_, one), where in zip(chosen, temps, strict=True)
        ]
    )
    written = {}
    for (number, _), where, good in zip(chosen, temps, answers, strict=True):
        if good:
            written[number] = where
        else:
            with contextlib.suppress(OSError):  # it may have died over it
                where.unlink(missing_ok=True)
    return written


def _chosen(parcels: Iterable[tuple[int, Parcel]], ways: Ways) -> list[tuple[int, Parcel]]:
    """Those that are small and lie inside of the target; none if they are few."""
    chosen = [(number, one) for number, one in parcels if one.size <= LARGEST and _inside(one.path, ways)]
    return chosen if len(chosen) >= FEWEST else []


def _inside(path: str, ways: Ways) -> bool:
    try:
        return not ways.link(check_relative(path))
    except NameRefused:
        return False
