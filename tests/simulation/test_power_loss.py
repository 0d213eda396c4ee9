"""Promises 1, 2, 4 and 5 of the agent under power loss: at every disk operation, during recovery too.

An oracle outside the program judges: it knows every byte of the sources, every cursor that was reported
as committed, and every segment that home (a dictionary) holds and calls safe. After each cut the state is
rebuilt by `tests.simulation.power` and a new life goes on, until all is sealed.
"""

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.buffer import Buffer, Cursor
from agent.lifecycle import TABLE, Action, SegmentEvent
from agent.model import Origin, Spooled, State
from agent.outbox import Outbox
from agent.outbox_rows import NewSegment
from agent.sealer import Place, Sealer, Shaped, cursor_of
from tape.clock import ManualClock
from tape.errors import HometapeError
from tape.receipt import EpochReceipt, Receipt, to_ranges
from tape.segment import source_chunks, verify
from tests.simulation.power import PowerCutError, PowerDisk

CLEAN = frozenset[str]()


def _content(seed: int, lines: int) -> bytes:
    rng = random.Random(seed)
    return b"".join(b"%d,%d.%02d,%d\n" % (n, rng.randrange(900), n % 100, rng.randrange(10)) for n in range(lines))


@dataclass
class Oracle:
    """What must be true, told by nobody but the sources, the acknowledgements and home."""

    sources: dict[Origin, bytes]
    acknowledged: dict[str, int] = field(default_factory=dict)  # cursor reported per file
    home: dict[tuple[str, int], bytes] = field(default_factory=dict)  # what home holds: the segments' bytes
    safe: set[tuple[str, int]] = field(default_factory=set)
    issued: int = 0

    def judge(self, outbox: Outbox, scratch: Path) -> None:
        """Raises AssertionError if a promise is broken."""
        with outbox._store.reading() as db:
            rows = {
                (row["stream"], row["seq"]): row["state"]
                for row in db.execute(
                    "SELECT t.name AS stream, s.seq, s.state FROM segments s JOIN streams t ON t.id = s.stream"
                )
            }
        spans: dict[str, list[tuple[int, int, Path]]] = {}
        for (stream, seq), state in rows.items():
            files = list((outbox.spool / stream).glob(f"*-{seq:012d}-*"))
            assert state != State.LOST, f"promise 1: segment {seq} of {stream} was committed and is gone"
            if state == State.RELEASED:
                assert (stream, seq) in self.safe, f"promise 2: segment {seq} of {stream} was freed on hope"
                path = scratch / f"home-{stream.replace('/', '-')}-{seq}.parquet"
                path.write_bytes(self.home[stream, seq])
            else:
                assert len(files) == 1, f"promise 1: {len(files)} files for segment {seq} of {stream}"
                path = files[0]
                verify(path)
            footer = verify(path)
            spans.setdefault(footer.source.file_id, []).append((footer.source.start, footer.source.end, path))
        for origin, data in self.sources.items():
            stored = outbox.file(origin.file_id)
            offset = stored.known.offset if stored else 0
            assert offset >= self.acknowledged.get(origin.file_id, 0), "promise 1: an acknowledged cursor went back"
            text, at = [], 0
            for start, end, path in sorted(spans.get(origin.file_id, [])):
                assert start == at, "promise 4: bytes twice or missing"
                text.append(b"".join(source_chunks(path)))
                at = end
            assert at == offset, "promise 1: the cursor is not where the segments end"
            assert b"".join(text) == data[:offset], "promise 5: other bytes came back"


def _live(outbox: Outbox, sealer: Sealer, oracle: Oracle, rng: random.Random) -> None:
    """One life: seal what is there piece by piece, deliver some of it, act on receipts. Ends when all is sealed."""
    places = {origin: cursor_of(outbox.file(origin.file_id)) for origin in oracle.sources}
    shapes: dict[Origin, Shaped] = {}
    while any(places[origin].offset < len(data) for origin, data in oracle.sources.items()):
        origin = rng.choice([o for o, data in oracle.sources.items() if places[o].offset < len(data)])
        places[origin], shapes[origin] = _seal_one(outbox, sealer, oracle, origin, places[origin], shapes, rng)
        if rng.random() < 0.7:
            _deliver(outbox, oracle, rng)
    _deliver(outbox, oracle, rng)


