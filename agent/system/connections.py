"""Connections to one far end, opened when they are first needed."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import aiohttp


class Connections:
    """A session that `make` opens at the first call."""

    def __init__(self, make: "Callable[[], aiohttp.ClientSession]") -> None:
        self._make = make
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> "aiohttp.ClientSession":
        """The session; raises what `make` raises."""
        if self._session is None:
            self._session = self._make()
        return self._session

    async def close(self) -> None:
        """Close all connections; legal twice, and before the first call."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
