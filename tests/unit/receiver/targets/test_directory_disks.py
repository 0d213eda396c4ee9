"""A target in a folder on real file systems that vanish, break, fill up and go read-only under it."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from receiver.targets.contract import MARKER, Condition, Parcel, Place, Proof
from receiver.targets.directory import ASIDE_FOLDER, TEMP_FOLDER, DirectoryTarget
from receiver.targets.marker import prepare
from receiver.targets.mounts import own_mount
from tape.clock import ManualClock
from tape.digest import xxh3
from tape.durable import Disk
from tape.errors import AlreadyThere, DiskError, DiskFull, HometapeError, TargetAbsent, TargetReadOnly
from tape.names import SegmentName, SegmentPath
from tests.support.disks import LINUX_ONLY, LoopDisk, plugged
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.xdist_group("disks"), LINUX_ONLY]
KINDS = ["ext4", "xfs", "btrfs", "exfat", "ntfs"]


def parcel(seq: int, data: bytes, read: Callable[[], Iterable[bytes]] | None = None) -> Parcel:
    name = SegmentName("00112233445566aa", seq, xxh3(data))
    path = str(SegmentPath("bot", f"s{seq % 3}", date(2026, 1, 1), name))
    return Parcel(path, len(data), xxh3(data), read or (lambda: [data]))


def meanwhile(data: bytes, act: Callable[[], None]) -> Callable[[], Iterator[bytes]]:
    """A parcel's bytes, with something happening in the middle of them."""

    def read() -> Iterator[bytes]:
        yield data[: len(data) // 2]
        act()
        yield data[len(data) // 2 :]

    return read


def on(disk: LoopDisk, name: str = "nas") -> DirectoryTarget:
    """A prepared target that must be mounted, in a folder of the disk."""
    assert disk.where is not None
    prepare(disk.where / "tape", name, clock=ManualClock())
    return DirectoryTarget(Place(name), disk.where / "tape", mounted=True)


def stored(root: Path) -> set[str]:
    """Segments that would be found there."""
    return {path.name for path in root.rglob("*.parquet") if ASIDE_FOLDER not in path.parts}


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_system_keeps_the_contract(tmp_path: Path, kind: str) -> None:
    """Put, never replace, verify, list, sums, set aside: the same with and without hard links, by FUSE or kernel."""
    with plugged(tmp_path, kind) as disk:
        target = on(disk)
        items = [parcel(seq, b"%d" % seq * 1000) for seq in range(20)]
        assert target.put_many(items[:3]) == [None] * 3
        assert target.put_many(items) != [None] * 20
        assert all(target.verify(item.path).digest == item.digest for item in items)
        assert len(list(target.list())) == 20
        target.note_sums([(item.path, target.verify(item.path).sha256) for item in items])
        assert len(target.sums("bot/s0/date=2026-01-01")) == 7
        aside = target.set_aside(items[0].path, "a test")
        assert (target.root / aside).read_bytes() == b"0" * 1000
        assert len(list(target.list())) == 19
        assert target.put_many(items[:1]) == [None]
        target.flush()
        assert list((target.root / TEMP_FOLDER).iterdir()) == []
        assert target.limits.max_file is None


def test_an_unmounted_folder_is_refused_even_with_its_marker(tmp_path: Path) -> None:
    """A marker made under an empty mount point does not make it a disk; with the disk mounted there it is one."""
    where = tmp_path / "disk"
    prepare(where, "nas", clock=ManualClock())
    target = DirectoryTarget(Place("nas"), where, mounted=True)
    state = target.state()
    assert state.condition is Condition.ABSENT
    assert "nothing is mounted there" in state.reason
    assert "mounted = false" in state.hint
    with pytest.raises(TargetAbsent):
        target.put_many([parcel(0, b"x")])
    assert {path.name for path in where.iterdir()} == {MARKER, "README.txt"}
    assert DirectoryTarget(Place("nas"), where).state().condition is Condition.READY
    with LoopDisk(tmp_path / "img") as disk:
        disk.plug(where)
        assert target.state().condition is Condition.ABSENT
        prepare(where, "nas", clock=ManualClock())
        assert target.state().condition is Condition.READY
        assert target.put_many([parcel(0, b"x")]) == [None]
        disk.pull()
        assert target.state().condition is Condition.ABSENT
    assert stored(where) == set()


def test_a_folder_mounted_onto_itself_is_no_disk(tmp_path: Path) -> None:
    """What systemd does for each path a service may write is no mount of its own; another disk bound there is."""
    with plugged(tmp_path) as disk:
        here = tmp_path / "bound"
        here.mkdir()
        os.system(f"mount --bind {here} {here}")  # noqa: S605 - a test's own path
        try:
            assert own_mount(here) is None
        finally:
            os.system(f"umount {here}")  # noqa: S605 - a test's own path
        assert own_mount(disk.where or Path()) is not None
        os.system(f"mount --bind {disk.where} {here}")  # noqa: S605 - a test's own path
        try:
            found = own_mount(here / "deep" / "in")
            assert found is not None
            assert (found.path, found.file_system) == (here, "ext4")
        finally:
            os.system(f"umount {here}")  # noqa: S605 - a test's own path


@pytest.mark.parametrize("kind", ["ext4", "xfs", "exfat"])
@pytest.mark.parametrize("many", [2, 20], ids=["few", "many"])
def test_a_mount_that_vanishes_in_mid_write(tmp_path: Path, kind: str, many: int) -> None:
    """`umount -l` while bytes flow: nothing counts, nothing lands under the mount point, and it goes on afterwards."""
    with plugged(tmp_path, kind) as disk:
        target, where = on(disk), disk.where
        assert where is not None
        before = parcel(100, b"before")
        assert target.put_many([before]) == [None]
        items = [parcel(seq, b"%d" % seq * 1000) for seq in range(many)]
        last = parcel(many, b"last" * 1000, meanwhile(b"last" * 1000, disk.pull))
        answers = target.put_many([*items, last])
        assert all(isinstance(answer, TargetAbsent) for answer in answers), answers
        assert list(where.iterdir()) == []
        state = target.state()
        assert state.condition is Condition.ABSENT
        assert state.hint
        disk.plug(where)
        assert target.state().condition is Condition.READY
        target.recover()
        assert list((target.root / TEMP_FOLDER).iterdir()) == []
        assert stored(target.root) == {Path(before.path).name}
        assert target.put_many([*items, parcel(many, b"last" * 1000)]) == [None] * (many + 1)


def test_no_folder_is_made_under_a_mount_that_has_gone(tmp_path: Path) -> None:
    """Pulled between the bytes and their names, when the day's folder is to be made: the mount point stays empty."""
    with plugged(tmp_path) as disk:
        where = disk.where
        assert where is not None

        class Pulled(Disk):
            def sync_many(self, files: Iterable[Path], folders: Iterable[Path]) -> None:
                super().sync_many(files, folders)
                disk.pull()

        for root in (where, where / "tape"):
            prepare(root, "nas", clock=ManualClock())
            target = DirectoryTarget(Place("nas"), root, mounted=True, disk=Pulled())
            answers = target.put_many([parcel(seq, b"%d" % seq) for seq in range(3)])
            assert all(isinstance(answer, TargetAbsent) for answer in answers), answers
            assert list(where.iterdir()) == []
            disk.plug(where)


@pytest.mark.parametrize(("kind", "each"), [("ext4", 0), ("xfs", 0), ("exfat", 20), ("ntfs", 20)])
def test_what_a_program_serves_is_synced_file_by_file(tmp_path: Path, kind: str, each: int) -> None:
    """One sync of a whole file system does not reach the program behind a FUSE mount: there each file is synced."""
    synced = []

    class Watched(Disk):
        def sync_path(self, path: Path) -> None:
            synced.append(path)
            super().sync_path(path)

    with plugged(tmp_path, kind) as disk:
        on(disk)
        target = DirectoryTarget(Place("nas"), (disk.where or tmp_path) / "tape", disk=Watched())
        assert target.put_many([parcel(seq, b"%d" % seq) for seq in range(20)]) == [None] * 20
        assert len(synced) == each


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_disk_whose_cable_comes_loose(tmp_path: Path, kind: str) -> None:
    """A disk that answers nothing but errors while it stays mounted is absent, not full of bad files."""
    with plugged(tmp_path, kind) as disk:
        target = on(disk)
        kept = parcel(9, b"kept")
        assert target.put_many([kept]) == [None]
        items = [parcel(0, b"first"), parcel(1, b"second", meanwhile(b"second", disk.break_down))]
        assert all(isinstance(answer, TargetAbsent) for answer in target.put_many(items))
        state = target.state()
        assert state.condition is Condition.ABSENT
        assert "cable" in state.hint
        for call in (lambda: target.verify(kept.path), lambda: list(target.list()), target.free):
            with pytest.raises(TargetAbsent):
                call()
        where = disk.where
        assert where is not None
        disk.pull()
        disk.plug(where)
        target.recover()
        assert target.put_many([parcel(0, b"first"), parcel(1, b"second")]) == [None, None]
        assert target.verify(kept.path).digest == kept.digest


def test_a_disk_that_only_memory_answers_for(tmp_path: Path) -> None:
    """A disk that is gone without the kernel's notice still shows its marker from memory: it is asked itself."""
    with plugged(tmp_path) as disk:
        target = on(disk)
        kept = parcel(9, b"kept")
        assert target.put_many([kept]) == [None]
        target.flush()
        assert (target.root / MARKER).read_bytes()
        disk.lose()
        assert (target.root / MARKER).read_bytes(), "memory answers"
        with pytest.raises(TargetAbsent):
            target.verify(kept.path)
        assert target.state().condition is Condition.ABSENT


def test_a_disk_that_goes_read_only_by_itself(tmp_path: Path) -> None:
    """After an error ext4 takes no more writes in the middle of one: a state with a hint, readable, and over later."""
    with plugged(tmp_path, options="errors=remount-ro") as disk:
        target = on(disk)
        assert target.put_many([parcel(9, b"kept")]) == [None]
        items = [parcel(0, b"first"), parcel(1, b"second", meanwhile(b"second", disk.find_fault)), parcel(2, b"third")]
        answers = target.put_many(items)
        assert all(isinstance(answer, TargetReadOnly) for answer in answers), answers
        state = target.state()
        assert (state.condition, state.readable) == (Condition.READ_ONLY, True)
        assert "remount" in state.hint
        assert target.verify(parcel(9, b"kept").path).size == 4
        with pytest.raises(TargetReadOnly):
            target.note_sums([(parcel(9, b"kept").path, "0" * 64)])
        assert stored(target.root) == {Path(parcel(9, b"kept").path).name}
        where = disk.where
        assert where is not None
        disk.pull()
        disk.plug(where)
        target.recover()
        assert target.put_many([parcel(0, b"first"), parcel(1, b"second")]) == [None, None]


def test_a_remount_between_two_segments(tmp_path: Path) -> None:
    """A disk remounted read-only is a state; remounted for writing it goes on."""
    with plugged(tmp_path) as disk:
        target = on(disk)
        assert target.put_many([parcel(0, b"a")]) == [None]
        disk.remount("ro")
        assert isinstance(target.put_many([parcel(1, b"b")])[0], TargetReadOnly)
        assert target.state().condition is Condition.READ_ONLY
        disk.remount("rw")
        assert target.state().condition is Condition.READY
        assert target.put_many([parcel(1, b"b")]) == [None]


@pytest.mark.parametrize("kind", ["ext4", "btrfs", "exfat"])
def test_a_full_disk_in_mid_write(tmp_path: Path, kind: str) -> None:
    """What fitted stays and is whole, the rest says that the disk is full, and after some room it goes on."""
    with plugged(tmp_path, kind, size=24) as disk:
        target = on(disk)
        filler = target.root / "filler.bin"
        room = os.statvfs(target.root)
        with filler.open("wb") as file:
            try:
                for _ in range(max(0, room.f_bavail * room.f_frsize - 5 * 2**20) // 2**16):
                    file.write(os.urandom(2**16))
            except OSError:
                file.truncate(file.tell() - 5 * 2**20)
        big = [os.urandom(2 * 2**20) for _ in range(5)]
        items = [parcel(seq, data) for seq, data in enumerate(big)]
        answers = target.put_many(items)
        fitted = [item for item, answer in zip(items, answers, strict=True) if answer is None]
        assert 0 < len(fitted) < 5, answers
        assert all(isinstance(answer, DiskFull) for answer in answers[len(fitted) :])
        assert stored(target.root) == {Path(item.path).name for item in fitted}
        assert all(target.verify(item.path).digest == item.digest for item in fitted)
        assert list((target.root / TEMP_FOLDER).iterdir()) == []
        state = target.state()
        assert state.condition is Condition.FULL
        assert "free some space" in state.hint
        filler.unlink()
        target.flush()
        if kind != "btrfs":  # frees what was deleted in its own time
            assert target.state().condition is Condition.READY
            assert target.put_many([items[len(fitted)]]) == [None]


def test_a_file_that_fat_can_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment above 4 GiB is refused before a byte of it is read, and the others of its batch are stored."""
    with plugged(tmp_path) as disk:
        target = on(disk)
        monkeypatch.setattr("receiver.targets.mounts._FAT", {"ext4"})
        (target.root / MARKER).touch()

        def never() -> Iterable[bytes]:
            raise AssertionError("read")

        large = parcel(1, b"large", never)
        large = Parcel(large.path, 4 * 2**30, large.digest, never)
        answers: list[HometapeError | None] = target.put_many([parcel(0, b"a"), large, parcel(2, b"c")])
        assert [type(answer) for answer in answers] == [type(None), DiskError, type(None)]
        assert answers[1] is not None
        assert "exFAT" in answers[1].hint
        assert target.limits.max_file == 4 * 2**30 - 1


# ------------------------------------------------------------------- many small ones, by the working process


def at_home(folder: Path, count: int, size: int) -> list[Parcel]:
    """Parcels whose bytes lie in files of this machine, as those of the home archive do."""
    found = []
    for seq in range(count):
        item = parcel(seq, bytes([seq % 256]) * size)
        path = folder / item.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([seq % 256]) * size)
        found.append(replace(item, local=path))
    return found


@pytest.mark.parametrize("kind", ["ext4", "exfat"])
def test_many_small_ones_fill_a_disk(tmp_path: Path, kind: str) -> None:
    """Those that fitted are whole, the rest says that the disk is full, and nothing lies beside them."""
    with plugged(tmp_path, kind, size=24) as disk:
        target = on(disk)
        items = at_home(tmp_path / "home", 40, 2**20)
        answers = target.put_many(items)
        fitted = [item for item, answer in zip(items, answers, strict=True) if answer is None]
        assert 10 < len(fitted) < 30
        assert all(answer is None or isinstance(answer, DiskFull) for answer in answers)
        assert stored(target.root) == {Path(item.path).name for item in fitted}
        assert list((target.root / TEMP_FOLDER).iterdir()) == []
        assert target.state().condition is Condition.FULL
        proofs = target.verify_many(fitted)
        assert [proof.digest for proof in proofs if isinstance(proof, Proof)] == [item.digest for item in fitted]


@pytest.mark.parametrize("kind", ["ext4", "exfat"])
def test_a_disk_pulled_while_many_small_ones_are_written(tmp_path: Path, kind: str) -> None:
    """Nothing of that batch counts, nothing lands under the mount point, and it goes on afterwards."""
    with plugged(tmp_path, kind, size=64) as disk:
        target, where = on(disk), disk.where
        assert where is not None
        items = at_home(tmp_path / "home", 400, 2**16)
        answers: list[HometapeError | None] = []
        thread = threading.Thread(target=lambda: answers.extend(target.put_many(items)))
        thread.start()
        wait_until(lambda: target._writer._signs > 3, within=20, what="some to be written")
        disk.pull()
        thread.join(60)
        assert all(isinstance(answer, TargetAbsent) for answer in answers), answers
        assert len(answers) == 400
        assert list(where.iterdir()) == []
        disk.plug(where)
        target.recover()
        assert list((target.root / TEMP_FOLDER).iterdir()) == []
        again = target.put_many(items)
        assert all(answer is None or isinstance(answer, AlreadyThere) for answer in again)
        assert {proof.digest for proof in target.verify_many(items) if isinstance(proof, Proof)} == {
            item.digest for item in items
        }


def test_a_read_only_disk_takes_none_of_many_small_ones(tmp_path: Path) -> None:
    """The state has its name and hint, whoever found it."""
    with plugged(tmp_path) as disk:
        target = on(disk)
        items = at_home(tmp_path / "home", 40, 1000)
        assert target.put_many(items[:20]) == [None] * 20
        disk.remount("ro")
        assert all(isinstance(answer, TargetReadOnly) for answer in target.put_many(items[20:]))
        assert target.state().condition is Condition.READ_ONLY
        disk.remount("rw")
        assert target.put_many(items[20:]) == [None] * 20
