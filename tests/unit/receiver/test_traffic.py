"""A burst is told from an ordinary line."""

from receiver.traffic import BUSY_RATE, Traffic
from tape.clock import ManualClock


def test_a_burst_is_busy_and_then_is_not() -> None:
    """Many bytes in a short time are a burst; once they stop, it is over within two windows."""
    clock = ManualClock()
    traffic = Traffic(clock)
    assert not traffic.busy()
    for _ in range(20):
        clock.advance(0.05)
        traffic.add(BUSY_RATE // 10)
    assert traffic.busy()
    clock.advance(0.5)
    assert not traffic.busy()


def test_an_ordinary_line_is_never_busy() -> None:
    """A hundred megabit a second leave the fan-out alone."""
    clock = ManualClock()
    traffic = Traffic(clock)
    for _ in range(100):
        clock.advance(0.05)
        traffic.add(12_500_000 // 20)
        assert not traffic.busy()
