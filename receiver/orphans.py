"""Files found in the home archive after a crash that the catalog may not know: what to do with each. Pure.

A crash between naming a file and the catalog's transaction leaves a file nobody was told OK for. It may
be whole, or torn by a power cut. The table decides; the first row that matches counts, and every
combination matches one.
"""

from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """What becomes of a file."""

    LEAVE = "leave"
    DELETE = "delete"
    ADOPT = "adopt"
    ASIDE = "aside"


@dataclass(frozen=True, slots=True)
class Found:
    """A file in a day folder. `temporary`: named as one. `segment`: named as a segment of this folder's stream.

    `known`: the catalog holds exactly this identity and digest. `whole`: its bytes have the digest in its name.
    `acceptable`: the verdict on it as an upload of today. The last two are asked only where they matter.
    """

    temporary: bool
    segment: bool
    known: bool
    whole: bool
    acceptable: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table. `when`: a letter a fact, in the order of Found: y, n, or `.` where it does not matter."""

    when: str
    action: Action
    why: str


TABLE: tuple[Row, ...] = (
    Row("y....", Action.DELETE, "unfinished work of ours; nobody was told OK for it"),
    Row("nn...", Action.LEAVE, "not ours to judge: SHA256SUMS, or something a person put there"),
    Row("nyy..", Action.LEAVE, "committed before the crash; whether its bytes are still good is for verify to find"),
    Row("nynn.", Action.ASIDE, "torn by the crash, never told OK: the agent sends it again"),
    Row("nynyy", Action.ADOPT, "whole and true to its footer: as good as uploaded, and a resend will be a duplicate"),
    Row("nynyn", Action.ASIDE, "whole, but it breaks a rule or contradicts what is held: not for the archive"),
)


def decide(found: Found) -> tuple[Action, str]:
    """The action for a file and why."""
    facts = (found.temporary, found.segment, found.known, found.whole, found.acceptable)
    for row in TABLE:
        if all(want in (".", "y" if fact else "n") for want, fact in zip(row.when, facts, strict=True)):
            return row.action, row.why
    raise AssertionError(found)
