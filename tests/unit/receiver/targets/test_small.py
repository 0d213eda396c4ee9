"""Small files of a folder target: written and read back by its working processes, as if it did so itself."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest

from receiver.targets import files as files_read
from receiver.targets import reading_back
from receiver.targets.contract import READ_BACK, READ_BACK_FRESH, Parcel, Place, Proof
from receiver.targets.directory import TEMP_FOLDER, DirectoryTarget
from receiver.targets.marker import prepare
from receiver.targets.small import FEWEST, LARGEST
from receiver.targets.worker_child import ToRead
from receiver.targets.wrappers_paced import Paced
from receiver.targets.wrappers_timed import Timed
from receiver.timetable import Timetable
from tape.clock import SYSTEM
from tape.digest import xxh3
from tape.durable import Disk
from tape.errors import AlreadyThere, DigestMismatch, DiskError, NotFound, TargetAbsent
from tests.support.parcels import parcel, segment_path
from tests.support.waiting import wait_until
from tests.support.working import child_of, held, linux, posix


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
