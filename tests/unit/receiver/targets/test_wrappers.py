"""What is put around a target: it tries again, keeps a rate, gives up on silence, lets few in, and never lies."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from receiver.settings import TargetSettings
from receiver.targets import pulse
from receiver.targets.contract import Capabilities, Condition, Parcel, Place, Proof, State, Target
from receiver.targets.hands import Hands
from receiver.targets.memory import MemoryTarget
from receiver.targets.opening import wrapped
from receiver.targets.wrappers import Narrow, Retrying
from receiver.targets.wrappers_paced import Bucket, Paced
from receiver.targets.wrappers_timed import Timed
from receiver.targets.wrapping import Wrapper, innermost
from receiver.timetable import Timetable
from tape.clock import SYSTEM, ManualClock
from tape.digest import xxh3
from tape.errors import (
    AlreadyThere,
    DigestMismatch,
    DiskError,
    DiskFull,
    HometapeError,
    NotFound,
    TargetAbsent,
    TargetBusy,
    TargetReadOnly,
    TargetRefused,
)
from tests.support.parcels import parcel, segment_path
from tests.support.waiting import wait_until

BUSY = TargetBusy("target nas: too many requests")


def memory() -> MemoryTarget:
    return MemoryTarget(Place("nas", medium="memory"))


class Moody(Wrapper):
    """Fails so many calls with what it is told; `after`: stores all the same, or `before` anything is stored."""

    def __init__(self, inner: Target, errors: Iterable[HometapeError], *, stores: bool = False) -> None:
        super().__init__(inner)
        self.errors = list(errors)
        self.stores = stores
        self.calls = 0

    def _fails(self) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)

    def put_many(self, parcels: Sequence[Parcel]) -> list[HometapeError | None]:
        self.calls += 1
        if self.errors:
            error = self.errors.pop(0)
            first = self.inner.put_many(parcels[:1])
            rest = self.inner.put_many(parcels[1:]) if self.stores else []
            assert not any(rest)
            return [*first, *[error] * (len(parcels) - 1)]
        return self.inner.put_many(parcels)

    def read(self, path: str) -> Iterator[bytes]:
        self._fails()
        return self.inner.read(path)

    def verify_many(self, parcels: Sequence[Parcel]) -> Sequence[Proof | HometapeError]:
        self._fails()
        return self.inner.verify_many(parcels)

    def free(self) -> int | None:
        self._fails()
        return 1

    def recover(self) -> None:
        self._fails()


# ------------------------------------------------------------------------------------------------- retrying


@pytest.mark.parametrize("stores", [False, True], ids=["lost", "stored after all"])
def test_what_was_busy_is_put_again(stores: bool) -> None:
    """Only what failed is put again; what the failed try had stored all the same is proven and counts."""
    clock = ManualClock()
    moody = Moody(memory(), [BUSY] if stores else [BUSY, BUSY], stores=stores)
    parcels = [parcel(seq, b"segment %d" % seq) for seq in range(4)]
    assert Retrying(moody, 2, clock=clock).put_many(parcels) == [None] * 4
    assert len(list(moody.list())) == 4
    assert clock.monotonic() >= (0.5 if stores else 1.5)


def test_what_another_left_under_that_name_is_not_ours() -> None:
    """After a failed try, a name that is there with other bytes is still only `AlreadyThere`."""
    inner = memory()
    mine = [parcel(0, b"zero"), parcel(1, b"one")]
    inner.files[mine[1].path] = b"not one"
    answers = Retrying(Moody(inner, [BUSY]), 1, clock=ManualClock()).put_many(mine)
    assert answers[0] is None
    assert isinstance(answers[1], AlreadyThere)


@pytest.mark.parametrize(
    ("error", "absences", "calls"),
    [
        (BUSY, False, 3),
        (TargetAbsent("gone"), False, 1),
        (TargetAbsent("gone"), True, 3),
        (TargetReadOnly("no writes"), True, 1),
        (TargetRefused("wrong password"), True, 1),
        (DiskFull("full"), True, 1),
        (DiskError("i/o error"), True, 1),
        (NotFound("no"), True, 1),
    ],
)
def test_only_what_may_pass_is_tried_again(error: HometapeError, absences: bool, calls: int) -> None:
    """So many tries, with growing pauses, and only after errors that pass within seconds; then the error is told."""
    clock = ManualClock()
    moody = Moody(memory(), [error] * 9)
    target = Retrying(moody, 2, absences=absences, clock=clock)
    with pytest.raises(type(error)):
        target.recover()
    assert moody.calls == calls
    assert clock.monotonic() == (1.5 if calls == 3 else 0)
    with pytest.raises(type(error)):
        target.read("x")
    assert moody.calls == 2 * calls


def test_the_state_of_things_is_not_asked_twice() -> None:
    """Whoever asks for free space or the state wants to know how it is now, not in ten seconds."""
    moody = Moody(memory(), [BUSY])
    with pytest.raises(TargetBusy):
        Retrying(moody, 5, clock=ManualClock()).free()
    assert moody.calls == 1


def test_bytes_that_can_be_read_once_are_put_once() -> None:
    """A put from an iterator can't be repeated with what is left of it."""
    moody = Moody(memory(), [])
    moody.put_many = lambda _: [BUSY]  # type: ignore[method-assign,assignment] # always busy
    clock = ManualClock()
    with pytest.raises(TargetBusy):
        Retrying(moody, 3, clock=clock).put(segment_path(0, b"once"), iter([b"once"]), 4, xxh3(b"once"))
    assert clock.monotonic() == 0


