"""A disk that comes and goes, in plain folders: found by its marker, never a clone, let go when asked."""

import shutil
import threading
from collections.abc import Iterable
from datetime import date
from pathlib import Path

import pytest

from receiver.targets import removable
from receiver.targets.contract import Condition, Parcel, Place
from receiver.targets.directory import TEMP_FOLDER
from receiver.targets.marker import prepare, read_marker
from receiver.targets.removable import RemovableTarget, Search
from tape.clock import ManualClock
from tape.digest import xxh3
from tape.errors import TargetAbsent, TargetError, TargetRefused
from tape.names import SegmentName, SegmentPath


def parcel(seq: int, data: bytes) -> Parcel:
    path = str(SegmentPath("bot", "s", date(2026, 1, 1), SegmentName("00112233445566aa", seq, xxh3(data))))
    return Parcel(path, len(data), xxh3(data), lambda: [data])


@pytest.fixture
def clock() -> ManualClock:
    """Time that passes when told to."""
    return ManualClock()


@pytest.fixture
def usb(tmp_path: Path, clock: ManualClock) -> RemovableTarget:
    """A target that is looked for in the folders of `media`, every 2 s; nothing is plugged in."""
    (tmp_path / "media").mkdir()
    search = Search(look_in=(str(tmp_path / "media" / "*"),), mounted=False)
    return RemovableTarget(Place("usb1", kind="removable"), search, clock=clock)


def plug(tmp_path: Path, name: str, target: str = "usb1") -> Path:
    """A prepared disk (a folder) appears; its root."""
    root = tmp_path / "media" / name / "hometape"
    prepare(root, target, clock=ManualClock())
    return root


def test_away_is_a_state_and_every_call_says_so(usb: RemovableTarget) -> None:
    """While it is away nothing can be asked of it, and the state says what to do."""
    state = usb.state()
    assert state.condition is Condition.ABSENT
    assert "away" in state.reason
    assert "plug it in" in state.hint
    item = parcel(0, b"x")
    for call in (
        lambda: usb.put_many([item]),
        lambda: usb.read(item.path),
        lambda: usb.stat(item.path),
        lambda: list(usb.list()),
        lambda: usb.verify(item.path),
        lambda: usb.set_aside(item.path, "why"),
        lambda: usb.note_sums([(item.path, "0" * 64)]),
        lambda: usb.sums("bot"),
        usb.free,
        usb.instance,
        usb.recover,
        usb.settle,
        usb.eject,
    ):
        with pytest.raises(TargetAbsent, match="away"):
            call()
    assert usb.local(item.path) is None
    assert usb.root is None


def test_found_wherever_it_appears(usb: RemovableTarget, tmp_path: Path, clock: ManualClock) -> None:
    """The same disk under another name is the same target, with what it holds; another disk there is not."""
    root = plug(tmp_path, "one")
    plug(tmp_path, "other", "usb2")
    clock.advance(2)
    assert usb.state().condition is Condition.READY
    assert usb.root == root
    assert usb.put_many([parcel(0, b"x")]) == [None]
    instance = usb.instance()
    root.parent.rename(tmp_path / "media" / "two")
    assert usb.state().condition is Condition.READY
    assert usb.root == tmp_path / "media" / "two" / "hometape"
    assert usb.verify(parcel(0, b"x").path).size == 1
    assert usb.instance() == instance


def test_looks_as_seldom_as_it_is_told(usb: RemovableTarget, tmp_path: Path, clock: ManualClock) -> None:
    """Whoever asks how often: the places are looked at every 2 s at most, a disk that is there is not searched for."""
    looks = []
    search = usb.search

    class Counting(Search):
        __slots__ = ()

        def roots(self, target: str) -> list[Path]:
            looks.append(target)
            return super().roots(target)

    usb.search = Counting(search.folder, search.look_in, search.every, search.mounted)
    for _ in range(10):
        usb.state()
    assert len(looks) == 1
    plug(tmp_path, "one")
    assert usb.state().condition is Condition.ABSENT
    clock.advance(2)
    assert usb.state().condition is Condition.READY
    for number in range(10):
        usb.put_many([parcel(number, b"x")])
    assert len(looks) == 2


