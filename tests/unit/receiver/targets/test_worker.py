"""The working process: it writes files and says what they hold; dead, hung or idle, it keeps nobody from a copy."""

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import psutil
import pytest

from receiver.targets import files as files_read
from receiver.targets import pulse, reading_back
from receiver.targets.contract import READ_BACK, READ_BACK_FRESH, Parcel, Place, Proof
from receiver.targets.directory import TEMP_FOLDER, DirectoryTarget
from receiver.targets.marker import prepare
from receiver.targets.small import FEWEST, LARGEST
from receiver.targets.worker import Worker
from receiver.targets.worker_child import ToRead, ToWrite
from receiver.targets.wrappers_paced import Paced
from receiver.targets.wrappers_timed import Timed
from receiver.timetable import Timetable
from tape.clock import SYSTEM, ManualClock
from tape.digest import digests_of, xxh3
from tape.durable import WINDOWS, Disk
from tape.errors import AlreadyThere, DigestMismatch, DiskError, NotFound, TargetAbsent
from tests.support.parcels import parcel, segment_path
from tests.support.waiting import wait_until

linux = pytest.mark.skipif(sys.platform != "linux", reason="leases of files: Linux only")
posix = pytest.mark.skipif(WINDOWS, reason="named pipes, links, stopped processes: not on Windows")


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


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """A file that nobody can open meanwhile: who tries hangs."""
    import fcntl

    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        with path.open("r+b") as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            yield
    finally:
        signal.signal(signal.SIGIO, before)


def child_of(worker: Worker) -> psutil.Process:
    """Its process."""
    assert worker._child is not None
    return psutil.Process(worker._child._process.pid)


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


def target(folder: Path) -> DirectoryTarget:
    """A target in a folder."""
    prepare(folder, "nas", clock=SYSTEM)
    return DirectoryTarget(Place("nas"), folder)


def stored(where: DirectoryTarget, count: int, size: int = 1000) -> list[Parcel]:
    """Segments put there."""
    made = [parcel(seq, bytes([seq % 256]) * size) for seq in range(count)]
    assert where.put_many(made) == [None] * count
    return made


