"""What every kind of target must do, one suite for all of them."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from receiver.targets.contract import Condition, Parcel, Place, Proof, Target
from receiver.targets.directory import DirectoryTarget
from receiver.targets.marker import prepare
from receiver.targets.memory import MemoryTarget
from receiver.targets.removable import RemovableTarget, Search
from receiver.targets.wrappers import Narrow, Retrying
from receiver.targets.wrappers_paced import Paced
from receiver.targets.wrappers_timed import Timed
from receiver.timetable import Timetable
from tape.clock import ManualClock
from tape.digest import xxh3
from tape.errors import AlreadyThere, DigestMismatch, DiskError, HometapeError, NameRefused, NotFound
from tests.support.parcels import parcel, segment_path
from tests.support.rclone_servers import Remotes, remote_target


def directory_target(tmp_path: Path) -> Target:
    root = tmp_path / "nas"
    prepare(root, "nas", clock=ManualClock())
    return DirectoryTarget(Place("nas", medium="nas"), root)


def memory_target(tmp_path: Path) -> Target:
    return MemoryTarget(Place("nas", medium="memory"))


def removable_target(tmp_path: Path) -> Target:
    prepare(tmp_path / "media" / "stick" / "hometape", "nas", clock=ManualClock())
    return RemovableTarget(Place("nas", medium="usb"), Search(look_in=(str(tmp_path / "media" / "*"),), mounted=False))


def wrapped_in_all(inner: Target) -> Target:
    """As `opening` puts a target together, paced as well."""
    slow = Paced(Timed(inner, 30), Timetable.parse("100 MiB"))
    return Retrying(Narrow(slow, 3), 2)


def wrapped_directory_target(tmp_path: Path) -> Target:
    return wrapped_in_all(directory_target(tmp_path))


def wrapped_memory_target(tmp_path: Path) -> Target:
    return wrapped_in_all(memory_target(tmp_path))


KINDS: list[Callable[[Path], Target]] = [
    directory_target,
    memory_target,
    removable_target,
    wrapped_directory_target,
    wrapped_memory_target,
]


REMOTES = ("local", "s3", "crypt", "webdav", "sftp", "smb")


ALL = [*KINDS, *REMOTES]


def name_of(kind: str | Callable[[Path], Target]) -> str:
    return kind if isinstance(kind, str) else kind.__name__.removesuffix("_target")


def fresh(kind: str | Callable[[Path], Target], folder: Path, remotes: Remotes) -> Target:
    """A ready target that holds nothing."""
    if isinstance(kind, str):
        return remote_target(remotes.place(kind), remotes.config, folder / "state")
    return kind(folder)


@pytest.fixture(params=ALL, ids=name_of)
def target(request: pytest.FixtureRequest, tmp_path: Path, remotes: Remotes) -> Target:
    """A fresh, ready target of each kind, and a remote on each kind of server."""
    return fresh(request.param, tmp_path, remotes)


@pytest.fixture(scope="module", params=ALL, ids=name_of)
def untouched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, remotes: Remotes) -> Target:
    """The same for tests that store nothing, which may share it."""
    return fresh(request.param, tmp_path_factory.mktemp("untouched"), remotes)


def read_all(target: Target, path: str) -> bytes:
    return b"".join(target.read(path))


@pytest.mark.parametrize("data", [b"", b"x", b"ticks " * 500_000], ids=["empty", "one byte", "3 MB"])
def test_gives_back_what_was_put(target: Target, data: bytes) -> None:
    """A put segment can be read, measured and verified, and its digests are those of its bytes."""
    path = segment_path(0, data)
    target.put(path, iter([data[:7], data[7:]]), len(data), xxh3(data))
    assert read_all(target, path) == data
    assert target.stat(path) == len(data)
    proof = target.verify(path)
    assert (proof.size, proof.digest, proof.sha256) == (len(data), xxh3(data), hashlib.sha256(data).hexdigest())
    assert proof.method == target.capabilities.proof


def test_never_replaces(target: Target) -> None:
    """A second put under the same name is refused, and the first bytes stay, even when the new ones differ."""
    path = segment_path(1, b"first")
    target.put(path, [b"first"], 5, xxh3(b"first"))
    for data in (b"first", b"other"):
        with pytest.raises(AlreadyThere):
            target.put(path, [data], 5, xxh3(data))
    assert read_all(target, path) == b"first"


@pytest.mark.parametrize("given", [b"shorter", b"Promised bytes", b"promised bytes and more"])
def test_takes_only_what_was_promised(target: Target, given: bytes) -> None:
    """Bytes that do not have the promised size and digest are never visible, and the right ones can follow."""
    data = b"promised bytes"
    path = segment_path(2, data)
    with pytest.raises(DigestMismatch):
        target.put(path, [given], len(data), xxh3(data))
    assert target.stat(path) is None
    assert list(target.list()) == []
    target.put(path, [data], len(data), xxh3(data))
    assert read_all(target, path) == data


def test_one_bad_parcel_spoils_no_other(target: Target) -> None:
    """In a batch each parcel has its own answer: stored, there already, wrong bytes, a source that failed."""

    def broken() -> Iterator[bytes]:
        yield b"half of "
        raise DiskError("the source's disk failed")

    target.put(segment_path(1, b"old"), [b"old"], 3, xxh3(b"old"))
    wrong = Parcel(segment_path(2, b"right"), 5, xxh3(b"right"), lambda: [b"wrong"])
    failing = Parcel(segment_path(3, b"half of it"), 10, xxh3(b"half of it"), broken)
    answers = target.put_many([parcel(0, b"new"), parcel(1, b"old"), wrong, failing, parcel(4, b"last")])
    assert [type(answer) for answer in answers] == [type(None), AlreadyThere, DigestMismatch, DiskError, type(None)]
    stored = {entry.path: entry.size for entry in target.list()}
    assert stored == {segment_path(0, b"new"): 3, segment_path(1, b"old"): 3, segment_path(4, b"last"): 4}


def test_stores_many_together(target: Target) -> None:
    """A batch over several folders, larger than what is synced one by one, arrives whole."""
    parcels = [parcel(seq, b"segment %d" % seq, day=1 + seq % 3) for seq in range(50)]
    assert target.put_many(parcels) == [None] * 50
    assert sorted(entry.path for entry in target.list()) == sorted(item.path for item in parcels)
    assert all(target.verify(item.path).digest == item.digest for item in parcels)


def test_lists_below_a_folder_in_order(target: Target) -> None:
    """Listing gives what lies below a folder, by name, and nothing for a folder that is not there."""
    for seq in (3, 1, 2):
        target.put_many([parcel(seq, b"%d" % seq, day=seq)])
    other = segment_path(0, b"0", stream="other")
    target.put(other, [b"0"], 1, xxh3(b"0"))
    below = [entry.path for entry in target.list("bot/binance")]
    assert below == [segment_path(seq, b"%d" % seq, day=seq) for seq in (1, 2, 3)]
    assert [entry.path for entry in target.list("bot/other")] == [other]
    assert list(target.list("bot/bin")) == []
    assert list(target.list("nobody")) == []


def test_says_what_is_not_there(target: Target) -> None:
    """Reading, verifying or setting aside what is not stored raises NotFound; stat gives None."""
    path = segment_path(9, b"never stored")
    assert target.stat(path) is None
    for call in (target.read, target.verify, lambda p: target.set_aside(p, "why")):
        with pytest.raises(NotFound):
            call(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "bot/../../x",
        "C:/x",
        "bot\\x",
        "bot/s/date=2026-01-01/x.parquet",
        "bot/x\0y",
        "bot//x",
    ],
)
def test_refuses_names_outside_the_grammar(untouched: Target, path: str) -> None:
    """Only paths of segments can be put, so nothing can be written outside the root or over the marker."""
    with pytest.raises(NameRefused):
        untouched.put(path, [b""], 0, xxh3(b""))
    if path != "bot/s/date=2026-01-01/x.parquet":
        with pytest.raises(NameRefused):
            untouched.read(path)


def test_sets_a_bad_copy_aside(target: Target) -> None:
    """A copy set aside is no longer listed, its sum is gone, its bytes are kept, and the name is free again."""
    data = b"good bytes"
    path = segment_path(5, data)
    for _ in range(2):
        target.put(path, [data], len(data), xxh3(data))
        target.note_sums([(path, hashlib.sha256(data).hexdigest())])
        where = target.set_aside(path, "a test")
        assert where != path
        assert target.stat(path) is None
        assert list(target.list()) == []
        assert target.sums(path.rpartition("/")[0]) == {}


def test_notes_sums_by_folder(target: Target) -> None:
    """SHA-256 sums are kept per folder; noting one twice changes nothing."""
    items = [(segment_path(seq, b"%d" % seq, day=1 + seq % 2), f"{seq:064x}") for seq in range(6)]
    target.put_many([parcel(seq, b"%d" % seq, day=1 + seq % 2) for seq in range(6)])
    target.note_sums(items[:4])
    target.note_sums(items[2:])
    for folder in {path.rpartition("/")[0] for path, _ in items}:
        wanted = {path.rpartition("/")[2]: sha256 for path, sha256 in items if path.startswith(folder + "/")}
        assert target.sums(folder) == wanted


def test_serves_several_threads(target: Target) -> None:
    """Puts, sums and reads from several threads at once end with everything stored; the same name wins once."""
    answers: list[HometapeError | None] = []

    def work(worker: int) -> None:
        for seq in range(10):
            mine = parcel(100 * worker + seq, b"%d %d" % (worker, seq))
            answers.extend(target.put_many([mine, parcel(7000 + seq, b"shared %d" % seq)]))
            target.note_sums([(mine.path, f"{seq:064x}")])
            assert target.verify(mine.path).digest == mine.digest

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(target.list())) == 50
    assert len([a for a in answers if a is None]) == 50
    assert all(isinstance(a, AlreadyThere) for a in answers if a is not None)
    assert len(target.sums(segment_path(0, b"").rpartition("/")[0])) == 40


def test_declares_itself(target: Target) -> None:
    """A target says what it is and what it takes at a time, and a fresh one is ready."""
    assert target.id == "nas"
    assert target.limits.batch_files >= 1
    assert target.state().condition is Condition.READY
    free = target.free()
    assert free is None or free > 0
    target.recover()
    assert (target.local(segment_path(0, b"")) is not None) == target.capabilities.local


def test_proves_many_at_once(target: Target) -> None:
    """A batch is proven one answer each: the promised digests with the method, what is not there, what is wrong."""
    good = [parcel(seq, b"segment %d" % seq, day=1 + seq % 2) for seq in range(3)]
    target.put_many(good)
    absent = parcel(8, b"never stored")
    answers = target.verify_many([*good, absent])
    assert isinstance(answers[-1], NotFound)
    for item, proof in zip(good, answers, strict=False):
        assert isinstance(proof, Proof)
        data = b"".join(item.read())
        assert (proof.size, proof.digest, proof.sha256) == (len(data), item.digest, hashlib.sha256(data).hexdigest())
        assert proof.method
    assert list(target.verify_many([])) == []


def test_a_copy_is_not_proven_by_its_name(target: Target) -> None:
    """Other bytes of the same size under a segment's name are found out."""
    wrong = segment_path(1, b"promised")
    target.put(wrong, [b"promised"], 8, xxh3(b"promised"))
    replaced = Parcel(wrong, 8, xxh3(b"Promised"), lambda: [b"Promised"])
    answer = target.verify_many([replaced])[0]
    assert isinstance(answer, DigestMismatch) or (isinstance(answer, Proof) and answer.digest == xxh3(b"promised"))


