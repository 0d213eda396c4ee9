"""What can be asked of a remote, each step one run of rclone: send, fetch, sizes, walk, move, marker, space.

Nothing here knows segments or proofs. Files are named by paths relative to the root; how a run that failed is
told is decided in `rclone_errors`.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from receiver.settings import TargetSettings
from receiver.targets.contract import MARKER
from receiver.targets.marker import parse_marker
from receiver.targets.rclone import PROBE, Ended, Patience, Rclone, Told, bwlimit
from receiver.targets.rclone_errors import (
    DIRECTORY_NOT_FOUND,
    FILE_NOT_FOUND,
    fault_of,
    fault_of_text,
    is_damage,
    is_missing,
    redact,
)
from receiver.targets.rclone_kinds import Kind, learn
from receiver.targets.remote_list import taking
from receiver.targets.remote_stage import Stage
from receiver.timetable import Timetable
from tape.clock import SYSTEM, Clock
from tape.errors import DiskError, DiskFull, HometapeError, NotFound, TargetAbsent, TargetError

T = TypeVar("T")
_ABSENT = (DIRECTORY_NOT_FOUND, FILE_NOT_FOUND)
_MARKER_BYTES = 64 * 2**10


@dataclass(slots=True)
class Sent:
    """What became of files that were to be stored: those stored now, what failed by path, and what failed for all."""

    stored: set[str] = field(default_factory=set)
    errors: dict[str, HometapeError] = field(default_factory=dict)
    fault: HometapeError | None = None


class RemoteStore:
    """An rclone remote, `NAME:PATH`. Thread-safe. Raises TargetError and its children, DiskError, NotFound."""

    def __init__(self, entry: TargetSettings, state: Path, *, clock: Clock = SYSTEM) -> None:
        self.id = entry.id
        self.stage = Stage(state / "stage")
        self.rclone = Rclone(
            entry.id, config=entry.rclone_config, running=state / "running", requests=entry.requests, clock=clock
        )
        self._remote = entry.remote
        self._patience = Patience(idle=entry.timeout)
        limit = bwlimit(Timetable.parse(entry.bandwidth).steps)
        self._switches = [
            f"--transfers={entry.transfers}",
            f"--checkers={max(8, 2 * entry.transfers)}",
            *([f"--bwlimit={limit}"] if limit else []),
        ]
        # rclone keeps to a rate within one run: with a rate the runs that move much take turns.
        self._turn = threading.Lock() if limit or entry.requests else contextlib.nullcontext()
        self._kind: Kind | None = None
        self._learning = threading.Lock()
        self.when_in_doubt: Callable[[], None] = lambda: None  # called when a step failed

    @property
    def kind(self) -> Kind:
        """What it is and can prove; asked once."""
        with self._learning:
            if self._kind is None:
                self._kind = learn(self.rclone, self._remote)
            return self._kind

    def at(self, path: str = "") -> str:
        """A path as rclone takes it."""
        if not path:
            return self._remote
        return f"{self._remote}{'' if self._remote.endswith((':', '/')) else '/'}{path}"

    def _run(self, *args: str, **more: Any) -> Ended:
        try:
            return self.rclone.run(*args, **more)
        except TargetError:
            self.when_in_doubt()
            raise

    # ------------------------------------------------------------------------------------------- files

    def send(self, root: Path, paths: Sequence[str], *, replace: bool = False) -> Sent:
        """Store files that lie below a folder; those that are there already stay as they are, unless `replace`."""
        sent = Sent()

        def hear(told: Told) -> None:
            if told.object and told.text.startswith("Copied ("):
                sent.stored.add(told.object)
            elif told.object and told.level in ("error", "critical"):
                sent.errors[told.object] = self._about_file(told, writing=True)

        switches = ["--ignore-times"] if replace else ["--ignore-existing", "--immutable"]
        with self.stage.fresh() as scratch, self._turn:
            listed = self.stage.write_list(scratch, paths)
            ended = self._run(
                *("copy", str(root), self.at(), "--files-from-raw", str(listed), "--no-traverse"),
                *("--no-update-dir-modtime", *switches, *self._switches),
                patience=self._patience,
                hear=hear,
            )
        if ended.code != 0 and not set(paths) <= sent.stored | set(sent.errors):
            sent.fault = self.fault(ended, "storing", writing=True)
        return sent

    def fetch(self, paths: Sequence[str], folder: Path) -> dict[str, Path | HometapeError]:
        """Copies in a folder of this machine, each whole or not at all; NotFound for what is not there."""
        errors: dict[str, HometapeError] = {}
        copied: set[str] = set()

        def hear(told: Told) -> None:
            if told.object and told.text.startswith("Copied ("):
                copied.add(told.object)
            elif told.object and told.level in ("error", "critical"):
                errors[told.object] = self._about_file(told)

        with self.stage.fresh() as scratch, self._turn:
            listed = self.stage.write_list(scratch, paths)
            ended = self._run(
                *("copy", self.at(), str(folder), "--files-from-raw", str(listed), "--no-traverse", "--ignore-times"),
                *("--no-update-dir-modtime", *self._switches),
                patience=self._patience,
                hear=hear,
            )
        if "no space left" in ended.text:
            raise DiskFull(f"no space left in {folder} for what is fetched from target {self.id}")
        if ended.code not in (0, *_ABSENT) and not copied and not errors:
            raise self.fault(ended, "fetching")
        whole = None if ended.code in (0, *_ABSENT) else self.fault(ended, "fetching")
        found: dict[str, Path | HometapeError] = {**errors}
        found |= {path: folder / path for path in copied if (folder / path).is_file()}
        left = [path for path in paths if path not in found]
        there = self.sizes(left) if left and whole is not None else {}  # not there, or not come to?
        for path in left:
            missing = NotFound(f"target {self.id} has no {path}")
            found[path] = whole if whole is not None and path in there else missing
        return found

    def sizes(self, paths: Sequence[str], *, hash_name: str = "") -> dict[str, tuple[int, str]]:
        """Path -> (size, checksum or "") of those that are there, as the store itself says."""
        found: dict[str, tuple[int, str]] = {}

        def take(path: str, size: int, hashes: dict[str, str]) -> None:
            found[path] = size, hashes.get(hash_name, "")

        hashing = ["--hash", "--hash-type", hash_name] if hash_name else []
        with self.stage.fresh() as scratch:
            listed = self.stage.write_list(scratch, paths)
            self._ls("--files-from-raw", str(listed), *hashing, at=self.at(), take=take)
        return found

    def walk(self, prefix: str, take: Callable[[str, int], None]) -> None:
        """Every file below a folder, in any order; nothing if there is no such folder."""
        start = f"{prefix}/" if prefix else ""
        self._ls(at=self.at(prefix), take=lambda path, size, _: take(f"{start}{path}", size))

    def _ls(self, *switches: str, at: str, take: Callable[[str, int, dict[str, str]], None]) -> None:
        ended = self._run(
            *("lsjson", at, "--recursive", "--files-only", "--no-modtime", "--no-mimetype", *switches),
            *self._switches,
            patience=self._patience,
            line=taking(take),
        )
        if ended.code not in (0, *_ABSENT):
            raise self.fault(ended, "listing")

    def stat(self, path: str) -> int | None:
        """The size of a file; None if it is not there."""
        ended = self._run("lsjson", "--stat", "--no-modtime", self.at(path), patience=self._patience)
        if ended.code in _ABSENT:
            return None
        if ended.code != 0:
            fault = self.fault(ended, "looking at a file")
            if isinstance(fault, NotFound):
                return None
            raise fault
        try:
            plain = json.loads(ended.out or b"null")
        except ValueError as error:
            raise TargetError(f"target {self.id}: rclone's answer can't be read: {error}") from error
        if not isinstance(plain, dict) or plain.get("IsDir"):  # a bucket has a folder of any name
            return None
        return int(plain.get("Size", -1))

    def move(self, path: str, where: str) -> None:
        """Rename a file there; `where` must be a fresh name."""
        ended = self._run("moveto", self.at(path), self.at(where), patience=self._patience)
        if ended.code != 0:
            raise self.fault(ended, f"putting {path} aside", writing=True)

    def delete(self, filters: Sequence[str]) -> None:
        """Delete the files that rclone's filter rules let through."""
        with self.stage.fresh() as scratch:
            listed = self.stage.write_list(scratch, [*filters, "- *"], "filters")
            ended = self._run("delete", self.at(), "--filter-from", str(listed), patience=self._patience)
        if ended.code not in (0, *_ABSENT):
            raise self.fault(ended, "clearing up", writing=True)

    def make_root(self) -> None:
        """Make the folder, and the bucket it is in."""
        allow = {"RCLONE_S3_NO_CHECK_BUCKET": "false"}
        ended = self._run("mkdir", self.at(), patience=self._patience, extra=allow)
        if ended.code != 0:
            raise self.fault(ended, "making the folder", writing=True)

    def cryptcheck(self, root: Path, paths: Sequence[str]) -> dict[str, str]:
        """Path -> `=` the store's checksum fits these files, `*` it does not, `+` not there, `!` can't tell."""
        found: dict[str, str] = {}

        def line(data: bytes) -> None:
            sign, _, path = data.decode("utf-8", "replace").rstrip("\r\n").partition(" ")
            found[path] = sign

        with self.stage.fresh() as scratch, self._turn:
            listed = self.stage.write_list(scratch, paths)
            ended = self._run(
                *("cryptcheck", str(root), self.at(), "--files-from-raw", str(listed), "--one-way", "--combined", "-"),
                *self._switches,
                patience=self._patience,
                line=line,
            )
        if ended.code != 0 and not found:
            raise self.fault(ended, "checking")
        return found

    # ----------------------------------------------------------------------------------------- the place

    def marker(self) -> dict[str, object]:
        """The marker at the root; raises TargetAbsent if there is none."""
        ended = self._run("cat", self.at(MARKER), "--head", str(_MARKER_BYTES), patience=PROBE)
        lacking = ended.code in _ABSENT or (ended.code == 0 and not ended.out.strip())
        if not lacking and ended.code != 0:
            fault = self.fault(ended, "reading its marker")
            lacking = isinstance(fault, NotFound)
            if not lacking:
                raise fault
        if lacking:
            raise TargetAbsent(
                f"{self._remote} has no {MARKER}",
                hint="if the place is new, prepare it: `tape-receiver remote add`; else look at its `remote`",
            )
        return parse_marker(ended.out, f"{self._remote}/{MARKER}")

    def space(self) -> int | None:
        """Free bytes there; None where it does not say."""
        ended = self._run("about", "--json", self.at(), patience=PROBE)
        if ended.code != 0:
            if "doesn't support about" in ended.text or "not supported" in ended.text:
                return None
            fault = self.fault(ended, "asking for its free space")
            if isinstance(fault, NotFound):
                return None
            raise fault
        try:
            free = json.loads(ended.out).get("free")
        except (ValueError, AttributeError):
            return None
        return free if isinstance(free, int) else None

    # ------------------------------------------------------------------------------------------- errors

    def fault(self, ended: Ended, doing: str, *, writing: bool = False) -> HometapeError:
        """What a failed run means."""
        if ended.code < 0:
            return TargetAbsent(f"target {self.id}: {doing}: rclone was killed", hint="it is tried again by itself")
        fault = fault_of(self.id, ended, secrets=self._secrets(), doing=doing, writing=writing)
        if isinstance(fault, TargetError):
            self.when_in_doubt()
        return fault

    def _about_file(self, told: Told, *, writing: bool = False) -> HometapeError:
        why = redact(" ".join(told.text.split())[:400], self._secrets())
        if is_damage(told.text):
            return DiskError(f"target {self.id}: {told.object} can't be read: {why}")
        if is_missing(told.text) and not writing:
            return NotFound(f"target {self.id} has no {told.object}")
        return fault_of_text(self.id, told.text, why, doing=told.object, writing=writing)

    def _secrets(self) -> tuple[str, ...]:
        return self._kind.secrets if self._kind is not None else ()


def iterate(items: Iterator[T], close: Callable[[], None]) -> Iterator[T]:
    """Items, and a call at their end or when nobody wants more."""
    try:
        yield from items
    finally:
        close()