def test_many_small_ones_are_read_by_it_and_others_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proofs are the same either way: digest, SHA-256, method."""
    where = target(tmp_path / "nas")
    made = stored(where, FEWEST)
    data = b"l" * (LARGEST + 1)
    large = Parcel(segment_path(500, data), len(data), xxh3(data), lambda: [data])
    assert where.put_many([large]) == [None]
    here: list[str] = []

    def noted(file, *args, **options):  # type: ignore[no-untyped-def] # as the original
        here.append(Path(file.name).name)
        return files_read.digests(file, *args, **options)

    monkeypatch.setattr(reading_back, "digests", noted)
    apart = where.verify_many([*made, large])
    assert here == [Path(large.path).name]
    assert apart == [where.verify(item.path) for item in [*made, large]]
    here.clear()
    assert where.verify_many(made[1:]) == apart[1:-1]
    assert len(here) == FEWEST - 1
    fresh = [replace(item, fresh=True, sha256="a" * 64) for item in made]
    assert {(proof.sha256, proof.method) for proof in where.verify_many(fresh) if isinstance(proof, Proof)} == {
        ("a" * 64, READ_BACK_FRESH)
    }
    assert {proof.method for proof in apart if isinstance(proof, Proof)} == {READ_BACK}


@posix
def test_what_is_wrong_is_told_as_ever(tmp_path: Path) -> None:
    """Changed bytes by their digest, a missing file and a link as not found, a folder's link too; nobody else's."""
    where = target(tmp_path / "nas")
    made = stored(where, 40)
    paths = [where.root / item.path for item in made]
    paths[2].write_bytes(b"x" * 1000)
    paths[4].unlink()
    paths[6].unlink()
    paths[6].symlink_to(paths[7])
    answers = where.verify_many(made)
    assert [n for n, answer in enumerate(answers) if not isinstance(answer, Proof)] == [4, 6]
    assert all(isinstance(answers[number], NotFound) for number in (4, 6))
    wrong = answers[2]
    assert isinstance(wrong, Proof)
    assert wrong.digest == xxh3(b"x" * 1000)
    folder = paths[0].parent
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))
    assert all(isinstance(answer, NotFound) for answer in where.verify_many(made))


@posix
@pytest.mark.parametrize("count", [3, 40])
def test_what_is_no_plain_file_hangs_nobody(tmp_path: Path, count: int) -> None:
    """A named pipe or a socket in place of a copy is no copy, in place of a home file it is asked for as ever."""
    where = target(tmp_path / "nas")
    made = [parcel(seq, bytes([seq]) * 1000) for seq in range(count)]
    items = [replace(item, read=full.read) for item, full in zip(at_home(tmp_path / "home", made), made, strict=True)]
    source = items[1].local
    assert source is not None
    source.unlink()
    os.mkfifo(source)
    timed = Timed(where, 10)
    assert timed.put_many(items) == [None] * count
    (where.root / items[1].path).unlink()
    os.mkfifo(where.root / items[1].path)
    (where.root / items[2].path).unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        (tmp_path / "s").rename(where.root / items[2].path)
        answers = timed.verify_many(items)
    assert [number for number, answer in enumerate(answers) if not isinstance(answer, Proof)] == [1, 2]
    assert isinstance(answers[1], NotFound)
    assert isinstance(answers[2], NotFound)


@linux
def test_few_files_may_be_open(tmp_path: Path) -> None:
    """As many are opened ahead as may be: a copy is not taken for one that can't be read."""
    import resource

    where = target(tmp_path / "nas")
    made = stored(where, 120)
    program = (
        "import io, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))\n"
        "from receiver.targets.files import opened_ahead; from receiver.targets.worker import Worker\n"
        "paths = sys.argv[1:]; assert None not in Worker().read([(path, 1000, '') for path in paths])\n"
        "for path, file in opened_ahead(paths, lambda path: io.FileIO(path), (OSError,)):\n"
        "    assert file.name == path and len(file.read()) == 1000; file.close()"
    )
    paths = [str(where.root / item.path) for item in made]
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 8, limit[1]))
    try:
        few = [proof for start in range(0, 120, 15) for proof in where.verify_many(made[start : start + 15])]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert all(isinstance(proof, Proof) for proof in few)


@posix
def test_a_disk_that_hangs_is_given_up(tmp_path: Path) -> None:
    """The process hangs in it: the step around the target is given up as for a thread that hangs, and comes back."""
    where = target(tmp_path / "nas")
    made = stored(where, 40)
    good = where.verify_many(made)
    child = child_of(where._reader)
    child.suspend()
    timed = Timed(where, 0.5)
    for _ in range(2):
        with pytest.raises(TargetAbsent, match="has not answered"):
            timed.verify_many(made)
    child.resume()
    wait_until(lambda: timed.state().readable, within=10, what="the step to come back")
    assert timed.verify_many(made) == good


@posix
def test_one_writes_while_another_reads(tmp_path: Path) -> None:
    """Two batches of one target, the one on its way out and the one on its way back, don't wait for each other."""
    where = target(tmp_path / "nas")
    made = stored(where, 40)
    good = where.verify_many(made)
    more = at_home(tmp_path / "home", [parcel(seq, b"%d" % seq * 1000) for seq in range(100, 140)])
    reader = child_of(where._reader)
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.extend(where.verify_many(made)))
    reader.suspend()
    try:
        thread.start()
        assert where.put_many(more) == [None] * 40
        assert where._writer._signs > 0
        assert answers == []
    finally:
        reader.resume()
    thread.join(30)
    assert answers == good


def test_a_place_that_vanishes_meanwhile_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read while another folder took the place's name does not count."""
    where = target(tmp_path / "nas")
    made = stored(where, 40)
    read = where._reader.read

    def swapped(wanted: Sequence[ToRead]) -> list[tuple[int, str, str] | None]:
        answers = read(wanted)
        where.root.rename(tmp_path / "old")
        where.root.mkdir()
        return answers

    monkeypatch.setattr(where._reader, "read", swapped)
    with pytest.raises((TargetAbsent, DiskError)):
        where.verify_many(made)