def test_fetches_many_at_once(target: Target, tmp_path: Path) -> None:
    """Files of this machine with the bytes asked for come back in order, and NotFound for what is not there."""
    items = [parcel(seq, b"segment %d" % seq, day=1 + seq % 2) for seq in range(3)]
    target.put_many(items)
    folder = tmp_path / "fetched"
    folder.mkdir()
    found = target.fetch_many([items[2].path, segment_path(9, b"never stored"), items[0].path], folder)
    assert isinstance(found[1], NotFound)
    for file, data in ((found[0], b"segment 2"), (found[2], b"segment 0")):
        assert isinstance(file, Path)
        assert file.read_bytes() == data


def test_lists_folder_by_folder(target: Target) -> None:
    """The order of a listing is that of names, part by part: `a` with all it holds before `a-b`."""
    paths = [segment_path(0, b"0", stream=stream) for stream in ("a-b", "a/c", "a", "b")]
    for path in paths:
        target.put(path, [b"0"], 1, xxh3(b"0"))
    assert [entry.path for entry in target.list()] == sorted(paths, key=lambda path: path.split("/"))


def test_sums_outlive_a_settling(target: Target) -> None:
    """Sums that were noted are kept by `settle`, mended ones too, and `recover` leaves them."""
    items = [parcel(seq, b"%d" % seq) for seq in range(3)]
    target.put_many(items)
    folder = items[0].path.rpartition("/")[0]
    target.note_sums([(item.path, f"{seq:064x}") for seq, item in enumerate(items)])
    target.settle()
    target.recover()
    names = [item.path.rpartition("/")[2] for item in items]
    assert target.sums(folder) == {name: f"{seq:064x}" for seq, name in enumerate(names)}
    target.mend_sums(folder, {names[1]: "f" * 64})
    target.settle()
    assert target.sums(folder)[names[1]] == "f" * 64


def test_is_one_place(target: Target) -> None:
    """The instance of a place stays the same from one question to the next."""
    assert target.instance() == target.instance() != ""
