"""Pure arithmetic of ranges: what is missing, what is covered, where a file has holes.

Two forms, never mixed: `Ranges` are inclusive `(first, last)` of sequence numbers, ascending and not
touching; byte extents are half-open `[start, end)`, in any order.
"""

from collections.abc import Iterable, Sequence

from tape.receipt import Ranges


def missing(held: Ranges) -> Ranges:
    """The sequence numbers that are not held although a later one is: they exist somewhere, or are lost."""
    found = []
    expected = 0
    for first, last in held:
        if first > expected:
            found.append((expected, first - 1))
        expected = last + 1
    return tuple(found)


def count(ranges: Ranges) -> int:
    """How many numbers the ranges hold."""
    return sum(last - first + 1 for first, last in ranges)


def covered(layers: Sequence[Ranges], at_least: int) -> Ranges:
    """The numbers that lie in at least so many of the layers (`at_least` >= 1)."""
    steps: list[tuple[int, int]] = []
    for layer in layers:
        for first, last in layer:
            steps.append((first, 1))
            steps.append((last + 1, -1))
    steps.sort()
    found: list[tuple[int, int]] = []
    depth = 0
    opened = 0
    for position, change in steps:
        before = depth
        depth += change
        if before < at_least <= depth:
            opened = position
        elif depth < at_least <= before and position > opened:
            _append(found, opened, position - 1)
    return tuple(found)


def intersect(one: Ranges, other: Ranges) -> Ranges:
    """The numbers in both."""
    return covered((one, other), 2)


def subtract(ranges: Ranges, holes: Ranges) -> Ranges:
    """The numbers in `ranges` that are not in `holes`."""
    found: list[tuple[int, int]] = []
    position = 0
    for first, last in ranges:
        while position and holes[position - 1][1] >= first:
            position -= 1
        while position < len(holes) and holes[position][1] < first:
            position += 1
        here = first
        while position < len(holes) and holes[position][0] <= last:
            if holes[position][0] > here:
                found.append((here, holes[position][0] - 1))
            here = holes[position][1] + 1
            position += 1
        if here <= last:
            found.append((here, last))
    return tuple(found)


def holes(extents: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The byte ranges `[start, end)` of a file, from 0 to the furthest end, that no extent covers."""
    found = []
    here = 0
    for start, end in sorted(extents):
        if start > here:
            found.append((here, start))
        here = max(here, end)
    return found


def _append(found: list[tuple[int, int]], first: int, last: int) -> None:
    if found and found[-1][1] + 1 >= first:
        found[-1] = (found[-1][0], last)
    else:
        found.append((first, last))
