"""Where a stage writes its log for the user."""

from typing import Protocol


class LogSink(Protocol):
    """Takes bytes of one channel of an attempt's log, in order.

    `write` may wait while the control plane is slow or unreachable (back pressure), and does not
    raise for it. Colour codes and carriage returns pass unchanged.
    """

    async def write(self, data: bytes) -> None:
        """Take the next bytes."""


async def write_line(log: LogSink, text: str) -> None:
    """Write one line of the launcher itself, marked as such."""
    await log.write(f"launch: {text}\n".encode())
