"""Every target gets every segment, proven; a dead, slow, full, lying or broken one delays nobody else."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path

import pytest

from receiver.fanout import Fanout, Pace
from receiver.targets.contract import READ_BACK, READ_BACK_FRESH, Condition, Limits, Target
from receiver.targets.directory import DirectoryTarget
from tape.clock import SYSTEM, ManualClock
from tape.errors import DiskError, DiskFull, StoreError
from tests.support.archive import Archive, Mischief, receipts
from tests.support.waiting import wait_until_async

QUICK = Pace(rescan=0.1, absent=0.05, longest=0.1, grace=1.0)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """Home and nas."""
    made = Archive(tmp_path)
    yield made
    made.catalog.close()


@contextlib.asynccontextmanager
async def running(archive: Archive, *targets: Target, pace: Pace = QUICK) -> AsyncIterator[Fanout]:
    """A fan-out at work."""
    fanout = Fanout(archive.catalog, list(targets) or archive.targets, clock=SYSTEM, pace=pace)
    archive.catalog.subscribe(fanout.wake)
    task = asyncio.create_task(fanout.run())
    try:
        yield fanout
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_every_target_gets_every_segment(archive: Archive) -> None:
    """What was there before the start and what comes later is copied, proven, summed, attested and told."""
    told: list[tuple[str, str]] = []

    def changed(streams: Collection[tuple[str, str]]) -> None:
        told.extend(streams)

    before = archive.commit(300)
    fanout = Fanout(archive.catalog, archive.targets, clock=SYSTEM, changed=changed, pace=QUICK)
    archive.catalog.subscribe(fanout.wake)
    task = asyncio.create_task(fanout.run())
    await wait_until_async(lambda: archive.copied("nas") == 300)
    archive.commit(5)
    await wait_until_async(lambda: archive.copied("nas") == archive.copied("home") == 305)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    archive.assert_complete("home")
    archive.assert_complete("nas")
    assert set(told) == {("box", "demo/ticks")}
    held = archive.catalog.get(before[0].id)
    assert held is not None
    assert held.sha256 == archive.made[0].sha256
    (receipt,) = receipts(archive.catalog, "home", "nas", copies=2).values()
    assert receipt.safe == ((0, 304),)
    methods = {copy.target: copy.method for copy in archive.catalog.copies(before[0].id)}
    assert methods["home"] == READ_BACK
    assert methods["nas"] in (READ_BACK, READ_BACK_FRESH)  # the SHA-256 is not computed again where home has it


async def test_a_commit_wakes_the_lanes(archive: Archive) -> None:
    """A segment is copied when it is committed, not when the timer next looks."""
    async with running(archive, pace=Pace(rescan=3600, absent=3600)) as fanout:
        await wait_until_async(lambda: len(fanout.views()) == 2 and not archive.catalog.behind("nas", limit=1))
        archive.commit()
        await wait_until_async(lambda: archive.copied("nas") == 1, within=10)


async def test_a_hanging_target_delays_nobody(archive: Archive) -> None:
    """While one target's calls never return, the others are filled; it is named as silent, and catches up later."""
    stuck = Mischief(archive.folder("stuck"))
    stuck.gate.clear()
    try:
        async with running(archive, archive.home, stuck, *archive.others) as fanout:
            archive.commit(50)
            await wait_until_async(lambda: archive.copied("nas") == archive.copied("home") == 50)
            assert archive.copied("stuck") == 0
            await wait_until_async(lambda: fanout.views()[1].silent > 0.05)
            stuck.gate.set()
            await wait_until_async(lambda: archive.copied("stuck") == 50)
    finally:
        stuck.gate.set()
    archive.assert_complete("stuck")


async def test_stopping_does_not_wait_for_a_hanging_target(archive: Archive) -> None:
    """A target that hangs in the middle of a put holds up the end of the service only for the time of grace."""
    stuck = Mischief(archive.others[0])
    archive.commit(3)
    async with running(archive, archive.home, stuck, pace=Pace(grace=0.05)) as fanout:
        stuck.gate.clear()
        archive.commit(3)
        await wait_until_async(lambda: fanout.views()[1].silent > 0.01)
        began = SYSTEM.monotonic()
    stuck.gate.set()
    assert SYSTEM.monotonic() - began < 5


async def test_an_absent_target_catches_up_when_it_returns(archive: Archive) -> None:
    """While its marker is away nothing is written; once back, it is noticed and filled, oldest first."""
    marker = archive.root / "nas" / ".hometape-target"
    kept = marker.read_bytes()
    marker.unlink()
    async with running(archive) as fanout:
        archive.commit(20)
        await wait_until_async(lambda: archive.copied("home") == 20)
        await wait_until_async(lambda: fanout.views()[1].state.condition is Condition.ABSENT)
        assert list((archive.root / "nas").glob("box/**/*")) == []
        marker.write_bytes(kept)
        await wait_until_async(lambda: archive.copied("nas") == 20)
    archive.assert_complete("nas")


