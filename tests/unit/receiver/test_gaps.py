"""Range arithmetic against plain sets."""

from hypothesis import given
from hypothesis import strategies as st

from receiver import gaps
from tape.receipt import to_ranges

numbers = st.sets(st.integers(0, 40))


@given(st.lists(numbers, max_size=5), st.integers(1, 4))
def test_covered_counts_layers(layers: list[set[int]], at_least: int) -> None:
    """A number is covered when at least so many layers hold it, whatever their ranges look like."""
    wanted = {n for n in range(41) if sum(n in layer for layer in layers) >= at_least}
    assert gaps.covered([to_ranges(sorted(layer)) for layer in layers], at_least) == to_ranges(sorted(wanted))


@given(numbers, numbers)
def test_subtract_and_intersect_are_those_of_sets(one: set[int], other: set[int]) -> None:
    """Ranges without ranges, and ranges with ranges, equal the sets' own operations."""
    a, b = to_ranges(sorted(one)), to_ranges(sorted(other))
    assert gaps.subtract(a, b) == to_ranges(sorted(one - other))
    assert gaps.intersect(a, b) == to_ranges(sorted(one & other))


@given(numbers)
def test_missing_is_what_lies_before_something_held(held: set[int]) -> None:
    """A number is missing if it is not held and a later one is."""
    wanted = {n for n in range(max(held, default=0)) if n not in held}
    found = gaps.missing(to_ranges(sorted(held)))
    assert found == to_ranges(sorted(wanted))
    assert gaps.count(found) == len(wanted)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 8)), max_size=8))
def test_holes_are_the_bytes_no_extent_covers(parts: list[tuple[int, int]]) -> None:
    """Every byte before the furthest end is either in an extent or in a hole."""
    extents = [(start, start + length) for start, length in parts]
    covered = {n for start, end in extents for n in range(start, end)}
    furthest = max((end for _, end in extents), default=0)
    open_bytes = {n for start, end in gaps.holes(extents) for n in range(start, end)}
    assert open_bytes == {n for n in range(furthest) if n not in covered}
