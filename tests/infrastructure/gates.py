"""Calls that a test holds back, to look at the world while they wait."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Holds one kind of call back: `reached` tells that a call waits, `open` lets it go on."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()


class Gates:
    """The gates of one fake server, by the name of the call."""

    def __init__(self) -> None:
        self._gates: dict[str, Gate] = {}

    @contextmanager
    def hold(self, call: str) -> Iterator[Gate]:
        """Hold calls of one kind back while the context lasts."""
        gate = self._gates[call] = Gate()
        try:
            yield gate
        finally:
            gate.open.set()
            del self._gates[call]

    async def passed(self, call: str) -> None:
        """Wait at the gate, where there is one."""
        gate = self._gates.get(call)
        if gate is not None:
            gate.reached.set()
            await gate.open.wait()
