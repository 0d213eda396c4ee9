"""How a lane goes about its target: what it serves first, when it gathers, reads, recognises, rests and is level."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from receiver.fanout import Fanout, Pace
from receiver.fanout_queue import Queue
from receiver.model import Held
from receiver.targets.contract import Capabilities, Condition, Limits, Parcel, Place, Proof, State, Target
from receiver.targets.directory import DirectoryTarget
from receiver.targets.memory import MemoryTarget
from receiver.targets.wrapping import Wrapper
from tape.clock import SYSTEM
from tape.errors import HometapeError, NotFound, TargetBusy
from tests.support.archive import Archive, Mischief
from tests.support.waiting import wait_until_async

QUICK = Pace(rescan=0.1, absent=0.05, plugged=0.05, refused=0.05, longest=0.1, grace=1.0)
CALM = Pace(rescan=3600, absent=3600, plugged=0.05, longest=0.1, grace=1.0)


class Watched(Mischief):
    """Knows which segments it was given, in which order, and how often each was read; `place` may be another."""

    def __init__(self, inner: Target, place: Place | None = None, **limits: int) -> None:
        super().__init__(inner)
        self.place = place or inner.place
        self.given: list[list[str]] = []
        self.reads: list[str] = []
        self.settled = 0
        self.named: str | None = None
        self.bounds = replace(inner.limits, **limits)
        self.answer: State | None = None

    @property
    def limits(self) -> Limits:  # type: ignore[override] # as in Wrapper
        return self.bounds

    def put_many(self, parcels: Sequence[Parcel]) -> list[HometapeError | None]:
        self.given.append([parcel.path for parcel in parcels])
        return super().put_many(parcels)

    def read(self, path: str) -> Iterator[bytes]:
        self.reads.append(path)
        return super().read(path)

    def instance(self) -> str:
        return self.inner.instance() if self.named is None else self.named

    def state(self) -> State:
        return super().state() if self.answer is None else self.answer

    def settle(self) -> None:
        self.settled += 1


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """Home, nas, usb and cloud."""
    made = Archive(tmp_path, names=("nas", "usb", "cloud"))
    yield made
    made.catalog.close()


@contextlib.asynccontextmanager
async def running(archive: Archive, *targets: Target, pace: Pace = QUICK, **more: object) -> AsyncIterator[Fanout]:
    """A fan-out at work."""
    fanout = Fanout(archive.catalog, targets, clock=SYSTEM, pace=pace, **more)  # type: ignore[arg-type] # as Fanout's
    archive.catalog.subscribe(fanout.wake)
    task = asyncio.create_task(fanout.run())
    try:
        yield fanout
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def paths(held: Sequence[Held]) -> list[str]:
    return [str(one.path) for one in held]


# ------------------------------------------------------------------------------------------- what goes first


async def test_new_segments_go_before_the_backlog(archive: Archive) -> None:
    """While a backlog is worked off, what is committed is copied before its next batch; nothing is copied twice."""
    old = archive.commit(40)
    nas = Watched(archive.others[0], Place("nas", medium="nas", concurrency=1), batch_files=4)
    nas.gate.clear()
    async with running(archive, archive.home, nas, pace=CALM) as fanout:
        await wait_until_async(lambda: fanout.views()[1].silent > 0)  # its state hangs: now it looks at the backlog
        nas.gate.set()
        await wait_until_async(lambda: len(nas.given) >= 2)
        nas.gate.clear()
        before = len(nas.given)
        new = archive.commit(3)
        nas.gate.set()
        await wait_until_async(lambda: archive.copied("nas") == 43)
    at = next(number for number, batch in enumerate(nas.given) if batch == paths(new))
    assert before <= at <= before + 1, "one batch may have been on its way"
    assert sorted(chain(*nas.given)) == sorted(paths(old + new))
    archive.assert_complete("nas")


async def test_a_disk_takes_the_oldest_first(archive: Archive) -> None:
    """A removable disk gets its backlog in order, whatever is committed meanwhile."""
    old = archive.commit(20)
    usb = Watched(archive.others[1], Place("usb", kind="removable", medium="usb", concurrency=1), batch_files=4)
    async with running(archive, archive.home, usb, pace=CALM):
        await wait_until_async(lambda: len(usb.given) >= 1)
        new = archive.commit(3)
        await wait_until_async(lambda: archive.copied("usb") == 23)
    assert list(chain(*usb.given)) == paths(old + new)


def test_new_segments_do_not_starve_the_backlog(archive: Archive) -> None:
    """However many new segments come, the backlog gets on."""
    archive.commit(10)
    nas = Watched(archive.others[0], batch_files=1)
    queue = Queue(
        nas,
        lambda after, limit: archive.catalog.behind("nas", after=after, limit=limit),
        lambda: len(archive.made),
    )
    assert queue.next(1)[0].id == 1
    archive.commit(30)
    served = [queue.next(1)[0].id for _ in range(39)]
    assert sorted(served) == list(range(2, 41))
    assert served[:6] == [11, 12, 13, 14, 2, 15]
    assert queue.next(1) == []


async def test_a_batch_gathers_until_it_is_full_or_old(archive: Archive) -> None:
    """With `batch_wait` nothing is copied before a batch is full, or its oldest segment has waited that long."""
    nas = Watched(archive.others[0], Place("nas", medium="nas", batch_wait=0.6), batch_files=5)
    archive.commit(1)
    async with running(archive, archive.home, nas, pace=CALM):
        await wait_until_async(lambda: archive.copied("home") == 1)
        assert nas.given == []
        await wait_until_async(lambda: archive.copied("nas") == 1)  # its time has come, though nothing woke the lane
        began = SYSTEM.monotonic()
        archive.commit(2)
        await wait_until_async(lambda: archive.copied("home") == 3)
        archive.commit(4)
        await wait_until_async(lambda: archive.copied("nas") >= 5)
        assert SYSTEM.monotonic() - began < 0.5, "a full batch waits no longer"
        await wait_until_async(lambda: archive.copied("nas") == 7)
    assert [len(batch) for batch in nas.given] == [1, 5, 1]


async def test_draining_does_not_gather(archive: Archive) -> None:
    """A command that brings everything level waits for no fuller batch."""
    nas = Watched(archive.others[0], Place("nas", medium="nas", batch_wait=3600))
    archive.commit(2)
    views = await Fanout(archive.catalog, [archive.home, nas], clock=SYSTEM, pace=CALM).drain()
    assert [view.copied for view in views] == [2, 2]


# ------------------------------------------------------------------------------------------ reading home once


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every segment counts as a large one, which no working process writes."""
    monkeypatch.setattr("receiver.targets.small.LARGEST", -1)


