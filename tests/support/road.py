"""The whole road as real processes: `tape-agent` and `tape-receiver`, configured by their own `init`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.ports import free_port
from tests.support.processes import Finished, Program, command, run
from tests.support.waiting import wait_until

FAST = ("seal.max_age=1s", "seal.partial_age=1s", "receiver.retry_max=1s", "receiver.receipts_every=1s")


def printed(text: str, key: str) -> str:
    """The value of `key = "..."` in what a command printed."""
    line = next(line for line in text.splitlines() if line.startswith(f"{key} = "))
    return line.split(" = ", 1)[1].strip('"')


class Road:
    """One receiver with its targets and one agent, in a folder of their own.

    `patterns` are the agent's files, `stream` its template. `through` is the port the agent connects
    to (a proxy), by default the receiver's own. Nothing runs before `start_*`.
    """

    def __init__(self, folder: Path, *, targets: Sequence[str] = ("nas",), agent: str = "server1") -> None:
        self.folder = folder
        self.agent = agent
        self.receiver_toml, self.agent_toml = folder / "home" / "receiver.toml", folder / "server" / "agent.toml"
        self.targets = {"home": folder / "home" / "archive", **{name: folder / name for name in targets}}
        self.ticks = folder / "server" / "ticks"
        self.ticks.mkdir(parents=True)
        self.port = free_port()
        self.receiver: Program | None = None
        self.agent_process: Program | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in (self.agent_process, self.receiver):
            if process is not None:
                process.close()

    def configure(
        self,
        *,
        patterns: Sequence[str] = ("*",),
        stream: str = "ticks/{base}",
        through: int | None = None,
        agent_set: Sequence[str] = FAST,
        receiver_set: Sequence[str] = (),
    ) -> None:
        """Write both configurations with the commands a user would type."""
        words = ["init", "--state", str(self.folder / "home" / "state"), "--home", str(self.targets["home"])]
        words += ["--port", str(self.port), *_each("--set", receiver_set)]
        for name, path in self.targets.items():
            if name != "home":
                words += ["--target", f"{name}={path},{name}-disk,{'drawer' if name == 'usb' else 'home'}"]
        shown = self.tape_receiver(*words).out
        words = ["init", "--agent", self.agent, "--port", str(through or self.port)]
        words += ["--state", str(self.folder / "server" / "state"), "--stream", stream, *_each("--set", agent_set)]
        words += _each("--path", [str(self.ticks / pattern) for pattern in patterns])
        words += ["--host-key", printed(shown, "host_key"), "--receipt-key", printed(shown, "receipt_key")]
        shown = self.tape_agent(*words).out
        entry = shown[shown.index("[[agent]]") :].split("\n\n")[0]
        with self.receiver_toml.open("a", encoding="utf-8", newline="\n") as file:
            file.write("\n" + entry + "\n")

    def tape_agent(self, *words: str, codes: Sequence[int] = (0,), within: float = 120.0) -> Finished:
        """Run `tape-agent` to its end; AssertionError if its exit code is not one of `codes`."""
        return self._command("tape-agent", self.agent_toml, words, codes, within)

    def tape_receiver(self, *words: str, codes: Sequence[int] = (0,), within: float = 120.0) -> Finished:
        """Run `tape-receiver` to its end; AssertionError if its exit code is not one of `codes`."""
        return self._command("tape-receiver", self.receiver_toml, words, codes, within)

    def _command(self, name: str, config: Path, words: Sequence[str], codes: Sequence[int], within: float) -> Finished:
        done = run([*command(name), *words, "--config", config], within=within)
        assert done.code in codes, f"{name} {' '.join(words)} ended with {done.code}\n{done.out}\n{done.err}"
        return done

    def start_receiver(self, env: Mapping[str, str] | None = None) -> Program:
        """Start `tape-receiver run` and wait until it listens."""
        self.receiver = Program([*command("tape-receiver"), "run", "--config", self.receiver_toml], env=env)
        self.receiver.wait_for("listening")
        return self.receiver

    def start_agent(self, env: Mapping[str, str] | None = None) -> Program:
        """Start `tape-agent run`."""
        self.agent_process = Program([*command("tape-agent"), "run", "--config", self.agent_toml], env=env)
        return self.agent_process

    def status(self) -> dict[str, Any]:
        """What `tape-receiver status --json` says."""
        return dict(json.loads(self.tape_receiver("status", "--json", codes=(0, 1, 2)).out))

    def agent_status(self) -> dict[str, Any]:
        """What `tape-agent status --json` says; empty before the service wrote any."""
        done = self.tape_agent("status", "--json", codes=(0, 1, 2, 3))
        return dict(json.loads(done.out)) if done.out.startswith("{") else {}

    def level(self, source_bytes: int) -> bool:
        """Whether exactly so many source bytes were sealed and all of it is safe and released."""
        facts = self.agent_status()
        return facts.get("sealed_bytes") == source_bytes and facts.get("unreleased_segments") == 0

    def wait_level(self, source_bytes: int, within: float = 90.0) -> None:
        """Wait until `level`; AssertionError with both logs."""
        try:
            wait_until(lambda: self.level(source_bytes), within=within, every=0.3, what="both sides to be level")
        except AssertionError as error:
            logs = [p.report() for p in (self.agent_process, self.receiver) if p is not None]
            raise AssertionError("\n".join([str(error), str(self.agent_status()), *logs])) from None

    def export(self, stream: str, origin: str, *words: str) -> Path:
        """Export a stream's original bytes from one target; the folder they are in."""
        folder = self.folder / "export" / origin / stream.replace("/", "-")
        self.tape_receiver("export", f"{self.agent}/{stream}", "--from", origin, "--output", str(folder), *words)
        return folder


def _each(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]
