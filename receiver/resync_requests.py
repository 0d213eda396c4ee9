"""Findings handed to the running service, which alone may write the catalog, and what it answers.

The command puts a file of findings into the state folder; the service acts on it and leaves a small answer
beside where it was. A service that is stopped in between begins it anew: acting twice does no harm.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from receiver.catalog import Catalog
from receiver.model import Committer, Outcome, Upload
from receiver.resync_plan import read_findings
from receiver.resync_repair import Commit, Repair, Repaired
from receiver.targets.contract import Target
from tape.clock import Clock
from tape.digest import BLOCK
from tape.durable import DISK, Disk, named
from tape.errors import AlreadyThere
from tape.log import get_logger

REQUESTS = "resync"
_ASKED, _ANSWERED = ".findings", ".answer"
_KEPT_NS = 86_400_000_000_000
log = get_logger(__name__)


def leave(state: Path, findings: Path, *, clock: Clock, disk: Disk = DISK) -> str:
    """Hand a file of findings to the service; the name to ask for the answer by. Raises DiskError."""
    folder = state / REQUESTS
    disk.make_dirs(folder)
    temp = disk.temp_path(folder)
    with named(findings, "reading"), findings.open("rb") as source, disk.create(temp) as copy:
        while block := source.read(BLOCK):
            disk.write_all(copy, block)
    number = clock.now_ns()
    while True:
        name = f"{number:020d}"
        try:
            disk.publish(temp, folder / f"{name}{_ASKED}")
        except AlreadyThere:
            number += 1
        else:
            return name


def answer_to(state: Path, name: str, *, disk: Disk = DISK) -> Repaired | None:
    """What the service did about it; None while it has not. Raises DiskError."""
    path = state / REQUESTS / f"{name}{_ANSWERED}"
    try:
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    disk.remove(path)
    return Repaired.from_json(text)


def take_requests(
    state: Path,
    catalog: Catalog,
    targets: Sequence[Target],
    commit: Commit,
    *,
    clock: Clock,
    disk: Disk = DISK,
    changed: Callable[[], None] = lambda: None,
) -> int:
    """Act on all findings that were handed over; how many files. Blocking: call it in a thread.

    `changed` is called after each. Raises StoreError or SyncFailed if the catalog can't be written, DiskError.
    """
    folder = state / REQUESTS
    if not folder.is_dir():
        return 0
    with named(folder, "listing"):
        files = sorted(path for path in folder.iterdir() if path.suffix in (_ASKED, _ANSWERED))
    count = 0
    for file in files:
        if file.suffix == _ANSWERED:
            if clock.now_ns() - int(file.stem) > _KEPT_NS:
                disk.remove(file)
            continue
        done = Repaired()
        try:
            began, lines = read_findings(file)
            done = Repair(catalog, targets, state, commit=commit, clock=clock, disk=disk).run(began, lines)
        except (ValueError, KeyError, TypeError) as error:
            log.warning("findings of a resync can't be read", file=str(file), error=str(error))
            done.failed.append(("", str(file), str(error)))
        disk.replace(file.with_suffix(_ANSWERED), done.to_json().encode("ascii"))
        disk.remove(file)
        changed()
        count += 1
    return count


def committing(ingest: Committer, loop: asyncio.AbstractEventLoop) -> Commit:
    """Uploads committed from another thread than the loop's: all together, so that they share their syncs."""

    def commit(uploads: Sequence[Upload]) -> list[Outcome]:
        waiting = [asyncio.run_coroutine_threadsafe(ingest.commit(upload), loop) for upload in uploads]
        return [one.result() for one in waiting]

    return commit
