"""An aiohttp session that is opened when it is first used."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import aiohttp


class LazySession:
    """Creates its session with `make` at the first use, inside the running event loop."""

    def __init__(self, make: "Callable[[], aiohttp.ClientSession]") -> None:
        self._make = make
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> "aiohttp.ClientSession":
        """The session. Raises what `make` raises."""
        if self._session is None:
            self._session = self._make()
        return self._session

    async def close(self) -> None:
        """Close the session, if there is one."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
