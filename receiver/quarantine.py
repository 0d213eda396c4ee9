"""Uploads that may not stand among the good ones: kept aside for the operator, within a limit of bytes.

`<state>/quarantine/<agent>/<random>-<name>` holds the bytes, the same with `.json` behind it says what was
wrong. Nothing here is ever read again by the service.
"""

import json
import secrets
from pathlib import Path

from receiver.moving import move_new
from tape.durable import Disk, is_temp
from tape.errors import AlreadyThere, DiskError, SyncFailed
from tape.log import get_logger
from tape.names import SegmentName

FOLDER = "quarantine"
_OVERHEAD = 4096  # charged for each file beside its bytes, so that many tiny ones are bounded too
log = get_logger(__name__)


class Quarantine:
    """The folder, and how full it is. Used by one thread at a time."""

    def __init__(self, state: Path, limit: int, disk: Disk) -> None:
        self._state = state
        self._root = state / FOLDER
        self._limit = limit
        self._disk = disk
        self._kept: set[tuple[str, str]] = set()
        self._used = 0
        disk.make_dirs(self._root)
        for path in self._root.rglob("*"):
            if is_temp(path):
                disk.remove(path)
            elif path.is_file():
                self._used += path.stat().st_size + _OVERHEAD // 2
                self._kept.add((path.parent.name, path.name.partition("-")[2]))

    def keep(self, source: Path, agent: str, stream: str, name: SegmentName, reason: str) -> tuple[str, list[Path]]:
        """Take a file away from where it is, into quarantine or, when there is no room, out of existence.

        Returns its path below the state folder ("" if not kept, or kept before) and what is to be fsynced.
        Raises SyncFailed, and DiskError if `source` can't be deleted.
        """
        size = source.stat().st_size
        if (agent, str(name)) in self._kept:
            self._disk.remove(source)
            return "", []
        if self._used + size + _OVERHEAD > self._limit:
            log.warning("quarantine is full, bytes not kept", agent=agent, stream=stream, name=str(name), size=size)
            self._disk.remove(source)
            return "", []
        folder = self._root / agent
        final = folder / f"{secrets.token_hex(4)}-{name}"
        note = final.with_name(final.name + ".json")
        facts = {"agent": agent, "stream": stream, "name": str(name), "size": size, "reason": reason}
        try:
            fresh = [] if folder.is_dir() else [self._root]
            self._disk.make_dirs(folder)
            move_new(self._disk, source, final, folder)
            with self._disk.create(note) as file:
                self._disk.write_all(file, json.dumps(facts, indent=1).encode("ascii") + b"\n")
        except SyncFailed:
            raise
        except (DiskError, AlreadyThere) as error:
            log.warning("bytes could not be kept in quarantine", error=str(error), **facts)
            for path in (source, note):
                self._disk.remove(path)
            return "", []
        self._used += size + _OVERHEAD
        self._kept.add((agent, str(name)))
        return final.relative_to(self._state).as_posix(), [final, note, folder, *fresh]