def _seal_one(
    outbox: Outbox,
    sealer: Sealer,
    oracle: Oracle,
    origin: Origin,
    cursor: Cursor,
    shapes: dict[Origin, Shaped],
    rng: random.Random,
) -> tuple[Cursor, Shaped]:
    data = oracle.sources[origin]
    buffer = Buffer(cursor.offset)
    buffer.add(data[cursor.offset : cursor.offset + rng.randint(200, 2500)], 1_700_000_000_000_000_000)
    segment = None
    while piece := buffer.cut(upto=buffer.end, max_bytes=700, max_rows=1000, partial=buffer.end == len(data)):
        if segment is None:
            segment = sealer.open(origin, cursor, piece.data, shapes.get(origin, Shaped()), plain=False)
        sealer.append(segment, piece)
    if segment is None:
        return cursor, shapes.get(origin, Shaped())
    sealer.seal(segment, Place(origin.name, 1, 2), final=segment.cursor.offset == len(data))
    oracle.acknowledged[origin.file_id] = segment.cursor.offset
    return segment.cursor, segment.shaped


def _deliver(outbox: Outbox, oracle: Oracle, rng: random.Random) -> None:
    """Home takes some segments, calls some of what it holds safe; acknowledgements and receipts may get lost."""
    for one in outbox.unsent(rng.randint(0, 3)):
        oracle.home[one.stream, one.name.seq] = (outbox.spool / one.path).read_bytes()
        if rng.random() < 0.7:
            outbox.mark_held([one.id])
    for stream in {stream for stream, _ in oracle.home}:
        held = sorted(seq for name, seq in oracle.home if name == stream)
        said = [seq for seq in held if (stream, seq) in oracle.safe or rng.random() < 0.5]
        oracle.safe |= {(stream, seq) for seq in said}
        oracle.issued += 1
        if rng.random() < 0.8:
            part = EpochReceipt(held=to_ranges(held), safe=to_ranges(said))
            outbox.apply_receipt(Receipt("bot", stream, oracle.issued, {outbox.epoch: part}))


@dataclass
class World:
    """Lives and cuts in a folder. `cuts`: the operation before which the power fails, life by life."""

    folder: Path
    seed: int
    forget: frozenset[str] = CLEAN
    fired: int = 0
    operations: int = 0

    def run(self, cuts: list[int]) -> None:
        """All lives; the oracle judges after each start and at the end."""
        rng = random.Random(self.seed)
        one = Origin("1" * 32, "feed", "demo/ticks", "/data/a.csv")
        two = Origin("2" * 32, "feed", "demo/ticks", "/data/b.csv")
        three = Origin("3" * 32, "feed", "demo/other", "/data/c.csv")
        oracle = Oracle({one: _content(1, 110), two: _content(2, 60) + b"no end", three: _content(3, 30)})
        state = self.folder / "state-0"
        state.mkdir(parents=True)
        for life, cut in enumerate([*cuts, -1]):
            disk = PowerDisk(state, cut_at=cut, forget=self.forget)
            outbox: Outbox | None = None
            try:
                outbox = Outbox.open(state, "bot", clock=ManualClock(), disk=disk)
                oracle.judge(outbox, self.folder)
                _live(outbox, Sealer(outbox, level=1, clock=ManualClock(), disk=disk), oracle, rng)
                oracle.judge(outbox, self.folder)
                assert cut < 0 or disk.operations <= cut
                self.operations = disk.operations
            except PowerCutError:
                self.fired += 1
                after = self.folder / f"state-{life + 1}"
                disk.after_cut(after, self.seed * 1000 + life)
                state = after
            finally:
                if outbox is not None:
                    outbox.close()
        for origin, data in oracle.sources.items():
            assert oracle.acknowledged[origin.file_id] == len(data), "liveness: not everything was sealed"


@pytest.fixture(autouse=True)
def _small_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.outbox_store.RESERVE", 512)


