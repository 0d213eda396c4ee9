"""A working process: it writes files and says what they hold, and it ends by itself."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from receiver.targets import pulse
from receiver.targets.worker import Worker
from receiver.targets.worker_child import ToRead, ToWrite
from tape.clock import ManualClock
from tape.digest import digests_of, xxh3
from tests.support.waiting import wait_until
from tests.support.working import child_of, held, linux, posix


def files(folder: Path, count: int) -> list[Path]:
    """Files of different sizes, an empty one and one of more than a block among them."""
    made = []
    for number in range(count):
        size = {0: 0, 1: 3 * 2**20 + 1, 2: 2**20}.get(number, number * 37)
        path = folder / f"file-{number}"
        path.write_bytes(bytes([number % 251]) * size)
        made.append(path)
    return made


def asked(paths: Sequence[Path], known: str = "") -> list[ToRead]:
    """As the worker is asked for them."""
    return [(str(path), path.stat().st_size, known) for path in paths]


def test_what_it_says_is_what_they_hold(tmp_path: Path) -> None:
    """Size and both digests, in order; where the SHA-256 is known, it is given back, and a wrong size is seen."""
    worker = Worker()
    paths = files(tmp_path, 40)
    for path, found in zip(paths, worker.read(asked(paths)), strict=True):
        both = digests_of(path)
        assert found == (both.size, both.digest, both.sha256)
    for path, found in zip(paths, worker.read(asked(paths, "f" * 64)), strict=True):
        assert found == (path.stat().st_size, digests_of(path).digest, "f" * 64)
    child = child_of(worker)
    for path in paths:
        path.write_bytes(path.read_bytes() + b"more")
    again = worker.read([(str(path), path.stat().st_size - 4, "") for path in paths])
    assert [found and found[0] for found in again] == [path.stat().st_size for path in paths]
    assert child_of(worker) == child
    assert child.pid != os.getpid()


@posix
def test_what_it_cannot_read_is_left_to_the_caller(tmp_path: Path) -> None:
    """A missing file, a link, a folder: None for each, the others are read."""
    paths = files(tmp_path, 20)
    wanted = asked(paths)
    paths[3].unlink()
    paths[5].unlink()
    paths[5].symlink_to(paths[6])
    paths[7].unlink()
    paths[7].mkdir()
    found = Worker().read(wanted)
    assert [number for number, answer in enumerate(found) if answer is None] == [3, 5, 7]


def test_a_file_that_is_far_too_long_is_left_to_the_caller(tmp_path: Path) -> None:
    """Who waits hears of each of its blocks there; here it would be silence, however fast it is read."""
    paths = files(tmp_path, 20)
    wanted = asked(paths)
    with paths[3].open("r+b") as file:
        file.truncate(2**40)
    with paths[5].open("r+b") as file:
        file.truncate(2**20)
    found = Worker().read(wanted)
    assert [number for number, answer in enumerate(found) if answer is None] == [3]
    assert found[5] is not None
    assert found[5][0] == 2**20


@linux
def test_killed_while_it_reads(tmp_path: Path) -> None:
    """What it had not said is None; the next batch has a process again."""
    worker = Worker()
    paths = files(tmp_path, 120)
    wanted = asked(paths)
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.extend(worker.read(wanted)))
    with held(paths[100]):  # opened some way ahead, where it hangs
        thread.start()
        wait_until(lambda: worker._signs == 2, within=10, what="two answers")
        child = child_of(worker)
        child.kill()
        thread.join(10)
    assert [number for number, answer in enumerate(answers) if answer is None] == list(range(32, 120))
    assert worker.read(asked(paths[:20]))[4] == (148, xxh3(b"\4" * 148), hashlib.sha256(b"\4" * 148).hexdigest())
    assert child_of(worker) != child


def test_it_ends_by_itself(tmp_path: Path) -> None:
    """When nobody asks, and nothing is left of it; the next batch starts it anew and is answered by it."""
    worker = Worker(idle=0.2)
    paths = files(tmp_path, 20)
    first = worker.read(asked(paths))
    child = child_of(worker)
    wait_until(lambda: not psutil.pid_exists(child.pid), within=10, what="it to end")
    assert worker.read(asked(paths)) == first
    assert child_of(worker) != child


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    """However that ends."""
    files(tmp_path, 20)
    program = (
        "import os, sys; from pathlib import Path; from receiver.targets.worker import Worker\n"
        "worker = Worker()\n"
        f"found = worker.read([(str(path), 1, '') for path in Path({str(tmp_path)!r}).iterdir()])\n"
        "assert None not in found\n"
        "print(worker._child._process.pid, flush=True); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 9
    wait_until(lambda: not _lives(int(done.stdout)), within=10, what="it to end")


@linux
def test_it_ends_with_its_parent_even_if_it_hangs(tmp_path: Path) -> None:
    """Nobody is there to be answered: it waits no longer than it would for work."""
    paths = files(tmp_path, 20)
    program = (
        "import os, sys, threading, time; from receiver.targets.worker import Worker\n"
        "worker = Worker(idle=0.5); wanted = [(path, 1, '') for path in sys.argv[1:]]\n"
        "threading.Thread(target=worker.read, args=[wanted], daemon=True).start(); time.sleep(1)\n"
        "print(worker._child._process.pid, flush=True); os._exit(9)"
    )
    with held(paths[10]):
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, paths)], stdout=subprocess.PIPE, text=True, check=False
        )
        assert done.returncode == 9
        wait_until(lambda: not _lives(int(done.stdout)), within=10, what="it to end")


def _lives(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@posix
def test_it_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or dies at once: the caller reads for itself, and it is tried again after a minute, not with every batch."""
    paths = files(tmp_path, 20)
    for there in ("/no/python", "/bin/false"):
        clock = ManualClock()
        worker = Worker(clock=clock)
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", there)
            assert worker.read(asked(paths)) == [None] * 20
        assert worker.read(asked(paths)) == [None] * 20
        clock.advance(61)
        assert None not in worker.read(asked(paths))


