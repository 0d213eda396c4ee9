"""Remotes that go wrong, against real servers: each fault has its name, and none of them ever counts as a copy."""

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from receiver.targets.contract import Condition, Parcel, Proof
from receiver.targets.rclone_kinds import DOWNLOAD
from receiver.targets.remote import RemoteTarget
from tape.digest import xxh3
from tape.errors import (
    AlreadyThere,
    DigestMismatch,
    DiskError,
    DiskFull,
    HometapeError,
    NotFound,
    TargetAbsent,
    TargetError,
    TargetReadOnly,
    TargetRefused,
)
from tests.support import run, wait_until
from tests.support.needs import need_program
from tests.support.parcels import parcel, segment_path
from tests.support.ports import free_port
from tests.support.rclone_servers import SERVERS, Remotes, Server, obscured, remote_target

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform == "win32", reason="the servers are ended by signals"),
]
KINDS = ("s3", "webdav", "sftp")
METHODS = {
    "local": "remote xxh128",
    "s3": "remote md5",
    "crypt": "cryptcheck md5",
    "webdav": DOWNLOAD,
    "sftp": "remote sha1",
    "smb": DOWNLOAD,
}


class Away:
    """A server of its own for one test, and a target there."""

    def __init__(self, kind: str, folder: Path, *, root: Path | None = None) -> None:
        self.kind = kind
        self.folder = folder
        self.server: Server = SERVERS[kind](root or folder / "store")
        self.server.start()
        self.remotes = Remotes(folder)
        self.remotes.add(kind, self.server.options)
        self.target = self.open(prepare=True)

    def open(self, name: str = "", *, prepare: bool = False) -> RemoteTarget:
        """The target as a new life of the service has it, by this or another remote."""
        remote = f"{name or self.kind}:{self.server.prefix}place"
        return remote_target(remote, self.remotes.config, self.folder / "state", prepare=prepare)

    def files(self) -> list[Path]:
        """What lies in the store, below the place."""
        place = self.server.folder / self.server.prefix / "place"
        return sorted(path for path in place.rglob("*") if path.is_file())

    def file(self, item: Parcel) -> Path:
        """Where a segment lies in the store."""
        return self.server.folder / self.server.prefix / "place" / item.path


Opener = Callable[..., Away]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """Servers of a test's own, ended with it."""
    made: list[Away] = []

    def make(kind: str, **more: Any) -> Away:
        made.append(Away(kind, tmp_path, **more))
        return made[-1]

    yield make
    for one in made:
        one.server.stop()


def big(seq: int, size: int = 6_000_000) -> Parcel:
    """A segment of some size."""
    data = os.urandom(size)
    return Parcel(segment_path(seq, data), size, xxh3(data), lambda: [data])


@pytest.mark.parametrize("kind", METHODS)
def test_says_what_proves_a_copy(kind: str, remotes: Remotes, tmp_path: Path) -> None:
    """Each kind of remote is proven by what its store computes itself, else by downloading; the proof says which."""
    target = remote_target(remotes.place(kind), remotes.config, tmp_path / "state")
    items = [parcel(seq, b"segment %d" % seq) for seq in range(3)]
    assert target.put_many(items) == [None] * 3
    proofs = target.verify_many(items)
    assert [proof.method for proof in proofs if isinstance(proof, Proof)] == [METHODS[kind]] * 3


