"""A listing beside the catalog, whatever the names: exactly what sets would say, in one walk and with little memory."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.catalog import Catalog
from receiver.model import Copy
from receiver.resync_compare import Comparison, Kind, Present
from receiver.targets.contract import Entry, Place
from receiver.targets.memory import MemoryTarget
from tape.clock import ManualClock
from tape.errors import TargetError
from tests.support.segments import DAY_NS, Made, Maker

PARTS = ["a", "b", "0", "9", "a-b", "a.b", "a_b", "date", "datea", "date-1", "e", "zz", "ticks"]
names = st.lists(st.sampled_from(PARTS), min_size=1, max_size=3).map("/".join)
STRAYS = ["x.txt", "box/x.txt", "box/a/y.parquet", "box/a/date=2023-11-15/readme.md", "box/a/date=2023-11-15/b/c.txt",
          "box/a/date=2023-11-15/b.txt"]  # fmt: skip


class Shelved(MemoryTarget):
    """A target that lists in one of the orders that are allowed: by whole paths, or folder by folder."""

    by_folder = True

    def list(self, prefix: str = "") -> Iterator[Entry]:
        found = [Entry(path, len(data)) for path, data in self.files.items() if path.startswith(prefix)]
        return iter(sorted(found, key=lambda entry: entry.path.split("/") if self.by_folder else entry.path))


def compare(
    catalog: Catalog, target: MemoryTarget, clock: ManualClock, began_ns: int, top: int
) -> tuple[dict[str, Kind], Present]:
    present = Present(top)
    found = {}
    for one in Comparison(catalog, target, clock=clock, began_ns=began_ns, present=present, sums=True).run():
        assert one.path not in found
        found[one.path] = one.kind
    return found, present


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_finds_what_sets_would(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any streams, epochs and days, any harm: each file and each segment gets the one kind it deserves."""
    clock = ManualClock()
    with Catalog.open(tmp_path_factory.mktemp("state"), clock=clock) as catalog:
        target = Shelved(Place("nas"))
        target.by_folder = data.draw(st.booleans())
        expected: dict[str, Kind] = {}
        present: set[int] = set()
        sums: list[tuple[str, str]] = []
        streams = data.draw(st.lists(names, min_size=1, max_size=5, unique=True))
        for number, stream in enumerate(streams):
            for epoch in data.draw(st.lists(st.sampled_from(["aa", "0b", "f0"]), min_size=1, max_size=2, unique=True)):
                agent = data.draw(st.sampled_from(["box", "bo", "box-1"]))
                maker = Maker(agent, stream, f"{epoch}{number:014x}", f"{number:030x}{epoch}", step_ns=DAY_NS // 3)
                maker.real = False
                made = maker.many(data.draw(st.integers(1, 6)))
                for item, fate in zip(made, [data.draw(st.sampled_from(FATES)) for _ in made], strict=True):
                    happen(catalog, clock, target, item, fate, expected, present, sums)
        for stray in data.draw(st.lists(st.sampled_from(STRAYS), unique=True)):
            target.files[stray] = b"?"
            expected[stray] = Kind.STRAY
        target.note_sums(sums)
        clock.advance(1)
        began = clock.now_ns()
        clock.advance(2000)
        top = max((held.id for held in catalog.all_segments()), default=0)
        found, there = compare(catalog, target, clock, began, top)
        assert found == expected
        assert {held.id for held in catalog.all_segments() if there.has(held.id)} == present


FATES = ["level", "level", "level", "missing", "lacking", "unproven", "cut", "foreign", "renamed", "no sum", "new",
         "clock was ahead"]  # fmt: skip


def happen(
    catalog: Catalog, clock: ManualClock, target: MemoryTarget, item: Made, fate: str,
    expected: dict[str, Kind], present: set[int], sums: list[tuple[str, str]],
) -> None:  # fmt: skip
    """Let a segment meet its fate, and write down what is to be found of it."""
    path = str(item.path)
    if fate == "foreign":
        target.files[path] = item.data
        expected[path] = Kind.FOREIGN
        return
    (held,) = catalog.add([item.new])
    counted = fate not in ("lacking", "unproven")
    if counted:
        proven = clock.now_ns() + {"new": 10**12, "clock was ahead": 10**17}.get(fate, 0)
        catalog.attest(held.id, item.sha256)
        catalog.add_copies([Copy(held.id, "nas", proven, "test")])
    if fate in ("level", "cut", "unproven", "no sum"):
        target.files[path] = item.data[:-1] if fate == "cut" else item.data
    if fate != "no sum":
        sums.append((path, item.sha256))
    if fate == "renamed":
        target.files[path.replace("-", "_") + ".old"] = item.data
        expected[path.replace("-", "_") + ".old"] = Kind.STRAY
    kinds = {"missing": Kind.MISSING, "renamed": Kind.MISSING, "lacking": Kind.LACKING, "unproven": Kind.UNPROVEN,
             "cut": Kind.WRONG_SIZE, "no sum": Kind.SUMS, "clock was ahead": Kind.MISSING}  # fmt: skip
    if fate in kinds:
        expected[path] = kinds[fate]
    if fate in ("level", "unproven", "no sum", "new"):
        present.add(held.id)


def test_a_listing_without_order_is_an_error(tmp_path: Path) -> None:
    """Rather than calling half an archive missing."""
    clock = ManualClock()
    with Catalog.open(tmp_path, clock=clock) as catalog:
        made = Maker(real=False).many(4)
        catalog.add([item.new for item in made])

        class Mixed(MemoryTarget):
            def list(self, prefix: str = "") -> Iterator[Entry]:
                paths = list(self.files)
                return (Entry(path, 1) for path in (paths[1], paths[0], paths[3]))

        target = Mixed(Place("nas"))
        for item in made:
            target.files[str(item.path)] = item.data
        with pytest.raises(TargetError, match="in no order"):
            compare(catalog, target, clock, clock.now_ns(), 4)


def test_memory_does_not_grow_with_the_archive(tmp_path: Path) -> None:
    """16,000 segments beside 4,000: the same few megabytes."""
    clock = ManualClock()
    with Catalog.open(tmp_path, clock=clock) as catalog:
        maker = Maker(real=False, rows=1)
        target = Shelved(Place("nas"))
        peaks: list[int] = []
        listed: list[Entry] = []

        class Listed(Shelved):
            def list(self, prefix: str = "") -> Iterator[Entry]:
                return iter(listed)

        for _ in range(2):
            while len(listed) < (4_000 if not peaks else 16_000):
                made = maker.many(4000)
                for item, held in zip(made, catalog.add([item.new for item in made]), strict=True):
                    listed.append(Entry(str(held.path), held.size + (held.id % 100 == 0)))
                    assert str(item.path) == listed[-1].path
            target = Listed(Place("nas"))
            clock.advance(1)
            tracemalloc.start()
            comparison = Comparison(
                catalog, target, clock=clock, began_ns=clock.now_ns(), present=Present(16_000), sums=False
            )
            kinds = [one.kind for one in comparison.run() if one.kind is Kind.WRONG_SIZE]
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert len(kinds) == len(listed) // 100
        assert peaks[1] < peaks[0] + 2**20, peaks
