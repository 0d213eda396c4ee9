"""A look at the end of uploaded Parquet files, in a process that may die of it.

A hostile footer can make a C++ reader take gigabytes or abort where no exception is raised. So footers
are read by a child process (`python -m receiver.inspect`) with limits on memory and CPU time; it never decodes a
page. If it dies over a file, that file alone is tried once more in a fresh child, and if it dies again the
file is what is wrong; all others are not affected.

Between the two: one JSON line in, [files to an answer, [[path, start, size] each]]; JSON lines out, a list of
answers each, in order. Many files share a line, for a line costs more than a small footer; after a death
the rest is asked for one at a time, so that the file at fault is known.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from receiver.json_lines import send
from receiver.settings import LimitSettings
from receiver.verdict import Inspected
from tape.clock import Clock
from tape.errors import SegmentError, StoreError
from tape.footer import KEY, Footer
from tape.log import get_logger

MAX_OWN_FOOTER = 2 * 2**20  # bytes of our JSON in the metadata
_TAIL = 16 * 1024  # read at once from the end: nearly every footer of a small segment fits
_THRIFT_STRINGS = 4 * 2**20
_THRIFT_ITEMS = 200_000
_START_SECONDS = 60.0
_LOOK_EVERY = 0.2
_TOGETHER = 64  # files to an answer
_LONGEST_ANSWER = 1 << 20  # characters of footers after which an answer is given
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """Where a Parquet file's bytes lie: `size` of them from `start` in a file; -1: to its end."""

    path: Path
    start: int = 0
    size: int = -1