@pytest.mark.usefixtures("large")
async def test_home_is_read_once_for_all(archive: Archive) -> None:
    """Three targets that are at hand get each segment's bytes from one read of home, live and from a backlog."""
    home = Watched(archive.home)
    archive.commit(60)
    async with running(archive, home, *archive.others, pace=CALM) as fanout:
        for count in (60, 70, 80):
            await wait_until_async(lambda: all(archive.copied(t.id) == count for t in [home, *archive.others]))  # noqa: B023 - awaited here
            archive.commit(10)
        await wait_until_async(lambda: all(archive.copied(t.id) == 90 for t in [home, *archive.others]))
        assert fanout.copier.bytes.held == 0
    assert len(home.reads) == len(set(home.reads)) == 90
    for target in archive.others:
        archive.assert_complete(target.id)


@pytest.mark.usefixtures("large")
async def test_a_lagging_target_reads_by_itself(archive: Archive) -> None:
    """A target far behind gets its bytes by reads of its own, and holds nothing in memory for the others."""
    home, slow = Watched(archive.home), Watched(archive.others[0])
    slow.answer = State(Condition.ABSENT, "away")
    archive.commit(30)
    async with running(archive, home, slow, archive.others[1]) as fanout:
        await wait_until_async(lambda: archive.copied("usb") == 30)
        assert len(home.reads) == 30
        slow.answer = None
        await wait_until_async(lambda: archive.copied("nas") == 30)
        assert len(home.reads) == 60
        assert fanout.copier.bytes.held == 0


