"""Promise 8: the catalog made anew from one target's files alone."""

from pathlib import Path

import pytest

from receiver.catalog import Catalog
from receiver.model import Copy
from receiver.rebuild import rebuild
from receiver.settings import LimitSettings
from tape.clock import ManualClock
from tests.support.archive import receipts
from tests.support.segments import DAY_NS, Made, Maker, put

LIMITS = LimitSettings()


@pytest.fixture
def made() -> list[Made]:
    """Segments of two agents, three streams, two epochs and several days."""
    makers = [
        Maker(step_ns=DAY_NS // 2),
        Maker(stream="demo/other"),
        Maker(agent="other"),
        Maker(stream="demo/other", epoch="00000000000000bb", file_id="e" * 32),
    ]
    return [maker.make() for maker in makers for _ in range(5)]


def facts(catalog: Catalog) -> list[object]:
    """Everything a catalog says that does not depend on when or in which order it was told."""
    segments = sorted(
        (str(held.path), held.size, held.rows, held.sha256, held.chain, held.footer and held.footer.to_json())
        for held in catalog.all_segments()
    )
    streams = [(s.agent, s.stream, s.segments, s.rows, s.bytes, s.source_bytes, s.missing) for s in catalog.streams()]
    told = [receipts(catalog, "pc", copies=1, agent=s.agent, stream=s.stream) for s in catalog.streams()]
    files = [catalog.files(s.agent, s.stream) for s in catalog.streams()]
    return [segments, streams, told, files]


def test_a_rebuilt_catalog_equals_the_lost_one(tmp_path: Path, made: list[Made]) -> None:
    """From the files alone: every segment, sum, range, chain value and proven copy is there again."""
    root = tmp_path / "home"
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    clock = ManualClock()
    with Catalog.open(tmp_path / "old", clock=clock) as old:
        for one in made:
            put(root, one)
            (held,) = old.add([one.new])
            old.add_copies([Copy(held.id, "pc", 1, "read-back xxh3+sha256")])
            old.attest(held.id, one.sha256)
        before = facts(old)
    (root / "README.txt").write_bytes(b"for a stranger")
    (root / made[0].path.folder / "SHA256SUMS").write_bytes(b"sums")
    told: list[tuple[int, int]] = []
    with Catalog.open(tmp_path / "new", clock=clock) as new:
        done = rebuild(root, "pc", new, limits=LIMITS, clock=clock, progress=lambda n, size: told.append((n, size)))
        assert facts(new) == before
        assert (done.added, done.known, done.problems) == (len(made), 0, ())
        assert done.bytes == sum(len(one.data) for one in made) == told[-1][1]
        assert [n for n, _ in told] == list(range(1, len(made) + 1))
        again = rebuild(root, "pc", new, limits=LIMITS, clock=clock)
        assert (again.added, again.known, again.problems) == (0, len(made), ())
        assert facts(new) == before


def test_what_is_damaged_foreign_or_misplaced_is_told_and_left_out(tmp_path: Path, made: list[Made]) -> None:
    """Files that don't pass stay where they are, are named with the reason, and cost no other file its place."""
    root = tmp_path / "home"
    (tmp_path / "state").mkdir()
    clock = ManualClock()
    for one in made[2:]:
        put(root, one)
    damaged = put(root, made[0])
    damaged.write_bytes(made[0].data[:-1] + b"?")
    elsewhere = root / "box/demo/moved/date=2023-11-15" / str(made[1].path.name)
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes(made[1].data)
    (root / made[2].path.folder / "notes.parquet").write_bytes(b"hello")
    twin = Maker(step_ns=DAY_NS // 2)
    twin.many(4)
    put(root, twin.make(agent_version="0.1.1"))
    with Catalog.open(tmp_path / "state", clock=clock) as catalog:
        done = rebuild(root, "nas", catalog, limits=LIMITS, clock=clock)
        problems = {Path(path).name: why for path, why in done.problems}
        assert "arrived damaged" in problems.pop(str(made[0].path.name))
        assert "its footer says box/demo/ticks" in problems.pop(str(made[1].path.name))
        assert "not a segment name" in problems.pop("notes.parquet")
        (why,) = problems.values()
        assert "other bytes under the same identity" in why
        assert done.added == len(made) - 2
        assert catalog.behind("nas", limit=99) == []
    assert damaged.exists()
    assert elsewhere.exists()


def test_a_chain_broken_on_the_way_shows_after_a_rebuild(tmp_path: Path) -> None:
    """A segment exchanged for another true one of the same identity breaks the chain of the next: told, not safe."""
    root = tmp_path / "home"
    (tmp_path / "state").mkdir()
    clock = ManualClock()
    honest = Maker().many(3)
    forged = Maker().make(agent_version="0.1.1")
    for one in (forged, *honest[1:]):
        put(root, one)
    with Catalog.open(tmp_path / "state", clock=clock) as catalog:
        done = rebuild(root, "pc", catalog, limits=LIMITS, clock=clock)
        (problem,) = done.problems
        assert problem[1].endswith("000000000001: chain does not follow segment 0 as it is held")
        assert receipts(catalog, "pc", copies=1)["00000000000000aa"].safe == (
            (0, 0),
            (2, 2),
        )
        assert [i.kind for i in catalog.incidents()] == ["chain"]
