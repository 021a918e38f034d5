"""What a resolver is given of its request."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from graphql import GraphQLResolveInfo

from agent.control.auth.policy import Principal
from agent.control.files.contents import ContentStore
from agent.control.files.links import Links
from agent.control.files.run_files import RunFileStore
from agent.control.metrics import Metrics
from agent.control.services.plane import Plane
from agent.model.errors import InvalidInputError

T = TypeVar("T")
Args = dict[str, Any]
Info = GraphQLResolveInfo[Any]

#: Look-ups below the entries of a list, in one request: a page of 5,000 items with the
#: history of each is asked for in smaller pages.
_NESTED: Final = 1000


@dataclass(slots=True)
class Context:
    """One request."""

    plane: Plane
    principal: Principal
    metrics: Metrics
    contents: ContentStore
    run_files: RunFileStore
    links: Links
    #: Bytes that the manifest of an artifact may have.
    max_manifest: int
    #: Set when nobody waits for the answer any more: the client left, or the server stops.
    unwanted: asyncio.Event = field(default_factory=asyncio.Event)
    #: A resolver waited for something to happen: the duration is not ours.
    waited: bool = False
    _nested: int = 0
    _kept: dict[Hashable, Any] = field(default_factory=dict)
    _keeping: asyncio.Lock = field(default_factory=asyncio.Lock)

    def spend(self) -> None:
        """Count a look-up of a nested field.

        Raises:
            InvalidInputError: too many in one request.
        """
        self._nested += 1
        if self._nested > _NESTED:
            message = f"This document needs more than {_NESTED} look-ups."
            raise InvalidInputError(message, hint="Ask for smaller pages: `first`.")

    async def once(self, key: Hashable, look: Callable[[], Awaitable[T]]) -> T:
        """A look-up that entries of a list share; only the first of the request costs one."""
        async with self._keeping:
            if key not in self._kept:
                self.spend()
                self._kept[key] = await look()
        found: T = self._kept[key]
        return found


def context_of(info: Info) -> Context:
    """The request's context, typed."""
    context: Context = info.context
    return context


def nested(info: Info) -> Context:
    """The context, for a field that costs a look-up per entry of a list."""
    context = context_of(info)
    context.spend()
    return context


def as_object(value: Any, what: str) -> dict[str, Any]:
    """A JSON value that has to be an object; `null` counts as an empty one.

    Raises:
        InvalidInputError: it is something else.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        message = f"`{what}` must be a JSON object; seen: {type(value).__name__}."
        raise InvalidInputError(message)
    return value
