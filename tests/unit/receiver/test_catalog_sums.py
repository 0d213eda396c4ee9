"""The sums and nodes beside the segments against a recomputation, whatever happens in whatever order."""

import random
import sqlite3
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from receiver.catalog import Catalog
from receiver.catalog_inventory import CatalogTree
from receiver.catalog_state import Sums, Tally, coverage, growth
from receiver.catalog_tables import WANTED
from receiver.model import Copy, Held
from tape.clock import ManualClock
from tape.errors import StoreError
from tape.inventory import ROOT, Level, Node, Page, answer, combined, node_of
from tape.names import utc_day
from tape.receipt import Ranges, to_ranges
from tests.support.inventories import PlainTree, compared
from tests.support.segments import DAY_NS, START_NS, Made, Maker

EPOCHS = ("00000000000000aa", "00000000000000bb")
NS = 1_000_000_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def catalog(tmp_path: Path, clock: ManualClock) -> Iterator[Catalog]:
    with Catalog.open(tmp_path, clock=clock) as opened:
        yield opened


def many(draw: random.Random) -> list[Made]:
    """Segments of two streams and two epochs, with numbers around the borders of blocks and spans."""
    found = []
    for stream in ("demo/ticks", "demo/books"):
        for epoch in EPOCHS:
            maker = Maker(stream=stream, epoch=epoch, real=False, file_id=epoch * 2, start_ns=START_NS)
            seqs = sorted(draw.sample([*range(6), *range(250, 262), 511, 512, 65_535, 65_536], 14))
            for seq in seqs:
                maker.seq = seq
                maker.start_ns = START_NS + draw.randrange(4) * DAY_NS - seq * maker.step_ns
                found.append(maker.make())
    return found


def wanted_of(base: sqlite3.Connection, epoch: int) -> Ranges:
    return tuple(base.execute("SELECT first, last FROM span WHERE owner=? AND kind=?", (epoch, WANTED)).fetchall())


