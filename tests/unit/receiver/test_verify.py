"""Copies are re-read, longest unchecked first; a bad one stops counting, is told, and is made anew."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from receiver.fanout import Fanout, Pace
from receiver.model import Copy, Held
from receiver.targets.contract import Capabilities, Parcel, Proof
from receiver.targets.wrapping import Wrapper
from receiver.verify import NOTES, Budget, Direct, Notes, Progress, Verify, take_notes
from receiver.verify_folder import VerifyFolder
from tape.clock import ManualClock
from tape.errors import HometapeError, NotFound
from tests.support.archive import Archive, Feed, Mischief, receipts
from tests.support.segments import Maker, put

TICKS = b"".join(b"%d,1.%04d\n" % (1000 + i, i) for i in range(200))


@pytest.fixture
def clock() -> ManualClock:
    """Moves when told to."""
    return ManualClock()


@pytest.fixture
def archive(tmp_path: Path, clock: ManualClock) -> Iterator[Archive]:
    """Home and nas."""
    made = Archive(tmp_path, clock=clock)
    yield made
    made.catalog.close()


async def filled(archive: Archive, count: int) -> list[Held]:
    """Segments with verified copies at home and nas."""
    held = archive.commit(count)
    await drain(archive)
    return held


async def drain(archive: Archive) -> None:
    await Fanout(archive.catalog, archive.targets, clock=archive.clock, pace=Pace()).drain()


def direct(archive: Archive) -> Direct:
    return Direct(archive.catalog, archive.targets, clock=archive.clock)


def a_pass(archive: Archive) -> Verify:
    return Verify(archive.catalog, archive.targets, direct(archive), clock=archive.clock)


def flip(archive: Archive, target: str, held: Held) -> Path:
    path = archive.root / target / str(held.path)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return path


async def test_good_copies_are_checked_and_their_time_moves_on(archive: Archive, clock: ManualClock) -> None:
    """A pass reads every copy at every target, records when, and tells how far it is."""
    held = await filled(archive, 5)
    clock.advance(3600)
    seen: list[Progress] = []
    verify = Verify(archive.catalog, archive.targets, direct(archive), clock=clock, progress=seen.append)
    result = verify.run()
    assert (result.exit_code, [(t.target, t.copies, t.left) for t in result.targets]) == (
        0,
        [("home", 5, 0), ("nas", 5, 0)],
    )
    assert {copy.verified_ns for item in held for copy in archive.catalog.copies(item.id)} == {clock.now_ns()}
    last = [step for step in seen if step.target == "nas"][-1]
    assert (last.copies, last.bytes) == (last.of_copies, last.of_bytes)
    assert json.loads(result.to_json())["exit_code"] == 0


@pytest.mark.parametrize("damage", ["flipped", "gone", "longer"])
async def test_a_bad_copy_stops_counting_and_is_made_anew(archive: Archive, clock: ManualClock, damage: str) -> None:
    """A flipped bit, a lost file, a longer file: found, no longer counted, told, and copied again from a good one."""
    held = await filled(archive, 4)
    path = archive.root / "nas" / str(held[2].path)
    if damage == "flipped":
        flip(archive, "nas", held[2])
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b"x")
    clock.advance(1)
    result = a_pass(archive).run()
    assert result.exit_code == 2
    assert [(bad.target, bad.path) for t in result.targets for bad in t.bad] == [("nas", str(held[2].path))]
    assert archive.copied("nas") == 3
    assert [incident.kind for incident in archive.catalog.incidents()] == ["copy"]
    (receipt,) = receipts(archive.catalog, "home", "nas", copies=2).values()
    assert receipt.safe == ((0, 1), (3, 3))
    await drain(archive)
    archive.assert_complete("nas")
    assert archive.catalog.incidents() == []
    assert a_pass(archive).run().exit_code == 0


async def test_a_bad_home_copy_is_healed_and_never_lost_sight_of(archive: Archive, clock: ManualClock) -> None:
    """At home the bad file stays until a good copy is at hand, then it is put aside and replaced."""
    held = await filled(archive, 2)
    path = flip(archive, "home", held[0])
    clock.advance(1)
    assert a_pass(archive).run(only=["home"]).exit_code == 2
    assert path.exists()
    assert archive.copied("home") == 1
    await drain(archive)
    archive.assert_complete("home")


async def test_a_clock_that_was_ahead_keeps_no_copy_from_its_check(archive: Archive, clock: ManualClock) -> None:
    """Copies that were proven at a time still to come are read before all others, and found bad if they are."""
    held = await filled(archive, 5)
    ahead = clock.now_ns() + 10**17
    archive.catalog.add_copies([Copy(item.id, "nas", ahead, "test") for item in held[2:]])
    flip(archive, "nas", held[4])
    clock.advance(10)
    (found,) = a_pass(archive).run(only=["nas"], budget=Budget(bytes=2 * held[0].size + held[0].size // 2)).targets
    assert (found.copies, found.left, found.bad) == (2, 3, [])
    assert {copy.verified_ns for copy in archive.catalog.copies(held[2].id) if copy.target == "nas"} == {clock.now_ns()}
    clock.advance(10)
    (found,) = a_pass(archive).run(only=["nas"]).targets
    assert (found.copies, [bad.path for bad in found.bad]) == (5, [str(held[4].path)])


async def test_longest_unchecked_come_first_within_the_budget(archive: Archive, clock: ManualClock) -> None:
    """Small passes, one after the other, get round to every copy before any is read again."""
    held = await filled(archive, 10)
    size = held[0].size
    clock.advance(10)
    order: list[int] = []
    for _ in range(5):
        clock.advance(10)
        result = a_pass(archive).run(only=["nas"], budget=Budget(bytes=2 * size + size // 2))
        assert [(t.copies, t.left) for t in result.targets] == [(2, 8)]
        now = clock.now_ns()
        order += [
            h.id for h in held if any(c.target == "nas" and c.verified_ns == now for c in archive.catalog.copies(h.id))
        ]
    assert order == [item.id for item in held]
    clock.advance(10)
    (found,) = a_pass(archive).run(only=["nas"], budget=Budget(seconds=0)).targets
    assert found.copies == 1


async def test_one_stream_alone(archive: Archive, tmp_path: Path, clock: ManualClock) -> None:
    """With a stream named, only its copies are read."""
    await filled(archive, 3)
    archive.take(Maker(stream="other", epoch="00000000000000bb", real=False).many(2))
    await drain(archive)
    clock.advance(1)
    result = a_pass(archive).run(stream=("box", "other"))
    assert [t.copies for t in result.targets] == [2, 2]
    assert [t.copies for t in a_pass(archive).run(stream=("box", "nobody")).targets] == [0, 0]


async def test_an_absent_target_is_a_warning_and_delays_no_other(archive: Archive, clock: ManualClock) -> None:
    """A target that is not there is named with a hint; the others are checked; its copies are not dropped."""
    await filled(archive, 3)
    (archive.root / "nas" / ".hometape-target").unlink()
    clock.advance(1)
    result = a_pass(archive).run()
    assert result.exit_code == 1
    home, nas = result.targets
    assert (home.copies, home.error) == (3, "")
    assert ".hometape-target" in nas.error
    assert nas.hint
    assert archive.copied("nas") == 3


async def test_a_passing_fault_costs_no_copy(archive: Archive, clock: ManualClock) -> None:
    """A copy that reads badly once and well the second time still counts."""
    held = await filled(archive, 2)
    shaky = Mischief(archive.others[0])
    shaky.misread = [str(held[1].path)]
    clock.advance(1)
    targets = [archive.home, shaky]
    result = Verify(archive.catalog, targets, Direct(archive.catalog, targets, clock=clock), clock=clock).run()
    assert shaky.misread == []
    assert result.exit_code == 0
    assert archive.copied("nas") == 2


async def test_lost_sums_are_written_again(archive: Archive, clock: ManualClock) -> None:
    """SHA256SUMS that lost lines has them again after a pass."""
    await filled(archive, 4)
    sums = archive.root / "nas" / archive.made[0].path.folder / "SHA256SUMS"
    sums.write_bytes(b"".join(sums.read_bytes().splitlines(keepends=True)[:2]))
    clock.advance(1)
    assert a_pass(archive).run().exit_code == 0
    archive.assert_complete("nas")
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "-c", "--strict", "--quiet", sums.name], cwd=sums.parent, check=True)


async def test_beside_a_running_service_findings_are_notes(archive: Archive, clock: ManualClock) -> None:
    """A command that can't write leaves notes; the service takes them in, and reads a bad copy itself first."""
    held = await filled(archive, 3)
    flip(archive, "nas", held[0])
    clock.advance(60)
    state = archive.root / "state"
    verify = Verify(archive.catalog, archive.targets, Notes(state, clock=clock), clock=clock)
    assert verify.run().exit_code == 2
    assert archive.copied("nas") == 3
    put(archive.root / "nas", archive.made[0])  # good again before the service looks
    flip(archive, "nas", held[1])
    with (next((state / NOTES).iterdir())).open("ab") as note:
        note.write(b"garbage\n{}\n")
    assert take_notes(state, archive.catalog, archive.targets, clock=clock) == 6
    assert archive.copied("nas") == 3
    assert list((state / NOTES).iterdir()) == []
    checked = {copy.verified_ns for item in held for copy in archive.catalog.copies(item.id)}
    assert checked == {clock.now_ns()}
    clock.advance(60)
    Verify(archive.catalog, archive.targets, Notes(state, clock=clock), clock=clock).run()
    assert take_notes(state, archive.catalog, archive.targets, clock=clock) == 6
    assert archive.copied("nas") == 2


