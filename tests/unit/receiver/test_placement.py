"""Placement against plain sets: how a segment stands, what lies where, what is copied from where."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from receiver.placement import (
    Lag,
    Rule,
    Standing,
    Where,
    backoff,
    batches,
    judge,
    partition,
    satisfying,
    sources_for,
    sweep,
    unsatisfiable,
    why_behind,
)
from tape.receipt import to_ranges

PLACES = {
    "home": Where("home", "pc-disk", "home", home=True),
    "nas": Where("nas", "nas", "home"),
    "nas2": Where("nas2", "nas", "home"),
    "cloud": Where("cloud", "s3", "cloud"),
}


def test_how_a_segment_stands() -> None:
    """Each part of the rule that is not met is named; one copy where more are wanted is at risk."""
    rule = Rule(copies=3, media=2, sites=2)
    table = {
        ("home", "nas", "cloud"): (Standing.SATISFIED, ()),
        ("home", "nas", "nas2"): (Standing.DEGRADED, ("1 of 2 sites",)),
        ("nas", "nas2", "cloud"): (Standing.DEGRADED, ("no copy at home",)),
        ("home",): (Standing.AT_RISK, ("1 of 3 copies", "1 of 2 media", "1 of 2 sites")),
        ("home", "gone"): (Standing.AT_RISK, ("1 of 3 copies", "1 of 2 media", "1 of 2 sites")),
        (): (Standing.UNPROVEN, ("0 of 3 copies", "0 of 2 media", "0 of 2 sites", "no copy at home")),
    }
    for copies, (standing, lacking) in table.items():
        judged = judge(rule, PLACES, copies)
        assert (judged.standing, judged.lacking) == (standing, lacking)
    assert judge(Rule(copies=1), PLACES, ["home"]).standing is Standing.SATISFIED
    assert judge(Rule(copies=1), PLACES, ["nas"]).standing is Standing.DEGRADED


def test_a_rule_that_can_never_hold_is_told() -> None:
    """Too few targets, media or sites, or none at home, make a rule that no segment can satisfy."""
    assert unsatisfiable(Rule(3, 2, 2), PLACES.values()) == ()
    assert unsatisfiable(Rule(5, 4, 3), PLACES.values()) == ("4 of 5 copies", "3 of 4 media", "2 of 3 sites")
    assert unsatisfiable(Rule(1), [PLACES["cloud"]]) == ("no copy at home",)


numbers = st.sets(st.integers(0, 60))


@given(numbers, st.dictionaries(st.sampled_from("abc"), numbers))
def test_partition_counts_as_sets_do(held: set[int], layers: dict[str, set[int]]) -> None:
    """Counting by ranges gives what counting number by number gives."""
    wanted: dict[frozenset[str], int] = {}
    for number in held:
        where = frozenset(name for name, layer in layers.items() if number in layer)
        wanted[where] = wanted.get(where, 0) + 1
    ranges = {name: to_ranges(sorted(layer)) for name, layer in layers.items()}
    assert partition(to_ranges(sorted(held)), ranges) == wanted


@given(numbers, st.dictionaries(st.sampled_from("abc"), numbers))
def test_a_sweep_goes_over_each_held_number_once(held: set[int], layers: dict[str, set[int]]) -> None:
    """Its pieces are the held numbers in order, each with the layers that it lies in."""
    ranges = {name: to_ranges(sorted(layer)) for name, layer in layers.items()}
    pieces = list(sweep(to_ranges(sorted(held)), ranges))
    assert [n for first, last, _ in pieces for n in range(first, last + 1)] == sorted(held)
    for first, last, names in pieces:
        for number in range(first, last + 1):
            assert names == {name for name, layer in layers.items() if number in layer}
    assert len(pieces) <= sum(2 * len(r) for r in ranges.values()) + len(to_ranges(sorted(held)))


@given(
    numbers,
    st.dictionaries(st.sampled_from([*PLACES, "gone"]), numbers),
    st.builds(Rule, st.integers(1, 4), st.integers(1, 3), st.integers(1, 2)),
)
def test_what_satisfies_a_rule_is_what_is_judged_so(held: set[int], layers: dict[str, set[int]], rule: Rule) -> None:
    """By ranges comes out what judging number by number gives; a target that is not configured counts for nothing."""
    ranges = {name: to_ranges(sorted(layer)) for name, layer in layers.items()}
    wanted = [
        number
        for number in sorted(held)
        if judge(rule, PLACES, [n for n in layers if number in layers[n]]).standing is Standing.SATISFIED
    ]
    assert satisfying(rule, PLACES, to_ranges(sorted(held)), ranges) == to_ranges(wanted)


def test_the_nearest_readable_copy_is_read() -> None:
    """Home first, then its site, then the rest; only targets that have a copy and can be read."""
    everywhere = list(PLACES)
    assert sources_for(everywhere, PLACES.values(), readable=everywhere) == ["home", "nas", "nas2", "cloud"]
    assert sources_for(["cloud", "nas"], PLACES.values(), readable=["cloud", "home"]) == ["cloud"]


@dataclass
class Item:
    size: int


@given(st.lists(st.integers(0, 50)), st.integers(1, 5), st.integers(1, 100))
def test_batches_keep_order_and_limits(sizes: list[int], files: int, most: int) -> None:
    """Nothing is lost or reordered; a batch breaks a limit only with a single file."""
    items = [Item(size) for size in sizes]
    cut = list(batches(items, files=files, size=most))
    assert [item for batch in cut for item in batch] == items
    assert all(batch and len(batch) <= files for batch in cut)
    assert all(len(batch) == 1 or sum(item.size for item in batch) <= most for batch in cut)


def test_pauses_grow_and_end_growing() -> None:
    """Each failure doubles the pause, up to the longest."""
    assert [backoff(n, most=10) for n in (0, 1, 2, 3, 4, 5, 10_000)] == [1, 1, 2, 4, 8, 10, 10]


def test_why_a_target_is_behind() -> None:
    """The first cause that holds is told: absent, hanging, failing, or just not there yet."""
    assert why_behind(Lag(0, "absent", "unplugged")) == ""
    assert why_behind(Lag(5, "absent", "unplugged")) == "unplugged"
    assert why_behind(Lag(5, "ready", "", silent=90)) == "has not answered for 90 s"
    assert why_behind(Lag(5, "ready", "", error="disk error")) == "disk error"
    assert why_behind(Lag(5, "ready", "", under_way=2)) == "catching up"
    assert why_behind(Lag(5, "ready", "")) == "waiting for its turn"
