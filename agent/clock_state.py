"""What the kernel knows of its clock: whether it is synchronised, and how wrong it may be."""

import ctypes
import sys

from tape.footer import ClockState

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
