"""systemd's notification protocol: READY, STOPPING, WATCHDOG over one datagram socket."""

import asyncio
import os
import socket
from collections.abc import Mapping

import structlog


class Notifier:
    """Tells systemd about this process; does nothing where nobody listens."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._pid = environ.get("WATCHDOG_PID", "")
        self._interval = _seconds(environ.get("WATCHDOG_USEC", ""))

    def ready(self, status: str) -> None:
        """It works now."""
        self._send(f"READY=1\nSTATUS={status}")

    def stopping(self, status: str) -> None:
        """It begins to leave."""
        self._send(f"STOPPING=1\nSTATUS={status}")

    async def watch(self) -> None:
        """Say that the event loop turns, for ever; waits for ever where nobody asked."""
        if not self._asked():
            await asyncio.Event().wait()
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._interval / 2)

    def _asked(self) -> bool:
        ours = self._pid in {"", str(os.getpid())}
        return bool(self._address) and self._interval > 0 and ours

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # A leading @ stands for the NUL byte of an abstract address.
        abstract = self._address.startswith("@")
        address = "\0" + self._address[1:] if abstract else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                line.setblocking(False)
                line.sendto(text.encode(), address)
        except OSError as error:
            structlog.get_logger().warning("systemd was not notified", error=str(error))


def _seconds(microseconds: str) -> float:
    return int(microseconds) / 1_000_000 if microseconds.isdigit() else 0.0
