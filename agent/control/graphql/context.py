"""What resolvers share: the request's context, arguments, lists in W&B's shape."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from graphql import GraphQLResolveInfo, OperationType

from agent.control.auth.policy import Principal
from agent.control.files.contents import ContentStore
from agent.control.files.run_files import RunFileStore
from agent.control.files.run_streams import RunStreamStore
from agent.control.files.signed_urls import SignedUrls
from agent.control.metrics import Metrics
from agent.control.services.assembly import Services
from agent.control.services.paging import Page
from agent.control.store.tx import READ_BUDGET, AnswerTooLargeError, ReadBudget
from agent.model.errors import InvalidInputError, NotFoundError
from agent.model.spec import Json

T = TypeVar("T")
Args = dict[str, Any]
Info = GraphQLResolveInfo[Any]
RootResolver = Callable[["Context", Args], Awaitable[Any]]
RootResolvers = Mapping[str, RootResolver]

#: Look-ups for entries of lists that one request may cause, for example the histories of the
#: items of a page.
_NESTED: Final = 1000
_DEFAULT_PAGE: Final = 100
#: How much larger the answer of a mutation may be than that of a query.
_MUTATION: Final = 8


class Rows(list[str]):
    """JSON texts that are answered as they are: thousands of rows of a history in one list."""


@dataclass(slots=True)
class Context:
    """One request."""

    plane: Services
    principal: Principal
    metrics: Metrics
    contents: ContentStore
    run_files: RunFileStore
    signed_urls: SignedUrls
    run_streams: RunStreamStore
    #: Bytes allowed for the manifest of an artifact.
    max_manifest: int
    #: Bytes allowed for the texts and documents of the answer.
    max_answer: int
    #: Set when the client has disconnected or the server stops.
    unwanted: asyncio.Event = field(default_factory=asyncio.Event)
    #: A resolver waited for an event: the duration of the request says nothing.
    waited: bool = False
    #: The answer has more bytes than are allowed; it is not sent.
    too_large: bool = False
    _nested: int = 0
    _answered: int = 0
    _sizes: dict[int, tuple[Any, int]] = field(default_factory=dict)
    _shared: dict[Hashable, Any] = field(default_factory=dict)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def spend(self) -> None:
        """Count the look-up of a nested field.

        Raises:
            InvalidInputError: too many in one request.
        """
        self._nested += 1
        if self._nested > _NESTED:
            message = f"This document needs more than {_NESTED} look-ups."
            raise InvalidInputError(message, hint="Ask for smaller pages: `first`.")

    def limit(self, operation: OperationType) -> None:
        """Limit what the operation may read and answer, within the present task.

        Mutations have limits of their own: a claim answers a hundred specs at most.
        """
        if operation is OperationType.QUERY:
            READ_BUDGET.set(ReadBudget(self.max_answer))
        else:
            self.max_answer *= _MUTATION

    def count(self, value: object) -> None:
        """Count the bytes of a text or a document of the answer.

        Raises:
            AnswerTooLargeError: there are too many; only the first time, since the answer is not
                sent then, and errors are larger than what they would replace.
        """
        if self.too_large:
            return
        if isinstance(value, str):
            self._answered += len(value)
        elif isinstance(value, Rows):
            self._answered += sum(map(len, value))
        elif isinstance(value, dict | list):
            # Measured once each: rows of a list share what they refer to.
            known = self._sizes.get(id(value))
            if known is None:
                known = self._sizes[id(value)] = (value, len(json.dumps(value, default=str)))
            self._answered += known[1]
        if self._answered > self.max_answer:
            self.too_large = True
            raise AnswerTooLargeError(self.max_answer)

    async def once(self, key: Hashable, look_up: Callable[[], Awaitable[T]]) -> T:
        """A look-up that the entries of a list share: made once per request."""
        async with self._lock:
            if key not in self._shared:
                self.spend()
                self._shared[key] = await look_up()
        found: T = self._shared[key]
        return found


def context_of(info: Info) -> Context:
    """The request's context, typed."""
    context: Context = info.context
    return context


def nested(info: Info) -> Context:
    """The context, for a field that needs a look-up per entry of a list."""
    context = context_of(info)
    context.spend()
    return context


async def found_or_none(look_up: Awaitable[T]) -> T | None:
    """The result of a look-up; `None` where it raises `NotFoundError`."""
    try:
        return await look_up
    except NotFoundError:
        return None


def constant(value: T) -> Callable[..., T]:
    """The resolver of a field that has the same value for every object."""
    return lambda *_, **_args: value


def object_or_none(value: Any, what: str) -> Json | None:
    """A JSON value that has to be an object or `null`.

    Raises:
        InvalidInputError: it is something else.
    """
    if value is not None and not isinstance(value, dict):
        message = f"`{what}` must be a JSON object; seen: {type(value).__name__}."
        raise InvalidInputError(message)
    return value


def as_object(value: Any, what: str) -> Json:
    """As `object_or_none`, but empty for `null`."""
    return object_or_none(value, what) or {}


def page_args(args: dict[str, Any]) -> dict[str, Any]:
    """Arguments `after` and `first` of a service's list method; services check `first`."""
    first = args.get("first")
    return {"after": args.get("after"), "first": _DEFAULT_PAGE if first is None else first}


def connection(page: Page[Any]) -> dict[str, Any]:
    """One page of a longer list; every edge has the cursor of the next page."""
    return {
        "edges": [{"node": row, "cursor": page.end_cursor or ""} for row in page.rows],
        "page_info": {"end_cursor": page.end_cursor, "has_next_page": page.has_next},
        "total_count": page.total,
    }


def single_page(rows: Iterable[Any]) -> dict[str, Any]:
    """A list that is always given as one page."""
    return {
        "edges": [{"node": row, "cursor": ""} for row in rows],
        "page_info": {"end_cursor": None, "has_next_page": False},
    }
