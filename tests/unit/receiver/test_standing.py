"""Since when something lacks: dated by what is known, never earlier than it can have begun."""

from pathlib import Path

from receiver.catalog import Catalog
from receiver.standing import Lack, Looked, observe
from tape.clock import ManualClock


def test_a_lack_is_dated_by_its_oldest_segment_or_by_the_look_before() -> None:
    """The first look knows only the segments; later a lack of old segments began after the last look."""
    first = observe(Looked(), 100, {"1 of 2 copies": 40})
    assert first == Looked(100, {"1 of 2 copies": Lack(40, 40)})
    second = observe(first, 200, {"1 of 2 copies": 40, "1 of 2 sites": 30, "no copy at home": 150})
    assert second.lacks == {
        "1 of 2 copies": Lack(40, 40),
        "1 of 2 sites": Lack(30, 100),  # its segments were there at the last look, and well
        "no copy at home": Lack(150, 150),
    }


def test_a_known_lack_keeps_its_beginning_until_its_oldest_are_healed() -> None:
    """Younger or older segments change nothing; once the oldest are well it begins with the rest."""
    look = observe(Looked(100), 200, {"x": 50})
    assert look.lacks == {"x": Lack(50, 100)}
    look = observe(look, 300, {"x": 50})
    assert look.lacks == {"x": Lack(50, 100)}
    look = observe(look, 400, {"x": 20})
    assert look.lacks == {"x": Lack(20, 100)}
    look = observe(look, 500, {"x": 260})
    assert look.lacks == {"x": Lack(260, 260)}


def test_a_clock_that_was_ahead_puts_no_lack_off() -> None:
    """Committed, or seen, at a time that is still to come: it began at the first look that the clock was right."""
    look = observe(Looked(), 100, {"x": 9_000})
    assert look.lacks == {"x": Lack(9_000, 100)}
    assert observe(look, 200, {"x": 9_000}).lacks == {"x": Lack(9_000, 100)}
    ahead = Looked(8_000, {"y": Lack(7_000, 7_500)})
    assert observe(ahead, 300, {"y": 40, "z": 50}).lacks == {"y": Lack(40, 40), "z": Lack(50, 50)}


def test_what_is_gone_is_forgotten() -> None:
    """A lack that ended and comes again begins anew."""
    look = observe(observe(Looked(100), 200, {"x": 50}), 300, {})
    assert look == Looked(300, {})
    assert observe(look, 400, {"x": 50}).lacks == {"x": Lack(50, 300)}


def test_looks_outlive_the_service(tmp_path: Path) -> None:
    """What a look found is there after a restart, and for readers beside the service."""
    clock = ManualClock()
    with Catalog.open(tmp_path, clock=clock) as catalog:
        assert catalog.looked() == Looked()
        began = clock.now_ns()
        assert catalog.look({"x": began - 5, "y": began - 9}).lacks["x"] == Lack(began - 5, began - 5)
    clock.advance(60)
    with Catalog.open(tmp_path, clock=clock) as catalog:
        look = catalog.look({"x": began - 5, "z": began - 7})
        assert look == Looked(clock.now_ns(), {"x": Lack(began - 5, began - 5), "z": Lack(began - 7, began)})
        with Catalog.open(tmp_path, clock=clock, read_only=True) as reader:
            assert reader.looked() == look
