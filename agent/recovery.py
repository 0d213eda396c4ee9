"""What to do at the start with what is found in the spool: an argued decision table. Pure.

A finding is a file in the spool, a row of the outbox, or both. Of a file without a row, its place in
the order of its stream matters; of a row, its state. Every combination is matched by exactly one rule
(the test enumerates them all), so that nothing depends on the order of the rules.
"""

from dataclasses import dataclass
from enum import StrEnum

from agent.model import State


class Found(StrEnum):
    """The file side of a finding."""

    ABSENT = "no file"
    INTACT = "file as recorded"  # size as in the row; without a row: digest as in its own name
    DIFFERS = "file differs"
    TEMP = "temporary file"
    STRANGER = "not a segment"


class Place(StrEnum):
    """Where a segment file without a row stands, by its own name."""

    PAST = "below the stream's next seq"
    NEXT = "the stream's next seq"
    BEYOND = "above the stream's next seq"
    ELSEWHERE = "of another epoch"


class Decision(StrEnum):
    """What the start does about a finding."""

    KEEP = "keep"
    DELETE = "delete the file"
    FREE = "delete the file, then released"
    RELEASED = "released"
    LOST = "lost, report"
    FOUND = "found again, sealed"
    ADOPT = "adopt as sealed"
    LEAVE = "leave, report"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table; an empty set matches everything."""

    found: frozenset[Found]
    rows: frozenset[State | None]
    places: frozenset[Place]
    decision: Decision
    why: str

    def matches(self, found: Found, row: State | None, place: Place) -> bool:
        """Whether this rule speaks about the finding."""
        return (
            (not self.found or found in self.found)
            and (not self.rows or row in self.rows)
            and (not self.places or place in self.places)
        )


def _rule(
    found: set[Found], rows: set[State | None], decision: Decision, why: str, places: set[Place] | None = None
) -> Rule:
    return Rule(frozenset(found), frozenset(rows), frozenset(places or ()), decision, why)


_FILE = {Found.INTACT, Found.DIFFERS}
_WANTED: set[State | None] = {State.SEALED, State.HELD, State.REFUSED}

RULES: tuple[Rule, ...] = (
    _rule(
        {Found.TEMP},
        set(),
        Decision.DELETE,
        "a temporary file was never committed: no cursor covers it, its source is read again; no row ever names one",
    ),
    _rule(
        {Found.STRANGER},
        set(),
        Decision.LEAVE,
        "we did not make it, so we don't delete it; it has no identity to send it under",
    ),
    _rule({Found.ABSENT}, {None}, Decision.NOTHING, "there is neither file nor row"),
    _rule({Found.INTACT}, _WANTED, Decision.KEEP, "file and row agree, and home has not called it safe"),
    _rule(
        {Found.ABSENT, Found.DIFFERS},
        _WANTED,
        Decision.LOST,
        "it was durable when the row was written, so the disk or a person took it: say so, send nothing wrong, go on",
    ),
    _rule(
        _FILE,
        {State.SAFE},
        Decision.FREE,
        "the signed receipt was recorded, the deletion did not happen or did not last",
    ),
    _rule({Found.ABSENT}, {State.SAFE}, Decision.RELEASED, "deleted, and the power failed before that was recorded"),
    _rule(_FILE, {State.RELEASED}, Decision.DELETE, "the deletion was recorded but did not outlive the power cut"),
    _rule({Found.ABSENT}, {State.RELEASED}, Decision.NOTHING, "released, and the file is gone, as it should be"),
    _rule({Found.INTACT}, {State.LOST}, Decision.FOUND, "somebody put it back (an unmounted disk, a restored folder)"),
    _rule({Found.ABSENT, Found.DIFFERS}, {State.LOST}, Decision.NOTHING, "lost and reported before"),
    _rule(
        _FILE,
        {None},
        Decision.DELETE,
        "compacted after its release, and the deletion did not outlive a power cut",
        {Place.PAST},
    ),
    _rule(
        _FILE,
        {None},
        Decision.DELETE,
        "placed, but the power failed before the commit: no cursor covers it, its source is read again",
        {Place.NEXT},
    ),
    _rule(
        _FILE,
        {None},
        Decision.LEAVE,
        "commits go in order, so this outbox is older than its spool (restored from a copy?): a person must look",
        {Place.BEYOND},
    ),
    _rule(
        {Found.INTACT},
        {None},
        Decision.ADOPT,
        "the outbox that knew it is gone (a new epoch began); what it sealed may exist nowhere else, so it is sent",
        {Place.ELSEWHERE},
    ),
    _rule(
        {Found.DIFFERS},
        {None},
        Decision.LEAVE,
        "of a lost epoch and damaged: not fit to be sent under its name, not ours to delete",
        {Place.ELSEWHERE},
    ),
)


def decide(found: Found, row: State | None, place: Place) -> Rule:
    """The one rule for a finding."""
    return next(rule for rule in RULES if rule.matches(found, row, place))
