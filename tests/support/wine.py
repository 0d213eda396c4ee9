"""A Windows CPython under Wine, made by .ci/wine: real Windows paths, locks and encodings.

Faithful: sharing violations, no fsync of folders, cp1252 and CRLF as defaults, names equal but for case,
trailing dots. Not faithful: long paths, reserved names, alternate streams, Ctrl-Break.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.needs import PROJECT, missing
from tests.support.processes import Finished, Program, run

_ENTRY = {"tape-agent": "agent.cli", "tape-receiver": "receiver.cli"}
_KEEPER = "import os, sys, time; print('up')\nwhile os.path.exists(sys.argv[1]):\n    time.sleep(1)"


def windows_path(path: Path) -> str:
    r"""A path of this system as Windows programs see it: `Z:\...`."""
    return "Z:" + str(path.absolute()).replace("/", "\\")


class WindowsPython:
    """Runs Python programs under Wine, with the project importable and Windows' own defaults in force.

    A context manager: from its first program on, Wine stays up until the end. Otherwise Wine comes up and goes down
    with each program (over two seconds more), and one that starts while it goes down may wait for ever.
    """

    def __init__(self) -> None:
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        self.folder = Path(os.environ.get("HOMETAPE_WINE") or Path(cache) / "hometape-wine")
        self._winpy = self.folder / "winpy"
        if not self._winpy.exists():
            missing(f"the Windows Python at {self.folder}", "run .ci/wine once (a minute, 1.1 GB)")
        self._keeper: Program | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeper is not None:
            self._keeper.close()

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """What the program sees: nothing of this side's Python but where the project is."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST", "CI"))}
        return {
            **kept,
            "PYTHONPATH": windows_path(PROJECT),
            "PYTHONPYCACHEPREFIX": windows_path(self.folder / "pycache"),  # fast starts, and none of it in the project
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
            "COLUMNS": "200",
            **(more or {}),
        }

    def run(
        self, *args: str, within: float = 120.0, code: int | None = None, env: Mapping[str, str] | None = None
    ) -> Finished:
        """Run `python ARGS` to its end. Standard error comes in `out`, too: Wine needs pipes, and one serves both.

        Where it does not end, all of Wine is ended: the next program finds nothing of it.
        """
        ended = None
        with self.start(*args, env=env) as program:
            try:
                ended = program.wait(within)
            finally:
                if ended is None:
                    self.reset()
            assert code is None or ended == code, f"{args} ended with {ended}, not {code}\n{program.report()}"
            return Finished(ended, program.out().replace("\r\n", "\n"), program.err())

    def start(self, *args: str, env: Mapping[str, str] | None = None) -> Program:
        """Start `python ARGS` and leave it running."""
        if self._keeper is None or not self._keeper.running:
            self._keep()
        return self._start(*args, env=env)

    def reset(self) -> None:
        """End all of Wine, and take away drives that a program left: only C: and Z: were there before."""
        env = {**os.environ, "WINEPREFIX": str(self.folder / "prefix")}
        for word in ("-k", "-w"):
            run(["wineserver", word], within=60, env=env)
        for link in (self.folder / "prefix" / "dosdevices").glob("[abd-y]:*"):
            link.unlink()

    def _start(self, *args: str, env: Mapping[str, str] | None = None) -> Program:
        return Program([self._winpy, *args], cwd=PROJECT, env=self.environment(env))

    def _keep(self) -> None:
        """Start a program that does nothing until this process has ended. Wine's first start takes long at times."""
        if self._keeper is not None:
            self._keeper.close()
        self._keeper = self._start("-c", _KEEPER, windows_path(Path("/proc") / str(os.getpid())))
        try:
            self._keeper.wait_for("up", within=240)
        except AssertionError:
            self.reset()
            raise

    def command(self, name: str, *args: str) -> list[str]:
        """The arguments that make it run `tape-agent` or `tape-receiver`."""
        return ["-c", f"from {_ENTRY[name]} import main; main()", *args]
