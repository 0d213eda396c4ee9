"""What only a target in a folder has: marker, crashes, full and vanished disks, SHA256SUMS, the page for a stranger."""

import errno
import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import BinaryIO

import psutil
import pytest

from receiver.targets.contract import MARKER, README, SUMS, Condition, Parcel, Place, Proof
from receiver.targets.directory import ASIDE_FOLDER, TEMP_FOLDER, DirectoryTarget
from receiver.targets.marker import prepare
from receiver.targets.sums import format_lines, parse_lines
from tape.clock import ManualClock
from tape.digest import BLOCK, xxh3
from tape.durable import Disk
from tape.errors import (
    AlreadyThere,
    DiskError,
    DiskFull,
    HometapeError,
    NotFound,
    SyncFailed,
    TargetAbsent,
    TargetError,
    TargetReadOnly,
)
from tape.names import SegmentName, SegmentPath
from tests.support.parcels import segment_path


class PoorDisk(Disk):
    """A disk with so many bytes left, whose syncs and folders can be made to fail; notes what it was told."""

    def __init__(self) -> None:
        self.left = 10**9
        self.fail_sync = False
        self.fail_place: int | None = None
        self.log: list[str] = []

    def write_all(self, file: BinaryIO, data: bytes | memoryview) -> None:
        if len(data) > self.left:
            raise DiskFull("no space left while writing")
        self.left -= len(data)
        super().write_all(file, data)

    def sync_many(self, files, folders):  # type: ignore[no-untyped-def] # as in Disk
        files, folders = list(files), list(folders)
        self.log += [f"sync {path.name}" for path in [*files, *folders]]
        if self.fail_sync:
            raise SyncFailed("fsync failed: input/output error")
        super().sync_many(files, folders)

    def place(self, temp: Path, final: Path) -> None:
        self.log.append(f"place {temp.name} {final.name}")
        if self.fail_place is not None:
            raise DiskError("naming failed") from OSError(self.fail_place, "failed")
        super().place(temp, final)


def parcel(seq: int, data: bytes, stream: str = "s") -> Parcel:
    name = SegmentName("00112233445566aa", seq, xxh3(data))
    path = str(SegmentPath("bot", stream, date(2026, 1, 1), name))
    return Parcel(path, len(data), xxh3(data), lambda: [data])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A prepared root."""
    prepare(tmp_path / "nas", "nas", clock=ManualClock())
    return tmp_path / "nas"


@pytest.fixture
def disk() -> PoorDisk:
    """A disk that can fail."""
    return PoorDisk()


@pytest.fixture
def target(root: Path, disk: PoorDisk) -> DirectoryTarget:
    """A target on a disk that can fail."""
    return DirectoryTarget(Place("nas"), root, disk=disk)


def visible(root: Path) -> list[str]:
    """Names of all files that are not the target's own."""
    return sorted(path.name for path in root.rglob("*.parquet") if ASIDE_FOLDER not in path.parts)


def test_prepare_marks_a_folder_once(tmp_path: Path) -> None:
    """Preparing makes marker and README; again it changes nothing; another target's folder is refused."""
    root = tmp_path / "new" / "nas"
    assert prepare(root, "nas", clock=ManualClock())
    assert json.loads((root / MARKER).read_bytes())["id"] == "nas"
    assert b"sha256sum -c SHA256SUMS" in (root / README).read_bytes()
    before = (root / MARKER).read_bytes()
    assert not prepare(root, "nas", clock=ManualClock())
    assert (root / MARKER).read_bytes() == before
    with pytest.raises(TargetError, match="marked as target 'nas' already, not 'usb'"):
        prepare(root, "usb", clock=ManualClock())


@pytest.mark.parametrize(
    ("marker", "says"),
    [
        (None, "has no .hometape-target"),
        (b'{"format": 1, "id": "usb"}', "marked as target 'usb', not 'nas'"),
        (b'{"format": 9, "id": "nas"}', "not a marker of format 1"),
        (b"\x00\xff", "can't be read"),
    ],
)
def test_a_folder_without_its_marker_is_absent(
    target: DirectoryTarget, root: Path, marker: bytes | None, says: str
) -> None:
    """Without the right marker nothing is written, read or listed, and the state says why and what to do."""
    (root / MARKER).unlink()
    if marker is not None:
        (root / MARKER).write_bytes(marker)
    state = target.state()
    assert state.condition is Condition.ABSENT
    assert says in state.reason
    assert state.hint
    item = parcel(0, b"x")
    for call in (
        lambda: target.put_many([item]),
        lambda: target.read(item.path),
        lambda: list(target.list()),
        lambda: target.verify(item.path),
        lambda: target.note_sums([(item.path, "0" * 64)]),
    ):
        with pytest.raises(TargetAbsent, match=says.split("'", maxsplit=1)[0].strip()):
            call()
    assert visible(root) == []