async def test_a_full_target_waits_and_goes_on(archive: Archive) -> None:
    """A full target is probed with one segment at a time, says so, and fills up once there is room."""
    full = Mischief(archive.others[0])
    full.refuse = DiskFull("target nas: no space left")
    async with running(archive, archive.home, full) as fanout:
        archive.commit(40)
        await wait_until_async(lambda: archive.copied("home") == 40)
        await wait_until_async(lambda: full.puts > 40, what="a second try")
        before = full.puts
        await wait_until_async(lambda: full.puts > before)
        assert full.puts == before + 1
        assert "no space left" in fanout.views()[1].error
        full.refuse = None
        await wait_until_async(lambda: archive.copied("nas") == 40)
        await wait_until_async(lambda: fanout.views()[1].error == "")
    archive.assert_complete("nas")


@pytest.mark.parametrize("lie", ["corrupt", "forget"])
async def test_a_lying_target_never_counts(archive: Archive, lie: str) -> None:
    """Copies that fail their read-back never count and are told as incidents; healed, all are made anew."""
    liar = Mischief(archive.others[0])
    setattr(liar, lie, True)
    async with running(archive, archive.home, liar):
        archive.commit(10)
        await wait_until_async(lambda: archive.copied("home") == 10)
        await wait_until_async(lambda: liar.puts >= 12, what="tries after the first")
        assert archive.copied("nas") == 0
        assert {incident.kind for incident in archive.catalog.incidents()} == {"copy"}
        told = receipts(archive.catalog, "home", "nas", copies=2)
        assert all(receipt.safe == () for receipt in told.values())
        setattr(liar, lie, False)
        await wait_until_async(lambda: archive.copied("nas") == 10)
    archive.assert_complete("nas")
    assert archive.catalog.incidents() == []


@pytest.mark.parametrize("trouble", ["target", "segment"])
async def test_what_failed_is_tried_again_after_its_pause(archive: Archive, trouble: str) -> None:
    """Neither a failing target nor a failing segment waits for the next look at everything."""
    odd = Mischief(archive.others[0])
    odd.refuse = DiskFull("target nas: no space left") if trouble == "target" else DiskError("target nas: bad name")
    async with running(archive, archive.home, odd, pace=Pace(rescan=3600, absent=0.05, longest=0.1)):
        archive.commit(3)
        await wait_until_async(lambda: odd.puts > 3, what="a second try")
        odd.refuse = None
        await wait_until_async(lambda: archive.copied("nas") == 3)


async def test_a_segment_that_keeps_failing_is_tried_ever_less(archive: Archive) -> None:
    """The pauses between tries of a segment double, as those of a whole target do."""
    (held,) = archive.commit()
    (archive.root / "home" / str(held.path)).write_bytes(b"bad")
    async with running(archive, pace=Pace(rescan=3600, absent=3600)) as fanout:
        await wait_until_async(lambda: fanout.views()[0].failed == 2, what="a second try after a second")

        def longer() -> bool:  # the try is counted a moment before its pause is set
            view = fanout.views()[0]
            return view.failed == 2 and view.retry_in > 1.5

        await wait_until_async(longer, what="a longer pause than the first before the third try")


async def test_an_unforeseen_error_stays_in_its_lane(archive: Archive) -> None:
    """An exception nobody foresaw at one target is waited out; the others and the service go on."""
    odd = Mischief(archive.others[0])
    odd.explode = ZeroDivisionError("surprise")
    async with running(archive, archive.home, odd) as fanout:
        archive.commit(5)
        await wait_until_async(lambda: archive.copied("home") == 5 and fanout.views()[1].error == "surprise")
        odd.explode = None
        await wait_until_async(lambda: archive.copied("nas") == 5)


async def test_one_bad_segment_holds_up_no_other(archive: Archive) -> None:
    """A segment whose home bytes are damaged before its first read-back is asked for again; all others are copied."""
    held = archive.commit(20)
    bad = archive.root / "home" / str(held[7].path)
    good = bad.read_bytes()
    bad.write_bytes(b"~" + good[1:])
    async with running(archive) as fanout:
        await wait_until_async(lambda: archive.copied("home") == archive.copied("nas") == 19)
        archive.commit(1)
        await wait_until_async(lambda: archive.copied("home") == archive.copied("nas") == 20)
        assert {incident.kind for incident in archive.catalog.incidents()} == {"copy", "lost"}
        assert all(incident.subject for incident in archive.catalog.incidents())
        (receipt,) = receipts(archive.catalog, "home", "nas", copies=2).values()
        assert receipt.resend == ((7, 7),)
        assert "at home" in fanout.views()[0].error
        assert "home copy" in fanout.views()[1].error
        bad.write_bytes(good)
        await wait_until_async(lambda: archive.copied("home") == archive.copied("nas") == 21)
        await wait_until_async(lambda: archive.catalog.incidents() == [])
        (receipt,) = receipts(archive.catalog, "home", "nas", copies=2).values()
        assert (receipt.resend, receipt.safe) == ((), ((0, 20),))


