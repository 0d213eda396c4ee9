"""The home side alone, as its own process: `tape-receiver run` with a drop box that a test fills with segments."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.processes import Finished, Program, command, run
from tests.support.segments import Maker
from tests.support.waiting import wait_until

AGENT = "box"


class HomeSide:
    """One receiver, configured by its own `init`, without a port. `targets`: folders beside the home archive."""

    def __init__(self, folder: Path, *, targets: Sequence[str] = ("nas",), words: Sequence[str] = ()) -> None:
        self.folder = folder
        self.toml = folder / "receiver.toml"
        self.drop = folder / "drop"
        self.drop.mkdir(parents=True)
        self.service: Program | None = None
        self.maker = Maker(agent=AGENT)
        self.sent = 0
        places = [word for name in targets for word in ("--target", f"{name}={folder / name},{name}-disk,home")]
        self.command(
            "init", "--state", str(folder / "state"), "--home", str(folder / "home"), *places,
            "--agent", f"{AGENT}=dropbox:{self.drop}", "--set", "listen.enabled=false", *words,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.service is not None:
            self.service.close()

    def start(self) -> Program:
        """Start the service and wait until it works."""
        self.service = Program([*command("tape-receiver"), "run", "--config", self.toml])
        self.service.wait_for("listening")
        return self.service

    def stop(self) -> int:
        """Ask the service to end; its exit code."""
        assert self.service is not None
        code = self.service.terminate()
        self.service.close()
        self.service = None
        return code

    def command(self, *words: str, codes: Sequence[int] = (0,)) -> Finished:
        """Run `tape-receiver` to its end; AssertionError if its exit code is not one of `codes`."""
        done = run([*command("tape-receiver"), words[0], "--config", self.toml, *words[1:]])
        assert done.code in codes, f"{' '.join(words)} ended with {done.code}\n{done.out}\n{done.err}"
        return done

    def status(self) -> dict[str, Any]:
        """What `status --json` says."""
        return dict(json.loads(self.command("status", "--json", codes=(0, 1, 2)).out))

    def deliver(self, count: int) -> None:
        """Put the next segments into the drop box, as a plain server leaves them."""
        for made in self.maker.many(count):
            path = self.drop / made.path.stream / str(made.path.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(made.data)
        self.sent += count

    def receipt(self) -> dict[str, int]:
        """How many segments the stream's receipt calls held and safe; empty before there is one."""
        try:
            text = (self.drop / ".receipts" / f"{self.maker.stream}.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        (epoch,) = json.loads(text)["receipt"]["epochs"].values()
        return {key: sum(last - first + 1 for first, last in epoch[key]) for key in ("held", "safe")}

    def wait_receipt(self, held: int, safe: int) -> None:
        """Wait until the receipt says exactly so; AssertionError with the log."""
        wanted = {"held": held, "safe": safe}
        try:
            wait_until(lambda: self.receipt() == wanted, within=40, every=0.1, what=f"a receipt of {wanted}")
        except AssertionError as error:
            log = self.service.report() if self.service is not None else ""
            raise AssertionError(f"{error}\nlast: {self.receipt()}\n{log}") from None

    def files(self, target: str) -> int:
        """How many segments lie in a target's folder."""
        return len(list((self.folder / target).glob("box/**/*.parquet")))

    def copied(self, target: str) -> int:
        """How many verified copies status counts at a target; 0 if it does not know it."""
        return sum(one["segments"] for one in self.status()["targets"] if one["id"] == target)

    def wait_copied(self, target: str, count: int) -> None:
        """Wait until so many verified copies are there."""
        wait_until(lambda: self.copied(target) == count, within=40, every=0.3, what=f"{count} copies at {target}")

    def edit(self, old: str, new: str) -> None:
        """Change the configuration, as an editor does; `old` must be there once."""
        text = self.toml.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in\n{text}"
        self.toml.write_text(text.replace(old, new), encoding="utf-8", newline="\n")

    def append(self, text: str) -> None:
        """Add to the end of the configuration."""
        with self.toml.open("a", encoding="utf-8", newline="\n") as file:
            file.write(text)
