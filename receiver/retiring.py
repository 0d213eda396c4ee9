"""What would be lost with a target: counted from ranges before anything is taken out."""

from dataclasses import dataclass

from receiver.catalog_state import Sums
from receiver.catalog_view import CatalogView
from receiver.placement import Standing, judge
from receiver.policy import check_policy, rules_of, wheres
from receiver.report_policy import survey
from receiver.settings import ReceiverSettings
from tape.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Losses:
    """Segments that lose a copy, those of them that then break their rule, and those that have no other copy.

    `impossible`: why the policy could never be satisfied without the target; empty if it could.
    """

    copies: Sums
    breaking: Sums
    last: Sums
    impossible: str


def losses(settings: ReceiverSettings, remaining: ReceiverSettings, catalog: CatalogView | None) -> Losses:
    """What goes with the targets that `remaining` lacks. Without a catalog nothing is known of any copy."""
    places, left = wheres(settings), wheres(remaining)
    copies = breaking = last = Sums()
    if catalog is not None:
        rules = rules_of(settings)
        by_match = {one.match: one.rule for one in reversed(rules.streams)}
        for part in catalog.ask(lambda base: survey(base, rules, places)).parts:
            kept = part.names & set(left)
            if kept == part.names:
                continue
            copies += part.sums
            if not kept:
                last += part.sums
            before, after = judge(by_match[part.match], places, part.names), judge(by_match[part.match], left, kept)
            if before.standing is Standing.SATISFIED is not after.standing:
                breaking += part.sums
    return Losses(copies, breaking, last, _impossible(remaining))


def _impossible(settings: ReceiverSettings) -> str:
    try:
        check_policy(settings)
    except ConfigError as error:
        return str(error)
    return ""
