"""Where a stage writes what people should read while it works."""

from typing import Protocol


class LogSink(Protocol):
    """Takes bytes of one channel of an attempt's log, in order.

    `write` may wait when the far end is slow (back pressure); it never raises for a far
    end that is away. Colour codes and carriage returns pass unchanged.
    """

    async def write(self, data: bytes) -> None:
        """Take the next bytes."""


async def say(log: LogSink, text: str) -> None:
    """Write one line of our own, marked as the launcher's."""
    await log.write(f"launch: {text}\n".encode())
