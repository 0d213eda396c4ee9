"""A Windows CPython under Wine, made by .ci/wine: real Windows paths, locks and encodings.

Faithful: sharing violations, no fsync of folders, cp1252 and CRLF as defaults, names equal but for case,
trailing dots. Not faithful: long paths, reserved names, alternate streams, Ctrl-Break.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tests.support.needs import PROJECT, missing
from tests.support.processes import Finished, Program, run

_ENTRY = {"tape-agent": "agent.cli", "tape-receiver": "receiver.cli"}


def windows_path(path: Path) -> str:
    r"""A path of this system as Windows programs see it: `Z:\...`."""
    return "Z:" + str(path.absolute()).replace("/", "\\")


class WindowsPython:
    """Runs Python programs under Wine, with the project importable and Windows' own defaults in force."""

    def __init__(self) -> None:
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        self.folder = Path(os.environ.get("HOMETAPE_WINE") or Path(cache) / "hometape-wine")
        self._winpy = self.folder / "winpy"
        if not self._winpy.exists():
            missing(f"the Windows Python at {self.folder}", "run .ci/wine once (a minute, 1.1 GB)")

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
        """Run `python ARGS` to its end. Standard error comes in `out`, too: Wine needs pipes, and one serves both."""
        done = run([self._winpy, *args], within=within, code=code, cwd=PROJECT, env=self.environment(env))
        return replace(done, out=done.out.replace("\r\n", "\n"))

    def start(self, *args: str, env: Mapping[str, str] | None = None) -> Program:
        """Start `python ARGS` and leave it running."""
        return Program([self._winpy, *args], cwd=PROJECT, env=self.environment(env))

    def settle(self) -> None:
        """End what Wine keeps running between programs: what changed in its folders is seen by the next one."""
        env = {**os.environ, "WINEPREFIX": str(self.folder / "prefix")}
        for word in ("-k", "-w"):
            run(["wineserver", word], within=60, env=env)

    def command(self, name: str, *args: str) -> list[str]:
        """The arguments that make it run `tape-agent` or `tape-receiver`."""
        return ["-c", f"from {_ENTRY[name]} import main; main()", *args]
