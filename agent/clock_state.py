"""What is known of the clock: whether the kernel calls it synchronised, how wrong it may be, and when it jumped."""

import ctypes
import sys

from tape.clock import Clock
from tape.footer import ClockState

STEP = 0.5  # seconds that the wall clock must jump to be worth an event
_TIME_ERROR = 5
_STA_UNSYNC = 0x40


class _Timex(ctypes.Structure):
    """`struct timex` of Linux as far as it is read here; the rest is room for what the kernel writes."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 64),
    )


def clock_state() -> ClockState:
    """The state of this machine's clock; unknown (None) where the system does not tell."""
    if not sys.platform.startswith("linux"):
        return ClockState()
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    if adjtimex is None:
        return ClockState()
    found = _Timex()  # modes 0: read only
    result = adjtimex(ctypes.byref(found))
    if result < 0:
        return ClockState()
    synchronised = result != _TIME_ERROR and not found.status & _STA_UNSYNC
    return ClockState(synchronised=synchronised, max_error_us=int(found.maxerror))


class ClockSteps:
    """Notices jumps of the wall clock against the monotonic one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._drift = self._now()

    def seen(self) -> int | None:
        """The jump since the last call in ms; None if there was none worth telling."""
        before, self._drift = self._drift, self._now()
        step = self._drift - before
        return round(step * 1000) if abs(step) >= STEP else None

    def _now(self) -> float:
        return self._clock.now_ns() / 1e9 - self._clock.monotonic()
