"""What was left with a plain server is believed only once a receipt tells of it; what home never saw is sent again."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agent.model import Spooled, State
from agent.outbox import Outbox
from agent.push import Progress
from agent.settings import AgentSettings
from agent.space import Collecting
from agent.status import collect
from agent.unconfirmed import APART, LOOKS, PATIENCE
from tape.clock import ManualClock
from tape.settings import load
from tests.unit.agent.outboxes import ORIGIN, open_outbox, place_and_commit, receipt
from tests.unit.agent.test_status import CONFIG, LINKED, READING

MINUTE = 60.0
OTHER = "demo/other"


class Yard:
    """An outbox with a clock that is moved by hand. `issued`: home's clock, hours before the server's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.outbox: Outbox = open_outbox(folder, clock=self.clock)
        self.issued = 10

    def seal(self, count: int) -> list[Spooled]:
        """New segments."""
        return [place_and_commit(self.outbox) for _ in range(count)]

    def left(self, count: int) -> list[int]:
        """New segments, left with a plain server; their ids."""
        ids = [one.id for one in self.seal(count)]
        self.outbox.mark_delivered(ids)
        return ids

    def told(self, stream: str = ORIGIN.stream, **said: Any) -> None:
        """Home issues a receipt, and it is read."""
        self.issued += 1
        self.outbox.apply_receipt(receipt(self.outbox, self.issued, stream, **said))

    def minutes(self, count: int, stream: str = ORIGIN.stream, **said: Any) -> None:
        """So many minutes, each with a receipt at its end."""
        for _ in range(count):
            self.clock.advance(MINUTE)
            self.told(stream, **said)

    def waiting(self) -> list[int]:
        """Ids of what is to be sent, behind what is new too."""
        return [one.id for again in (False, True) for one in self.outbox.unsent(100, again=again)]

    def restart(self) -> None:
        """The agent ends and starts again."""
        self.outbox.close()
        self.outbox = open_outbox(self.folder, clock=self.clock)


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    """An empty outbox."""
    made = Yard(tmp_path)
    yield made
    made.outbox.close()


def test_what_later_receipts_do_not_know_is_sent_again(yard: Yard) -> None:
    """Home issues receipt after receipt and knows the others: the one it never saw travels again, behind the new."""
    ids = yard.left(3)
    yard.minutes(4, held=[0, 2])
    assert not yard.waiting(), "the patience is not over"
    yard.minutes(2, held=[0, 2])
    assert yard.waiting() == [ids[1]]
    assert yard.outbox.unsent(10) == []
    yard.outbox.mark_delivered([ids[1]])
    yard.told(held=[0, 1, 2])
    yard.minutes(60, held=[0, 1, 2])
    assert not yard.waiting()


def test_it_is_not_sent_in_a_loop(yard: Yard) -> None:
    """Each time it waits twice as long; once a receipt tells of it, that is over."""
    (lost,) = yard.left(1)
    times = []
    for minute in range(200):
        yard.minutes(1, held=[])
        if yard.waiting():
            times.append(minute)
            yard.outbox.mark_delivered([lost])
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses == [10, 20, 40, 80]
    yard.told(held=[0])
    yard.minutes(2000, held=[0])
    assert not yard.waiting()


def test_nothing_is_concluded_while_home_does_not_look(yard: Yard) -> None:
    """No receipt, always the same one, or a first one that may be old: home may be switched off for days."""
    yard.told(held=[])
    yard.left(1)
    yard.clock.advance(7 * 24 * 3600)
    old = receipt(yard.outbox, yard.issued, held=[])
    for _ in range(100):
        yard.clock.advance(MINUTE)
        yard.outbox.apply_receipt(old)
        yard.outbox.no_receipt(ORIGIN.stream)
    assert not yard.waiting()
    for _ in range(LOOKS - 1):
        yard.told(held=[])
        yard.clock.advance(APART)
    assert not yard.waiting()
    yard.told(held=[])
    assert len(yard.waiting()) == 1


def test_many_receipts_at_once_are_one_look(yard: Yard) -> None:
    """A home that catches up issues receipts all the time; what lies in the box has its time to be taken."""
    yard.left(2)
    yard.clock.advance(PATIENCE + 1)
    for _ in range(50):
        yard.told(held=[0])
        yard.clock.advance(1)
    assert not yard.waiting()


def test_a_stream_without_a_receipt_is_judged_by_the_others(yard: Yard) -> None:
    """All of it was deleted in the box, so home does not even know its name."""
    ids = yard.left(2)
    yard.minutes(7, OTHER)
    yard.outbox.no_receipt(ORIGIN.stream)
    assert yard.waiting() == ids


def test_what_a_receiver_of_ours_acknowledged_is_not_questioned(yard: Yard) -> None:
    """Its OK means that it is durable; and what a receipt has told of once is left to home and to resync."""
    yard.outbox.mark_held([one.id for one in yard.seal(1)])
    yard.left(1)
    yard.told(held=[0, 1])
    yard.minutes(100, held=[])
    assert not yard.waiting()


def test_a_restart_forgets_no_delivery(yard: Yard) -> None:
    """That no receipt told of it yet is on record; it is sent again a little later than without the restart."""
    ids = yard.left(1)
    yard.minutes(4, held=[])
    yard.restart()
    yard.minutes(LOOKS, held=[])
    assert not yard.waiting()
    yard.minutes(1, held=[])
    assert yard.waiting() == ids


def test_nothing_is_freed_by_it(yard: Yard) -> None:
    """Left with a plain server, sent again, told to be held: the spool file stays until a receipt says safe."""
    (one,) = yard.seal(1)
    yard.outbox.mark_delivered([one.id])
    yard.minutes(10, held=[])
    yard.outbox.mark_delivered([one.id])
    yard.told(held=[0])
    assert (yard.outbox.spool / one.path).exists()
    assert yard.outbox.totals()[0].states[State.HELD][0] == 1
    yard.told(safe=[0])
    assert not (yard.outbox.spool / one.path).exists()


def test_status_tells_of_what_no_receipt_confirms(yard: Yard) -> None:
    """A warning, later critical, by the age of the oldest segment; sending it again does not begin anew."""
    settings: AgentSettings = load(AgentSettings, CONFIG)

    def problems(progress: Progress = LINKED, collecting: Collecting = READING) -> list[tuple[int, str]]:
        facts = collect(settings, yard.outbox, clock=yard.clock, progress=progress, collecting=collecting)
        return [(one["level"], one["text"]) for one in facts["problems"] if "plain server" in one["text"]]

    yard.clock.wall_ns = 1_000  # when the segments are sealed
    ids = yard.left(2)
    assert problems() == []
    yard.clock.advance(settings.alarm.warn_after + 1)
    yard.outbox.mark_delivered(ids)
    ((level, text),) = problems()
    assert level == 1
    assert text.startswith("demo/ticks: 2 segments left with a plain server, and no receipt confirms them after 901 s")
    assert "the receiver must look into that folder" in text
    yard.clock.advance(settings.alarm.critical_after)
    assert problems()[0][0] == 2
    yard.told(held=[0, 1])
    assert problems() == []