def at_home(folder: Path, made: Sequence[Parcel]) -> list[Parcel]:
    """The same parcels with files of their own to be taken from; their bytes may only be asked for where that fails."""
    found = []
    for item in made:
        path = folder / item.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(item.read()))
        found.append(replace(item, local=path, read=partial(_never, item.path)))
    return found


def _never(path: str) -> list[bytes]:
    raise AssertionError(f"asked for {path}")


def test_many_small_ones_are_written_by_it(tmp_path: Path) -> None:
    """From the files of home, byte for byte, never over another one; nothing is left beside them."""
    where = target(tmp_path / "nas")
    made = [parcel(seq, bytes([seq % 256]) * (1 + seq * 100)) for seq in range(40)]
    items = at_home(tmp_path / "home", made)
    assert where.put_many(items) == [None] * 40
    assert [(where.root / item.path).read_bytes() for item in items] == [b"".join(item.read()) for item in made]
    assert where.verify_many(items) == [where.verify(item.path) for item in items]
    assert list((where.root / TEMP_FOLDER).iterdir()) == []
    assert all(isinstance(answer, AlreadyThere) for answer in where.put_many(items))
    assert list((where.root / TEMP_FOLDER).iterdir()) == []


def test_what_it_cannot_write_is_written_here(tmp_path: Path) -> None:
    """A home file that is gone or bad is asked for as ever, and only it."""
    where = target(tmp_path / "nas")
    made = [parcel(seq, bytes([seq % 256]) * 1000) for seq in range(40)]
    items = at_home(tmp_path / "home", made)
    for number in (4, 6):
        local = items[number].local
        assert local is not None
        local.write_bytes(b"damaged")
        items[number] = replace(items[number], read=made[number].read)
    items[6] = replace(items[6], read=lambda: [b"damaged"])
    answers = where.put_many(items)
    assert isinstance(answers[6], DigestMismatch)
    assert [number for number, answer in enumerate(answers) if answer is not None] == [6]
    assert list((where.root / TEMP_FOLDER).iterdir()) == []


@linux
def test_killed_while_it_writes(tmp_path: Path) -> None:
    """What it had not written is written here; nothing half-written is seen or left."""
    where = target(tmp_path / "nas")
    made = [parcel(seq, bytes([seq % 256]) * 1000) for seq in range(120)]
    items = [replace(item, read=full.read) for item, full in zip(at_home(tmp_path / "home", made), made, strict=True)]
    source = items[100].local
    assert source is not None
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.extend(where.put_many(items)))
    with held(source):  # where it hangs
        thread.start()
        wait_until(lambda: where._writer._signs == 6, within=20, what="six answers")
        child_of(where._writer).kill()
        thread.join(30)
    assert answers == [None] * 120
    assert [(where.root / item.path).read_bytes() for item in items] == [b"".join(item.read()) for item in made]
    assert list((where.root / TEMP_FOLDER).iterdir()) == []


def test_a_rate_or_a_disk_of_its_own_is_kept(tmp_path: Path) -> None:
    """What wants to see every byte on its way (a limit, a disk that is made to fail) sees it."""
    prepare(tmp_path / "nas", "nas", clock=SYSTEM)

    class Noted(Disk):
        made = 0

        def create(self, path: Path) -> BinaryIO:
            self.made += 1
            return super().create(path)

    disk = Noted()
    where = DirectoryTarget(Place("nas"), tmp_path / "nas", disk=disk)
    made = [parcel(seq, bytes([seq % 256]) * 1000) for seq in range(40)]
    items = [replace(item, read=full.read) for item, full in zip(at_home(tmp_path / "home", made), made, strict=True)]
    assert where.put_many(items[:20]) == [None] * 20
    assert disk.made >= 20
    taken: list[str] = []
    paced = Paced(DirectoryTarget(Place("nas"), tmp_path / "nas"), Timetable.parse("100M"))

    def noted(item: Parcel) -> Iterator[bytes]:
        taken.append(item.path)
        yield from item.read()

    assert paced.put_many([replace(item, read=partial(noted, item)) for item in items[20:]]) == [None] * 20
    assert taken == [item.path for item in items[20:]]
