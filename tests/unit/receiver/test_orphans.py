"""The decision table for files a crash left."""

import itertools

from receiver.orphans import TABLE, Action, Found, decide


def test_every_combination_matches_exactly_one_row() -> None:
    """No file found after a crash is left undecided, and none is decided twice."""
    for facts in itertools.product((False, True), repeat=5):
        matching = [
            row
            for row in TABLE
            if all(want in (".", "y" if fact else "n") for want, fact in zip(row.when, facts, strict=True))
        ]
        assert len(matching) == 1, facts
        assert decide(Found(*facts)) == (matching[0].action, matching[0].why)


def test_only_whole_acceptable_files_are_adopted_and_only_temporary_ones_deleted() -> None:
    """The two actions that can't be undone happen where the argument holds, and nowhere else."""
    for facts in itertools.product((False, True), repeat=5):
        found = Found(*facts)
        action, _ = decide(found)
        if action is Action.ADOPT:
            assert found.whole
            assert found.acceptable
            assert not found.known
            assert not found.temporary
        assert (action is Action.DELETE) == found.temporary
