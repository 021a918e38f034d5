"""Tells the service manager how we are, in systemd's notification protocol.

One datagram of `NAME=value` lines to the socket that NOTIFY_SOCKET names; without that
variable nothing happens. Facts: sd_notify(3), sd_watchdog_enabled(3).
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
WATCHDOG: Final = "WATCHDOG=1"


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """The manager that started this process, if one did."""

    address: str | None = None
    #: Seconds after which a silent service is killed; `None`: no watchdog.
    watchdog: float | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str], pid: int) -> "ServiceManager":
        """What the environment says, as far as it is meant for this process."""
        usec = environ.get("WATCHDOG_USEC", "")
        meant = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        watchdog = int(usec) / 1e6 if usec.isdigit() and int(usec) > 0 and meant else None
        return cls(environ.get("NOTIFY_SOCKET") or None, watchdog)

    def notify(self, *lines: str) -> bool:
        """Send lines; false when nobody listens. Never blocks and never raises."""
        if self.address is None:
            return False
        address = self.address
        if address.startswith("@"):
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.connect(address)
                sender.send("\n".join(lines).encode())
        except OSError:
            return False
        return True

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        return self.notify(f"STATUS={text}")


def forget_manager(environ: "os._Environ[str]") -> None:
    """Keep children from speaking in our name."""
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        environ.pop(name, None)