# ------------------------------------------------------------------------------------- recognising, resting


async def test_a_target_is_recognised_before_it_is_copied_to(archive: Archive) -> None:
    """The instance is told before the first copy; another one under the same id makes everything be looked at anew."""
    told: list[tuple[str, str, int]] = []
    nas = Watched(archive.others[0])
    first = nas.instance()

    def seen(target: str, instance: str) -> None:
        if target == "nas":
            if instance == "another":
                for held in archive.catalog.all_segments():
                    archive.catalog.drop_copy(held.id, "nas", "replaced")
            told.append((target, instance, len(nas.given)))

    archive.commit(3)
    async with running(archive, archive.home, nas, seen=seen):
        await wait_until_async(lambda: archive.copied("nas") == 3)
        assert told == [("nas", first, 0)]
        for held in archive.catalog.all_segments():
            (archive.root / "nas" / str(held.path)).unlink()
        nas.named = "another"
        await wait_until_async(lambda: len(told) == 2)
        await wait_until_async(lambda: archive.copied("nas") == 3)
    for made in archive.made:
        assert (archive.root / "nas" / str(made.path)).read_bytes() == made.data


async def test_who_is_refused_is_asked_rarely(archive: Archive) -> None:
    """A target that lets nobody in is looked at after long pauses, shown with its reason, and at once when urged."""
    nas = Watched(archive.others[0])
    nas.answer = State(Condition.REFUSED, "wrong password", "check its credentials")
    archive.commit(1)
    async with running(archive, archive.home, nas, pace=replace(QUICK, refused=300, longest=3600)) as fanout:
        await wait_until_async(lambda: fanout.views()[1].state.condition is Condition.REFUSED)
        await wait_until_async(lambda: fanout.views()[1].retry_in > 290)
        assert fanout.views()[1].state.reason == "wrong password"
        nas.answer = None
        archive.commit(1)
        await wait_until_async(lambda: archive.copied("home") == 2)
        assert archive.copied("nas") == 0
        fanout.rescan()
        await wait_until_async(lambda: archive.copied("nas") == 2)


async def test_an_absent_remote_is_looked_at_less_and_less(archive: Archive) -> None:
    """Each look at a remote costs a connection, so the pauses between them grow; those at a folder do not."""
    cloud = Watched(archive.others[2], Place("cloud", kind="remote", medium="cloud"))
    nas = Watched(archive.others[0])
    cloud.answer = nas.answer = State(Condition.ABSENT, "offline")
    async with running(archive, archive.home, nas, cloud, pace=replace(QUICK, longest=60)) as fanout:
        await wait_until_async(lambda: fanout.views()[2].retry_in > 0.4)
        assert fanout.views()[1].retry_in <= 0.05


# ------------------------------------------------------------------------------------------------- level


async def test_a_disk_that_is_level_says_so(archive: Archive) -> None:
    """Nothing left to bring: sums are settled, and a removable disk may be unplugged; a new segment takes that back."""
    usb = Watched(archive.others[1], Place("usb", kind="removable", medium="usb"))
    archive.commit(5)
    async with running(archive, archive.home, usb, pace=CALM) as fanout:
        await wait_until_async(lambda: all(view.level for view in fanout.views()))
        assert fanout.views()[1].note == "level: safe to unplug"
        assert (archive.copied("usb"), usb.settled) == (5, 1)
        usb.gate.clear()
        archive.commit(1)
        await wait_until_async(lambda: fanout.views()[1].silent > 0.02)
        usb.gate.set()
        await wait_until_async(lambda: archive.copied("usb") == 6 and fanout.views()[1].level)
        assert usb.settled == 2


