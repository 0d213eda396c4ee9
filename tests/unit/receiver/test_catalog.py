"""The catalog against plain sets: whatever happens in whatever order, ranges and sums say the same."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from receiver.catalog import Catalog
from receiver.catalog_queries import copies_by_age
from receiver.model import Copy
from tape.clock import ManualClock
from tape.digest import genesis
from tape.errors import StoreError, StoreLocked
from tape.receipt import to_ranges
from tests.support.archive import receipts
from tests.support.segments import DAY_NS, START_NS, Maker


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def catalog(tmp_path: Path, clock: ManualClock) -> Iterator[Catalog]:
    with Catalog.open(tmp_path, clock=clock) as opened:
        yield opened


def test_a_footer_comes_back_whole(catalog: Catalog) -> None:
    """Every fact of a footer is in the catalog: what `find` returns equals what was added."""
    made = Maker().make()
    (held,) = catalog.add([made.new])
    assert held.footer == made.footer
    assert held.path == made.path
    assert (held.size, held.sha256, held.chain) == (len(made.data), "", "")
    assert catalog.find("box", "demo/ticks", made.footer.epoch, 0) == held
    assert catalog.find("box", "demo/ticks", made.footer.epoch, 1) is None
    assert catalog.get(held.id) == held


def test_a_second_writer_is_locked_out_and_readers_are_not(catalog: Catalog, tmp_path: Path) -> None:
    """Only one process may write; a reader sees what is committed while the writer lives."""
    with pytest.raises(StoreLocked):
        Catalog.open(tmp_path, clock=ManualClock())
    with Catalog.open(tmp_path, clock=ManualClock(), read_only=True) as reader:
        assert reader.streams() == []
        catalog.add([Maker().make().new])
        assert [s.segments for s in reader.streams()] == [1]


def test_an_identity_is_catalogued_once(catalog: Catalog) -> None:
    """The same identity twice is refused, and the whole batch it came in with it."""
    maker = Maker()
    first, second = maker.many(2)
    catalog.add([first.new])
    with pytest.raises(StoreError):
        catalog.add([second.new, first.new])
    assert catalog.find("box", "demo/ticks", second.footer.epoch, 1) is None
    assert len(catalog.add([second.new])) == 1


@pytest.mark.parametrize("seed", range(6))
def test_ranges_and_sums_equal_plain_sets(tmp_path: Path, seed: int) -> None:
    """Adds, copies, attestations and dropped copies in random order: every answer equals one computed naively."""
    draw = random.Random(seed)
    maker = Maker(real=False)
    made = maker.many(60)
    draw.shuffle(made)
    held: dict[int, int] = {}
    copies: dict[str, set[int]] = {"pc": set(), "nas": set(), "usb": set()}
    attested: set[int] = set()
    with Catalog.open(tmp_path, clock=ManualClock()) as catalog:
        while made or draw.random() < 0.97:
            action = draw.randrange(4)
            if action == 0 and made:
                batch = [made.pop() for _ in range(min(len(made), draw.randint(1, 5)))]
                for item in catalog.add([m.new for m in batch]):
                    held[item.path.name.seq] = item.id
            elif action == 1 and held:
                target = draw.choice(list(copies))
                chosen = draw.sample(sorted(held), min(len(held), draw.randint(1, 6)))
                catalog.add_copies([Copy(held[seq], target, 1, "read-back xxh3") for seq in chosen])
                copies[target].update(chosen)
            elif action == 2 and held:
                target = draw.choice(list(copies))
                if copies[target]:
                    seq = draw.choice(sorted(copies[target]))
                    catalog.drop_copy(held[seq], target, "digest differs")
                    copies[target].discard(seq)
            elif held:
                seq = draw.choice(sorted(held))
                sha = next(m.sha256 for m in Maker(real=False).many(60) if m.footer.seq == seq)
                assert catalog.attest(held[seq], sha).ok
                attested.add(seq)
        for level in (1, 2, 3):
            receipt = receipts(catalog, "pc", "nas", "usb", copies=level)[maker.epoch]
            enough = {s for s in held if sum(s in at for at in copies.values()) >= level}
            assert receipt.held == to_ranges(sorted(held))
            assert receipt.safe == to_ranges(sorted(enough & copies["pc"] & attested))
        for target, seqs in copies.items():
            lacking = sorted(held[seq] for seq in set(held) - seqs)
            assert [h.id for h in catalog.behind(target, limit=1000)] == lacking
            assert [h.id for h in catalog.behind(target, after=20, limit=5)] == [i for i in lacking if i > 20][:5]
        (totals,) = catalog.streams()
        assert (totals.segments, totals.rows, totals.missing) == (len(held), 3 * len(held), 0)
        for target, sums in totals.targets.items():
            assert (sums.segments, sums.rows) == (len(copies[target]), 3 * len(copies[target]))


def test_what_is_missing_and_where_files_have_holes_is_counted(catalog: Catalog) -> None:
    """Segments and bytes missing between held ones show in the totals without reading segments."""
    made = Maker().many(6)
    catalog.add([made[i].new for i in (0, 2, 5)])
    (totals,) = catalog.streams()
    assert totals.missing == 3
    lost = sum(m.footer.source.end - m.footer.source.start for m in (made[1], made[3], made[4]))
    assert totals.hole_bytes == lost
    (epoch,) = catalog.epochs("box", "demo/ticks")
    assert epoch.missing == ((1, 1), (3, 4))
    (file,) = catalog.files("box", "demo/ticks")
    assert file.end - file.bytes == lost
    spans = [(m.footer.source.start, m.footer.source.end) for m in made]
    assert catalog.holes("box", "demo/ticks", file.file_id) == [spans[1], (spans[3][0], spans[4][1])]


def test_the_recovery_point_stops_before_the_first_row_without_a_copy(catalog: Catalog) -> None:
    """A copy of later segments does not move the recovery point past an earlier one that is missing."""
    made = Maker().many(4)
    held = catalog.add([m.new for m in made])

    def point() -> int | None:
        return catalog.streams()[0].targets["nas"].point_ns

    catalog.add_copies([Copy(held[1].id, "nas", 5, "read-back xxh3")])
    assert point() is None
    catalog.add_copies([Copy(held[0].id, "nas", 5, "read-back xxh3"), Copy(held[3].id, "nas", 5, "read-back xxh3")])
    third = made[2].footer.recv_first_ns
    assert third is not None
    assert point() == third - 1
    catalog.add_copies([Copy(held[2].id, "nas", 5, "read-back xxh3")])
    assert point() == made[3].footer.recv_last_ns


def test_segments_come_by_day_and_seq_whatever_order_they_arrived_in(catalog: Catalog) -> None:
    """Export and status list a stream in the order of sealing, and only the days a time range touches."""
    maker = Maker(step_ns=DAY_NS // 4)
    made = maker.many(12)
    catalog.add([m.new for m in reversed(made)])
    listed = [h.path.name.seq for h in catalog.segments("box", "demo/ticks")]
    assert listed == list(range(12))
    first = START_NS + DAY_NS
    some = [h.path.name.seq for h in catalog.segments("box", "demo/ticks", first_ns=first, last_ns=first + DAY_NS - 1)]
    assert some == [4, 5, 6, 7]
    of_file = [h.path.name.seq for h in catalog.segments_of_file("box", "demo/ticks", maker.file_id)]
    assert of_file == list(range(12))
    assert list(catalog.segments("box", "nowhere")) == []


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)])
def test_a_broken_chain_is_found_in_any_order(catalog: Catalog, order: tuple[int, ...]) -> None:
    """The segment whose `previous` contradicts is never safe and is an incident, whoever is attested first."""
    maker = Maker()
    made = [maker.make(), maker.make(previous="ab" * 32), maker.make()]
    held = catalog.add([m.new for m in made])
    catalog.add_copies([Copy(h.id, t, 1, "read-back xxh3") for h in held for t in ("pc", "nas")])
    for index in order:
        catalog.attest(held[index].id, made[index].sha256)
    receipt = receipts(catalog, "pc", "nas", copies=2)[maker.epoch]
    assert receipt.safe == ((0, 0), (2, 2))
    (incident,) = catalog.incidents()
    assert (incident.kind, incident.subject) == ("chain", f"{maker.epoch}-{1:012d}")
    assert [bool(h.chain) for h in catalog.all_segments()] == [True, False, True]


def test_a_chain_that_starts_elsewhere_is_an_incident(catalog: Catalog) -> None:
    """Seq 0 must follow the genesis of its own stream and epoch."""
    made = Maker(chain=genesis("box", "other", "00000000000000aa")).make()
    (held,) = catalog.add([made.new])
    assert not catalog.attest(held.id, made.sha256).ok
    assert len(catalog.incidents()) == 1


def test_other_bytes_under_an_attested_digest_are_an_incident(catalog: Catalog) -> None:
    """SHA-256 is tamper evidence: a second, different one is never overwritten and never safe."""
    made = Maker().make()
    (held,) = catalog.add([made.new])
    catalog.add_copies([Copy(held.id, "pc", 1, "read-back xxh3+sha256")])
    assert catalog.attest(held.id, made.sha256).ok
    assert not catalog.attest(held.id, "00" * 32).ok
    found = catalog.get(held.id)
    assert found is not None
    assert found.sha256 == made.sha256
    assert receipts(catalog, "pc", copies=1)["00000000000000aa"].safe == ()
    assert [i.kind for i in catalog.incidents()] == ["tampered"]


def test_a_dropped_copy_is_an_incident_until_it_is_there_again(catalog: Catalog) -> None:
    """A copy that went bad counts nowhere, and its incident closes when it is proven again."""
    (held,) = catalog.add([Maker().make().new])
    copy = Copy(held.id, "nas", 7, "read-back xxh3")
    catalog.add_copies([copy])
    catalog.drop_copy(held.id, "nas", "digest differs")
    assert catalog.copies(held.id) == []
    assert len(catalog.incidents()) == 1
    assert [h.id for h in catalog.behind("nas", limit=9)] == [held.id]
    catalog.add_copies([copy])
    assert catalog.incidents() == []
    assert len(catalog.incidents(closed=True)) == 1
    assert catalog.copies(held.id) == [copy]
    by_age = catalog.ask(lambda base: copies_by_age(base, "nas", before_ns=copy.verified_ns + 1, now_ns=9, limit=9))
    assert [(checked, found.id) for checked, found in by_age] == [(copy.verified_ns, held.id)]
    by_age = catalog.ask(lambda base: copies_by_age(base, "nas", before_ns=1, now_ns=6, limit=9))
    assert [(checked, found.id) for checked, found in by_age] == [(0, held.id)], "checked by a clock that was wrong"


def test_receipt_times_grow_over_restarts_and_clock_steps(tmp_path: Path) -> None:
    """An older receipt can't be taken for a newer one, even when the clock went back while we were down."""
    clock = ManualClock()
    seen = []
    for step in (0.0, -7200.0, 1.0, -86400.0):
        clock.advance(step)
        with Catalog.open(tmp_path, clock=clock) as catalog:
            seen += [catalog.next_issued_ns() for _ in range(3)]
            clock.advance(100.0)
            seen += [catalog.next_issued_ns() for _ in range(3)]
    assert seen == sorted(set(seen))


