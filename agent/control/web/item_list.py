"""Lists of items: filters from the address, pages that keep their place; the page of all items."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from agent.control.request_data import PLANE, principal_of
from agent.control.services.paging import Page
from agent.control.store.item_lists import ItemFilter
from agent.control.store.items import ItemRecord
from agent.control.store.queues import QueueRecord
from agent.control.web.rendering import page
from agent.model.errors import InvalidInputError, NotFoundError
from agent.model.phase import PHASE_WORDS, Phase, phases_named

PAGE: Final = 50
#: Filters of the form, in the order in which they stand in addresses.
_TEXTS: Final = ("entity", "queue", "find", "job", "author")


@dataclass(frozen=True, slots=True)
class Chip:
    """The link that shows the items in a phase only, or no longer only those."""

    #: The first phase that its word names.
    phase: Phase
    count: int
    chosen: bool
    link: str


@dataclass(frozen=True, slots=True)
class Query:
    """The filters of an address."""

    texts: Mapping[str, str]
    #: Users' words.
    words: tuple[str, ...]
    #: Cursors.
    after: str | None
    before: str | None

    @classmethod
    def of(cls, request: web.Request) -> "Query":
        """Read the address; phases may be given by their names, too."""
        given = request.query
        texts = {name: given.get(name, "").strip() for name in _TEXTS}
        phases = _phases(given.getall("phase", []))
        return cls(
            {name: text for name, text in texts.items() if text},
            tuple(dict.fromkeys(phase.word for phase in phases)),
            given.get("after") or None,
            given.get("before") or None,
        )

    def narrow(self, queue: QueueRecord | None) -> ItemFilter:
        """The same for the store."""
        return ItemFilter(
            queue_id=queue.id if queue else None,
            phases=_phases(self.words) or None,
            job=self.texts.get("job"),
            author=self.texts.get("author"),
            search=self.texts.get("find"),
        )

    @property
    def is_narrowed(self) -> bool:
        """Whether there is a filter besides entity and queue."""
        return bool(self.words or self.texts.keys() - {"entity", "queue"})

    def link(self, **changes: str | Sequence[str] | None) -> str:
        """The address with other filters, from its first page on; `None` removes one."""
        values = {**self.texts, "phase": self.words, **changes}
        pairs = {name: value for name, value in values.items() if value}
        return f"?{urlencode(pairs, doseq=True)}"


def _phases(words: Sequence[str]) -> list[Phase]:
    """The phases that are named.

    Raises:
        InvalidInputError: there is no such phase.
    """
    found = {word: phases_named(word) for word in words}
    for word, phases in found.items():
        if not phases:
            hint = f"The phases are {', '.join(PHASE_WORDS)}."
            raise InvalidInputError(f"There is no phase '{word}'.", hint=hint)
    return [phase for phases in found.values() for phase in phases]


async def listed(request: web.Request, entity: str, queue: QueueRecord | None) -> dict[str, Any]:
    """What `item_list.html` shows: the items of a queue, or of all queues of an entity."""
    plane, principal = request.app[PLANE], principal_of(request)
    query = Query.of(request)
    found = await plane.items.list(
        principal,
        entity,
        narrow=query.narrow(queue),
        after=query.after,
        before=query.before,
        first=PAGE,
    )
    of_queues = [queue] if queue else await plane.queues.list(principal, entity)
    counts = await plane.queues.counts(principal, [each.id for each in of_queues])
    totals: Counter[Phase] = Counter()
    for phases in counts.values():
        totals.update(phases)
    return {
        "items": found.rows,
        "total": found.total,
        "query": query,
        "chips": _chips(query, totals),
        **page_links(request.query, found, query.link),
    }


def _chips(query: Query, totals: Mapping[Phase, int]) -> list[Chip]:
    return [
        Chip(phase, count, phase.word in query.words, query.link(phase=_toggled(query, phase)))
        for phase, count in by_word(totals)
    ]


def _toggled(query: Query, phase: Phase) -> list[str]:
    if phase.word in query.words:
        return [word for word in query.words if word != phase.word]
    return [*query.words, phase.word]


def by_word(counts: Mapping[Phase, int]) -> tuple[tuple[Phase, int], ...]:
    """The number of items by users' word, in the order of an item's life, without zeros.

    Each word is represented by the first phase that it names.
    """
    first: dict[str, Phase] = {}
    totals: Counter[str] = Counter()
    for phase in Phase:
        first.setdefault(phase.word, phase)
        totals[phase.word] += counts.get(phase, 0)
    return tuple((first[word], number) for word, number in totals.items() if number)


def page_links(
    place: Mapping[str, str], found: Page[ItemRecord], link: Callable[..., str]
) -> dict[str, str | None]:
    """Links to the pages around this one; they name the items beside it, so they keep its place.

    `place` is the query of this page, `link` makes one with other cursors.
    """
    newer = bool(place.get("after") or found.has_previous)
    return {
        "newest": link() if newer or place.get("before") else None,
        "newer": link(before=found.start_cursor) if newer and found.rows else None,
        "older": link(after=found.end_cursor) if found.has_next and found.rows else None,
    }


async def all_items(request: web.Request) -> web.StreamResponse:
    """Items of all queues of an entity, or of one of them."""
    plane, principal = request.app[PLANE], principal_of(request)
    entities = [each.name for each in await plane.accounts.entities(principal)]
    entity = request.query.get("entity") or own_entity(principal.default_entity, entities)
    queues = await plane.queues.list(principal, entity)
    wanted = request.query.get("queue")
    queue = next((each for each in queues if each.name == wanted), None)
    if wanted and queue is None:
        raise NotFoundError(f"There is no queue '{wanted}' in '{entity}'.")
    return page(
        request,
        "items.html",
        urlencode({"entity": entity}),
        entities=entities,
        entity=entity,
        queues=[each.name for each in queues],
        queue=queue,
        **await listed(request, entity, queue),
    )


def own_entity(default: str, entities: Sequence[str]) -> str:
    """The entity that a page shows until another is chosen."""
    return default if default in entities else next(iter(entities), default)