def test_a_clone_is_refused_and_nothing_is_written(usb: RemovableTarget, tmp_path: Path, clock: ManualClock) -> None:
    """Two disks with one id: neither is touched, whichever was there first, until one of them is gone."""
    root = plug(tmp_path, "one")
    assert usb.put_many([parcel(0, b"x")]) == [None]
    shutil.copytree(root.parent, tmp_path / "media" / "clone")
    clock.advance(2)
    state = usb.state()
    assert state.condition is Condition.REFUSED
    assert not state.readable
    assert "one/hometape" in state.reason.replace("\\", "/")
    assert "clone/hometape" in state.reason.replace("\\", "/")
    assert "unplug" in state.hint
    with pytest.raises(TargetRefused):
        usb.put_many([parcel(1, b"y")])
    assert len(list(tmp_path.rglob("*.parquet"))) == 2
    shutil.rmtree(tmp_path / "media" / "one")
    clock.advance(2)
    assert usb.put_many([parcel(1, b"y")]) == [None]


def test_ejected_it_is_left_alone_until_it_was_gone(usb: RemovableTarget, tmp_path: Path, clock: ManualClock) -> None:
    """After an eject nothing is opened there although it is still mounted; unplugged and back, it is used again."""
    root = plug(tmp_path, "one")
    usb.put_many([parcel(0, b"x")])
    done = usb.eject()
    assert not done.done
    assert "not a disk of its own" in done.why
    for _ in range(3):
        clock.advance(2)
        state = usb.state()
        assert state.condition is Condition.ABSENT
        assert "safe to unplug" in state.reason
        with pytest.raises(TargetAbsent):
            usb.put_many([parcel(1, b"y")])
    root.parent.rename(tmp_path / "drawer")
    clock.advance(2)
    assert "away" in usb.state().reason
    (tmp_path / "drawer").rename(root.parent)
    clock.advance(2)
    assert usb.put_many([parcel(1, b"y")]) == [None]


def test_ejecting_waits_for_what_is_under_way(usb: RemovableTarget, tmp_path: Path) -> None:
    """A put that has begun is finished before the disk is let go; a new one is not begun."""
    plug(tmp_path, "one")
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> Iterable[bytes]:
        begun.set()
        assert go_on.wait(20)
        yield b"x"

    item = parcel(0, b"x")
    answers: list[object] = []
    putting = threading.Thread(target=lambda: answers.extend(usb.put_many([Parcel(item.path, 1, item.digest, slow)])))
    putting.start()
    assert begun.wait(20)
    ejected: list[object] = []
    ejecting = threading.Thread(target=lambda: ejected.append(usb.eject(detach=False)))
    ejecting.start()
    while "being ejected" not in usb.state().reason:
        assert ejecting.is_alive()
    assert not ejected
    with pytest.raises(TargetAbsent, match="being ejected"):
        usb.put_many([parcel(1, b"y")])
    go_on.set()
    putting.join(20)
    ejecting.join(20)
    assert answers == [None]
    assert len(ejected) == 1


def test_what_does_not_end_is_not_called_safe(
    usb: RemovableTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If something on the disk hangs, eject says so, and the disk stays in use."""
    plug(tmp_path, "one")
    monkeypatch.setattr(removable, "_PATIENCE", 0.05)
    begun, go_on = threading.Event(), threading.Event()

    def hanging() -> Iterable[bytes]:
        begun.set()
        assert go_on.wait(20)
        yield b"x"

    item = parcel(0, b"x")
    putting = threading.Thread(target=lambda: usb.put_many([Parcel(item.path, 1, item.digest, hanging)]))
    putting.start()
    assert begun.wait(20)
    with pytest.raises(TargetError, match="has not ended") as error:
        usb.eject()
    assert "do not unplug" in error.value.hint
    go_on.set()
    putting.join(20)
    assert usb.state().condition is Condition.READY


def test_unmounts_by_itself_when_told_to(tmp_path: Path, clock: ManualClock) -> None:
    """With `unmount = true`, a disk on which nothing is left to do is let go at once."""
    root = plug(tmp_path, "one")
    search = Search(look_in=(str(tmp_path / "media" / "*"),), mounted=False)
    usb = RemovableTarget(Place("usb1"), search, unmount_level=True, clock=clock)
    usb.put_many([parcel(0, b"x")])
    usb.settle()
    assert "safe to unplug" in usb.state().reason
    assert read_marker(root)["id"] == "usb1"


def test_what_was_half_written_is_cleared_when_it_is_back(usb: RemovableTarget, tmp_path: Path) -> None:
    """Temporary files of an interrupted put go; what was complete stays."""
    root = plug(tmp_path, "one")
    usb.put_many([parcel(0, b"x")])
    (root / TEMP_FOLDER / ".tmp-0011223344556677").write_bytes(b"half")
    usb.recover()
    assert list((root / TEMP_FOLDER).iterdir()) == []
    assert len(list(usb.list())) == 1
