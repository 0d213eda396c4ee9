"""The drop box: takes by copying, deletes only what was committed, follows nothing, writes receipts."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from receiver import dropbox as module
from receiver.dropbox import AGAIN, ORPHANED, SETTLE, DropBox
from receiver.dropbox_receipts import RENEW
from receiver.dropbox_troubles import MOST_TOLD
from receiver.model import Answer, Outcome
from receiver.settings import AgentEntry
from tape.clock import Clock, ManualClock
from tape.durable import Disk
from tape.errors import ConfigError, DiskFull, SyncFailed
from tests.support import wait_until_async
from tests.support.ingress import EPOCH, STREAM, Store, bundled, segment

CONTENT = b"ticks " * 5000
NAME = segment(CONTENT, 4)
WINDOWS = os.name == "nt"


class Yard:
    """A drop box `box` of agent `alpha` on folders of its own, with a store behind it."""

    def __init__(self, folder: Path, *, clock: Clock | None = None, poll: float = 3600, **entry: Any) -> None:
        self.clock = ManualClock()
        self.state = folder / "state"
        self.root = folder / "drop"
        self.root.mkdir()
        self.store = Store(folder / "store")
        self.streams: list[str] = []
        self.box = DropBox(
            AgentEntry(name="alpha", dropbox=self.root, **entry),
            self.state,
            self.store,
            streams=lambda: self.streams,
            clock=clock or self.clock,
            poll=poll,
        )
        self.box.start()

    def put(self, content: bytes, seq: int = 4, *, stream: str = STREAM, name: str = "") -> Path:
        """A file as a plain server leaves it."""
        path = self.root / stream / (name or str(segment(content, seq)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def inbox(self) -> list[Path]:
        """What lies in the inbox."""
        return list((self.state / "inbox").iterdir())


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    """A drop box whose clock stands still."""
    return Yard(tmp_path)


def troubles(yard: Yard) -> list[str]:
    """What `status` is told of the drop box."""
    return [one["text"] for one in yard.box.troubles.facts()["troubles"]]


@contextlib.asynccontextmanager
async def running(yard: Yard) -> AsyncIterator[None]:
    """The drop box at work."""
    task = asyncio.ensure_future(yard.box.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_upload_is_committed_and_deleted(yard: Yard) -> None:
    """The bytes reach the committer with their digest and size; the folder and the inbox are empty then."""
    path = yard.put(CONTENT)
    assert await yard.box.take_all() == 1
    assert yard.store.contents() == {f"alpha/{STREAM}/{NAME}": CONTENT}
    upload = yard.store.uploads[0]
    assert (upload.agent, upload.stream, upload.name, upload.size) == ("alpha", STREAM, NAME, len(CONTENT))
    assert upload.digest == NAME.digest
    assert upload.received_ns == yard.clock.now_ns()
    assert not path.exists()
    assert not yard.inbox()


async def test_a_bundle_is_taken(yard: Yard) -> None:
    """Bundles lie in their own folder; one that is not whole yet, in its head or in a segment, is left alone."""
    name, content = bundled(yard.state, [(STREAM, NAME, CONTENT), (STREAM, segment(b"more", 5), b"more")])
    for unfinished in (content[:20], content[:-2], content[:-2] + b"xx", b"nonsense"):
        path = yard.put(unfinished, stream=".bundles", name=str(name))
        assert await yard.box.take_all() == 0
        assert path.read_bytes() == unfinished
    assert not yard.store.uploads
    yard.put(content, stream=".bundles", name=str(name))
    assert await yard.box.take_all() == 1
    assert yard.store.contents() == {
        f"alpha/{STREAM}/{NAME}": CONTENT,
        f"alpha/{STREAM}/{segment(b'more', 5)}": b"more",
    }
    (upload,) = yard.store.uploads
    assert upload.pieces is not None, "taken apart while it was copied"
    assert not yard.inbox()


async def test_there_is_room_for_any_number_of_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a bundle took of the room for pieces is given back, whether it was committed, put off or not whole."""
    monkeypatch.setattr(module, "MAX_ITEMS", 2)
    yard = Yard(tmp_path)
    bundles = []
    for seq in range(0, 60, 2):
        both = [(STREAM, segment(b"%d" % number, number), b"%d" % number) for number in (seq, seq + 1)]
        bundles.append(bundled(yard.state, both))
    for number, (name, content) in enumerate(bundles):
        yard.put(content[:-1] if number % 3 == 0 else content, stream=".bundles", name=str(name))
    yard.store.error = SyncFailed("fsync failed")
    assert await yard.box.take_all() == 0
    assert len(yard.store.uploads) == 20
    yard.store.error = None
    yard.clock.advance(AGAIN + 1)
    for name, content in bundles:
        yard.put(content, stream=".bundles", name=str(name))
    assert await yard.box.take_all() == 30
    assert all(upload.pieces is not None for upload in yard.store.uploads)
    assert len(yard.store.held("alpha", STREAM)) == 60
    assert not yard.inbox()


