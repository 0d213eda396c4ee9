"""The units: judged by systemd's own tools, and against the program they start."""

import os
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support import environment, need_program, run
from tests.support.needs import PROJECT

UNITS = {"tape-agent": 16, "tape-receiver": 15}  # most exposure allowed, in tenths, as measured
STAND_IN = "/bin/true"


def unit_text(name: str) -> str:
    """The unit as it is shipped."""
    return (PROJECT / "systemd" / f"{name}.service").read_text(encoding="utf-8")


def values(name: str, key: str) -> list[str]:
    """All values of a key in the unit, in order."""
    return re.findall(rf"^{key}=(.*)$", unit_text(name), re.MULTILINE)


def variables(name: str) -> dict[str, str]:
    """The environment the unit sets."""
    return dict(pair.split("=", 1) for line in values(name, "Environment") for pair in shlex.split(line))


def placed(tmp_path: Path, name: str, *, change: tuple[str, str] = ("", "")) -> Path:
    """The unit in a folder of its own, with a program that exists here in place of the installed one."""
    text = unit_text(name).replace(f"/opt/hometape/bin/{name}", STAND_IN).replace(*change)
    assert f"ExecStart={STAND_IN} run" in text
    path = tmp_path / f"{name}.service"
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def verify(path: Path) -> tuple[int, str]:
    """What `systemd-analyze verify` says: exit code and complaints."""
    analyze = need_program("systemd-analyze", package="systemd")
    ended = run([analyze, "verify", "--man=no", "--recursive-errors=no", path])
    return ended.code, ended.out + ended.err


def exposure_is_within(path: Path, tenths: int) -> bool:
    """Whether `systemd-analyze security` finds no more exposure than `tenths`."""
    analyze = need_program("systemd-analyze", package="systemd")
    ended = run([analyze, "security", "--offline=yes", "--no-pager", f"--threshold={tenths}", path])
    assert "Overall exposure level" in ended.out, ended.err
    return ended.code == 0


@pytest.mark.parametrize("name", UNITS)
def test_systemd_knows_every_line(name: str, tmp_path: Path) -> None:
    """Systemd accepts the unit without a single complaint."""
    assert verify(placed(tmp_path, name)) == (0, "")


@pytest.mark.parametrize("name", UNITS)
def test_an_unknown_line_would_be_found(name: str, tmp_path: Path) -> None:
    """A misspelt key is not passed over."""
    code, complaints = verify(placed(tmp_path, name, change=("ProtectClock=", "ProtectClocks=")))
    assert code != 0 or "ProtectClocks" in complaints


@pytest.mark.parametrize("name", UNITS)
def test_the_unit_is_hardened(name: str, tmp_path: Path) -> None:
    """The exposure stays where it was measured: every loosened line shows."""
    assert exposure_is_within(placed(tmp_path, name), UNITS[name])


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("line", ["NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet="])
def test_a_loosened_line_would_be_found(name: str, line: str, tmp_path: Path) -> None:
    """Without one of its locks the unit breaks the limit."""
    assert not exposure_is_within(placed(tmp_path, name, change=(f"\n{line}\n", "\n")), UNITS[name])


@pytest.mark.parametrize("name", UNITS)
def test_it_starts_a_command_that_is_installed(name: str) -> None:
    """The unit starts a command that the distribution installs, with a subcommand it has."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    (start,) = values(name, "ExecStart")
    program, verb, option, config = start.split()
    assert Path(program).name == name
    assert name in project["project"]["scripts"]
    assert (verb, option) == ("run", "--config")
    assert config == f"/etc/hometape/{name.removeprefix('tape-')}.toml"


@pytest.mark.parametrize("name", UNITS)
def test_malloc_is_set_as_the_tuning_page_says(name: str) -> None:
    """The allocator's settings are those that the page on SSH tuning explains."""
    page = (PROJECT / "docs" / "ssh-tuning.md").read_text(encoding="utf-8")
    malloc = {key: value for key, value in variables(name).items() if key.startswith("MALLOC_")}
    assert len(malloc) == 3
    for key, value in malloc.items():
        assert f"`{key}={value}`" in page


def test_the_receiver_commits_within_one_mount() -> None:
    """The only path that must be writable is one: a commit renames, and rename stops at a mount."""
    assert [v for v in values("tape-receiver", "ReadWritePaths") if not v.startswith("-")] == ["/srv/hometape"]
    assert values("tape-receiver", "StateDirectory") == []


@pytest.mark.skipif(sys.platform != "linux", reason="the lock is Linux's")
@pytest.mark.parametrize("name", UNITS)
def test_the_program_loads_where_memory_never_is_both_written_and_run(name: str) -> None:
    """Under MemoryDenyWriteExecute, with the unit's environment, both commands' modules load and work."""
    refuse = "import ctypes; refused = ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0"
    body = (
        f"{refuse}; import polars, pyarrow.parquet, asyncssh, watchfiles, sys; print(refused);"
        f"import {name.removeprefix('tape-')}.cli"
    )
    ended = run([sys.executable, "-c", body], env=environment(**variables(name)))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.strip() == "True", "this kernel has no such lock (Linux 6.3 or newer has)"


@pytest.mark.parametrize("name", UNITS)
def test_the_account_is_made(name: str, tmp_path: Path) -> None:
    """The account that the units run as is the one systemd-sysusers is told to make."""
    sysusers = need_program("systemd-sysusers", package="systemd")
    file = PROJECT / "systemd" / "hometape.sysusers.conf"
    (tmp_path / "etc").mkdir()
    ended = run([sysusers, f"--root={tmp_path}", file], env={**os.environ, "SYSTEMD_LOG_LEVEL": "info"})
    assert ended.code == 0, ended.err
    made = (tmp_path / "etc" / "passwd").read_text(encoding="utf-8")
    assert values(name, "User") == values(name, "Group") == ["hometape"]
    assert made.startswith("hometape:x:")
