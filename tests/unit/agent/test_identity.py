"""The decision tables of identity: every combination of facts fits one row, and the argued cases come out as argued."""

from itertools import product

import pytest

from agent.identity import (
    CLAIMS,
    FATES,
    Claim,
    Content,
    Fate,
    Match,
    Place,
    Resemblance,
    Sight,
    claim,
    fate,
    fault_of,
    missing_bytes,
)

SIGHTS = [
    Sight(place, content, held=held, strong=strong, kin=kin)
    for place, content, held, strong, kin in product(Place, Content, (False, True), (False, True), (False, True))
]
RESEMBLANCES = [
    Resemblance(match, *facts)  # one flag after the other
    for match in Match
    for facts in product((False, True), repeat=6)
]


def test_every_sight_fits_exactly_one_row() -> None:
    """No combination of facts about a life is left open or answered twice."""
    assert len(SIGHTS) == 96
    for sight in SIGHTS:
        assert len([rule for rule in FATES if rule.fits(sight)]) == 1, sight


def test_every_resemblance_fits_exactly_one_row() -> None:
    """No combination of facts about a newcomer is left open or answered twice."""
    assert len(RESEMBLANCES) == 192
    for seen in RESEMBLANCES:
        assert len([rule for rule in CLAIMS if rule.fits(seen)]) == 1, seen


def test_every_row_is_needed() -> None:
    """Each row of both tables answers for at least one combination."""
    assert all(any(rule.fits(sight) for sight in SIGHTS) for rule in FATES)
    assert all(any(rule.fits(seen) for seen in RESEMBLANCES) for rule in CLAIMS)


def test_changed_content_never_continues_a_life() -> None:
    """Where the content is shorter or other than what was read, no life goes on under that name."""
    for sight in SIGHTS:
        if sight.content in {Content.SHORTER, Content.OTHER}:
            assert fate(sight) in {Fate.TRUNCATED, Fate.RECREATED, Fate.LOST}


def test_an_open_handle_is_never_given_up() -> None:
    """While the handle leads to the bytes that were read, the life is read on."""
    for sight in SIGHTS:
        if sight.held and sight.content is Content.SAME:
            assert fate(sight) in {Fate.STAY, Fate.RENAMED, Fate.LEAVING}


@pytest.mark.parametrize("content", [Content.SAME, Content.UNSEEN])
def test_an_inode_number_alone_ties_nothing(content: Content) -> None:
    """A few equal bytes under another, unrelated name are another file, even with the same inode number."""
    weak = Sight(Place.ELSEWHERE, content, held=False, strong=False, kin=False)
    assert fate(weak) is Fate.RECREATED
    for bound in ({"held": True}, {"strong": True}, {"kin": True}):
        facts = {"held": False, "strong": False, "kin": False} | bound
        assert fate(Sight(Place.ELSEWHERE, content, **facts)) is Fate.RENAMED


def test_live_files_are_never_merged() -> None:
    """While a life's own file is in place and intact, nothing else is adopted into it."""
    for seen in RESEMBLANCES:
        if seen.there:
            assert claim(seen) is not Claim.ADOPT


def test_nothing_waits_forever() -> None:
    """After the wait a newcomer is adopted or taken as a file of its own."""
    for seen in RESEMBLANCES:
        if seen.waited:
            assert claim(seen) is not Claim.HOLD


def test_only_a_whole_match_with_a_second_witness_is_adopted() -> None:
    """Adoption wants all that was read, and either many bytes or a rotated name elsewhere."""
    for seen in RESEMBLANCES:
        if claim(seen) is Claim.ADOPT:
            assert seen.match is Match.FULL
            assert seen.strong or (seen.kin and not seen.same_path)


def test_missing_bytes_are_counted_where_the_size_is_known() -> None:
    """The gap of a lost life has its exact count, or none; the fault says who could have known."""
    assert missing_bytes(10, 25) == 15
    assert missing_bytes(10, 10) == 0
    assert missing_bytes(10, None) is None
    assert (fault_of(25), fault_of(None)) == ("feed", "agent")