async def test_uploads_under_way_are_left(yard: Yard) -> None:
    """A `.part` belongs to the uploader."""
    path = yard.put(CONTENT, name=f"{NAME}.part")
    assert await yard.box.take_all() == 0
    assert path.read_bytes() == CONTENT
    assert not yard.store.uploads


async def test_an_upload_that_was_left_behind_is_removed(yard: Yard, capsys: pytest.CaptureFixture[str]) -> None:
    """A `.part` that lay unchanged for a day under our eyes goes, of a segment or a bundle; what it says of its age
    counts for nothing, what was written to meanwhile stays, and so does what is no upload.
    """
    bundle, _ = bundled(yard.state, [(STREAM, NAME, CONTENT)])
    left = [yard.put(b"half", name=f"{NAME}.part"), yard.put(b"half", stream=".bundles", name=f"{bundle}.part")]
    busy = yard.put(b"half", name=f"{segment(b'busy', 5)}.part")
    foreign = yard.put(b"mine", name="notes.part")
    for path in (*left, busy):
        os.utime(path, ns=(0, 0))
    assert await yard.box.take_all() == 0
    yard.clock.advance(ORPHANED - 1)
    with busy.open("ab") as file:
        file.write(b"more")
    await yard.box.take_all()
    assert all(path.exists() for path in left)
    yard.clock.advance(2)
    await yard.box.take_all()
    assert [path.exists() for path in (*left, busy, foreign)] == [False, False, True, True]
    assert capsys.readouterr().out.count("left behind and is removed") == 2
    yard.clock.advance(ORPHANED)
    await yard.box.take_all()
    assert not busy.exists()
    assert foreign.exists()


async def test_a_part_that_comes_again_is_new(yard: Yard) -> None:
    """One that was away in between counts from its return."""
    path = yard.put(b"half", name=f"{NAME}.part")
    await yard.box.take_all()
    path.unlink()
    await yard.box.take_all()
    yard.put(b"half", name=f"{NAME}.part")
    yard.clock.advance(ORPHANED + 1)
    await yard.box.take_all()
    assert path.exists()


async def test_the_same_upload_again_is_taken_again(yard: Yard) -> None:
    """A duplicate is OK and leaves the folder."""
    for _ in range(2):
        path = yard.put(CONTENT)
        assert await yard.box.take_all() == 1
        assert not path.exists()
    assert [upload.name for upload in yard.store.uploads] == [NAME, NAME]


