"""Real processes: started with an argument list, output kept, killable at any moment."""

import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.needs import PROJECT
from tests.support.waiting import wait_until

_ENTRY = {"tape-agent": "agent.cli", "tape-receiver": "receiver.cli"}


def command(name: str) -> list[str]:
    """The argument list that starts `tape-agent` or `tape-receiver`: as installed, else from the tree."""
    installed = Path(sysconfig.get_path("scripts")) / (f"{name}.exe" if sys.platform == "win32" else name)
    if installed.exists():
        return [str(installed)]
    return [sys.executable, "-c", f"import sys; from {_ENTRY[name]} import main; sys.exit(main())"]


def environment(**more: str) -> dict[str, str]:
    """This process's environment with the project importable, plain output and `more`."""
    old = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join([str(PROJECT)] + ([old] if old else []))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
        "COLUMNS": "200",
        **more,
    }


@dataclass(frozen=True)
class Finished:
    """How a command ended: exit code (negative: the signal), standard output and error as text."""

    code: int
    out: str
    err: str


class Program:
    """A running process in a session of its own; output goes to files, so that it never blocks.

    As a context manager it is killed on the way out, with everything it started.
    """

    def __init__(
        self, argv: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.argv = [str(part) for part in argv]
        self._folder = tempfile.TemporaryDirectory(prefix="program-")
        self._out = Path(self._folder.name) / "out"
        self._err = Path(self._folder.name) / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                self.argv,
                cwd=cwd,
                env=dict(env) if env is not None else environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def out(self) -> str:
        """Standard output so far."""
        return self._out.read_text(encoding="utf-8", errors="replace")

    def err(self) -> str:
        """Standard error so far."""
        return self._err.read_text(encoding="utf-8", errors="replace")

    def wait(self, within: float = 30.0) -> int:
        """Wait for its end and return the exit code; AssertionError with its output after `within` s."""
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.argv} still runs after {within} s\n{self.report()}") from None

    def wait_for(self, text: str, *, within: float = 30.0) -> None:
        """Wait until `text` stands in its output; AssertionError if it ends or `within` s pass before."""

        def seen_or_ended() -> bool:
            ended = not self.running
            return text in self.out() or text in self.err() or ended

        wait_until(seen_or_ended, within=within, what=f"{text!r} from {self.argv}")
        assert text in self.out() or text in self.err(), f"{self.argv} ended without {text!r}\n{self.report()}"

    def terminate(self, within: float = 30.0) -> int:
        """Ask it to stop (SIGTERM) and wait; returns the exit code."""
        if self.running:
            self.process.terminate()
        return self.wait(within)

    def kill(self) -> None:
        """End it and all it started at once (SIGKILL), as a power cut would."""
        if sys.platform == "win32":
            self.process.kill()
        else:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()

    def close(self) -> None:
        """Kill it if it still runs, and drop its output files."""
        self.kill()
        self._folder.cleanup()

    def report(self) -> str:
        """Both outputs, for a failure's message."""
        return f"--- standard output\n{self.out()[-4000:]}\n--- standard error\n{self.err()[-8000:]}"


def run(
    argv: Sequence[str | Path],
    *,
    within: float = 60.0,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    code: int | None = None,
) -> Finished:
    """Run a command to its end. With `code`, AssertionError (with the output) if it ends with another."""
    with Program(argv, cwd=cwd, env=env) as program:
        ended = program.wait(within)
        assert code is None or ended == code, f"{argv} ended with {ended}, not {code}\n{program.report()}"
        return Finished(ended, program.out(), program.err())
