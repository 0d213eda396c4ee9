"""The receiver and its command line on Windows, with an agent on this side delivering to it."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.support import Finished, Program, read_tree
from tests.support.road import Road
from tests.support.wine import WindowsPython

pytestmark = [pytest.mark.wine, pytest.mark.xdist_group("wine"), pytest.mark.timeout(600)]


class HalfWindowsRoad(Road):
    r"""A road whose home end is Windows: `/tmp/x` of this side is `Z:\tmp\x` there, the drive it starts on."""

    def __init__(self, folder: Path, winpy: WindowsPython) -> None:
        super().__init__(folder)
        self._winpy = winpy

    def tape_receiver(self, *words: str, codes: Sequence[int] = (0,), within: float = 120.0) -> Finished:
        """Run `tape-receiver` on Windows to its end."""
        argv = self._winpy.command("tape-receiver", words[0], "--config", str(self.receiver_toml), *words[1:])
        done = self._winpy.run(*argv, within=within)
        assert done.code in codes, f"tape-receiver {' '.join(words)} ended with {done.code}\n{done.out}"
        return done

    def start_receiver(self, env: Mapping[str, str] | None = None) -> Program:
        """Start `tape-receiver run` on Windows and wait until it listens."""
        argv = self._winpy.command("tape-receiver", "run", "--config", str(self.receiver_toml))
        self.receiver = self._winpy.start(*argv, env=env)
        self.receiver.wait_for("listening", within=90)
        return self.receiver


def ticks(rows: int, seed: int) -> bytes:
    """CSV quotes with CRLF line ends, some bytes that are not UTF-8, and no newline at the end."""
    chance = random.Random(seed)
    lines = [f"{number * 7},{chance.randrange(10_000)},{chance.randrange(100, 999)}".encode() for number in range(rows)]
    lines[rows // 2] = b"caf\xe9,\xff,\x00"
    return b"\r\n".join(lines)


def test_the_commands_answer(tmp_path: Path, winpy: WindowsPython) -> None:
    """`version`, `init`, `check` and `status` work there, and what `init` writes is what `check` accepts."""
    road = HalfWindowsRoad(tmp_path, winpy)
    assert "Windows" in winpy.run(*winpy.command("tape-receiver", "version"), code=0).out
    road.configure()
    assert "[listen]" in road.receiver_toml.read_text(encoding="utf-8")
    road.tape_receiver("check", codes=(0, 1))
    road.tape_receiver("status", codes=(0, 1, 2, 3))


def test_what_an_agent_delivers_comes_back_byte_for_byte(tmp_path: Path, winpy: WindowsPython) -> None:
    """An agent on this side delivers to Windows, which is killed once; both copies hold it, export gives it back."""
    first, second = ticks(20_000, 1), ticks(20_000, 2)
    with HalfWindowsRoad(tmp_path, winpy) as road:
        road.configure()
        (road.ticks / "quotes.csv").write_bytes(first + b"\r\n")
        road.start_receiver()
        road.start_agent()
        road.wait_level(len(first) + 2, within=180)
        assert road.receiver is not None
        road.receiver.close()
        with (road.ticks / "quotes.csv").open("ab") as file:
            file.write(second)
        road.start_receiver()
        road.wait_level(len(first) + 2 + len(second), within=180)
        road.receiver.close()
        assert road.agent_process is not None
        road.agent_process.close()
        for origin in road.targets:
            out = road.export("ticks/quotes", origin)
            assert list(read_tree(out).values()) == [first + b"\r\n" + second]
        kept = [read_tree(path, "**/*.parquet") for path in road.targets.values()]
        assert kept[0] == kept[1]
        assert kept[0]