# ------------------------------------------------------------------------------------------------ bare folders


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A copy on a stick: files and sums, nothing else."""
    return stick(tmp_path, Feed(tmp_path / "spool"))


def stick(tmp_path: Path, feed: Feed) -> Path:
    root = tmp_path / "stick"
    for made in feed.seal(TICKS, cuts=[len(TICKS) // 4, len(TICKS) // 2, len(TICKS) // 4 * 3]):
        path = put(root, made)
        with (path.parent / "SHA256SUMS").open("ab") as sums:
            sums.write(f"{hashlib.sha256(made.data).hexdigest()}  {path.name}\n".encode())
    return root


def segments(root: Path) -> list[Path]:
    return sorted(root.rglob("*.parquet"))


def test_a_bare_folder_is_checked_without_a_catalog(bare: Path) -> None:
    """Digests, sums, rows and chain of a good copy are all in order."""
    seen: list[tuple[int, int]] = []
    result = VerifyFolder(bare, progress=lambda *now: seen.append(now)).run()
    assert (result.exit_code, result.segments, result.rows, result.streams) == (0, 4, 200, 1)
    assert (result.bad, result.gaps, result.notes) == ([], [], [])
    assert seen[-1] == (4, result.bytes)
    assert VerifyFolder(bare, rows=False, stream="box/demo/ticks").run().segments == 4
    with pytest.raises(NotFound):
        VerifyFolder(bare, stream="box/other").run()


def test_every_kind_of_harm_to_a_bare_folder_is_seen(bare: Path) -> None:
    """Flipped bits, a lost segment, a lost line, a torn line: each is found and named, alone."""
    victim = segments(bare)[1]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    for rows in (True, False):
        result = VerifyFolder(bare, rows=rows).run()
        assert (result.exit_code, [file for file, _ in result.bad], result.gaps) == (2, [str(victim)], [])
    victim.unlink()
    result = VerifyFolder(bare).run()
    assert result.exit_code == 1
    assert result.gaps[0] == "segment 1 of epoch 00000000000000aa of box/demo/ticks"
    assert victim.name in result.gaps[1]
    victim.write_bytes(whole)
    sums = victim.parent / "SHA256SUMS"
    lines = sums.read_bytes().splitlines(keepends=True)
    sums.write_bytes(b"".join(lines[:1] + lines[2:]))
    assert [victim.name in note for note in VerifyFolder(bare).run().notes] == [True]
    sums.write_bytes(b"".join(lines) + b"torn")
    assert VerifyFolder(bare).run().exit_code == 1


def test_days_that_go_back_are_no_fault(tmp_path: Path) -> None:
    """Older files, or a clock put back, bring an earlier day after a later one: the chain is by number, not by day."""
    half_day = 43_200_000_000_000
    feed = Feed(tmp_path / "spool", step_ns=-half_day)
    root = stick(tmp_path, feed)
    assert [segment.name[17:29] for segment in segments(root)] != [f"{seq:012d}" for seq in range(4)]
    result = VerifyFolder(root).run()
    assert (result.exit_code, result.segments, result.bad, result.gaps) == (0, 4, [], [])
    victim = next(path for path in segments(root) if "-000000000001-" in path.name)
    whole = victim.read_bytes()
    victim.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    result = VerifyFolder(root).run()
    assert ([file for file, _ in result.bad], result.gaps) == ([str(victim)], [])
    victim.unlink()
    result = VerifyFolder(root).run()
    assert result.bad == []
    assert "segment 1 of epoch 00000000000000aa of box/demo/ticks" in result.gaps


def test_a_segment_that_is_there_twice_is_told(bare: Path) -> None:
    """The same number on another day is one too many."""
    victim = segments(bare)[1]
    other = victim.parent.parent / "date=2031-01-01"
    other.mkdir()
    shutil.copy(victim, other)
    result = VerifyFolder(bare).run()
    assert [(file, why) for file, why in result.bad] == [(str(other / victim.name), "segment 1 is there twice")]


def test_a_forged_segment_among_days_that_go_back_breaks_the_chain(tmp_path: Path) -> None:
    """Whichever of two neighbours is met first, they are compared."""
    half_day = 43_200_000_000_000
    root = stick(tmp_path, Feed(tmp_path / "spool", step_ns=-half_day))
    forger = Feed(tmp_path / "forger", step_ns=-half_day)
    quarter = len(TICKS) // 4
    forged = forger.seal(TICKS.replace(b"1.", b"7."), cuts=[quarter, 2 * quarter])[1]
    next(path for path in segments(root) if "-000000000001-" in path.name).unlink()
    put(root, forged)
    result = VerifyFolder(root).run()
    broken = sorted(Path(file).name[17:29] for file, why in result.bad if "chain is broken" in why)
    assert broken == ["000000000001", "000000000002"]


def test_a_replaced_segment_breaks_the_chain(bare: Path, tmp_path: Path) -> None:
    """Another segment forged whole, with fitting name, digest and sums, does not fit between its neighbours."""
    victim = segments(bare)[1]
    forger = Feed(tmp_path / "forger")
    quarter = len(TICKS) // 4
    forged = forger.seal(TICKS.replace(b"1.", b"7."), cuts=[quarter, 2 * quarter])[1]
    victim.unlink()
    path = put(bare, forged)
    sums = path.parent / "SHA256SUMS"
    lines = [line for line in sums.read_text(encoding="utf-8").splitlines() if victim.name not in line]
    lines.append(f"{hashlib.sha256(forged.data).hexdigest()}  {path.name}")
    sums.write_bytes(("\n".join(lines) + "\n").encode())
    result = VerifyFolder(bare).run()
    assert result.exit_code == 2
    assert [file for file, _ in result.bad] == [str(path), str(segments(bare)[2])]
    assert all("chain is broken" in why for _, why in result.bad)


def test_a_bare_folder_without_sums_is_still_checked(bare: Path) -> None:
    """The digest in the name alone finds a flipped bit; every segment without a line is noted."""
    victim = segments(bare)[2]
    (victim.parent / "SHA256SUMS").unlink()
    assert len(VerifyFolder(bare).run().notes) == 4
    whole = victim.read_bytes()
    victim.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    result = VerifyFolder(bare, rows=False).run()
    assert [(file, "have digest" in why) for file, why in result.bad] == [(str(victim), True)]


async def test_copies_far_away_are_proven_many_at_a_time(archive: Archive, clock: ManualClock) -> None:
    """A target without local files is asked for a batch of proofs; a bad copy among them is found all the same."""
    held = await filled(archive, 30)
    flip(archive, "nas", held[7])

    class Afar(Wrapper):
        asked: ClassVar[list[int]] = []

        @property
        def capabilities(self) -> Capabilities:  # type: ignore[override] # as the wrapper itself
            return Capabilities(local=False)

        def verify_many(self, parcels: Sequence[Parcel]) -> Sequence[Proof | HometapeError]:
            self.asked.append(len(parcels))
            return super().verify_many(parcels)

    clock.advance(1)
    targets = [archive.home, Afar(archive.others[0])]
    found = Verify(archive.catalog, targets, direct(archive), clock=clock).run(only=["nas"])
    assert Afar.asked == [30, 1]
    assert [bad.path for one in found.targets for bad in one.bad] == [str(held[7].path)]
