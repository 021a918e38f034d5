"""The receiving end of systemd's notification protocol: how tests learn that a daemon is ready."""

import asyncio
import socket
from pathlib import Path
from types import TracebackType
from typing import Self


class NotifySocket:
    """A datagram socket that collects what a service tells its manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(path))
        self.messages: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)

    async def until(self, wanted: str) -> None:
        """Wait for a message that has the line `wanted`."""
        loop = asyncio.get_running_loop()
        while not any(wanted in message.splitlines() for message in self.messages):
            self.messages.append((await loop.sock_recv(self._socket, 65536)).decode())
