"""Slots: who may have a writer open. Few stream, and whoever's segment is wanted gets a turn."""

from agent.lane import Lane
from agent.sealer import Place, Shaped, cursor_of
from agent.workshop import Slots
from tests.unit.agent.taping import origin


def lanes(count: int) -> list[Lane]:
    """Lanes with a line of text each, and no wish."""
    found = []
    for number in range(count):
        one = origin(number)
        lane = Lane(one, Place(one.name, 1, number), cursor_of(None), Shaped())
        lane.take(b"1,2\n", 0, 0.0)
        found.append(lane)
    return found


def test_few_stream_and_nobody_waits_to_stream() -> None:
    """So many lanes may stream; one more may not, and isn't kicked when a slot becomes free."""
    one, two, three = lanes(3)
    kicked: list[Lane] = []
    slots = Slots(2, 4, kicked.append)
    assert [slots.hold(lane) for lane in (one, two, three, one)] == [True, True, False, True]
    slots.release(one)
    assert kicked == []
    assert slots.hold(three)


def test_a_slot_for_a_wish_is_for_that_wish() -> None:
    """A lane whose wanted segment is sealed doesn't stream on in that slot: the next one that waits gets it."""
    streaming, two, three, four = lanes(4)
    kicked: list[Lane] = []
    slots = Slots(1, 2, kicked.append)
    assert slots.hold(streaming)
    for lane in (two, three, four):
        lane.want(0.0)
    assert [slots.hold(lane) for lane in (two, three, four)] == [True, False, False]
    two.wish = None
    assert not slots.hold(two)
    slots.release(two)
    assert kicked == [three]
    two.want(0.0)
    assert [slots.hold(lane) for lane in (two, four, three)] == [False, False, True]
    slots.release(three)
    slots.release(four)
    assert kicked == [three, four, two]


def test_a_lane_that_is_wanted_again_asks_behind_the_others() -> None:
    """While its segment is being sealed a lane gets no second turn before those that wait."""
    streaming, two, three = lanes(3)
    kicked: list[Lane] = []
    slots = Slots(1, 2, kicked.append)
    assert slots.hold(streaming)
    two.want(0.0)
    three.want(0.0)
    assert [slots.hold(lane) for lane in (two, three)] == [True, False]
    two.sealing.append(object())  # type: ignore[arg-type]  # any segment
    assert not slots.hold(two)
    slots.release(two)
    assert kicked == []
    two.sealing.clear()
    slots.release(two)
    assert kicked == [three]
    assert [slots.hold(lane) for lane in (two, three)] == [False, True]


def test_a_slot_for_a_wish_becomes_one_for_streaming() -> None:
    """Where fewer stream than may, a lane whose wanted segment is sealed goes on, and leaves its other slot."""
    one, two, three = lanes(3)
    slots = Slots(1, 2, lambda _: None)
    assert slots.hold(one)
    two.want(0.0)
    three.want(0.0)
    assert [slots.hold(lane) for lane in (two, three)] == [True, False]
    slots.release(one)
    two.wish = None
    assert [slots.hold(lane) for lane in (two, three)] == [True, True]


def test_a_forgotten_lane_gets_no_turn() -> None:
    """A lane that waited and is no more doesn't take the slot of others; the one that held a slot gives it up."""
    one, two, three = lanes(3)
    kicked: list[Lane] = []
    slots = Slots(1, 1, kicked.append)
    for lane in (one, two, three):
        lane.want(0.0)
    assert [slots.hold(lane) for lane in (one, two, three)] == [True, False, False]
    slots.forget(two)
    slots.forget(one)
    assert kicked == [three]
