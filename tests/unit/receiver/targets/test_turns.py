"""Turns at working through many files: bounded, handed on, and lost by who hangs."""

import threading
from collections.abc import Iterator
from functools import partial

from receiver.targets.turns import Turns
from tape.clock import ManualClock
from tests.support.waiting import wait_until


def test_no_more_at_a_time_than_there_are_turns() -> None:
    """Of eight threads with many items each, never more than two are between items."""
    turns, lock = Turns(2, clock=ManualClock()), threading.Lock()
    inside = most = done = 0

    def work() -> None:
        nonlocal inside, most, done
        for number in turns.each(range(200)):
            with lock:
                inside += number == 0
                most, done = max(most, inside), done + 1
        with lock:
            inside -= 1

    crew = [threading.Thread(target=work) for _ in range(8)]
    for one in crew:
        one.start()
    for one in crew:
        one.join(30)
    assert done == 8 * 200
    assert most <= 3  # one has ended, and says so a moment later


def test_a_turn_is_handed_on() -> None:
    """Who has many items lets the others work in between, in the order in which they came."""
    clock = ManualClock()
    turns = Turns(1, clock=clock)
    seen: list[str] = []

    def work(name: str) -> None:
        for _ in turns.each(range(3)):
            seen.append(name)
            clock.advance(0.02)

    long = turns.each(range(100))
    next(long)
    crew = [threading.Thread(target=work, args=(name,)) for name in "bc"]
    for number, one in enumerate(crew, 1):
        one.start()
        wait_until(partial(_stand, turns, number), within=10, what="it to stand in line")
    assert seen == []
    for _ in range(6):
        clock.advance(0.02)
        next(long)
        seen.append("a")
    for one in crew:
        one.join(10)
    assert seen[:6] == ["b", "c", "a"] * 2
    assert sorted(seen) == sorted("aaaaaabbbccc")


def _stand(turns: Turns, number: int) -> bool:
    return len(turns._line) == number


def test_who_hangs_delays_the_others_once() -> None:
    """A turn that does not move is lost: the next ones go on, and it needs a new one when it comes back."""
    turns = Turns(1)
    stuck, back, after = threading.Event(), threading.Event(), threading.Event()

    def hang() -> Iterator[int]:
        for number in turns.each(range(2)):
            if number == 0:
                stuck.set()
                back.wait(30)
            yield number
        after.set()

    hanging = threading.Thread(target=lambda: list(hang()))
    hanging.start()
    assert stuck.wait(10)
    for _ in range(3):
        assert list(turns.each(range(50))) == list(range(50))
    back.set()
    assert after.wait(10)
    hanging.join(10)
    assert not turns._since
    assert not turns._line