# --------------------------------------------------------------------------------------------------- paced


def test_a_rate_is_kept_over_all_that_moves() -> None:
    """What is put and what is read go through one limit; wrong bytes are found out as without it."""
    clock = ManualClock()
    target = Paced(memory(), Timetable.parse("1000 B"), clock=clock)
    data = b"x" * 3000
    target.put(segment_path(0, data), [data], len(data), xxh3(data))
    assert clock.monotonic() == pytest.approx(3, abs=0.3)
    assert b"".join(target.read(segment_path(0, data))) == data
    assert clock.monotonic() == pytest.approx(6, abs=0.3)
    with pytest.raises(DigestMismatch):
        target.put(segment_path(1, data), [b"other"], len(data), xxh3(data))


def test_a_local_file_is_no_way_around_the_rate(tmp_path: Path) -> None:
    """A paced parcel has no local file that could be copied at full speed."""
    seen: list[Path | None] = []
    inner = memory()
    put = inner.put_many

    def looking(parcels: Sequence[Parcel]) -> list[HometapeError | None]:
        seen.extend(one.local for one in parcels)
        return put(parcels)

    inner.put_many = looking  # type: ignore[method-assign] # to see what the target is given
    one = parcel(0, b"x")
    Paced(inner, Timetable.parse("1 MiB")).put_many(
        [Parcel(one.path, one.size, one.digest, one.read, local=tmp_path / "x")]
    )
    assert seen == [None]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows can't change its time zone for one process")
