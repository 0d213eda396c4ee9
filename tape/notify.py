"""Tell systemd what this service does: READY, STATUS, WATCHDOG, STOPPING. Silent where nobody listens."""

import os
import socket


class Notifier:
    """sd_notify(3) over the datagram socket that NOTIFY_SOCKET names; does nothing without it."""

    def __init__(self, address: str | None = None) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET") if address is None else address

    def send(self, *lines: str) -> bool:
        """Send assignments such as `READY=1`; whether somebody was there to take them."""
        if not self._address or not hasattr(socket, "AF_UNIX"):
            return False
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.connect(address)
                sock.sendall("\n".join(lines).encode("utf-8"))
        except OSError:
            return False
        return True

    def watchdog_interval(self) -> float | None:
        """Seconds between two WATCHDOG=1: a third of what the unit allows; None without a watchdog."""
        if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return None
        raw = os.environ.get("WATCHDOG_USEC", "")
        return int(raw) / 3e6 if raw.isdigit() and int(raw) > 0 else None
