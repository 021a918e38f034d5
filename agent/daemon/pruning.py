"""Periodic removal of what is not needed any more: by age and size, never what is in use."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from agent.config.execution import PruneRule
from agent.daemon.attempts import Attempts
from agent.model.errors import LaunchError
from agent.model.units import format_size
from agent.pipeline.dependencies import Backend
from agent.system.backoff import Sleep

#: Suffix of a folder that is being removed; names of attempts have none.
_REMOVED: Final = ".removed"


@dataclass(frozen=True, slots=True)
class Pruner:
    """One kind of data, and the rule for its removal."""

    name: str
    rule: PruneRule
    #: Takes the rule's age (seconds) and size (bytes); returns the bytes freed.
    prune: Callable[[float, int], Awaitable[int]]


class PruneLoop:
    """Prunes every `interval` seconds; the first time after one interval.

    `own`: removal of the agent's own data, by its name.
    """

    def __init__(
        self,
        own: Mapping[str, Callable[[], Awaitable[None]]],
        pruners: Sequence[Pruner],
        *,
        interval: float,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._own = own
        self._pruners = pruners
        self._interval = interval
        self._sleep = sleep

    async def run(self) -> None:
        """Prune periodically; never returns."""
        while True:
            await self._sleep(self._interval)
            for name, prune in self._own.items():
                await self._try(name, prune())
            for pruner in self._pruners:
                await self._try(pruner.name, self._run(pruner))

    async def _run(self, pruner: Pruner) -> None:
        freed = await pruner.prune(pruner.rule.max_age, pruner.rule.max_size)
        if freed:
            structlog.get_logger().info("pruned", kind=pruner.name, freed=format_size(freed))

    async def _try(self, kind: str, work: Awaitable[None]) -> None:
        """A kind that fails does not keep the others from being pruned."""
        try:
            await work
        except (LaunchError, OSError) as error:
            structlog.get_logger().warning("pruning failed", kind=kind, error=str(error))


async def prune_attempt_folders(
    root: Path, attempts: Attempts, backends: Mapping[str, Backend], executor: Executor
) -> None:
    """Remove folders that have the name of no attempt here and of no workload."""
    run = asyncio.get_running_loop().run_in_executor
    # Listed first: an attempt has its name before it has a folder.
    unused = set(await run(executor, lambda: list(root.glob("*"))))
    names = set(attempts.names)
    for backend in backends.values():
        names |= {workload.name for workload in await backend.runner.owned()}
    for folder in unused:
        # An attempt of that name may have begun since: attempts begin on the event loop, so none
        # does between this look and the renaming.
        if folder.name in names or folder.name in attempts.names:
            continue
        removed = folder
        if folder.suffix != _REMOVED:
            removed = folder.rename(folder.with_name(f"{folder.name}{_REMOVED}"))
        await run(executor, partial(shutil.rmtree, removed, ignore_errors=True))