@pytest.mark.parametrize("kind", ["local", "s3", "crypt", "webdav", "sftp", "smb"])
def test_finds_bytes_that_were_altered_in_the_store(kind: str, remotes: Remotes, tmp_path: Path) -> None:
    """A flipped bit of the same size and name never passes, is no proof, and makes room for a good copy."""
    name = remotes.place(kind)
    target = remote_target(name, remotes.config, tmp_path / "state")
    item = parcel(1, b"the bytes as they should be" * 40)
    kept = "s3" if kind == "crypt" else kind
    place = remotes.folder / kind if kind == "local" else remotes.server(kept).folder
    before = set(place.rglob("*"))
    assert target.put_many([item]) == [None]
    [stored] = [path for path in set(place.rglob("*")) - before if path.is_file()]
    data = bytearray(stored.read_bytes())
    data[-1] ^= 1
    stored.write_bytes(data)
    answer = target.verify_many([item])[0]
    wrong = isinstance(answer, Proof) and answer.digest != item.digest
    assert wrong or isinstance(answer, DigestMismatch | DiskError)
    assert isinstance(target.put_many([item])[0], AlreadyThere)
    if kind == "crypt":  # damaged ciphertext gives good bytes before it fails: none of them may come out
        with pytest.raises(HometapeError):
            list(target.read(item.path))
    target.set_aside(item.path, "a test")
    assert target.put_many([item]) == [None]
    assert isinstance(target.verify_many([item])[0], Proof)


@pytest.mark.parametrize("kind", ["s3", "sftp"])
def test_a_half_written_file_is_never_a_copy(kind: str, opened: Opener) -> None:
    """What an interrupted upload left under the final name is found by its proof, and gives way to the whole file."""
    away = opened(kind)
    item = big(1, 100_000)
    away.file(item).parent.mkdir(parents=True)
    away.file(item).write_bytes(b"".join(item.read())[:50_000])
    assert isinstance(away.target.put_many([item])[0], AlreadyThere)
    assert isinstance(away.target.verify_many([item])[0], DigestMismatch)
    away.target.set_aside(item.path, "half of it")
    assert away.target.put_many([item]) == [None]
    assert isinstance(away.target.verify_many([item])[0], Proof)


