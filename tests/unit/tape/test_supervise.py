"""What a service says of itself, and when it counts as stuck."""

import pytest

from tape.clock import ManualClock
from tape.errors import StoreError
from tape.supervise import STUCK_AFTER, Heartbeat


def test_a_service_that_stops_moving_is_found_stuck() -> None:
    """After its last beat a service has so long; then the watchdog is left to bite."""
    clock = ManualClock()
    heartbeat = Heartbeat(clock)
    heartbeat.beat("3 files")
    clock.advance(STUCK_AFTER)
    assert heartbeat.alive() == "3 files"
    clock.advance(1)
    with pytest.raises(StoreError, match="nothing has moved"):
        heartbeat.alive()


def test_a_long_start_is_not_stuck() -> None:
    """Recovery may take its time: before the first beat nothing is late."""
    clock = ManualClock()
    heartbeat = Heartbeat(clock)
    clock.advance(10 * STUCK_AFTER)
    assert heartbeat.alive() == "starting"
