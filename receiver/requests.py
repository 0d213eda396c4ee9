"""Requests to the running service, left in the state folder by a command, and what it answers.

One small file a request and one an answer, each whole or not there. What is asked must bear being done
twice: a service that is stopped in between begins it anew. A request that nobody took for long is dropped,
so that a service started later does not act on what was wanted yesterday.
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tape.clock import Clock
from tape.durable import DISK, Disk, named
from tape.errors import AlreadyThere, HometapeError, every
from tape.log import get_logger

FOLDER = "requests"
LATER = None
"""What an `act` returns for a request that it can't act on yet."""
_ASKED, _ANSWERED = ".request", ".answer"
_KEPT_NS = 600_000_000_000
Act = Callable[[str, Mapping[str, Any]], Mapping[str, Any] | None]
log = get_logger(__name__)


class Requests:
    """The requests of one state folder, for both sides. Raises DiskError."""

    def __init__(self, state: Path, *, clock: Clock, disk: Disk = DISK) -> None:
        self._folder = state / FOLDER
        self._clock = clock
        self._disk = disk

    def ask(self, kind: str, **about: Any) -> str:
        """Leave a request; the name to ask for its answer by."""
        self._disk.make_dirs(self._folder)
        data = json.dumps({"kind": kind, "about": about}).encode()
        number = self._clock.now_ns()
        while True:
            with contextlib.suppress(AlreadyThere):
                self._disk.write_new(self._folder / f"{number:020d}{_ASKED}", data)
                return f"{number:020d}"
            number += 1

    def answer(self, name: str) -> dict[str, Any] | None:
        """What the service answered; None while it has not. Raises what it could not do."""
        path = self._folder / f"{name}{_ANSWERED}"
        with named(path, "reading"):
            try:
                found: dict[str, Any] = json.loads(path.read_bytes())
            except FileNotFoundError:
                return None
        self._disk.remove(path)
        if "error" in found:
            kind = next((one for one in every() if one.code == found["code"]), HometapeError)
            raise kind(found["error"], hint=found["hint"])
        return found

    def withdraw(self, name: str) -> bool:
        """Nobody waits for it any more; whether it had not been taken yet."""
        path = self._folder / f"{name}{_ASKED}"
        there = path.exists()
        self._disk.remove(path)
        return there

    def take(self, act: Act) -> int:
        """Act on every request that is there; how many. Blocking: call it in a thread."""
        if not self._folder.is_dir():
            return 0
        count = 0
        with named(self._folder, "listing"):
            files = sorted(path for path in self._folder.iterdir() if path.suffix in (_ASKED, _ANSWERED))
        for file in files:
            if self._is_old(file):
                self._disk.remove(file)
            elif file.suffix == _ASKED:
                count += self._act(file, act)
        return count

    def _act(self, file: Path, act: Act) -> bool:
        try:
            with named(file, "reading"):
                asked = json.loads(file.read_bytes())
            found = act(asked["kind"], asked["about"])
        except HometapeError as error:
            found = {"error": str(error), "hint": error.hint, "code": error.code}
        except (ValueError, KeyError, TypeError) as error:
            log.warning("a request can't be read", file=str(file), error=str(error))
            found = {"error": f"the request can't be read: {error}", "hint": "", "code": HometapeError.code}
        if found is LATER:
            return False
        if file.exists():  # else its command has given up
            self._disk.replace(file.with_suffix(_ANSWERED), json.dumps(dict(found)).encode())
        self._disk.remove(file)
        return True

    def _is_old(self, file: Path) -> bool:
        try:
            return self._clock.now_ns() - int(file.stem) > _KEPT_NS
        except ValueError:
            return True