def test_who_gave_up_a_batch_leaves_no_answers_to_the_next(tmp_path: Path) -> None:
    """An interrupt, or whatever else ends the wait: its answers are nobody's, and its process ends."""
    worker = Worker()
    paths = files(tmp_path, 200)
    good = worker.read(asked(paths))
    child = child_of(worker)

    def give_up() -> None:
        raise KeyboardInterrupt

    with pulse.heard_by(give_up), pytest.raises(KeyboardInterrupt):
        worker.read(asked(paths))
    assert worker.read(asked(paths[::-1])) == good[::-1]
    wait_until(lambda: not _lives(child.pid), within=10, what="it to end")


@posix
def test_what_is_no_answer_counts_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of that name that says something else, or no name at all: the caller reads for itself."""
    paths = files(tmp_path, 20)
    (tmp_path / "python").write_text("#!/bin/sh\necho hello\n", encoding="utf-8", newline="\n")
    (tmp_path / "python").chmod(0o755)
    for there in (str(tmp_path / "python"), None):
        monkeypatch.setattr(sys, "executable", there)
        assert Worker().read(asked(paths)) == [None] * 20


def test_it_does_without_a_thread_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the service may have no more of them."""

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    worker = Worker(idle=0.2)
    paths = files(tmp_path, 20)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        assert None not in worker.read(asked(paths))
        child = child_of(worker)
        wait_until(lambda: not _lives(child.pid), within=10, what="it to end")
        assert None not in worker.read(asked(paths))
    assert not psutil.pid_exists(child.pid)


@posix
def test_an_interrupt_at_the_terminal_is_not_for_it(tmp_path: Path) -> None:
    """The service stops in order: a batch that is under way is not done twice for it, and nothing is said of it."""
    paths = files(tmp_path, 40)
    program = (
        "import os, signal, sys; from pathlib import Path; from receiver.targets.worker import Worker\n"
        "signal.signal(signal.SIGINT, lambda *_: None); worker = Worker()\n"
        "wanted = [(path, 1, '') for path in sys.argv[1:]]\n"
        "first = worker.read(wanted); child = worker._child._process.pid; os.killpg(0, signal.SIGINT)\n"
        "assert worker.read(wanted) == first and None not in first and worker._child._process.pid == child"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, paths)], capture_output=True, text=True, check=False,
        start_new_session=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@posix
def test_who_waits_for_another_batch_hears_that_it_moves(tmp_path: Path) -> None:
    """Signs of life reach those that wait for the process, too; while it hangs there are none."""
    worker = Worker()
    paths = files(tmp_path, 200)
    worker.read(asked(paths))
    child = child_of(worker)
    child.suspend()
    found: list[list[object]] = []
    signs: list[int] = []

    def wait() -> None:
        with pulse.heard_by(lambda: signs.append(1)):
            found.append([*worker.read(asked(paths))])

    threads = [threading.Thread(target=wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    threads[0].join(0.6)
    assert (signs, found) == ([], [])
    child.resume()
    for thread in threads:
        thread.join(10)
    assert len(signs) >= 2 * (200 // 16)
    assert found[0] == found[1]
    assert None not in found[0]


def to_write(folder: Path, paths: Sequence[Path]) -> list[ToWrite]:
    """As the worker is asked to write them into a folder."""
    return [
        (str(path), str(folder / f"temp-{path.name}"), str(folder / path.name), path.stat().st_size, _digest(path))
        for path in paths
    ]


def _digest(path: Path) -> str:
    return xxh3(path.read_bytes())


@posix
def test_what_it_writes_is_what_was_asked_for(tmp_path: Path) -> None:
    """A temporary file each; none where one of the name is, where the source is gone, a link or something else."""
    (tmp_path / "to").mkdir()
    paths = files(tmp_path, 40)
    wanted = to_write(tmp_path / "to", paths)
    paths[3].unlink()
    paths[5].write_bytes(b"something else")
    paths[7].rename(tmp_path / "moved")
    paths[7].symlink_to(tmp_path / "moved")
    (tmp_path / "to" / paths[9].name).symlink_to("nowhere")
    (tmp_path / "to" / f"temp-{paths[11].name}").write_bytes(b"somebody else's")
    done = Worker().write(wanted)
    assert [number for number, good in enumerate(done) if not good] == [3, 5, 7, 9, 11]
    for number, (_, temp, final, size, digest) in enumerate(wanted):
        if done[number]:
            assert (Path(temp).stat().st_size, _digest(Path(temp))) == (size, digest)
            assert not Path(final).exists()
        elif number != 11:
            assert not os.path.lexists(temp)
    assert (tmp_path / "to" / f"temp-{paths[11].name}").read_bytes() == b"somebody else's"


def test_a_source_that_is_far_too_long_fills_no_disk(tmp_path: Path) -> None:
    """It is left after a little more than was asked for."""
    (tmp_path / "to").mkdir()
    paths = files(tmp_path, 20)
    wanted = to_write(tmp_path / "to", paths)
    with paths[3].open("r+b") as file:
        file.truncate(2**40)
    done = Worker().write(wanted)
    assert [number for number, good in enumerate(done) if not good] == [3]
    assert not (tmp_path / "to" / f"temp-{paths[3].name}").exists()


# -------------------------------------------------------------------------------------------- in a target