def _operations(folder: Path, seed: int) -> int:
    world = World(folder, seed)
    world.run([])
    return world.operations


def test_a_life_without_cuts_keeps_every_promise(tmp_path: Path) -> None:
    """The world itself is sound, and it is not vacuous: it seals, delivers and releases."""
    assert _operations(tmp_path, 1) > 100


@pytest.mark.parametrize("part", range(4))
def test_power_fails_before_every_single_operation(tmp_path: Path, part: int) -> None:
    """Wherever the power fails first, what was acknowledged is there, and all of it once, in the end."""
    count = _operations(tmp_path / "count", 1)
    fired = 0
    for cut in range(part, count, 4):
        world = World(tmp_path / str(cut), 1)
        world.run([cut])
        fired += world.fired
        shutil.rmtree(tmp_path / str(cut))
    assert fired == len(range(part, count, 4)), "every cut must have happened"


@pytest.mark.parametrize("seed", range(2, 14))
def test_power_fails_again_and_again(tmp_path: Path, seed: int) -> None:
    """Several cuts one after the other, recovery included, in differing worlds."""
    rng = random.Random(seed)
    world = World(tmp_path / "world", seed)
    world.run([rng.choice([rng.randrange(4), rng.randrange(22)]) for _ in range(7)])
    assert world.fired >= 3


def _caught(tmp_path: Path, *, forget: frozenset[str] = CLEAN, seeds: int = 12) -> str:
    """The first broken promise that the simulation finds; empty if it finds none."""
    for seed in range(seeds):
        rng = random.Random(seed)
        try:
            World(tmp_path / str(seed), seed, forget).run([rng.randrange(10, 90) for _ in range(3)])
        except (AssertionError, HometapeError) as error:
            return str(error) or "an assertion"
    return ""


def test_planted_no_fsync_of_the_file_is_caught(tmp_path: Path) -> None:
    """Without fsync of segment files the simulation must find a loss (they come back torn, so they are lost)."""
    assert "promise" in _caught(tmp_path, forget=frozenset({"sync"}))


def test_planted_no_fsync_of_the_folder_is_caught(tmp_path: Path) -> None:
    """Without fsync of their folder the names vanish; the simulation must find that."""
    assert "promise 1" in _caught(tmp_path, forget=frozenset({"sync_dir"}))


def test_planted_commit_before_the_file_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cursor that is committed before its file has its name is found out."""
    late: list[tuple[Path, Path]] = []
    real_commit = Outbox.commit

    def place(self: PowerDisk, temp: Path, final: Path) -> None:
        late.append((temp, final))

    def commit(self: Outbox, new: NewSegment) -> Spooled:
        made = real_commit(self, new)
        temp, final = late.pop()
        self._moves._disk._step()  # type: ignore[attr-defined]  # the simulated disk
        temp.rename(final)
        return made

    monkeypatch.setattr(PowerDisk, "place", place)
    monkeypatch.setattr(Outbox, "commit", commit)
    assert "promise 1" in _caught(tmp_path, seeds=40)


def test_planted_freeing_of_held_segments_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If `held` were enough to delete, the oracle would say so."""
    monkeypatch.setitem(TABLE, (State.SEALED, SegmentEvent.HELD), (State.SAFE, (Action.FREE,)))
    monkeypatch.setitem(TABLE, (State.HELD, SegmentEvent.HELD), (State.SAFE, (Action.FREE,)))
    assert "promise 2" in _caught(tmp_path)


def test_planted_forgotten_orphans_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If uncommitted files were kept at the start, two files of one seq would be found."""

    def remove(self: PowerDisk, path: Path, *, durable: bool = False) -> None:
        self._step()

    monkeypatch.setattr(PowerDisk, "remove", remove)
    assert "promise" in _caught(tmp_path, seeds=40)


def test_planted_cursor_that_is_not_in_the_transaction_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the cursor were not committed with its segment, the same bytes would be sealed again."""
    monkeypatch.setattr("agent.outbox_rows.save_file", lambda *_: None)
    assert _caught(tmp_path)
