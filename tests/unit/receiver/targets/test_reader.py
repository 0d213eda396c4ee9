"""The reading process: it says what files hold; dead, hung or idle, it keeps no copy from its proof."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from receiver.targets import files as files_read
from receiver.targets import pulse, reading_back
from receiver.targets.contract import READ_BACK, READ_BACK_FRESH, Parcel, Place, Proof
from receiver.targets.directory import DirectoryTarget
from receiver.targets.marker import prepare
from receiver.targets.reader import FEWEST, LARGEST, Asked, Reader
from receiver.targets.wrappers_timed import Timed
from tape.clock import SYSTEM
from tape.digest import digests_of, xxh3
from tape.durable import WINDOWS
from tape.errors import DiskError, NotFound, TargetAbsent
from tests.support.parcels import parcel, segment_path
from tests.support.waiting import wait_until

posix = pytest.mark.skipif(WINDOWS, reason="named pipes and links")


def files(folder: Path, count: int) -> list[Path]:
    """Files of different sizes, an empty one and one of more than a block among them."""
    made = []
    for number in range(count):
        size = {0: 0, 1: 3 * 2**20 + 1, 2: 2**20}.get(number, number * 37)
        path = folder / f"file-{number}"
        path.write_bytes(bytes([number % 251]) * size)
        made.append(path)
    return made


def asked(paths: Sequence[Path], known: str = "") -> list[Asked]:
    """As the reader is asked for them."""
    return [(str(path), path.stat().st_size, known) for path in paths]


def child_of(reader: Reader) -> psutil.Process:
    """Its process."""
    assert reader._child is not None
    return psutil.Process(reader._child._process.pid)


def test_what_it_says_is_what_they_hold(tmp_path: Path) -> None:
    """Size and both digests, in order; where the SHA-256 is known, it is given back, and a wrong size is seen."""
    reader = Reader()
    paths = files(tmp_path, 40)
    for path, found in zip(paths, reader.read(asked(paths)), strict=True):
        both = digests_of(path)
        assert found == (both.size, both.digest, both.sha256)
    for path, found in zip(paths, reader.read(asked(paths, "f" * 64)), strict=True):
        assert found == (path.stat().st_size, digests_of(path).digest, "f" * 64)
    child = child_of(reader)
    for path in paths:
        path.write_bytes(path.read_bytes() + b"more")
    again = reader.read([(str(path), path.stat().st_size - 4, "") for path in paths])
    assert [found and found[0] for found in again] == [path.stat().st_size for path in paths]
    assert child_of(reader) == child
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
    found = Reader().read(wanted)
    assert [number for number, answer in enumerate(found) if answer is None] == [3, 5, 7]


@posix
def test_killed_while_it_reads(tmp_path: Path) -> None:
    """What it had not said is None; the next batch has a process again."""
    reader = Reader()
    paths = files(tmp_path, 120)
    wanted = asked(paths)
    paths[100].unlink()
    os.mkfifo(paths[100])  # opened some way ahead, where it hangs
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.extend(reader.read(wanted)))
    thread.start()
    wait_until(lambda: reader._signs == 2, within=10, what="two answers")
    child = child_of(reader)
    child.kill()
    thread.join(10)
    assert [number for number, answer in enumerate(answers) if answer is None] == list(range(32, 120))
    assert reader.read(asked(paths[:20]))[4] == (148, xxh3(b"\4" * 148), hashlib.sha256(b"\4" * 148).hexdigest())
    assert child_of(reader) != child


def test_it_ends_by_itself(tmp_path: Path) -> None:
    """When nobody asks; the next batch starts it anew and is answered by it."""
    reader = Reader(idle=0.2)
    paths = files(tmp_path, 20)
    first = reader.read(asked(paths))
    child = child_of(reader)
    wait_until(lambda: child.status() == psutil.STATUS_ZOMBIE, within=10, what="it to end")
    assert reader.read(asked(paths)) == first
    assert child_of(reader) != child


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    """However that ends."""
    files(tmp_path, 20)
    program = (
        "import os, sys; from pathlib import Path; from receiver.targets.reader import Reader\n"
        "reader = Reader()\n"
        f"found = reader.read([(str(path), 1, '') for path in Path({str(tmp_path)!r}).iterdir()])\n"
        "assert None not in found\n"
        "print(reader._child._process.pid, flush=True); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 9
    wait_until(lambda: not _lives(int(done.stdout)), within=10, what="it to end")


def _lives(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_it_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller reads for itself."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    assert Reader().read(asked(files(tmp_path, 20))) == [None] * 20


@posix
def test_who_waits_for_another_batch_hears_that_it_moves(tmp_path: Path) -> None:
    """Signs of life reach those that wait for the process, too; while it hangs there are none."""
    reader = Reader()
    paths = files(tmp_path, 200)
    reader.read(asked(paths))
    child = child_of(reader)
    child.suspend()
    found: list[list[object]] = []
    signs: list[int] = []

    def wait() -> None:
        with pulse.heard_by(lambda: signs.append(1)):
            found.append([*reader.read(asked(paths))])

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


def test_a_place_that_vanishes_meanwhile_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read while another folder took the place's name does not count."""
    where = target(tmp_path / "nas")
    made = stored(where, 40)
    read = where._reader.read

    def swapped(wanted: Sequence[Asked]) -> list[tuple[int, str, str] | None]:
        answers = read(wanted)
        where.root.rename(tmp_path / "old")
        where.root.mkdir()
        return answers

    monkeypatch.setattr(where._reader, "read", swapped)
    with pytest.raises((TargetAbsent, DiskError)):
        where.verify_many(made)
