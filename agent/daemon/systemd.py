"""systemd's notification protocol: READY, STOPPING and WATCHDOG, sent to `NOTIFY_SOCKET`."""

import asyncio
import os
import socket
from collections.abc import Mapping

import structlog


class SystemdNotifier:
    """Notifies systemd about this process; does nothing where `NOTIFY_SOCKET` is not set."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._pid = environ.get("WATCHDOG_PID", "")
        microseconds = environ.get("WATCHDOG_USEC", "")
        self._interval = int(microseconds) / 1_000_000 if microseconds.isdigit() else 0.0

    def ready(self, status: str) -> None:
        """The service is up."""
        self._send(f"READY=1\nSTATUS={status}")

    def stopping(self, status: str) -> None:
        """The service begins to shut down."""
        self._send(f"STOPPING=1\nSTATUS={status}")

    async def run_watchdog(self) -> None:
        """Send WATCHDOG=1 at half the watchdog's interval, which proves a live event loop.

        Never returns, also where systemd did not ask this process for it.
        """
        enabled = self._address and self._interval > 0 and self._pid in {"", str(os.getpid())}
        if not enabled:
            await asyncio.Event().wait()
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._interval / 2)

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # A leading @ stands for the NUL byte of an abstract address.
        abstract = self._address.startswith("@")
        address = "\0" + self._address[1:] if abstract else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as datagram:
                datagram.setblocking(False)
                datagram.sendto(text.encode(), address)
        except OSError as error:
            structlog.get_logger().warning("systemd was not notified", error=str(error))
