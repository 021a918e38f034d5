"""Active problems that prevent claims: low disk space, unreachable backends."""

import asyncio
import shutil
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

import structlog

from agent.model.protocol import Condition, ConditionKind
from agent.model.units import format_size
from agent.system.backoff import Sleep

#: Seconds between checks of a full disk.
_DISK_INTERVAL: Final = 10.0


class Conditions:
    """What keeps this agent from claiming."""

    def __init__(self) -> None:
        #: Set when one begins or ends; cleared by the reader.
        self.changed = asyncio.Event()
        self._active: dict[tuple[ConditionKind, str | None], Condition] = {}

    @property
    def active(self) -> tuple[Condition, ...]:
        """All of them, the oldest first."""
        return tuple(self._active.values())

    def set(self, kind: ConditionKind, message: str, resource: str | None = None) -> bool:
        """Begin a condition and return true; for an active one, only update the message."""
        key = (kind, resource)
        is_new = key not in self._active
        self._active[key] = Condition(kind, " ".join(message.split()), resource)
        if is_new:
            self.changed.set()
        return is_new

    def clear(self, kind: ConditionKind, resource: str | None = None) -> bool:
        """End a condition; returns whether it was active."""
        was_active = self._active.pop((kind, resource), None) is not None
        if was_active:
            self.changed.set()
        return was_active


class FreeDiskCheck:
    """Suspends claims while fewer than `minimum` bytes are free on the disk of `folder`."""

    def __init__(
        self,
        folder: Path,
        minimum: int,
        conditions: Conditions,
        executor: Executor,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._folder = folder
        self._minimum = minimum
        self._conditions = conditions
        self._executor = executor
        self._sleep = sleep

    async def wait_for_space(self) -> None:
        """Wait until enough is free; until then the condition is reported to the server."""
        while await self.is_low():
            await self._sleep(_DISK_INTERVAL)

    async def is_low(self) -> bool:
        """Whether the disk is low now; begins or ends the condition."""
        free = await self.free()
        if free >= self._minimum:
            if self._conditions.clear(ConditionKind.DISK_LOW):
                structlog.get_logger().info("enough disk space is free again; claims resume")
            return False
        message = (
            f"{format_size(free)} are free on the disk of {self._folder}, and "
            f"{format_size(self._minimum)} must stay free (`min_free_disk`)."
        )
        if self._conditions.set(ConditionKind.DISK_LOW, message):
            structlog.get_logger().error(
                "too little free disk space; nothing is claimed",
                folder=str(self._folder),
                free=format_size(free),
                minimum=format_size(self._minimum),
                hint="free some, or lower min_free_disk",
            )
        return True

    async def free(self) -> int:
        """Free bytes."""
        loop = asyncio.get_running_loop()
        usage = await loop.run_in_executor(self._executor, shutil.disk_usage, self._folder)
        return usage.free
