"""Waiting for the end of a supervisor without polling: by its pidfd."""

import asyncio
import os
from contextlib import suppress
from types import TracebackType
from typing import Self


class Watch:
    """Tells when a process has ended; legal for one that has ended or never was (`None`).

    The caller makes sure, after entering, that the id still means the same process.
    """

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self._descriptor: int | None = None
        self._ended = asyncio.Event()

    async def __aenter__(self) -> Self:
        if self._pid is not None:
            with suppress(ProcessLookupError):
                self._descriptor = os.pidfd_open(self._pid)
        if self._descriptor is None:
            self._ended.set()
        else:
            asyncio.get_running_loop().add_reader(self._descriptor, self.set_ended)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)

    async def wait(self, limit: float | None = None) -> bool:
        """Wait at most `limit` seconds; whether it has ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._ended.wait()
        return self._ended.is_set()

    def set_ended(self) -> None:
        """The process has ended, as the watch saw or somebody knows better."""
        self._ended.set()
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
