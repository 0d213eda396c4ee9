"""SHA256SUMS at a remote: files there are stored whole, so lines are gathered here and sent now and then.

What is noted is durable in the state folder first (`new/`), then uploaded as a whole file and kept for a while
(`kept/`), so that the next line for the folder needs no download. A folder that is in neither is first fetched
from the remote. What a crash left in `new/` is sent by the next life.
"""

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from receiver.targets.contract import SUMS
from receiver.targets.sums import SumsFiles, format_lines, parse_lines, read_sums
from tape.clock import Clock
from tape.durable import Disk, named, when_free
from tape.errors import HometapeError
from tape.log import get_logger

_EVERY = 60.0
_KEPT = 512
log = get_logger(__name__)


class RemoteSums:
    """The sums of one remote. Thread-safe.

    fetch: the SHA256SUMS of folders as the remote has them, b"" for none; send: store these files there (root, paths).
    """

    def __init__(
        self,
        folder: Path,
        *,
        fetch: Callable[[Sequence[str]], Mapping[str, bytes]],
        send: Callable[[Path, Sequence[str]], None],
        disk: Disk,
        clock: Clock,
    ) -> None:
        self._new = folder / "new"
        self._kept = folder / "kept"
        self._fetch = fetch
        self._send = send
        self._disk = disk
        self._clock = clock
        self._files = SumsFiles(disk)
        self._lock = threading.RLock()
        self._sent_at = clock.monotonic()

    def note(self, sums: Sequence[tuple[str, str]]) -> None:
        """Take lines in durably; they are sent when a minute has passed since the last time."""
        with self._lock:
            self._open(sorted({path.rpartition("/")[0] for path, _ in sums}))
            self._files.note((self._new / path, sha256) for path, sha256 in sums)
            if self._clock.monotonic() - self._sent_at < _EVERY:
                return
            try:
                self.flush()
            except HometapeError as error:  # the lines are safe here; the copies they speak of are facts
                self._sent_at = self._clock.monotonic()
                log.warning("SHA256SUMS could not be sent yet", error=str(error))

    def drop(self, path: str) -> None:
        """Take the line of a file out."""
        folder = path.rpartition("/")[0]
        with self._lock:
            if path.rpartition("/")[2] in self.read(folder):
                self._open([folder])
                self._files.drop(self._new / path)

    def mend(self, folder: str, right: Mapping[str, str], there: Sequence[str]) -> None:
        """Put these lines right, and take out those of files that are not in `there`."""
        with self._lock:
            found = {**self.read(folder), **right}
            self._open([folder])
            kept = sorted((name, sha256) for name, sha256 in found.items() if name in set(there))
            self._disk.replace(self._new / folder / SUMS, format_lines(kept))
            self._files.forget()

    def read(self, folder: str) -> dict[str, str]:
        """File name -> SHA-256 of a folder."""
        with self._lock:
            for root in (self._new, self._kept):
                if (root / folder / SUMS).exists():
                    return read_sums(root / folder)[0]
            return parse_lines(self._fetch([folder]).get(folder, b""))[0]

    def flush(self) -> None:
        """Send what is new; raises TargetError and its children."""
        with self._lock:
            waiting = self._waiting()
            if waiting:
                self._send(self._new, [f"{folder}/{SUMS}" for folder in waiting])
            for folder in waiting:
                with named(self._kept / folder, "moving"):
                    (self._kept / folder).mkdir(parents=True, exist_ok=True)
                    source = self._new / folder / SUMS
                    when_free(lambda: source.replace(self._kept / folder / SUMS))  # noqa: B023 - called at once
            self._files.forget()
            self._sent_at = self._clock.monotonic()
            self._thin()

    def forget(self) -> None:
        """It is another place now: what was kept from the old one says nothing about it."""
        with self._lock:
            for root in (self._new, self._kept):
                shutil.rmtree(root, ignore_errors=True)
            self._files.forget()

    def _waiting(self) -> list[str]:
        with named(self._new, "listing"):
            return sorted(path.parent.relative_to(self._new).as_posix() for path in self._new.rglob(SUMS))

    def _open(self, folders: Sequence[str]) -> None:
        """Have the sums of these folders in `new`, with all the lines there were."""
        closed = [folder for folder in folders if not (self._new / folder / SUMS).exists()]
        strange = [folder for folder in closed if not (self._kept / folder / SUMS).exists()]
        fetched = self._fetch(strange) if strange else {}
        for folder in closed:
            self._disk.make_dirs(self._new / folder)
            with named(self._new / folder, "writing"):
                kept = self._kept / folder / SUMS
                data = fetched.get(folder, b"") if folder in strange else kept.read_bytes()
            self._disk.replace(self._new / folder / SUMS, data)

    def _thin(self) -> None:
        """Keep only the files used last: the others can be fetched again."""
        with named(self._kept, "listing"):
            found = sorted(self._kept.rglob(SUMS), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in found[_KEPT:]:
            self._disk.remove(path)
