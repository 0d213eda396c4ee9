"""The tests' own tools, where a fault in them would make other tests blind."""

import sys
from pathlib import Path

import pytest

from tests.support import (
    RECORDINGS,
    Program,
    Sshd,
    need_program,
    need_shared_data,
    read_tree,
    recording,
    run,
    wait_until,
    wait_until_async,
    write_tree,
)


def test_what_is_missing_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing program is a failure in CI and a skip with a hint elsewhere."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="in CI nothing is skipped"):
        need_program("no-such-program")
    with pytest.raises(pytest.fail.Exception, match="recorded ticks"):
        need_shared_data("no-such-recording")
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match="hint: apt-get install the-package"):
        need_program("no-such-program", package="the-package")


def test_waiting_in_vain_is_a_failure_that_says_for_what() -> None:
    """A condition that never holds fails at its deadline and names what was awaited."""
    with pytest.raises(AssertionError, match="in vain for the impossible; it last gave 0"):
        wait_until(lambda: 0, within=0.05, what="the impossible")


async def test_waiting_inside_a_coroutine() -> None:
    """A coroutine's condition is awaited again and again until it holds."""
    answers = iter([None, 0, "there"])

    async def ask() -> object:
        return next(answers)

    assert await wait_until_async(ask) == "there"


def test_a_program_dies_with_what_it_started() -> None:
    """SIGKILL reaches the children too, and the output written before is kept."""
    child = "import time; time.sleep(600)"
    start = f"p = subprocess.Popen([sys.executable, '-c', {child!r}])"
    parent = f"import subprocess, sys; {start}; print(p.pid); p.wait()"
    with Program([sys.executable, "-c", parent]) as program:
        pid = int(wait_until(program.out))
        program.kill()
        stat = Path(f"/proc/{pid}/stat")
        wait_until(lambda: not stat.exists() or stat.read_text(encoding="ascii").split()[2] == "Z")


def test_a_wrong_exit_code_shows_the_output() -> None:
    """An unexpected exit code fails with what the command printed."""
    with pytest.raises(AssertionError, match=r"ended with 3, not 0(.|\n)*the reason"):
        run([sys.executable, "-c", "import sys; print('the reason'); sys.exit(3)"], code=0)


def test_trees_are_written_and_read_alike(tmp_path: Path) -> None:
    """A tree read back equals what was written, folders by `/`."""
    tree = {"a/b.txt": b"1\r\n", "c": b"\0"}
    assert read_tree(write_tree(tmp_path, tree)) == tree


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_recording_opens(name: str) -> None:
    """Each listed recording is there and gives lines."""
    assert recording(name).read(100_000).count(b"\n") > 1


def test_the_recordings_listed_are_all_there_are() -> None:
    """A recording that is added to the folder must be added to the list too."""
    root = need_shared_data()
    found = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    assert {name for name in found if not name.endswith(("README.md", "LICENSE"))} == set(RECORDINGS)


def test_the_plain_sshd_takes_an_upload(sshd: Sshd, tmp_path: Path) -> None:
    """OpenSSH's own client can upload into the inbox with the one key, also after a restart."""
    (tmp_path / "local").write_bytes(b"ticks")
    batch = tmp_path / "batch"
    for name in ("first", "second"):
        batch.write_text(f"put {tmp_path}/local {sshd.base.rstrip('/')}/{name}\n", encoding="utf-8", newline="\n")
        run(sshd.sftp("-b", str(batch)), code=0)
        sshd.stop()
        sshd.start()
    assert read_tree(sshd.inbox) == {"first": b"ticks", "second": b"ticks"}