@pytest.mark.parametrize("damage", ["flipped", "gone"])
async def test_a_bad_home_copy_is_healed_from_another_target(archive: Archive, damage: str) -> None:
    """A home copy that no longer counts is fetched from a verified one; the bad bytes are kept aside."""
    (held,) = archive.commit()
    async with running(archive):
        await wait_until_async(lambda: archive.copied("home") == archive.copied("nas") == 1)
        path = archive.root / "home" / str(held.path)
        if damage == "flipped":
            path.write_bytes(b"~" + path.read_bytes()[1:])
        else:
            path.unlink()
        archive.catalog.drop_copy(held.id, "home", "found bad")
        await wait_until_async(lambda: archive.copied("home") == 1)
    archive.assert_complete("home")
    assert archive.catalog.incidents() == []
    aside = list((archive.root / "home" / ".hometape-aside").rglob("*.parquet.*"))
    assert len(aside) == (1 if damage == "flipped" else 0)


async def test_what_lies_there_already_is_proven_not_written(archive: Archive) -> None:
    """A target that holds the files already (a catalog rebuilt) is read back; a wrong one is replaced."""
    held = archive.commit(4)
    for item in archive.made:
        path = archive.root / "nas" / str(item.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(item.data)
    wrong = archive.root / "nas" / str(held[2].path)
    wrong.write_bytes(b"something else")
    async with running(archive):
        await wait_until_async(lambda: archive.copied("nas") == 4)
    archive.assert_complete("nas")
    (aside,) = (archive.root / "nas" / ".hometape-aside").rglob("*.parquet.*")
    assert aside.read_bytes() == b"something else"


async def test_a_catalog_that_fails_stops_the_service(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the catalog can't be written any more, the fan-out ends with its error instead of going on."""
    archive.commit(1)

    def fail(*_: object) -> None:
        raise StoreError("the catalog failed: database disk image is malformed")

    monkeypatch.setattr(archive.catalog, "add_copies", fail)
    fanout = Fanout(archive.catalog, archive.targets, clock=SYSTEM, pace=QUICK)
    with pytest.raises(StoreError, match="malformed"):
        await asyncio.wait_for(fanout.run(), 20)


async def test_a_backlog_is_asked_for_in_pages(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far a target is behind, no more than a few batches of it are ever held."""
    archive.commit(400)
    asked: list[int] = []
    behind = archive.catalog.behind

    def counting(target: str, *, after: int = 0, limit: int) -> object:
        asked.append(limit)
        return behind(target, after=after, limit=limit)

    monkeypatch.setattr(archive.catalog, "behind", counting)
    monkeypatch.setattr(DirectoryTarget, "limits", Limits(batch_files=16))
    fanout = Fanout(archive.catalog, archive.targets, clock=SYSTEM, pace=QUICK)
    views = await fanout.drain()
    assert [view.copied for view in views] == [400, 400]
    assert max(asked) <= 16 * 2
    archive.assert_complete("nas")


async def test_drain_tells_how_the_lanes_stand(archive: Archive) -> None:
    """One pass copies what can be copied and comes back, also when a target fails."""
    broken = Mischief(archive.others[0])
    broken.refuse = DiskError("target nas: input/output error")
    archive.commit(3)
    fanout = Fanout(archive.catalog, [archive.home, broken], clock=SYSTEM, pace=QUICK)
    home, nas = await fanout.drain()
    assert (home.copied, home.failed, home.error) == (3, 0, "")
    assert (nas.copied, nas.failed) == (0, 3)
    assert "input/output error" in nas.error
    broken.refuse = None
    assert [view.copied for view in await fanout.drain()] == [3, 3]
    assert hashlib.sha256(archive.made[0].data).hexdigest() in (
        archive.root / "nas" / archive.made[0].path.folder / "SHA256SUMS"
    ).read_text(encoding="utf-8")


async def test_dropped_copies_are_made_anew_at_once_when_told(archive: Archive) -> None:
    """After `rescan` everything is looked at again, not only what is new."""
    held = archive.commit(3)
    async with running(archive, pace=Pace(rescan=3600, absent=3600)) as fanout:
        await wait_until_async(lambda: archive.copied("nas") == archive.copied("home") == 3)
        (archive.root / "nas" / str(held[0].path)).unlink()
        archive.catalog.drop_copy(held[0].id, "nas", "gone")
        fanout.rescan()
        await wait_until_async(lambda: archive.copied("nas") == 3)
    archive.assert_complete("nas")


async def test_lanes_give_way_to_a_burst_but_not_for_ever(archive: Archive) -> None:
    """While a burst arrives nothing is copied; after `give_way` seconds the copies are made all the same."""
    clock = ManualClock()
    archive.commit(1)
    began = clock.monotonic()
    fanout = Fanout(archive.catalog, archive.targets, clock=clock, busy=lambda: True, pace=Pace(give_way=5.0))
    await fanout.drain()
    assert clock.monotonic() - began >= 5.0
    assert {copy.target for copy in archive.catalog.copies(1)} == {target.id for target in archive.targets}
