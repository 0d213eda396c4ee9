"""Many small files written and read back by processes of their folder's own, so that nobody here waits for the
interpreter meanwhile.

One starts with its first batch and ends when nobody has asked for a while. What it can't do, or leaves undone because
it died, is `None`: the caller does that itself and finds out why. It holds nothing open between batches.
"""

import atexit
import contextlib
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xxhash

from receiver.json_lines import send
from receiver.targets import pulse
from receiver.targets.files import Digests
from receiver.targets.worker_child import READ, WRITE, ToRead, ToWrite
from tape.clock import SYSTEM, Clock
from tape.durable import WINDOWS
from tape.log import get_logger

IDLE = 30.0
"""Seconds without a batch after which the process ends."""
REST = 60.0
"""Seconds without one after it had failed over a batch before it did any of it."""
_PATIENCE = 0.25  # seconds between looks whether the batch before moves on
_END = 0.5
_PROGRAM = (  # whatever kind of Python it is: one with a `._pth` file takes no PYTHONPATH
    "import sys; sys.path[:0] = sys.argv[2:]; from receiver.targets.worker_child import main; main(sys.argv)"
)
log = get_logger(__name__)
_all: "weakref.WeakSet[Worker]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for worker in list(_all):
        worker.close()


class Worker:
    """Thread-safe: one batch at a time, the others wait for it. `again`: the files are read again soon."""

    def __init__(self, *, again: bool = False, idle: float = IDLE, clock: Clock = SYSTEM) -> None:
        self._again = again
        self._idle = idle
        self._clock = clock
        self._resting_until = 0.0
        self._turn = threading.Lock()
        self._signs = 0
        self._child: _Child | None = None
        _all.add(self)

    def close(self) -> None:
        """End the process, unless something hangs in it: then it sees the end of its input when this one ends."""
        if self._turn.acquire(blocking=False):
            try:
                if self._child is not None:
                    self._child.end()
                    self._child = None
            finally:
                self._turn.release()

    def read(self, files: Sequence[ToRead]) -> list[Digests | None]:
        """What each of the files holds; None for those that it could not read."""
        answers = self._ask([READ, self._again, files], len(files))
        return [None if answer is None else (int(answer[0]), str(answer[1]), str(answer[2])) for answer in answers]

    def write(self, files: Sequence[ToWrite]) -> list[bool]:
        """Which files it has written, not synced yet; whatever it began besides may lie at its temporary path."""
        return [answer is True for answer in self._ask([WRITE, False, files], len(files))]

    def _ask(self, request: Sequence[Any], count: int) -> list[Any]:
        signs = self._signs
        while not self._turn.acquire(timeout=_PATIENCE):
            if self._signs != signs:
                signs = self._signs
                pulse.moved()
        try:
            return self._asked(request, count)
        finally:
            self._turn.release()

    def _asked(self, request: Sequence[Any], count: int) -> list[Any]:
        found: list[Any] = []
        if self._clock.monotonic() < self._resting_until:
            return [None] * count
        for _ in range(2):  # it may just have ended for want of work
            try:
                child = self._child = self._child or _Child(self._idle)
            except OSError as error:
                log.warning("a working process can't be started", error=str(error))
                self._rest()
                break
            try:
                if child.ask(request):
                    while len(found) < count and (answers := child.answers()):
                        found += answers
                        self._signs += 1
                        pulse.moved()
            except BaseException:  # answers that nobody took would count for the next batch
                self._child = None
                child.end()
                raise
            if len(found) == count:
                return found
            self._child = None
            code = child.end()
            if found or code != 0:
                log.warning("a working process ended early", exit_code=code, done=len(found), of=count)
                if not found:
                    self._rest()
                break
        return found + [None] * (count - len(found))

    def _rest(self) -> None:
        self._resting_until = self._clock.monotonic() + REST


class _Child:
    """One life of the process. Raises OSError if it can't be started."""

    def __init__(self, idle: float) -> None:
        needs = [str(Path(file).resolve().parents[up]) for file, up in ((__file__, 2), (xxhash.__file__, 1))]
        self._process = subprocess.Popen(
            [sys.executable or "", "-P", "-S", "-c", _PROGRAM, str(idle), *needs],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=not WINDOWS,  # an interrupt at the terminal is for the service, which stops in order
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        with contextlib.suppress(RuntimeError):  # no more threads: then somebody waits for it when it is asked again
            threading.Thread(target=self._process.wait, name="worker-end", daemon=True).start()  # it ends by itself
        self._forgotten = weakref.finalize(self, _end, self._process)
        self._forgotten.atexit = False  # a thread that hangs with it may hold the pipes

    def ask(self, request: Sequence[Any]) -> bool:
        """Whether it could be told."""
        assert self._process.stdin is not None
        try:
            send(self._process.stdin, request)
        except OSError:
            return False
        return True

    def answers(self) -> list[Any]:
        """The next of them; none when it is gone, or somebody else."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        try:
            return list(json.loads(line)) if line.endswith(b"\n") else []
        except ValueError:  # not from our program
            return []

    def end(self) -> int | None:
        """Let it go; its exit code, None if it hangs."""
        self._forgotten.detach()
        return _end(self._process)


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