def test_an_empty_mount_point_is_absent(target: DirectoryTarget, root: Path) -> None:
    """A root that vanished, or stands there empty because nothing is mounted, is never filled."""
    shutil.rmtree(root)
    assert target.state().condition is Condition.ABSENT
    root.mkdir()
    assert target.state().condition is Condition.ABSENT
    with pytest.raises(TargetAbsent):
        target.put_many([parcel(0, b"x")])
    assert list(root.iterdir()) == []


def test_what_was_written_while_the_disk_was_swapped_does_not_count(target: DirectoryTarget, root: Path) -> None:
    """If the marker goes during a put, the answer is TargetAbsent although every write worked."""

    def unmounts() -> Iterator[bytes]:
        yield b"da"
        (root / MARKER).unlink()
        yield b"ta"

    good = parcel(0, b"data")
    answers = target.put_many([Parcel(good.path, 4, good.digest, unmounts)])
    assert isinstance(answers[0], TargetAbsent)


def test_names_come_after_bytes_are_durable(target: DirectoryTarget, disk: PoorDisk) -> None:
    """The order of a put: sync the bytes, then the name, then sync the folders."""
    target.put_many([parcel(0, b"a"), parcel(1, b"b")])
    steps = [step.split()[0] for step in disk.log]
    assert steps == ["sync", "sync", "place", "place", "sync", "sync"]
    assert "sync date=2026-01-01" in disk.log[4:]


def test_a_failed_sync_leaves_nothing_that_counts(target: DirectoryTarget, disk: PoorDisk, root: Path) -> None:
    """After a failed fsync no name appears, the answers say so, and a later put writes the bytes anew."""
    disk.fail_sync = True
    items = [parcel(0, b"a"), parcel(1, b"b")]
    assert all(isinstance(answer, SyncFailed) for answer in target.put_many(items))
    assert visible(root) == []
    assert list((root / TEMP_FOLDER).iterdir()) == []
    disk.fail_sync = False
    assert target.put_many(items) == [None, None]


def test_a_full_disk_keeps_what_fitted(target: DirectoryTarget, disk: PoorDisk, root: Path) -> None:
    """On a full disk the parcels before stay stored, the rest are answered DiskFull, no torn file is left."""
    disk.left = 10
    answers = target.put_many([parcel(0, b"12345678"), parcel(1, b"12345678"), parcel(2, b"1")])
    assert [type(answer) for answer in answers] == [type(None), DiskFull, DiskFull]
    assert len(visible(root)) == 1
    assert list((root / TEMP_FOLDER).iterdir()) == []
    assert "nas" in str(answers[1])
    disk.left = 10**9
    assert target.put_many([parcel(1, b"12345678")]) == [None]


def test_a_read_only_disk_has_a_name(target: DirectoryTarget, disk: PoorDisk) -> None:
    """EROFS while naming is TargetReadOnly, not a crash; another error stays a DiskError."""
    disk.fail_place = errno.EROFS
    assert isinstance(target.put_many([parcel(0, b"a")])[0], TargetReadOnly)
    disk.fail_place = errno.EIO
    answer = target.put_many([parcel(0, b"a")])[0]
    assert type(answer) is DiskError


def test_recover_clears_what_a_crash_left(target: DirectoryTarget, root: Path) -> None:
    """Leftover temporary files are deleted, others stay; they were never listed."""
    (root / TEMP_FOLDER).mkdir()
    (root / TEMP_FOLDER / ".tmp-0011223344556677").write_bytes(b"half")
    (root / README).unlink()
    target.put_many([parcel(0, b"a")])
    assert [entry.size for entry in target.list()] == [1]
    target.recover()
    assert list((root / TEMP_FOLDER).iterdir()) == []
    assert (root / README).exists()
    assert [entry.size for entry in target.list()] == [1]