def test_the_rate_follows_the_local_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """At each moment the step of the timetable counts that the local clock shows, also under way."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        clock = ManualClock(wall_ns=int(datetime(2026, 3, 1, 22, 59, 50, tzinfo=UTC).timestamp()) * 10**9)
        bucket = Bucket(Timetable.parse("08:00 1000 B, 23:00 off"), clock=clock)  # 22:59 UTC is 07:59 there
        assert bucket.rate() is None
        bucket.take(10**9)
        assert clock.monotonic() == 0
        clock.advance(20)
        assert bucket.rate() == 1000
        for _ in bucket.flow([b"x" * 2000]):
            pass
        assert clock.monotonic() == pytest.approx(22, abs=0.3)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_several_share_one_rate() -> None:
    """Threads that copy at the same time get the rate together, not each."""
    bucket = Bucket(Timetable.parse("200 KiB"))
    began = SYSTEM.monotonic()
    threads = [threading.Thread(target=lambda: list(bucket.flow([b"x" * 20_480] * 2))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert SYSTEM.monotonic() - began >= 0.5


# --------------------------------------------------------------------------------------------------- timed


class Sleeper(Wrapper):
    """Hangs in every call while `gate` is closed; `quick`: but says that it moves."""

    def __init__(self, inner: Target) -> None:
        super().__init__(inner)
        self.gate = threading.Event()
        self.gate.set()
        self.moves = False
        self.begun = 0

    def _sleep(self) -> None:
        self.begun += 1
        while not self.gate.wait(0.02):
            if self.moves:
                pulse.moved()

    def put_many(self, parcels: Sequence[Parcel]) -> list[HometapeError | None]:
        self._sleep()
        return self.inner.put_many(parcels)

    def verify(self, path: str) -> Proof:
        self._sleep()
        return self.inner.verify(path)

    def read(self, path: str) -> Iterator[bytes]:
        self._sleep()
        return self.inner.read(path)

    def state(self) -> State:
        self._sleep()
        return self.inner.state()


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    made = Sleeper(memory())
    yield made
    made.gate.set()


def test_silence_is_given_up(sleeper: Sleeper) -> None:
    """A call that hangs ends with TargetAbsent and what is wrong; further ones fail at once, without a thread each;
    once the hanging call has come back, all works again.
    """
    target = Timed(sleeper, 0.2)
    sleeper.gate.clear()
    with pytest.raises(TargetAbsent, match="target nas has not answered for 0 s"):
        target.verify(segment_path(0, b""))
    before = threading.active_count()
    began = SYSTEM.monotonic()
    for _ in range(50):
        with pytest.raises(TargetAbsent, match="not answered"):
            target.put_many([parcel(0, b"x")])
    assert target.state().condition is Condition.ABSENT
    assert "not answered" in target.state().reason
    assert SYSTEM.monotonic() - began < 2
    assert threading.active_count() == before
    assert sleeper.begun == 1
    sleeper.gate.set()
    wait_until(lambda: target.state().condition is Condition.READY)
    assert target.put_many([parcel(0, b"x")]) == [None]


def test_what_moves_is_waited_for(sleeper: Sleeper) -> None:
    """A step may take any time as long as it gives signs of life; they reach who listens above, too."""
    target = Timed(sleeper, 0.2)
    sleeper.moves = True
    sleeper.gate.clear()
    opener = threading.Timer(0.8, sleeper.gate.set)
    opener.start()
    heard: list[int] = []
    with pulse.heard_by(lambda: heard.append(1)):
        assert target.put_many([parcel(0, b"x")]) == [None]
    opener.join()
    assert heard


def test_a_slow_source_is_not_the_targets_silence() -> None:
    """While home's disk is slow to give the bytes, the target is not blamed."""
    gate = threading.Event()

    def slowly() -> Iterator[bytes]:
        gate.wait(0.6)
        yield b"x"

    target = Timed(memory(), 0.1)
    one = parcel(0, b"x")
    assert target.put_many([Parcel(one.path, 1, one.digest, slowly)]) == [None]


def test_what_was_left_behind_stores_nothing_more(sleeper: Sleeper) -> None:
    """A put that was given up gets no more bytes when it comes back: somebody else may be at it by then."""
    target = Timed(sleeper, 0.1)
    sleeper.gate.clear()
    with pytest.raises(TargetAbsent):
        target.put_many([parcel(0, b"x")])
    sleeper.gate.set()
    wait_until(lambda: target.state().condition is Condition.READY)
    assert target.stat(segment_path(0, b"x")) is None