async def test_what_failed_is_not_level(archive: Archive) -> None:
    """As long as one segment could not be copied nothing is settled, and nobody is told to unplug."""
    usb = Watched(archive.others[1], Place("usb", kind="removable", medium="usb"))
    held = archive.commit(3)
    (archive.root / "home" / str(held[1].path)).write_bytes(b"bad")
    async with running(archive, archive.home, usb) as fanout:
        await wait_until_async(lambda: archive.copied("usb") == 2 and fanout.views()[1].failed > 2)
        assert not fanout.views()[1].level
        assert (fanout.views()[1].note, usb.settled) == ("", 0)


async def test_a_disk_that_comes_back_is_sampled(archive: Archive) -> None:
    """What was there is read again when a disk returns, those checked longest ago first; a bad copy is made anew."""
    usb = Watched(archive.others[1], Place("usb", kind="removable", medium="usb"))
    held = archive.commit(8)
    async with running(archive, archive.home, usb, pace=replace(QUICK, sample=3)) as fanout:
        await wait_until_async(lambda: fanout.views()[1].level)
        usb.answer = State(Condition.ABSENT, "away")
        await wait_until_async(lambda: fanout.views()[1].state.condition is Condition.ABSENT)
        assert not fanout.views()[1].level
        checked = {one.id: verified(archive, one.id, "usb") for one in held}
        first = min(held, key=lambda one: (checked[one.id], one.id))
        (archive.root / "usb" / str(first.path)).write_bytes(b"rotten")
        archive.commit(1)
        usb.answer = None
        await wait_until_async(lambda: archive.copied("usb") == 9 and fanout.views()[1].level)
        assert (archive.root / "usb" / str(first.path)).read_bytes() == archive.made[first.id - 1].data
    again = [one.id for one in held if verified(archive, one.id, "usb") > checked[one.id]]
    assert len(again) == 3
    assert first.id in again
    aside = list((archive.root / "usb" / ".hometape-aside").rglob("*.parquet.*"))
    assert [path.read_bytes() for path in aside] == [b"rotten"]


def verified(archive: Archive, segment: int, target: str) -> int:
    """When a copy was last checked, ns; 0 without one."""
    return next((copy.verified_ns for copy in archive.catalog.copies(segment) if copy.target == target), 0)


# ------------------------------------------------------------------------------------------------ the end


async def test_what_hangs_beyond_the_end_records_nothing(archive: Archive) -> None:
    """A thread that hung when the fan-out was ended comes back to nobody: another fan-out is at work by then."""
    nas = Watched(archive.others[0])
    hung = threading.Event()

    def hanging(parcels: Sequence[Parcel]) -> Sequence[Proof | HometapeError]:
        hung.set()
        nas.gate.wait()
        return archive.others[0].verify_many(parcels)

    nas.verify_many = hanging  # type: ignore[method-assign] # hangs after the put
    async with running(archive, archive.home, nas, pace=replace(CALM, grace=0.05)):
        await wait_until_async(nas.gate.is_set)
        nas.gate.clear()
        nas.put_many = archive.others[0].put_many  # type: ignore[method-assign] # puts go through, proofs hang
        nas.state = archive.others[0].state  # type: ignore[method-assign] # as above
        archive.commit(1)
        await wait_until_async(hung.is_set)
    threads = [one for one in threading.enumerate() if one.name.startswith("target-nas")]
    nas.gate.set()
    for thread in threads:
        thread.join(10)
    assert archive.copied("nas") == 0
    async with running(archive, archive.home, archive.others[0]):
        await wait_until_async(lambda: archive.copied("nas") == 1)


# ---------------------------------------------------------------------------------------------- remote ones


