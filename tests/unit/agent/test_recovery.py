"""The start's decision table: every combination has exactly one argued answer."""

from itertools import product

import pytest

from agent.model import State
from agent.recovery import RULES, Decision, Found, Place, decide

EVERYTHING = list(product(Found, [None, *State], Place))


def test_every_combination_matches_exactly_one_rule() -> None:
    """No finding is without an answer and none has two; no rule is without a use."""
    used = set()
    for found, row, place in EVERYTHING:
        matching = [rule for rule in RULES if rule.matches(found, row, place)]
        assert len(matching) == 1, (found, row, place, [rule.why for rule in matching])
        assert decide(found, row, place) is matching[0]
        used.add(matching[0])
    assert used == set(RULES)


def test_every_rule_is_argued() -> None:
    """Each row of the table says why, and no two say the same."""
    assert all(len(rule.why) > 15 for rule in RULES)
    assert len({rule.why for rule in RULES}) == len(RULES)


@pytest.mark.parametrize(("found", "row", "place"), EVERYTHING)
def test_nothing_unsafe_is_deleted(found: Found, row: State | None, place: Place) -> None:
    """A file with a row is deleted only if a receipt called it safe; one of another epoch never."""
    decision = decide(found, row, place).decision
    if decision in (Decision.DELETE, Decision.FREE) and found is not Found.TEMP:
        assert row in (None, State.SAFE, State.RELEASED)
        if row is None:
            assert place in (Place.PAST, Place.NEXT)
    if decision is Decision.RELEASED:
        assert row is State.SAFE
