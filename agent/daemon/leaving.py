"""Two levels of stop, and the other reasons to leave."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Final, Literal

import structlog


class Leave(Enum):
    """The first reason to leave; it decides what becomes of running jobs."""

    #: They end first.
    WAIT = auto()
    #: They go on, for the next process.
    DETACH = auto()
    #: A newer process of this installation has them already.
    SUPERSEDED = auto()
    #: A loop of ours ended; as DETACH.
    BROKEN = auto()


EXIT_CODES: Final = {Leave.WAIT: 0, Leave.DETACH: 0, Leave.SUPERSEDED: 1, Leave.BROKEN: 1}
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Leaving:
    """Requests to leave, from signals, operators and failures.

    First level: claim no more, hand back what is not started. Second: stop the jobs, too.
    """

    def __init__(self, on_stop: Literal["wait", "detach"]) -> None:
        self._on_stop = Leave.WAIT if on_stop == "wait" else Leave.DETACH
        self.reason: Leave | None = None
        self._first = asyncio.Event()
        self._second = asyncio.Event()

    @property
    def hurried(self) -> bool:
        """Whether the second level was asked for."""
        return self._second.is_set()

    def ask(self) -> None:
        """One signal; the next one asks for the second level."""
        if self.reason is None:
            self._because(self._on_stop)
        else:
            self._second.set()

    def order(self, order: Literal["DRAIN", "STOP", "SUPERSEDED"]) -> None:
        """What the control plane says; it repeats itself."""
        log = structlog.get_logger()
        match order:
            case "DRAIN" if self.reason is None:
                log.info("an operator asked this agent to leave once its jobs have ended")
                self._because(Leave.WAIT)
            case "STOP" if not self.hurried:
                log.info("an operator asked this agent to stop its jobs and leave")
                self._because(Leave.WAIT)
                self._second.set()
            case "SUPERSEDED" if self.reason is not Leave.SUPERSEDED:
                log.error("a newer process of this installation took over; leaving")
                self.reason = Leave.SUPERSEDED
                self._first.set()
                self._second.set()

    def broken(self) -> None:
        """A part of us failed."""
        self._because(Leave.BROKEN)

    async def wanted(self) -> Leave:
        """Wait for the first level."""
        await self._first.wait()
        return self.reason or Leave.BROKEN

    async def hurry(self) -> None:
        """Wait for the second level."""
        await self._second.wait()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT ask while the context lasts."""
        loop = asyncio.get_running_loop()
        for one in _SIGNALS:
            loop.add_signal_handler(one, self.ask)
        try:
            yield
        finally:
            for one in _SIGNALS:
                loop.remove_signal_handler(one)

    def _because(self, reason: Leave) -> None:
        if self.reason is None:
            self.reason = reason
            self._first.set()