def test_long_reads_and_lists_come_in_pieces() -> None:
    """What is read and listed through a time-out is what is there, however many pieces it takes."""
    inner = memory()
    data = [b"%d" % n for n in range(11)]
    inner.read = lambda _: iter(data)  # type: ignore[method-assign,assignment] # many small blocks
    for seq in range(2500):
        inner.files[segment_path(seq, b"")] = b""
    target = Timed(inner, 5)
    assert list(target.read("x")) == data
    assert len(list(target.list())) == 2500


# ----------------------------------------------------------------------------------------------- the others


def test_only_so_many_at_a_time() -> None:
    """Of many calls at once only the allowed number is inside; all are served."""
    inside: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    class Busy(Wrapper):
        def verify(self, path: str) -> Proof:
            with lock:
                inside.append(1)
                most.append(len(inside))
            time_to_meet.wait(0.02)
            with lock:
                inside.pop()
            return self.inner.verify(path)

    time_to_meet = threading.Event()
    path = segment_path(0, b"x")
    inner = memory()
    inner.files[path] = b"x"
    target = Narrow(Busy(inner), 2)
    threads = [threading.Thread(target=lambda: target.verify(path)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 2
    assert len(most) == 8


def test_a_reader_holds_no_place_while_it_thinks() -> None:
    """Two targets that feed each other can't lock each other out: between two blocks a reader is not inside."""
    inner = memory()
    path = segment_path(0, b"x")
    inner.files[path] = b"x"
    target = Narrow(inner, 1)
    blocks = target.read(path)
    assert next(blocks) == b"x"
    assert target.verify(path).size == 1


def test_settings_decide_what_is_around_a_target() -> None:
    """Home goes bare; a folder is timed, a remote not; a bandwidth is kept by a wrapper unless the target does it."""

    def layers(inner: Target, **more: object) -> list[str]:
        base = {"id": "nas", "path": "/srv/nas", **more}
        target = wrapped(inner, TargetSettings.model_validate(base))
        names = []
        while isinstance(target, Wrapper):
            names.append(type(target).__name__)
            target = target.inner
        assert target is innermost(wrapped(inner, TargetSettings.model_validate(base)))
        return names

    remote = {"kind": "remote", "remote": "cloud:tape", "path": None}
    pacing = memory()
    pacing.capabilities = Capabilities(paces=True)
    assert layers(memory(), home=True, bandwidth="1 MiB") == []
    assert layers(memory()) == ["Retrying", "Narrow", "Timed"]
    assert layers(memory(), retries=0) == ["Narrow", "Timed"]
    assert layers(memory(), bandwidth="08:00 1 MiB, 23:00 off") == ["Retrying", "Narrow", "Paced", "Timed"]
    assert layers(memory(), **remote, bandwidth="1 MiB") == ["Retrying", "Narrow", "Paced"]
    assert layers(pacing, **remote, bandwidth="1 MiB") == ["Retrying", "Narrow"]


@pytest.mark.parametrize("kind", [Wrapper, Timed])
def test_no_call_slips_past_a_wrapper(kind: type[Wrapper]) -> None:
    """Whatever a target can be asked goes on to the inner one, and all is timed, `local` excepted: it only names."""
    asked = {name for name, what in vars(Target).items() if callable(what) and not name.startswith("_")}
    assert asked - set(vars(kind)) - {"put"} == (set() if kind is Wrapper else {"local"})


def test_threads_are_started_only_when_all_are_busy() -> None:
    """One call after the other needs one thread; calls at once get one each, up to the limit."""
    hands = Hands("test", 3)
    for _ in range(5):
        assert hands.start(lambda: threading.current_thread().name).result(5) == "test-0"
        wait_until(lambda: hands._crew.idle == 1)
    gate = threading.Event()
    names: set[str] = set()

    def meet() -> None:
        names.add(threading.current_thread().name)
        gate.wait(5)

    answers = [hands.start(meet) for _ in range(6)]
    wait_until(lambda: len(names) == 3)
    gate.set()
    for answer in answers:
        answer.result(5)
    assert names == {"test-0", "test-1", "test-2"}
    hands.close()