@pytest.mark.parametrize("kind", KINDS)
def test_refused_credentials_are_told_as_such(kind: str, opened: Opener) -> None:
    """Wrong credentials are a state with a hint, and the wrong secret is in no message."""
    away = opened(kind)
    wrong = "SECRETTHATISWRONG0123456789"
    options = {"secret_access_key": wrong} if kind == "s3" else {"pass": obscured(wrong)}
    away.remotes.add("wrong", {**away.server.options, **options})
    target = away.open("wrong")
    state = target.state()
    assert state.condition is Condition.REFUSED, state
    assert "remote test" in state.hint
    with pytest.raises(TargetRefused) as caught:
        target.put_many([parcel(1, b"x")])
    assert wrong not in str(caught.value)
    assert not [path for path in away.files() if path.suffix == ".parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_unreachable_server_is_absent_at_once(kind: str, opened: Opener) -> None:
    """Nobody listens: absent within seconds, no copy, and it comes back by itself."""
    away = opened(kind)
    away.server.stop()
    target = away.open()
    assert target.state().condition is Condition.ABSENT
    with pytest.raises(TargetAbsent):
        target.put_many([parcel(1, b"x")])
    away.server.start()
    assert target.state().condition is Condition.READY
    assert target.put_many([parcel(1, b"x")]) == [None]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_dies_in_mid_copy_keeps_no_copy(kind: str, opened: Opener) -> None:
    """The batch under way fails with an absence; when the server is back, the same batch arrives whole and proven."""
    away = opened(kind)
    slow = remote_target(
        f"{kind}:{away.server.prefix}place",
        away.remotes.config,
        away.folder / "state",
        prepare=False,
        bandwidth="1 MiB",
    )
    items = [big(seq, 4_000_000) for seq in range(2)]
    before = len(away.files())
    answers: list[HometapeError | None] = []
    putting = threading.Thread(target=lambda: answers.extend(slow.put_many(items)))
    assert slow.state().condition is Condition.READY
    assert slow.kind.type == kind
    putting.start()
    wait_until(lambda: bool(_rclones()) and _sending(), within=30, what="the copy to begin")
    away.server.stop()
    putting.join(90)
    assert [isinstance(answer, TargetError) for answer in answers] == [True, True], answers
    away.server.start()
    target = away.open()
    done = target.put_many(items)
    for item, answer in zip(items, done, strict=True):
        if isinstance(answer, AlreadyThere) and not _proven(target, item):
            target.set_aside(item.path, "half of it")
            assert target.put_many([item]) == [None]
    proofs = target.verify_many(items)
    assert [proof.digest for proof in proofs if isinstance(proof, Proof)] == [item.digest for item in items]
    assert len([path for path in away.files() if path.name.endswith(".partial")]) == 0, before


def _proven(target: RemoteTarget, item: Parcel) -> bool:
    answer = target.verify_many([item])[0]
    return isinstance(answer, Proof) and answer.digest == item.digest


def _rclones() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "copy" in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found


def _sending() -> bool:
    """Whether an rclone of ours has read some of what it sends."""
    try:
        return any(process.io_counters().read_chars > 300_000 for process in _rclones())
    except psutil.Error:
        return False


def test_a_killed_rclone_is_no_copy_and_leaves_nothing(opened: Opener) -> None:
    """Rclone killed in mid-copy: an answer that is tried again, and its partial file is cleared by the next put."""
    away = opened("sftp")
    slow = remote_target("sftp:place", away.remotes.config, away.folder / "state", prepare=False, bandwidth="1 MiB")
    item = big(1, 4_000_000)
    answers: list[HometapeError | None] = []
    putting = threading.Thread(target=lambda: answers.extend(slow.put_many([item])))
    putting.start()
    wait_until(lambda: any(path.name.endswith(".partial") for path in away.files()), within=30, what="a partial file")
    for process in _rclones():
        process.kill()
    putting.join(60)
    assert isinstance(answers[0], TargetAbsent)
    assert any(path.name.endswith(".partial") for path in away.files())
    target = away.open()
    assert list(target.list()) == []
    assert target.put_many([item]) == [None]
    assert not [path for path in away.files() if path.name.endswith(".partial")]


def test_a_new_life_ends_what_the_old_one_left(opened: Opener) -> None:
    """The rclone of a process that was killed is ended, and what it left half-written is cleared."""
    away = opened("sftp")
    state = away.folder / "state"
    code = (
        "import sys; from pathlib import Path; from tests.support.rclone_servers import remote_target; "
        "from tests.process.test_remote_faults import big; "
        "remote_target('sftp:place', Path(sys.argv[1]), Path(sys.argv[2]), prepare=False, bandwidth='500 KiB')"
        ".put_many([big(1)])"
    )
    from tests.support.processes import Program

    with Program([sys.executable, "-c", code, away.remotes.config, state]) as life:
        wait_until(
            lambda: not life.running or any(path.name.endswith(".partial") for path in away.files()),
            within=60,
            what="a partial file",
        )
        assert life.running, life.report()
        left = [child for child in psutil.Process(life.pid).children(recursive=True) if "copy" in child.cmdline()]
        psutil.Process(life.pid).kill()
        life.process.wait()
        assert left
        for child in left:
            child.suspend()  # else it may end by itself, of a log that nobody reads any more
        away.open().recover()
        psutil.wait_procs(left, timeout=10)
        assert not [child for child in left if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert not [path for path in away.files() if path.name.endswith(".partial")]


@pytest.mark.parametrize("kind", ["webdav", "sftp"])
def test_a_read_only_server_is_told_as_such(kind: str, opened: Opener) -> None:
    """A place that takes no writes: its state says so, and nothing counts."""
    away = opened(kind)
    away.server.stop()
    away.server.argv.append("--read-only")
    away.server.start()
    target = away.open()
    assert isinstance(target.put_many([parcel(1, b"x")])[0], TargetReadOnly)
    assert target.state().condition is Condition.READ_ONLY
    assert list(target.list()) == []


def test_a_full_store_is_told_as_such(opened: Opener, tmp_path: Path) -> None:
    """A store without room: what fitted is stored, the rest is "full", and once there is room it goes on."""
    mount, umount = need_program("mount"), need_program("umount")
    store = tmp_path / "store"
    store.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    run([mount, "-t", "tmpfs", "-o", "size=100m", "none", store], code=0)
    try:
        away = opened("sftp", root=store)
        filler = store / "filler"
        with filler.open("wb") as file:
            file.truncate(0)
            file.write(b"x" * 97_000_000)
        small, large = parcel(1, b"small"), big(2, 8_000_000)
        answers = away.target.put_many([small, large])
        assert answers[0] is None
        assert isinstance(answers[1], DiskFull)
        assert away.target.state().condition is Condition.FULL
        assert isinstance(away.target.verify_many([large])[0], NotFound)
        filler.unlink()
        target = away.open()
        assert target.put_many([large]) == [None]
        assert target.state().condition is Condition.READY
        away.server.stop()
    finally:
        run([umount, "-l", store])


def test_another_place_under_the_same_name_has_another_instance(opened: Opener) -> None:
    """A store that was wiped and prepared again is told apart, and nothing of the old one's sums goes there."""
    away = opened("s3")
    item = parcel(1, b"x")
    away.target.put_many([item])
    away.target.note_sums([(item.path, "0" * 64)])
    first = away.target.instance()
    away.server.stop()  # a server that runs may still answer from what it knew of the files
    shutil.rmtree(away.server.folder / away.server.prefix / "place")
    away.server.start()
    with pytest.raises(TargetAbsent, match="has no"):
        away.open().instance()
    target = away.open(prepare=True)
    assert target.instance() not in ("", first)
    assert target.sums(item.path.rpartition("/")[0]) == {}


def test_a_locked_configuration_does_not_hang(opened: Opener) -> None:
    """Rclone's encrypted configuration without its password: refused with a reason, not a prompt that nobody sees."""
    away = opened("s3")
    locked = b"# Encrypted rclone configuration File\n\nRCLONE_ENCRYPT_V0:\n" + b"A" * 120 + b"\n"
    away.remotes.config.write_bytes(locked)
    state = away.open().state()
    assert state.condition is Condition.REFUSED, state


@pytest.mark.slow
def test_a_server_that_says_nothing_is_absent(tmp_path: Path) -> None:
    """A server that accepts and then says nothing is absent after the time-out of a probe."""
    import socket

    port = free_port()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", port))
        silent.listen()
        remotes = Remotes(tmp_path)
        remotes.add("mute", {"type": "webdav", "vendor": "other", "url": f"http://127.0.0.1:{port}/"})
        target = remote_target("mute:x", remotes.config, tmp_path / "state", prepare=False)
        assert target.state().condition is Condition.ABSENT


def test_a_failed_look_is_not_remembered_as_good(opened: Opener) -> None:
    """A minute long nobody asks whether the place is there, unless a step failed: then its state is asked anew."""
    away = opened("webdav")
    item = parcel(1, b"x")
    assert away.target.put_many([item]) == [None]
    away.server.stop()
    assert away.target.state().condition is Condition.READY  # nobody looked
    with pytest.raises(TargetAbsent):
        list(away.target.read(item.path))
    assert away.target.state().condition is Condition.ABSENT


@pytest.mark.parametrize("kind", KINDS)
def test_a_place_that_vanished_is_absent_not_empty(kind: str, opened: Opener) -> None:
    """The server answers, but its folder is gone (a disk behind it that is not mounted): nothing is called missing."""
    away = opened(kind)
    items = [parcel(seq, b"%d" % seq) for seq in range(2)]
    assert away.target.put_many(items) == [None, None]
    place = away.server.folder / away.server.prefix / "place"
    place.rename(place.with_name("unmounted"))
    with pytest.raises(TargetAbsent):
        away.target.verify_many(items)
    away.target._presence._seen = away.target._presence._clock.monotonic()
    with pytest.raises(TargetAbsent):
        list(away.target.list())
    place.with_name("unmounted").rename(place)
    wait_until(lambda: away.target.state().condition is Condition.READY, within=20, what="the folder to be back")
    assert all(isinstance(proof, Proof) for proof in away.target.verify_many(items))