class Inspector:
    """Asks the child; starts it when needed and again when it died. Thread-safe: one batch at a time."""

    def __init__(self, limits: LimitSettings, *, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def start(self) -> None:
        """Start the child now, so that the first upload need not wait for it; raises StoreError."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._drop()

    def inspect(self, paths: Sequence[Path]) -> list[Inspected]:
        """Look at files, in order. Never raises for what is in them; StoreError if no child can be started."""
        with self.looking([Part(path) for path in paths]) as found:
            return found()

    @contextlib.contextmanager
    def looking(self, parts: Sequence[Part]) -> Iterator[Callable[[], list[Inspected]]]:
        """Have the child look while the caller does something else; the call that is given waits for its findings.

        It may be called once. Nothing else can be asked meanwhile. Raises as `inspect`.
        """
        with self._lock:
            asked = self._running().begin(parts, _TOGETHER) if parts else True
            done = False

            def found() -> list[Inspected]:
                nonlocal done
                done = True
                return self._found(parts, asked=asked) if parts else []

            try:
                yield found
            finally:
                if parts and not done:
                    self._drop()  # its answers are nobody's

    def _found(self, parts: Sequence[Part], *, asked: bool) -> list[Inspected]:
        assert self._child is not None
        found, trouble = self._child.collect(len(parts)) if asked else ([], _ENDED)
        if trouble:
            self._drop()
        while len(found) < len(parts):  # which one it died over shows only when they are asked for one at a time
            answers, trouble = self._running().ask(parts[len(found) :], 1)
            found += answers
            if trouble:
                self._drop()
                found.append(self._alone(parts[len(found)], trouble))
        return found

    def _alone(self, part: Part, trouble: str) -> Inspected:
        """Try the file the child died over once more, alone: it may have died of what came before."""
        log.warning("inspection ended early, trying the file alone", path=str(part.path), trouble=trouble)
        answers, trouble = self._running().ask([part], 1)
        if answers:
            return answers[0]
        self._drop()
        return Inspected(problem=f"inspecting it {trouble}: it is damaged or hostile")

    def _running(self) -> "_Child":
        if self._child is None or not self._child.alive:
            self._drop()
            self._child = _Child(self._limits, self._clock)
        return self._child

    def _drop(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


_ENDED = "ended the inspecting process"


class _Child:
    """One life of the inspecting process, with its watch: time by file, and resident memory."""

    def __init__(self, limits: LimitSettings, clock: Clock) -> None:
        root = Path(__file__).resolve().parents[1]
        path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
        self._limits = limits
        self._clock = clock
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "receiver.inspect", limits.model_dump_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"},
            )
        except OSError as error:
            raise StoreError(f"the inspecting process can't be started: {error}") from error
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._pump, name="inspect-reader", daemon=True).start()
        if not self._next(_START_SECONDS, watch_memory=False):
            code = self._process.poll()
            self.close()
            raise StoreError(f"the inspecting process did not start (exit code {code})")
        self._allowed = self._resident() + limits.memory

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, parts: Sequence[Part], together: int) -> tuple[list[Inspected], str]:
        """The answers in order; fewer than asked, and why, if the process died or had to be killed."""
        return self.collect(len(parts)) if self.begin(parts, together) else ([], _ENDED)

    def begin(self, parts: Sequence[Part], together: int) -> bool:
        """Have it look, so many files to an answer; False if it is gone."""
        assert self._process.stdin is not None
        request = [together, [(os.fspath(part.path), part.start, part.size) for part in parts]]
        try:
            send(self._process.stdin, request)
        except OSError:
            return False
        return True

    def collect(self, count: int) -> tuple[list[Inspected], str]:
        """What `begin` had it look at, as `ask`."""
        found: list[Inspected] = []
        while len(found) < count:
            line = self._next(self._limits.seconds)
            if not line:
                return found, _ENDED if line == b"" else "took too long or too much memory"
            found += map(_read, json.loads(line))
        return found, ""

    def _next(self, seconds: float, *, watch_memory: bool = True) -> bytes | None:
        """The next line; b"" when the process is gone, None when it broke a limit (it is killed then)."""
        deadline = self._clock.monotonic() + seconds
        while True:
            try:
                return self._lines.get(timeout=_LOOK_EVERY)
            except queue.Empty:
                late = self._clock.monotonic() > deadline
                if late or (watch_memory and self._resident() > self._allowed):
                    self._process.kill()
                    return None

    def _resident(self) -> int:
        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def _pump(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put(b"")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _read(answer: dict[str, Any]) -> Inspected:
    """An answer of the child; our footer is parsed here, where its errors can be told."""
    if answer.get("problem"):
        return Inspected(problem=str(answer["problem"]))
    if answer.get("unopened"):
        return Inspected(unopened=str(answer["unopened"]))
    footer = None
    problem = ""
    if answer["footer"] is not None:
        try:
            footer = Footer.from_json(answer["footer"].encode("latin-1"))
        except SegmentError as error:
            problem = str(error)
    first = (str(answer["first"][0]), str(answer["first"][1]))
    return Inspected(problem, answer["rows"], answer["columns"], answer["decoded"], first, footer)


# ------------------------------------------------------------------------------------------- in the child


class _Files:
    """The file looked at last, kept open: the parts of a bundle come one behind the other."""

    def __init__(self) -> None:
        self._path = ""
        self._file: BinaryIO | None = None

    def open(self, path: str) -> BinaryIO:
        """Raises OSError."""
        if self._file is None or path != self._path:
            self.close()
            self._file, self._path = open(path, "rb", buffering=0), path  # noqa: PTH123, SIM115 - of thousands; kept
        return self._file

    def close(self) -> None:
        """Let go of it: its name may soon be another file's."""
        if self._file is not None:
            self._file.close()
            self._file = None


def look(files: _Files, path: str, start: int, size: int, max_footer: int) -> dict[str, Any]:
    """What the end of a Parquet file says, as JSON values; `problem` if nothing readable, `unopened` if not reached."""
    try:
        file = files.open(path)
        tail = _tail(file, start, size if size >= 0 else file.seek(0, os.SEEK_END) - start, max_footer)
    except OSError as error:
        return {"unopened": f"the receiver can't open it: {error.strerror or error}"}
    if isinstance(tail, str):
        return {"problem": tail}
    return _metadata(tail)


def _tail(file: BinaryIO, start: int, size: int, max_footer: int) -> bytes | str:
    """The Parquet footer with its 8 closing bytes, or why there is none that may be read."""
    if size < 12:
        return f"not a Parquet file: {size} bytes"
    file.seek(start + max(0, size - _TAIL))
    tail = _exactly(file, min(size, _TAIL))
    length = int.from_bytes(tail[-8:-4], "little")
    if tail[-4:] != b"PAR1":
        return "not a Parquet file, or cut short: it does not end with PAR1"
    if length > max_footer:
        return f"its Parquet footer of {length} bytes is larger than limits.max_footer = {max_footer}"
    if length + 12 > size:
        return f"its Parquet footer claims {length} bytes of a file of {size}"
    if length + 8 > len(tail):
        file.seek(start + size - length - 8)
        tail = _exactly(file, length + 8)
    return tail[-(length + 8) :]


def _exactly(file: BinaryIO, count: int) -> bytes:
    found = file.read(count)
    while len(found) < count:
        block = file.read(count - len(found))
        if not block:
            raise OSError("it is shorter than it was")
        found += block
    return found


def _metadata(tail: bytes) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(
            pa.BufferReader(tail), thrift_string_size_limit=_THRIFT_STRINGS, thrift_container_size_limit=_THRIFT_ITEMS
        ) as opened:
            facts = opened.metadata
        rows, columns, decoded = facts.num_rows, facts.num_columns, 0
        grouped = 0
        for number in range(facts.num_row_groups):
            group = facts.row_group(number)
            if group.num_rows < 0 or group.total_byte_size < 0:
                return {"problem": "its Parquet metadata holds a negative number"}
            grouped += group.num_rows
            decoded += group.total_byte_size
        own = (facts.metadata or {}).get(KEY)
        first = facts.schema.column(0) if columns else None
        named = ("", "") if first is None else (first.path[:200], first.physical_type)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        return {"problem": f"its Parquet metadata can't be read: {str(error)[:200]}"}
    if rows < 0 or grouped != rows:
        return {"problem": f"its Parquet metadata claims {rows} rows, its row groups {grouped}"}
    if own is not None and len(own) > MAX_OWN_FOOTER:
        return {"problem": f"its hometape footer of {len(own)} bytes is larger than {MAX_OWN_FOOTER}"}
    text = None if own is None else own.decode("latin-1")
    return {"rows": rows, "columns": columns, "decoded": decoded, "first": named, "footer": text}


def main(argv: Sequence[str]) -> int:
    """The child: limits from the command line, then batches from standard input until it ends."""
    import pyarrow.parquet as pq  # before the limit on memory: what it starts with does not count

    pq.ParquetFile  # noqa: B018 - the name is resolved, so its library is loaded
    limits = LimitSettings.model_validate_json(argv[1])
    _limit_memory(limits.memory)
    send(sys.stdout.buffer, [])
    for line in sys.stdin.buffer:
        together, parts = json.loads(line)
        _look_at(parts, together, limits)
    return 0


def _look_at(parts: Sequence[tuple[str, int, int]], together: int, limits: LimitSettings) -> None:
    """Answer for all, so many at a time: their time and memory count together."""
    files = _Files()
    answers: list[dict[str, Any]] = []
    length = 0
    for path, start, size in parts:
        if not answers:
            _limit_time(limits.seconds)
        answer = look(files, path, start, size, limits.max_footer)
        answers.append(answer)
        length += len(answer.get("footer") or "")
        if len(answers) >= together or length > _LONGEST_ANSWER:
            send(sys.stdout.buffer, answers)
            answers, length = [], 0
    files.close()
    if answers:
        send(sys.stdout.buffer, answers)


def _limit_memory(more: int) -> None:
    """Bound the address space where the system can; elsewhere the parent watches resident memory."""
    if sys.platform == "win32":
        return
    import resource

    have = psutil.Process().memory_info().vms
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (have + more, have + more))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _limit_time(seconds: float) -> None:
    """Bound the CPU time of the next file where the system can; the parent watches the wall clock as well."""
    if sys.platform == "win32":
        return
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