def assert_sums_hold(base: sqlite3.Connection) -> None:
    """Blocks, epochs and days equal what all segments add up to."""
    blocks: dict[tuple[int, int], list[tuple[int, int, int, bytes]]] = {}
    days: dict[tuple[int, int], list[int]] = {}
    rows = base.execute("SELECT epoch, seq, size, committed, digest, stream, day, rows FROM segment")
    for epoch, seq, size, committed, digest, stream, day, count in rows:
        blocks.setdefault((epoch, seq // 256), []).append((seq, size, committed, digest))
        total = days.setdefault((day, stream), [0, 0, 0])
        total[:] = [total[0] + 1, total[1] + count, total[2] + size]
    nodes: dict[int, list[Node]] = {}
    for (epoch, number), items in blocks.items():
        wanted = {n for first, last in wanted_of(base, epoch) for n in range(first, last + 1)}
        node = node_of((seq, digest) for seq, _, _, digest in items if seq not in wanted)
        nodes.setdefault(epoch, []).append(node)
        row = base.execute(
            "SELECT segments, bytes, first_committed, there, node FROM block WHERE epoch=? AND number=?",
            (epoch, number),
        ).fetchone()
        plain = (len(items), sum(i[1] for i in items), min(i[2] for i in items))
        assert row == (*plain, node.count, node.xor.to_bytes(16, "big"))
        (ends,) = base.execute("SELECT ends FROM block_ends WHERE id=?", (epoch << 32 | number,)).fetchone()
        for place, (end,) in enumerate(struct.iter_unpack("<Q", ends)):
            assert end == sum(size for seq, size, _, _ in items if seq % 256 <= place)
    for table in ("block", "block_ends"):
        assert base.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == len(blocks)  # noqa: S608 - a name above
    for epoch, found in nodes.items():
        whole = combined(found)
        row = base.execute("SELECT there, node FROM epoch WHERE id=?", (epoch,)).fetchone()
        assert row == (whole.count, whole.xor.to_bytes(16, "big"))
    stored = base.execute("SELECT day, stream, segments, rows, bytes FROM stream_day").fetchall()
    assert {(day, stream): sums for day, stream, *sums in stored} == days


@pytest.mark.parametrize("seed", range(4))
def test_sums_and_nodes_equal_a_recomputation(tmp_path: Path, seed: int) -> None:
    """Adds in any order, segments lost, asked for, sent again or found again: every sum and node stays true."""
    draw = random.Random(seed)
    clock = ManualClock()
    waiting = many(draw)
    draw.shuffle(waiting)
    held: list[tuple[Held, Made]] = []
    lost: set[int] = set()
    copied: set[int] = set()
    with Catalog.open(tmp_path, clock=clock) as catalog:
        while waiting or draw.random() < 0.95:
            clock.advance(draw.random())
            action = draw.randrange(4)
            if action == 0 and waiting:
                batch = [waiting.pop() for _ in range(min(len(waiting), draw.randint(1, 9)))]
                held += zip(catalog.add([made.new for made in batch]), batch, strict=True)
            elif action == 1 and held:
                item = draw.choice(held)
                catalog.want_again(item[0].id, "lost")  # also of one that is wanted already
                lost.add(item[0].id)
            elif action == 2 and held:
                item = draw.choice(held)  # also of one that is not wanted
                catalog.record([], renewed=[item[1].new])
                lost.discard(item[0].id)
            elif held:
                item = draw.choice(held)
                catalog.add_copies([Copy(item[0].id, "nas", clock.now_ns(), "read-back xxh3")])
                if item[0].id not in copied:  # a copy that turns up ends the asking, one that is known does not
                    lost.discard(item[0].id)
                copied.add(item[0].id)
            catalog.ask(assert_sums_hold)
            assert_inventory(catalog, [item for item in held if item[0].id not in lost])


def assert_inventory(catalog: Catalog, there: list[tuple[Held, Made]]) -> None:
    """Every page is that of a plain tree over what is held and not lost."""
    names = [(made.path.stream, made.path.name) for _, made in there]
    plain = PlainTree({(stream, name.epoch, name.seq): bytes.fromhex(name.digest) for stream, name in names})
    pages = {ROOT}
    for stream, name in names:
        pages |= {
            Page(Level.INDEX, name.epoch),
            Page(Level.SPANS, name.epoch, stream),
            Page(Level.BLOCKS, name.epoch, stream, name.seq >> 16),
            Page(Level.ENTRIES, name.epoch, stream, name.seq >> 8),
        }
    for page in pages:
        assert catalog.inventory("box", page) == answer(plain, page)


def test_an_agent_sees_its_own_inventory_only(catalog: Catalog) -> None:
    """What is held of another agent, under the same names, is on no page; what was never held is on none either."""
    ours, theirs = Maker(real=False).make(), Maker(agent="other", real=False, salt=b"x").make()
    catalog.add([ours.new, theirs.new])
    digest = bytes.fromhex(ours.path.name.digest)
    plain = PlainTree({("demo/ticks", EPOCHS[0], 0): digest})
    for page in (ROOT, Page(Level.INDEX, EPOCHS[0]), Page(Level.ENTRIES, EPOCHS[0], "demo/ticks", 0)):
        assert catalog.inventory("box", page) == answer(plain, page)
    assert catalog.inventory("nobody", ROOT) == answer(PlainTree({}), ROOT)
    for page in (Page(Level.INDEX, EPOCHS[1]), Page(Level.SPANS, EPOCHS[0], "demo/books")):
        assert catalog.inventory("box", page) is None


def test_a_walk_over_the_catalog_finds_what_it_lacks(catalog: Catalog) -> None:
    """The inventory as it is served names exactly the segments that never arrived or were lost."""
    made = Maker(real=False).many(700)
    missing = {3, 256, 511, 699}
    held = catalog.add([m.new for m in made if m.footer.seq not in missing])
    catalog.want_again(held[0].id, "lost")
    own = PlainTree({("demo/ticks", EPOCHS[0], m.footer.seq): bytes.fromhex(m.path.name.digest) for m in made})
    found = catalog.ask(lambda base: compared(own, CatalogTree(base, "box"), [EPOCHS[0]]))[0]
    assert sorted(d.seq for d in found) == [0, *sorted(missing)]
    assert {d.there for d in found} == {b""}


@pytest.mark.parametrize("seed", range(4))
def test_sums_of_ranges_equal_adding_up(tmp_path: Path, seed: int) -> None:
    """Any parts, over blocks and their edges: segments, bytes and oldest commit are those of their rows."""
    draw = random.Random(seed)
    clock = ManualClock()
    made = Maker(real=False).many(1100)
    made = [m for m in made if m.footer.seq not in range(300, 320)]
    draw.shuffle(made)
    held: dict[int, Held] = {}
    with Catalog.open(tmp_path, clock=clock) as catalog:
        for start in range(0, len(made), 100):
            clock.advance(draw.random())
            held |= {h.path.name.seq: h for h in catalog.add([m.new for m in made[start : start + 100]])}
        (part,) = catalog.ask(lambda base: list(coverage(base)))
        assert part.held == ((0, 299), (320, 1099))
        for _ in range(200):
            cuts = sorted(draw.sample([*range(1100), 255, 256, 511, 512, 767, 768], draw.randrange(0, 12)))
            parts: dict[int, set[int]] = {}
            for number in held:
                parts.setdefault(sum(cut <= number for cut in cuts) % draw.choice((2, 3)), set()).add(number)
            ranges = {key: to_ranges(sorted(numbers)) for key, numbers in parts.items()}
            found = catalog.ask(partial(tallied, epoch=part.epoch, parts=ranges))
            assert found.keys() == parts.keys()
            for key, numbers in parts.items():
                rows = [held[number] for number in numbers]
                wanted = Sums(len(rows), sum(r.size for r in rows), min(r.committed_ns for r in rows))
                assert found[key] == wanted


def test_parts_are_added_up_over_epochs(catalog: Catalog, clock: ManualClock) -> None:
    """Parts of the same key in several epochs are one; the oldest commit is that of all of them."""
    held: list[Held] = []
    for epoch in reversed(EPOCHS):
        held += catalog.add([made.new for made in Maker(epoch=epoch, file_id=epoch * 2, real=False).many(300)])
        clock.advance(1)

    def parts(base: sqlite3.Connection) -> dict[str, Sums]:
        tally: Tally[str] = Tally(base)
        for one in coverage(base):
            tally.add(one.epoch, {"low": ((0, 9),), "rest": ((10, 299),)})
        return tally.sums()

    low = [one for one in held if one.path.name.seq < 10]
    assert catalog.ask(parts) == {
        "low": Sums(20, sum(one.size for one in low), held[0].committed_ns),
        "rest": Sums(580, sum(one.size for one in held) - sum(one.size for one in low), held[0].committed_ns),
    }


def tallied(base: sqlite3.Connection, epoch: int, parts: dict[int, Ranges]) -> dict[int, Sums]:
    """The sums over one epoch's parts."""
    tally: Tally[int] = Tally(base)
    tally.add(epoch, parts)
    return tally.sums()


def test_coverage_says_where_each_epoch_lies(catalog: Catalog) -> None:
    """Per epoch: what was committed, what was lost, and the copies at each target by its name."""
    held = catalog.add([m.new for m in Maker(real=False).many(4)])
    catalog.add([Maker(agent="zoo", real=False).make().new])
    catalog.add_copies([Copy(h.id, "home", 1, "x") for h in held[:3]] + [Copy(held[1].id, "nas", 1, "x")])
    catalog.want_again(held[3].id, "lost")
    first, second = catalog.ask(lambda base: list(coverage(base)))
    assert (first.agent, first.stream, first.held, first.wanted) == ("box", "demo/ticks", ((0, 3),), ((3, 3),))
    assert first.layers == {"home": ((0, 2),), "nas": ((1, 1),)}
    assert (second.agent, second.held, second.layers) == ("zoo", ((0, 0),), {})


def test_growth_is_that_of_complete_days(catalog: Catalog) -> None:
    """Bytes a day over the last complete days; the day under way counts nothing; unknown before the first is over."""
    first = utc_day(START_NS).toordinal()

    def rate(today: int, days: int = 30) -> float | None:
        return catalog.ask(lambda base: growth(base, today=today, days=days))

    assert rate(first) is None
    starts = (("a", 0), ("a", 1), ("b", 1), ("b", 3))
    made = [
        Maker(
            real=False, stream=name, epoch=f"{day:016x}", file_id=f"{day:032x}", start_ns=START_NS + day * DAY_NS
        ).make()
        for name, day in starts
    ]
    catalog.add([m.new for m in made])
    sizes = [len(m.data) for m in made]
    assert rate(first) is None
    assert rate(first + 1) == sizes[0]
    assert rate(first + 2) == sum(sizes[:3]) / 2
    assert rate(first + 4, days=2) == sizes[3] / 2
    assert rate(first + 9, days=2) == 0


def test_a_catalog_of_format_1_is_brought_up_to_date(tmp_path: Path) -> None:
    """Opened by the service, an older catalog gains every sum and node; read only, it says what to do."""
    draw = random.Random(1)
    with Catalog.open(tmp_path, clock=ManualClock()) as catalog:
        held = catalog.add([made.new for made in many(draw)])
        for one in held[::5]:
            catalog.want_again(one.id, "lost")
        before = catalog.ask(_contents)
    base = sqlite3.connect(tmp_path / "catalog.db")
    base.executescript(
        "DROP TABLE block; DROP TABLE block_ends; DROP TABLE stream_day; DROP TABLE gone; DROP TABLE standing;"
        "ALTER TABLE target DROP COLUMN instance; ALTER TABLE target DROP COLUMN seen;"
        "ALTER TABLE epoch DROP COLUMN there; ALTER TABLE epoch DROP COLUMN node; PRAGMA user_version=1;"
    )
    base.close()
    with pytest.raises(StoreError, match="format 1, older") as raised:
        Catalog.open(tmp_path, clock=ManualClock(), read_only=True)
    assert "tape-receiver run" in raised.value.hint
    with Catalog.open(tmp_path, clock=ManualClock()) as catalog:
        assert catalog.ask(_contents) == before
        catalog.ask(assert_sums_hold)
        catalog.add([Maker(stream="new", real=False).make().new])
        catalog.ask(assert_sums_hold)


def test_a_newer_catalog_is_refused(tmp_path: Path) -> None:
    """A format this version does not know is left alone."""
    Catalog.open(tmp_path, clock=ManualClock()).close()
    base = sqlite3.connect(tmp_path / "catalog.db")
    base.executescript("PRAGMA user_version=99")
    base.close()
    for read_only in (False, True):
        with pytest.raises(StoreError, match="format 99 is not known"):
            Catalog.open(tmp_path, clock=ManualClock(), read_only=read_only)


def _contents(base: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
    tables = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type='table' ORDER BY name")]
    return {name: sorted(base.execute(f"SELECT * FROM {name}"), key=repr) for name in tables if name != "meta"}  # noqa: S608 - names of its own tables