class Cloud(Wrapper):
    """As a remote without reading back: confirms a promised SHA-256 by size alone; gives files by fetching."""

    METHOD = "size, promised sha256"

    def __init__(self, inner: MemoryTarget) -> None:
        super().__init__(inner)
        self.promised: list[str] = []
        self.fetched: list[int] = []
        self.cut: set[str] = set()

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override] # as in Wrapper
        return Capabilities(proof=self.METHOD, local=False)

    def verify_many(self, parcels: Sequence[Parcel]) -> Sequence[Proof | HometapeError]:
        self.promised += [parcel.sha256 for parcel in parcels]
        answers: list[Proof | HometapeError] = []
        for parcel in parcels:
            if self.inner.stat(parcel.path) == parcel.size:
                answers.append(Proof(parcel.size, parcel.digest, parcel.sha256, self.METHOD))
            else:
                answers.append(NotFound("not there"))
        return answers

    def fetch_many(self, paths: Sequence[str], folder: Path) -> Sequence[Path | HometapeError]:
        self.fetched.append(len(paths))
        found: list[Path | HometapeError] = []
        for path in paths:
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            data = b"".join(self.inner.read(path))
            file.write_bytes(data[:-1] if path in self.cut else data)
            found.append(file)
        return found


def cloud_target() -> Cloud:
    return Cloud(MemoryTarget(Place("cloud", kind="remote", medium="cloud", site="cloud")))


async def test_what_is_not_read_back_is_promised_by_home(archive: Archive) -> None:
    """A remote that can only compare gets a SHA-256 of home's own bytes, attested yet or not; its method is kept."""
    cloud = cloud_target()
    held = archive.commit(5)
    fanout = Fanout(archive.catalog, [archive.home, cloud], clock=SYSTEM, pace=QUICK)
    await fanout.drain()
    assert sorted(cloud.promised) == sorted(made.sha256 for made in archive.made)
    assert cloud.sums(held[0].path.folder)[str(held[0].path.name)] == archive.made[0].sha256
    methods = {copy.target: copy.method for copy in archive.catalog.copies(held[0].id)}
    assert methods == {"home": "read-back xxh3+sha256", "cloud": Cloud.METHOD}


async def test_home_is_healed_from_afar_in_batches(archive: Archive) -> None:
    """Home copies that are gone come back from a remote, many at once; one whose remote copy is bad is wanted again."""
    cloud = cloud_target()
    held = archive.commit(20)
    await Fanout(archive.catalog, [archive.home, cloud], clock=SYSTEM, pace=QUICK).drain()
    for one in held:
        (archive.root / "home" / str(one.path)).unlink()
        archive.catalog.drop_copy(one.id, "home", "found gone")
    cloud.cut.add(str(held[3].path))
    fanout = Fanout(archive.catalog, [archive.home, cloud], clock=SYSTEM, pace=QUICK)
    await fanout.drain()
    assert cloud.fetched == [20]
    assert archive.copied("home") == 19
    assert {incident.kind for incident in archive.catalog.incidents()} >= {"lost"}
    assert not list((archive.root / "home" / ".hometape-tmp").glob("healing-*"))
    left = archive.root / "home" / ".hometape-tmp" / "healing-x"
    left.mkdir()
    cloud.cut.clear()
    await Fanout(archive.catalog, [archive.home, cloud], clock=SYSTEM, pace=QUICK).drain()
    assert not left.exists()


async def test_a_fault_in_a_batch_of_proofs_waits(archive: Archive) -> None:
    """A remote that is too busy to prove some copies has to wait; those are neither good nor bad until then."""
    cloud = cloud_target()
    archive.commit(4)
    prove = cloud.verify_many

    def busy(parcels: Sequence[Parcel]) -> Sequence[Proof | HometapeError]:
        return [*prove(parcels[:1]), *[TargetBusy("target cloud: rate limit")] * (len(parcels) - 1)]

    cloud.verify_many = busy  # type: ignore[method-assign] # only the first copy of a batch is proven
    _, view = await Fanout(archive.catalog, [archive.home, cloud], clock=SYSTEM, pace=QUICK).drain()
    assert (view.copied, view.failed, view.error) == (1, 3, "target cloud: rate limit")
    assert archive.catalog.incidents() == []


def test_directories_declare_that_they_read_back() -> None:
    """What counts as read back is said by the target's own capabilities."""
    assert DirectoryTarget.capabilities.proof == "read-back xxh3+sha256"