async def test_many_uploads_are_taken_in_one_look(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a page of them, too."""
    monkeypatch.setattr(module, "_PAGE", 10)
    for seq in range(35):
        yard.put(b"%d" % seq, seq)
    assert await yard.box.take_all() == 35
    assert len(yard.store.held("alpha", STREAM)) == 35


async def test_a_file_still_being_written_waits_until_it_fits_its_name(yard: Yard) -> None:
    """An uploader that writes under the final name is not taken for a damaged upload."""
    path = yard.put(CONTENT[:100], name=str(NAME))
    for length in (200, 300):
        assert await yard.box.take_all() == 0
        yard.clock.advance(SETTLE - 1)
        path.write_bytes(CONTENT[:length])
    assert not yard.store.uploads
    path.write_bytes(CONTENT)
    assert await yard.box.take_all() == 1
    assert yard.store.held("alpha", STREAM) == [NAME]


async def test_damaged_bytes_are_judged_by_the_committer_and_removed_for_the_resend(yard: Yard) -> None:
    """Once they lie still for a while; the name is free for the next attempt."""
    path = yard.put(b"damaged", name=str(NAME))
    assert await yard.box.take_all() == 0
    yard.clock.advance(SETTLE + 0.1)
    assert await yard.box.take_all() == 1
    assert not path.exists()
    assert len(yard.store.uploads) == 1
    assert not yard.store.contents()


async def test_a_conflicting_upload_leaves_the_folder(yard: Yard) -> None:
    """Other bytes under a number that is held: the committer has its copy."""
    yard.put(CONTENT)
    await yard.box.take_all()
    path = yard.put(b"forged", 4)
    assert await yard.box.take_all() == 1
    assert not path.exists()
    assert yard.store.held("alpha", STREAM) == [NAME]


@pytest.mark.parametrize("error", [DiskFull("no space left"), SyncFailed("fsync failed"), OSError("gone")])
async def test_a_good_upload_stays_until_it_could_be_committed(yard: Yard, error: Exception) -> None:
    """A failing commit deletes nothing; it is tried again after a pause."""
    path = yard.put(CONTENT)
    yard.store.error = error
    assert await yard.box.take_all() == 0
    assert path.read_bytes() == CONTENT
    assert not yard.inbox()
    yard.store.error = None
    assert await yard.box.take_all() == 0, "not before the pause is over"
    yard.clock.advance(AGAIN + 1)
    assert await yard.box.take_all() == 1
    assert yard.store.held("alpha", STREAM) == [NAME]


async def test_an_answer_to_send_again_keeps_a_good_upload(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes are right: the uploader need not send them again."""

    async def later(_upload: object) -> Outcome:
        return Outcome(Answer.RESEND, "the disk is full")

    path = yard.put(CONTENT)
    monkeypatch.setattr(yard.store, "commit", later)
    assert await yard.box.take_all() == 0
    assert path.exists()


async def test_the_stored_copy_is_not_the_uploaders_file(yard: Yard) -> None:
    """A handle that the uploader kept open changes nothing at home."""
    path = yard.put(CONTENT)
    with path.open("r+b") as handle:
        assert await yard.box.take_all() == (0 if WINDOWS else 1), "a file in use can't be deleted on Windows"
        handle.write(b"forged")
    assert yard.store.contents() == {f"alpha/{STREAM}/{NAME}": CONTENT}


async def test_a_file_swapped_while_its_copy_is_committed_stays(yard: Yard) -> None:
    """Only the very file that was copied is deleted."""
    path = yard.put(CONTENT)
    yard.store.hold = asyncio.Event()
    taking = asyncio.ensure_future(yard.box.take_all())
    await wait_until_async(lambda: yard.store.uploads)
    path.unlink()
    path.write_bytes(b"another")
    yard.store.hold.set()
    assert await taking == 0
    assert path.read_bytes() == b"another"
    assert yard.store.contents() == {f"alpha/{STREAM}/{NAME}": CONTENT}


def _grow(path: Path) -> None:
    with path.open("ab") as handle:
        handle.write(b"more")


def _rewrite(path: Path) -> None:
    with path.open("r+b") as handle:
        handle.write(b"other")
    os.utime(path, ns=(0, 0))


@pytest.mark.parametrize("change", [_grow, _rewrite])
async def test_a_file_that_changes_while_it_is_copied_is_not_taken(
    change: Callable[[Path], None], yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read is not what it has become."""
    path = yard.put(CONTENT)
    real = Disk.write_all

    def changing(self: Disk, file: Any, data: bytes | memoryview) -> None:
        change(path)
        real(self, file, data)

    monkeypatch.setattr(Disk, "write_all", changing)
    assert await yard.box.take_all() == 0
    assert not yard.store.uploads
    assert not yard.inbox()


async def test_an_upload_over_the_limit_is_left_alone(tmp_path: Path) -> None:
    """It is not even copied."""
    yard = Yard(tmp_path, max_segment=1000)
    path = yard.put(CONTENT)
    assert await yard.box.take_all() == 0
    assert path.exists()
    assert not yard.store.uploads


# -------------------------------------------------------------------------------- what is not an upload


async def test_foreign_files_are_left_alone_and_reported_once(yard: Yard, capsys: pytest.CaptureFixture[str]) -> None:
    """Names outside the grammar, files at odd places."""
    names = ["notes.txt", "A/b.parquet", *([] if WINDOWS else ["con/x"]), f"{NAME}", ".hidden", "x/.receipts", "\u00e4"]
    for name in names:
        path = yard.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
    for _ in range(3):
        assert await yard.box.take_all() == 0
    said = capsys.readouterr().out
    for name in names:
        assert (yard.root / name).read_bytes() == b"mine"
        assert sum(ascii(name)[1:-1] in line for line in said.splitlines()) == 1, name
    assert not yard.store.uploads


posix = pytest.mark.skipif(WINDOWS, reason="links and pipes are made differently on Windows")


@posix
async def test_links_and_pipes_are_left_alone(yard: Yard, tmp_path: Path) -> None:
    """Nothing is read through a link, and a pipe does not block."""
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    folder = yard.root / STREAM
    folder.mkdir(parents=True)
    (folder / str(NAME)).symlink_to(secret)
    os.mkfifo(folder / str(segment(b"pipe", 5)))
    (folder / str(segment(b"dir", 6))).mkdir()
    async with asyncio.timeout(10):
        assert await yard.box.take_all() == 0
    assert not yard.store.uploads
    assert secret.read_bytes() == CONTENT


@posix
async def test_a_linked_folder_is_not_entered(yard: Yard) -> None:
    """A link to the archive under a stream's name does not make the drop box delete the archive."""
    yard.put(CONTENT)
    await yard.box.take_all()
    (yard.root / STREAM).rmdir()
    (yard.root / STREAM).symlink_to(yard.store.root / "alpha" / STREAM)
    assert await yard.box.take_all() == 0
    assert yard.store.contents() == {f"alpha/{STREAM}/{NAME}": CONTENT}


@posix
async def test_a_folder_swapped_for_a_link_before_the_deletion_deletes_nothing_there(yard: Yard) -> None:
    """Even when the swap happens between the copy and the deletion, and the target looks the same."""
    path = yard.put(CONTENT)
    yard.store.hold = asyncio.Event()
    taking = asyncio.ensure_future(yard.box.take_all())
    await wait_until_async(lambda: yard.store.uploads)
    elsewhere = yard.root.parent / "elsewhere"
    path.parent.rename(elsewhere)
    path.parent.symlink_to(elsewhere)
    yard.store.hold.set()
    assert await taking == 0
    assert (elsewhere / path.name).read_bytes() == CONTENT


@posix
async def test_receipts_are_not_written_through_a_link(yard: Yard, tmp_path: Path) -> None:
    """Neither as a folder nor as a file."""
    yard.put(CONTENT)
    await yard.box.take_all()
    outside = tmp_path / "outside"
    outside.mkdir()
    (yard.root / ".receipts").symlink_to(outside)
    assert await yard.box.write_receipts() == 0
    assert f"the receipt of {STREAM} can't be written" in troubles(yard)[0]
    assert not list(outside.iterdir())
    (yard.root / ".receipts").unlink()
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    receipt = yard.root / ".receipts" / f"{STREAM}.json"
    receipt.parent.mkdir(parents=True)
    receipt.symlink_to(target)
    assert await yard.box.write_receipts() == 1
    assert target.read_bytes() == b"precious"
    assert not receipt.is_symlink()


# ---------------------------------------------------------------------------------------------- receipts


def _receipt(yard: Yard, stream: str = STREAM) -> Any:
    return json.loads((yard.root / ".receipts" / f"{stream}.json").read_bytes())["receipt"]


def _held(yard: Yard, stream: str = STREAM) -> Any:
    return _receipt(yard, stream)["epochs"][EPOCH]["held"]


async def test_receipts_follow_what_is_held(yard: Yard) -> None:
    """One is written when it says something new, or when it is old; not otherwise."""
    yard.put(CONTENT)
    await yard.box.take_all()
    assert await yard.box.write_receipts() == 1
    assert _held(yard) == [[4, 4]]
    assert await yard.box.write_receipts() == 0
    yard.put(b"next", 5)
    await yard.box.take_all()
    assert await yard.box.write_receipts() == 1
    assert _held(yard) == [[4, 5]]
    before = _receipt(yard)["issued_ns"]
    yard.clock.advance(RENEW + 1)
    assert await yard.box.write_receipts() == 1
    assert _receipt(yard)["issued_ns"] > before, "the agent sees that the box is looked at"


async def test_a_receipt_that_cant_be_written_holds_up_no_other(yard: Yard) -> None:
    """A folder lies where the receipt of the first stream belongs: the others get theirs; told till it goes."""
    for stream in ("ticks/a", "ticks/b", "ticks/c"):
        yard.put(CONTENT, stream=stream)
    await yard.box.take_all()
    odd = yard.root / ".receipts" / "ticks" / "a.json"
    odd.mkdir(parents=True)
    assert await yard.box.write_receipts() == 2
    assert _held(yard, "ticks/c") == [[4, 4]]
    (told,) = troubles(yard)
    assert "the receipt of ticks/a can't be written" in told
    assert await yard.box.write_receipts() == 0, "the others are not written anew for it"
    assert len(troubles(yard)) == 1
    odd.rmdir()
    assert await yard.box.write_receipts() == 1
    assert not troubles(yard)


async def test_troubles_are_told_for_as_long_as_they_last(yard: Yard, capsys: pytest.CaptureFixture[str]) -> None:
    """What could not be committed is named until it leaves the folder; a few are told, and how many there are."""
    yard.store.error = DiskFull("no space left")
    for seq in range(MOST_TOLD + 3):
        yard.put(b"%d" % seq, seq)
    for _ in range(3):
        await yard.box.take_all()
        yard.clock.advance(AGAIN + 1)
    facts = yard.box.troubles.facts()
    assert facts["count"] == MOST_TOLD + 3
    assert [one["since_s"] for one in facts["troubles"]] == [3 * (AGAIN + 1)] * MOST_TOLD
    assert "could not be committed" in facts["troubles"][0]["text"]
    assert facts["troubles"][0]["hint"]
    assert capsys.readouterr().out.count("a drop box is in trouble") == MOST_TOLD + 3, "each once in the log"
    yard.store.error = None
    await yard.box.take_all()
    assert not troubles(yard)


async def test_streams_of_an_earlier_life_get_their_receipts(yard: Yard) -> None:
    """The receiver knows them, though nothing came since the start."""
    yard.put(CONTENT)
    await yard.box.take_all()
    again = DropBox(
        AgentEntry(name="alpha", dropbox=yard.root), yard.state, yard.store, streams=lambda: [STREAM], clock=yard.clock
    )
    assert await again.write_receipts() == 1
    assert _held(yard) == [[4, 4]]


# -------------------------------------------------------------------------------------------- its life


async def test_a_new_upload_is_noticed_at_once(tmp_path: Path) -> None:
    """The system reports it; the slow poll is an hour away."""
    yard = Yard(tmp_path, clock=Clock(), poll=3600)
    async with running(yard):
        yard.put(b"first", 0)
        await wait_until_async(lambda: len(yard.store.uploads) == 1)
        part = yard.put(CONTENT, name=f"{NAME}.part")
        part.rename(part.with_name(str(NAME)))
        await wait_until_async(lambda: NAME in yard.store.held("alpha", STREAM))
        await wait_until_async(
            lambda: (yard.root / ".receipts" / f"{STREAM}.json").exists() and _held(yard) == [[0, 0], [4, 4]]
        )


async def test_the_poll_serves_where_nothing_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder on a network share, say."""

    async def nothing(*_: object, **__: object) -> AsyncIterator[None]:
        for fault in [OSError("inotify watch limit reached")]:
            raise fault
        yield

    monkeypatch.setattr("watchfiles.awatch", nothing)
    yard = Yard(tmp_path, clock=Clock(), poll=0.05)
    async with running(yard):
        yard.put(CONTENT)
        await wait_until_async(lambda: yard.store.held("alpha", STREAM))


async def test_a_folder_that_goes_away_and_comes_back_is_worked_on_again(tmp_path: Path) -> None:
    """An unmounted share is no end; `status` is told for as long as it lasts."""
    yard = Yard(tmp_path, clock=Clock(), poll=0.05)
    async with running(yard):
        yard.root.rename(tmp_path / "away")
        yard.box.changed()
        await wait_until_async(lambda: troubles(yard))
        assert "it can't be worked on: " in troubles(yard)[0]
        (tmp_path / "away").rename(yard.root)
        yard.put(CONTENT)
        await wait_until_async(lambda: yard.store.held("alpha", STREAM))
        await wait_until_async(lambda: not troubles(yard), what="the trouble to be over")


async def test_a_start_clears_only_what_it_left_itself(yard: Yard) -> None:
    """Private copies of this agent's drop box; not those of another, nor the ingress's uploads."""
    inbox = yard.state / "inbox"
    for name in ("box.alpha.0123", "box.alpha-2.0123", "up-0123"):
        (inbox / name).write_bytes(b"left")
    yard.box.start()
    assert sorted(path.name for path in yard.inbox()) == ["box.alpha-2.0123", "up-0123"]


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    """With the agent, the folder and what to do."""
    box = DropBox(AgentEntry(name="alpha", dropbox=tmp_path / "none"), tmp_path, Store(tmp_path), streams=tuple)
    with pytest.raises(ConfigError, match=r"alpha.*none") as caught:
        box.start()
    assert "create it" in caught.value.hint
    with pytest.raises(ConfigError, match="has no `dropbox`"):
        DropBox(AgentEntry(name="alpha"), tmp_path, Store(tmp_path), streams=tuple)