def test_waking_and_revisions_follow_what_changed(catalog: Catalog) -> None:
    """The fan-out is woken by new segments; a receipt is renewed when its stream changed, not when another did."""
    woken: list[int] = []
    catalog.subscribe(lambda: woken.append(1))
    before = catalog.revision("box", "demo/ticks")
    (held,) = catalog.add([Maker().make().new])
    assert woken == [1]
    second = catalog.revision("box", "demo/ticks")
    catalog.add([Maker(stream="other").make().new])
    assert before != second == catalog.revision("box", "demo/ticks")
    catalog.add_copies([Copy(held.id, "nas", 7, "read-back xxh3")])
    assert catalog.revision("box", "demo/ticks") != second


def test_one_answer_sees_one_state(catalog: Catalog) -> None:
    """What is committed between the queries of one answer is not half in it: no new target, no copy too many."""
    (held,) = catalog.add([Maker(real=False).make().new])
    happened: list[str] = []

    def meanwhile(statement: str) -> None:
        if "FROM stream_target" in statement and not happened:
            happened.append(statement)
            catalog.add_copies([Copy(held.id, "home", 1, "x")])

    catalog._reader.set_trace_callback(meanwhile)
    (totals,) = catalog.streams()
    assert happened
    assert (totals.segments, totals.targets) == (1, {})
    catalog._reader.set_trace_callback(None)
    (totals,) = catalog.streams()
    assert totals.targets["home"].segments == 1
