"""The life of a segment: every pair answered, and only a receipt's `safe` ever leads to a deletion."""

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.lifecycle import TABLE, Action, Said, SegmentEvent, diagram, step
from agent.model import State
from tape.receipt import EpochReceipt

ROOT = Path(__file__).resolve().parents[3]


def test_every_pair_has_exactly_one_answer() -> None:
    """The table answers each (state, event) and nothing else."""
    assert set(TABLE) == set(product(State, SegmentEvent))


def test_only_safe_frees() -> None:
    """FREE is asked for only where the segment is SAFE or RELEASED afterwards, and SAFE comes only from `safe`."""
    for (state, event), (after, actions) in TABLE.items():
        if Action.FREE in actions:
            assert after in (State.SAFE, State.RELEASED), (state, event)
        if after is State.SAFE and state is not State.SAFE:
            assert event is SegmentEvent.SAFE, (state, event)
        if after is State.RELEASED and state is not State.RELEASED:
            assert (state, event) in {
                (State.SAFE, SegmentEvent.FREED),
                (State.SAFE, SegmentEvent.MISSING),
                (State.LOST, SegmentEvent.SAFE),
            }


@given(st.lists(st.sampled_from([event for event in SegmentEvent if event is not SegmentEvent.SAFE])))
def test_without_safe_nothing_is_ever_released(events: list[SegmentEvent]) -> None:
    """Whatever else happens, in any order, a segment that was never called safe is not freed."""
    state = State.SEALED
    for event in events:
        state, actions = step(state, event)
        assert Action.FREE not in actions
        assert state not in (State.SAFE, State.RELEASED)


@given(st.lists(st.sampled_from(list(SegmentEvent))))
def test_resend_puts_back_what_is_still_here(events: list[SegmentEvent]) -> None:
    """After `resend` a segment whose file is here is to be sent, never left as held."""
    state = State.SEALED
    for event in events:
        state, _ = step(state, event)
    after, actions = step(state, SegmentEvent.RESEND)
    if state in (State.HELD, State.SAFE, State.REFUSED):
        assert (after, actions) == (State.SEALED, (Action.WAKE,))
    else:
        assert after is state


@pytest.mark.parametrize(
    ("seq", "event"),
    [
        (0, SegmentEvent.SAFE),
        (1, SegmentEvent.RESEND),
        (2, SegmentEvent.REFUSED),
        (3, SegmentEvent.HELD),
        (9, None),
        (12, SegmentEvent.SAFE),
        (13, None),
    ],
)
def test_the_most_cautious_word_of_a_receipt_wins(seq: int, event: SegmentEvent | None) -> None:
    """Where a receipt contradicts itself, nothing is freed; ranges may come in any order."""
    said = Said(EpochReceipt(held=((0, 3),), safe=((10, 12), (0, 2)), refused=((2, "bad"),), resend=((1, 2), (5, 4))))
    found = said.of(seq)
    assert (found[0] if found else None) is event
    assert said.last == 12
    assert Said(EpochReceipt()).last == -1


def test_the_diagram_in_the_docs_is_the_table() -> None:
    """docs/lifecycle.md shows what the table says; write `agent.lifecycle.diagram()` into it after a change."""
    page = (ROOT / "docs" / "lifecycle.md").read_text(encoding="utf-8")
    assert f"```mermaid\n{diagram()}```" in page