@pytest.mark.parametrize("torn", [b"", b"deadbeef", b"garbage without a digest\n", b"0" * 64 + b"  cut-off-na"])
def test_sums_survive_a_crash(target: DirectoryTarget, root: Path, torn: bytes) -> None:
    """A torn or strange last line is repaired before the next append, and `sha256sum -c` passes on the folder."""
    items = [parcel(seq, b"%d" % seq) for seq in range(3)]
    target.put_many(items)
    sums = [(item.path, hashlib.sha256(b"%d" % seq).hexdigest()) for seq, item in enumerate(items)]
    target.note_sums(sums[:1])
    folder = root / Path(items[0].path).parent
    with (folder / SUMS).open("ab") as file:
        file.write(torn)
    again = DirectoryTarget(Place("nas"), root)
    again.note_sums(sums)
    again.note_sums(sums[1:2])
    assert again.sums("bot/s/date=2026-01-01") == {Path(path).name: sha256 for path, sha256 in sums}
    assert b"\r" not in (folder / SUMS).read_bytes()
    if shutil.which("sha256sum"):
        done = subprocess.run(
            ["sha256sum", "-c", "--strict", SUMS], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_sums_are_lines_that_tools_know() -> None:
    """Lines read back as they were written, also with the star of binary mode and CRLF; others are noticed."""
    sums = [("a.parquet", "0" * 64), ("b c.parquet", "f" * 64)]
    assert parse_lines(format_lines(sums)) == (dict(sums), True)
    assert parse_lines(b"0" * 64 + b" *a\r\n") == ({"a": "0" * 64}, True)
    assert parse_lines(b"x\n" + b"0" * 64 + b"  a\n") == ({"a": "0" * 64}, False)
    assert parse_lines(b"0" * 64 + b"  ../a\n")[0] == {}


@pytest.mark.parametrize("lines", [100, 2])
def test_a_line_is_noted_once(root: Path, disk: PoorDisk, monkeypatch: pytest.MonkeyPatch, lines: int) -> None:
    """A copy that is proven again, in this life or the next one, has its line already; a dropped one gets it again."""
    monkeypatch.setattr("receiver.targets.sums._KNOWN_LINES", lines)
    items = [parcel(seq, b"%d" % seq) for seq in range(2)]
    noted = [(item.path, f"{seq}" * 64) for seq, item in enumerate(items)]
    file = (root / items[0].path).parent / SUMS
    first, target = (DirectoryTarget(Place("nas"), root, disk=disk) for _ in range(2))
    for life in (first, target):
        life.put_many(items)
        for _ in range(2):
            life.note_sums(noted[:1])
            life.note_sums(noted)
        assert file.read_bytes().count(b"\n") == 2
    target.set_aside(items[0].path, "bad")
    assert file.read_bytes().count(b"\n") == 1
    target.put_many(items[:1])
    target.note_sums(noted)
    assert parse_lines(file.read_bytes()) == ({name.rpartition("/")[2]: sha256 for name, sha256 in noted}, True)
    file.unlink()
    target.note_sums(noted)
    assert file.read_bytes().count(b"\n") == 2


def test_sums_of_many_folders_are_remembered_within_bounds(
    root: Path, disk: PoorDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was forgotten is read again: no line is lost, none is there twice."""
    monkeypatch.setattr("receiver.targets.sums._KNOWN_LINES", 3)
    target = DirectoryTarget(Place("nas"), root, disk=disk)
    items = [parcel(seq, b"%d" % seq, stream=f"s{seq % 3}") for seq in range(6)]
    target.put_many(items)
    for _ in range(3):
        for item in items:
            target.note_sums([(item.path, "a" * 64)])
    for stream in range(3):
        assert (root / items[stream].path).parent.joinpath(SUMS).read_bytes().count(b"\n") == 2


def open_files() -> int:
    """How many files this process has open, where the system says so."""
    return (
        len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0
    )  # Wine: it would be the server's


@pytest.mark.parametrize("fewest", [16, 10**6], ids=["by the reading process", "here"])
def test_many_are_read_back_as_they_are(
    target: DirectoryTarget, root: Path, monkeypatch: pytest.MonkeyPatch, fewest: int
) -> None:
    """More than are opened ahead: of any length, one gone, one longer and one shorter than it was; none stays open."""
    monkeypatch.setattr("receiver.targets.small.FEWEST", fewest)
    sizes = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, *range(2, 160)]
    items = [parcel(seq, bytes([seq % 251]) * size) for seq, size in enumerate(sizes)]
    assert target.put_many(items) == [None] * len(items)
    (root / items[7].path).unlink()
    with (root / items[8].path).open("ab") as file:
        file.write(b"more")
    with (root / items[9].path).open("r+b") as shorter:
        shorter.truncate(3)
    target.verify_many(items)  # from now on the pipes to the reading process are there
    before = open_files()
    answers = target.verify_many(items)
    proofs = {number: one for number, one in enumerate(answers) if isinstance(one, Proof)}
    assert set(range(len(items))) - set(proofs) == {7}
    assert isinstance(answers[7], NotFound)
    assert {n for n, one in proofs.items() if (one.size, one.digest) != (items[n].size, items[n].digest)} == {8, 9}
    assert (proofs[8].size, proofs[9].size) == (items[8].size + 4, 3)
    assert b"".join(target.read(items[4].path)) == b"".join(items[4].read())
    assert len(b"".join(target.read(items[8].path))) == items[8].size + 4
    assert open_files() == before
    assert not [file for child in psutil.Process().children() for file in child.open_files() if str(root) in file.path]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there that few have on Windows")
@pytest.mark.parametrize("where", ["the file", "its folder", "the agent's folder"])
def test_a_link_to_another_copy_is_no_copy(target: DirectoryTarget, root: Path, tmp_path: Path, where: str) -> None:
    """Good bytes that lie elsewhere: not there, never written through, and what they belong to stays as it is."""
    item, beside = parcel(0, b"good bytes"), parcel(1, b"another")
    assert target.put_many([item, beside]) == [None, None]
    full = root / item.path
    linked = {"the file": full, "its folder": full.parent, "the agent's folder": full.parents[2]}[where]
    elsewhere = tmp_path / "elsewhere"
    linked.rename(elsewhere)
    linked.symlink_to(elsewhere, target_is_directory=elsewhere.is_dir())
    assert isinstance(target.verify_many([item])[0], NotFound)
    assert target.stat(item.path) is None
    assert item.path not in {entry.path for entry in target.list()}
    for ask in (target.verify, target.read):
        with pytest.raises(NotFound):
            ask(item.path)
    if where == "the file":
        assert isinstance(target.put_many([item])[0], AlreadyThere)
        target.set_aside(item.path, "a link")
        assert target.put_many([item]) == [None]
        assert isinstance(target.verify(item.path), Proof)
        assert elsewhere.read_bytes() == b"good bytes"
        return
    answer = target.put_many([parcel(2, b"new")])[0]
    assert isinstance(answer, TargetError)
    assert "is a link" in str(answer)
    with pytest.raises(NotFound):
        target.set_aside(item.path, "not ours")
    assert sum(1 for _ in elsewhere.rglob("*.parquet")) == 2
    linked.unlink()
    assert target.put_many([item]) == [None]


def test_bytes_flipped_on_the_medium_are_seen(target: DirectoryTarget, root: Path) -> None:
    """Verify reads what lies there now, not what was written."""
    item = parcel(0, b"good bytes")
    target.put_many([item])
    assert target.verify(item.path).digest == item.digest
    (root / item.path).write_bytes(b"gooD bytes")
    assert target.verify(item.path).digest != item.digest


def test_foreign_and_own_files_are_told_apart(target: DirectoryTarget, root: Path) -> None:
    """Listing shows foreign files but none of the target's own, and follows no symbolic link."""
    target.put_many([parcel(0, b"a")])
    target.note_sums([(parcel(0, b"a").path, "0" * 64)])
    (root / "foreign.txt").write_bytes(b"hi")
    try:
        (root / "loop").symlink_to(root, target_is_directory=True)
    except OSError:  # Windows without the right to make links: the rest holds all the same
        pass
    assert [entry.path for entry in target.list()] == [parcel(0, b"a").path, "foreign.txt"]
    with pytest.raises(NotFound):
        target.read("bot/s")


def test_a_marker_with_another_file_number_is_the_same_place(target: DirectoryTarget, root: Path) -> None:
    """FAT gives files new numbers now and then: the instance in the marker says that nothing was swapped."""

    def renumbers(content: bytes) -> Iterator[bytes]:
        yield b"da"
        (root / "again").write_bytes(content)
        (root / "again").replace(root / MARKER)
        yield b"ta"

    same = (root / MARKER).read_bytes()
    good = parcel(0, b"data")
    assert target.put_many([Parcel(good.path, 4, good.digest, lambda: renumbers(same))]) == [None]
    other = json.dumps({**json.loads(same), "instance": "00"}).encode()
    more = parcel(1, b"data")
    assert isinstance(target.put_many([Parcel(more.path, 4, more.digest, lambda: renumbers(other))])[0], TargetAbsent)


def test_threads_that_need_the_same_new_folder_all_get_it(target: DirectoryTarget) -> None:
    """Batches side by side that hold the first segments of new streams store all of them."""
    answers: list[HometapeError | None] = []
    rounds = 60
    meeting = threading.Barrier(4)

    def work(worker: int) -> None:
        for number in range(rounds):
            data = b"%d %d" % (worker, number)
            path = segment_path(worker, data, stream=f"new{number}/deep/er/stream")
            meeting.wait(30)
            answers.extend(target.put_many([Parcel(path, len(data), xxh3(data), lambda data=data: [data])]))  # type: ignore[misc] # mypy can't infer a lambda with a default

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [None] * 4 * rounds
