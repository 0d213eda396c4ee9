"""Reading many small files back in a process of its own, so that nobody here waits for the interpreter meanwhile.

It starts with the first batch and ends when nobody has asked for a while. What it can't read, or leaves undone
because it died, is `None`: the caller reads that itself and finds out why. It holds nothing open between batches.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

import xxhash

from receiver.targets import pulse
from receiver.targets.files import Digests
from tape.log import get_logger

FEWEST = 16
"""A batch of fewer files is not worth a process."""
LARGEST = 4 * 2**20
"""Bytes of a file; larger ones spend their time outside of the interpreter anyway."""
IDLE = 30.0
"""Seconds without a batch after which the process ends."""
_PATIENCE = 0.25  # seconds between looks whether the batch before moves on
_END = 0.5
log = get_logger(__name__)

Asked = tuple[str, int, str]
"""A file: path, size in bytes, SHA-256 where only XXH3-128 is wanted."""


class Reader:
    """Thread-safe: one batch at a time, the others wait for it. `again`: the files are read again soon."""

    def __init__(self, *, again: bool = False, idle: float = IDLE) -> None:
        self._again = again
        self._idle = idle
        self._turn = threading.Lock()
        self._signs = 0
        self._child: _Child | None = None

    def read(self, files: Sequence[Asked]) -> list[Digests | None]:
        """What each of the files holds; None for those that it could not read."""
        signs = self._signs
        while not self._turn.acquire(timeout=_PATIENCE):
            if self._signs != signs:
                signs = self._signs
                pulse.moved()
        try:
            return self._read(files)
        finally:
            self._turn.release()

    def _read(self, files: Sequence[Asked]) -> list[Digests | None]:
        found: list[Digests | None] = []
        for _ in range(2):  # it may just have ended for want of work
            try:
                child = self._child = self._child or _Child(self._idle)
            except OSError as error:
                log.warning("the reading process can't be started", error=str(error))
                break
            if child.ask(self._again, files):
                while len(found) < len(files) and (answers := child.answers()):
                    found += answers
                    self._signs += 1
                    pulse.moved()
            if len(found) == len(files):
                return found
            self._child = None
            code = child.end()
            if found or code != 0:
                log.warning("the reading process ended early", exit_code=code, read=len(found), of=len(files))
                break
        return found + [None] * (len(files) - len(found))


class _Child:
    """One life of the reading process. Raises OSError if it can't be started."""

    def __init__(self, idle: float) -> None:
        needs = [str(Path(__file__).resolve().parents[2]), str(Path(xxhash.__file__).resolve().parents[1])]
        path = os.pathsep.join([*needs, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-S", "-m", "receiver.targets.reader_child", str(idle)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.end = weakref.finalize(self, _end, self._process)
        """Let it go; its exit code, None if it hangs. At the exit of this process it sees the end of its input."""
        self.end.atexit = False  # a thread that hangs with it may hold the pipes

    def ask(self, again: bool, files: Sequence[Asked]) -> bool:
        """Whether it could be told."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([again, files]).encode("ascii") + b"\n")
            self._process.stdin.flush()
        except OSError:
            return False
        return True

    def answers(self) -> list[Digests | None]:
        """The next of them; none when it is gone."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            return []
        return [answer and (int(answer[0]), str(answer[1]), str(answer[2])) for answer in json.loads(line)]


def _end(process: "subprocess.Popen[bytes]") -> int | None:
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(OSError):
            pipe.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(_END)
    process.kill()  # one that hangs in a dead disk is left behind
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END)
    return None
