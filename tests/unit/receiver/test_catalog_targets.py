"""What the catalog knows of targets: another instance costs all copies there at once, and nothing else."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from receiver import catalog_targets
from receiver.catalog import Catalog
from receiver.model import Copy, Held
from tape.clock import ManualClock
from tests.support.archive import receipts
from tests.support.segments import Maker

MINUTE = 60_000_000_000


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog.open(tmp_path, clock=ManualClock()) as opened:
        yield opened


def filled(catalog: Catalog, count: int = 5) -> list[Held]:
    """Attested segments with copies at home, nas and usb."""
    made = Maker(real=False).many(count)
    held = catalog.add([m.new for m in made])
    catalog.attest_many([(h.id, m.sha256) for h, m in zip(held, made, strict=True)])
    for target in ("home", "nas", "usb"):
        catalog.know_target(target, f"{target}-1", 1)
        catalog.add_copies([Copy(h.id, target, 1, "read-back xxh3") for h in held])
    return held


def at(catalog: Catalog, held: Held) -> list[str]:
    return [copy.target for copy in catalog.copies(held.id)]


def rows_of_copies(catalog: Catalog) -> int:
    return int(catalog.ask(lambda base: base.execute("SELECT count(*) FROM copy").fetchone()[0]))


def assert_without_usb(catalog: Catalog, held: list[Held]) -> None:
    """Nothing counts at usb, everything does at home and nas."""
    (totals,) = catalog.streams()
    assert {name: sums.segments for name, sums in totals.targets.items()} == {"home": 5, "nas": 5}
    assert [h.id for h in catalog.behind("usb", limit=9)] == [h.id for h in held]
    assert catalog.behind("nas", limit=9) == []
    assert all(at(catalog, h) == ["home", "nas"] for h in held)
    for copies, safe in ((2, ((0, 4),)), (3, ())):
        (receipt,) = receipts(catalog, "home", "nas", "usb", copies=copies).values()
        assert receipt.safe == safe


def test_another_instance_costs_all_copies_there(catalog: Catalog) -> None:
    """A disk that was wiped or replaced under the same id has no copies until they are made again."""
    held = filled(catalog)
    revision = catalog.revision("box", "demo/ticks")
    assert catalog.know_target("usb", "usb-2", 2)
    assert_without_usb(catalog, held)
    assert catalog.revision("box", "demo/ticks") != revision
    assert rows_of_copies(catalog) == 10
    (incident,) = catalog.incidents()
    assert (incident.kind, incident.subject) == ("replaced", "usb")
    assert "5 copies" in incident.text
    assert not catalog.know_target("usb", "usb-2", 3)
    catalog.add_copies([Copy(h.id, "usb", 4, "read-back xxh3") for h in held[:4]])
    assert len(catalog.incidents()) == 1
    catalog.add_copies([Copy(held[4].id, "usb", 4, "read-back xxh3")])
    assert catalog.incidents() == []
    assert at(catalog, held[0]) == ["home", "nas", "usb"]
    assert catalog.behind("usb", limit=9) == []


def test_the_same_target_keeps_its_copies(catalog: Catalog) -> None:
    """The same instance, one that states none, and one first heard of now are all the target that was there."""
    held = filled(catalog)
    for instance in ("usb-1", "", "usb-1"):
        assert not catalog.know_target("usb", instance, 2)
    catalog.add_copies([Copy(held[0].id, "old", 1, "x")])
    assert not catalog.know_target("old", "", 2)
    assert not catalog.know_target("old", "old-1", 2)
    assert at(catalog, held[0]) == ["home", "nas", "old", "usb"]
    assert catalog.know_target("old", "old-2", 2)
    assert catalog.know_target("usb", "usb-2", 2)
    assert at(catalog, held[0]) == ["home", "nas"]


def test_when_a_target_was_seen_is_known(catalog: Catalog) -> None:
    """Targets are remembered with their instance and the last time they were there, to the minute, never an older."""
    assert catalog.targets() == []
    catalog.know_target("usb", "one", 5 * MINUTE)
    catalog.know_target("nas", "", 7)
    catalog.know_target("usb", "one", 5 * MINUTE + 1)
    assert [(t.name, t.instance, t.seen_ns) for t in catalog.targets()] == [("nas", "", 7), ("usb", "one", 5 * MINUTE)]
    catalog.know_target("usb", "one", 6 * MINUTE)
    catalog.know_target("usb", "two", 3 * MINUTE)  # a clock that was set back
    assert [(t.name, t.instance, t.seen_ns) for t in catalog.targets()][1] == ("usb", "two", 3 * MINUTE)


def test_copies_of_a_replaced_target_never_count_while_they_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleting may take many steps and be cut off between any two: what is left counts nowhere and goes at last."""
    monkeypatch.setattr(catalog_targets, "_PIECE", 2)
    pieces = 0
    clear = catalog_targets.clear_piece

    class Died(Exception):
        pass

    def clear_one(base: sqlite3.Connection) -> bool:
        nonlocal pieces
        if pieces:
            raise Died
        pieces += 1
        return clear(base)

    with Catalog.open(tmp_path, clock=ManualClock()) as catalog:
        held = filled(catalog)
        monkeypatch.setattr(catalog_targets, "clear_piece", clear_one)
        with pytest.raises(Died):
            catalog.know_target("usb", "usb-2", 2)
        assert rows_of_copies(catalog) == 13
        assert_without_usb(catalog, held)
        # New copies, and a target nobody knew, never fall together with what is still to be deleted.
        catalog.add_copies([Copy(held[0].id, "usb", 3, "x"), Copy(held[1].id, "new", 3, "x")])
        monkeypatch.setattr(catalog_targets, "clear_piece", clear)
    with Catalog.open(tmp_path, clock=ManualClock()) as catalog:
        assert rows_of_copies(catalog) == 12
        assert at(catalog, held[0]) == ["home", "nas", "usb"]
        assert at(catalog, held[1]) == ["home", "nas", "new"]
        assert at(catalog, held[2]) == ["home", "nas"]


