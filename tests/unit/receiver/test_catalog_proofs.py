"""Proofs taken many at a time against the same ones taken one by one: the catalog says the same of both."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from receiver.catalog import Attested, Catalog
from receiver.model import Copy
from tape.clock import ManualClock
from tape.errors import NotFound
from tests.support.archive import receipts
from tests.support.segments import Made, Maker


def _told(catalog: Catalog, made: Sequence[Made]) -> list[object]:
    """All that proofs change."""
    held = [catalog.find("box", "demo/ticks", one.path.name.epoch, one.path.name.seq) for one in made]
    assert None not in held
    incidents = [(one.kind, one.subject, one.text, one.times) for one in catalog.incidents(closed=True)]
    copies = [sorted(copy.target for copy in catalog.copies(one.id)) for one in held if one]
    return [receipts(catalog, "home", "nas", copies=2), held, sorted(incidents, key=repr), copies, catalog.streams()]


@pytest.mark.parametrize("seed", range(8))
def test_many_proofs_say_what_single_ones_do(tmp_path: Path, seed: int) -> None:
    """Chains broken at random, in random order and groups, some twice, some with another SHA-256, some dropped."""
    draw = random.Random(seed)
    maker = Maker(real=False)
    made = [maker.make(**({"previous": "ab" * 32} if draw.random() < 0.15 else {})) for _ in range(30)]
    ends: list[list[object]] = []
    found: list[dict[int, list[Attested]]] = []
    order = [draw.randrange(len(made)) for _ in range(60)]
    wrong = set(draw.sample(range(60), 4))
    dropped = draw.sample(range(len(made)), 3)
    for group in (1, draw.randrange(2, 60)):
        (folder := tmp_path / str(group)).mkdir()
        with Catalog.open(folder, clock=ManualClock()) as catalog:
            held = catalog.add([one.new for one in made])
            told: dict[int, list[Attested]] = {}
            catalog.add_copies([Copy(held[index].id, "nas", 1, "x") for index in dropped])
            for index in dropped:
                catalog.drop_copy(held[index].id, "nas", "lost")
            for at in range(0, len(order), group):
                numbers = range(at, min(at + group, len(order)))
                items = [(held[order[n]].id, "00" * 32 if n in wrong else made[order[n]].sha256) for n in numbers]
                for one in catalog.attest_many(items):
                    told.setdefault(one.segment, []).append(one)
                copies = [Copy(number, target, 1, "x") for number, _ in items for target in ("home", "nas")]
                catalog.add_copies(copies)
            found.append(told)
            ends.append(_told(catalog, made))
    assert found[0] == found[1]
    assert ends[0] == ends[1]
    assert any(not one.ok for some in found[0].values() for one in some)


def test_an_unknown_segment_spoils_all_of_it(tmp_path: Path) -> None:
    """All or nothing: what is not in the catalog is named, and nothing of its batch is recorded."""
    made = Maker(real=False).make()
    with Catalog.open(tmp_path, clock=ManualClock()) as catalog:
        (held,) = catalog.add([made.new])
        with pytest.raises(NotFound, match="7"):
            catalog.add_copies([Copy(held.id, "home", 1, "x"), Copy(7, "home", 1, "x")])
        with pytest.raises(NotFound, match="7"):
            catalog.attest_many([(held.id, made.sha256), (7, made.sha256)])
        assert catalog.copies(held.id) == []
        assert catalog.get(held.id) == held


def test_what_only_looks_alike_is_not_shared(tmp_path: Path) -> None:
    """True, 1 and 1.0 are equal to Python, and three things in a layout: each segment keeps its own."""
    maker = Maker(real=False)
    made = [maker.make(layout={"kind": "lines", "odd": value}) for value in (1, True, 1.0, [None])]
    with Catalog.open(tmp_path, clock=ManualClock()) as catalog:
        held = catalog.add([one.new for one in made])
        assert [repr(one.footer) for one in held] == [repr(one.footer) for one in made]