def test_a_retired_target_is_forgotten(catalog: Catalog) -> None:
    """Retiring drops its copies, what was told about them, and the target; no incident comes of it."""
    held = filled(catalog)
    catalog.drop_copy(held[0].id, "usb", "flipped")
    catalog.drop_copy(held[0].id, "nas", "flipped")
    assert catalog.retire_target("usb") == 4
    assert [t.name for t in catalog.targets()] == ["home", "nas"]
    assert [(i.kind, i.subject) for i in catalog.incidents()] == [("copy", f"{held[0].id} at nas")]
    assert rows_of_copies(catalog) == 9
    assert catalog.retire_target("usb") == 0
    assert catalog.retire_target("never there") == 0
    assert [t.name for t in catalog.targets()] == ["home", "nas"]
    assert not catalog.know_target("usb", "usb-9", 1)
    catalog.add_copies([Copy(held[1].id, "usb", 3, "x")])
    assert at(catalog, held[1]) == ["home", "nas", "usb"]


def test_copies_dropped_together_are_one_incident_until_the_target_is_level(catalog: Catalog) -> None:
    """What a comparison found missing is told once, with all it changes, and is over when nothing lacks any more."""
    held = filled(catalog)
    assert catalog.drop_copies("nas", [h.id for h in held[:3]], "not in its listing", before_ns=2) == 3
    assert catalog.drop_copies("nas", [held[4].id], "not in its listing", before_ns=1) == 0
    (incident,) = catalog.incidents()
    assert incident.kind == "copy"
    assert [h.id for h in catalog.behind("nas", limit=9)] == [h.id for h in held[:3]]
    (totals,) = catalog.streams()
    assert totals.targets["nas"].segments == 2
    catalog.add_copies([Copy(h.id, "nas", 4, "x") for h in held[:2]])
    assert len(catalog.incidents()) == 1
    catalog.add_copies([Copy(held[2].id, "nas", 4, "x")])
    assert catalog.incidents() == []
