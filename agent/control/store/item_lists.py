"""Lists of items: by entity, narrowed by filters, and by job.

A list first finds numbers of items in an index that has every column of the filters, whatever is
filtered by; only the items that are shown are read whole.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, Select, func, or_, select, true

from agent.control.store import items as store
from agent.control.store.artifact_tables import artifact_collections as collections
from agent.control.store.items import ItemRecord
from agent.control.store.tables import items
from agent.control.store.tx import Tx
from agent.model.phase import Phase

_ID: Final = re.compile("[0-9a-z]{12}")
_JOB: Final = collections.c.entity + "/" + collections.c.project + "/" + collections.c.name


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """What a list of items is narrowed to; `None` and empty texts narrow nothing."""

    queue_id: str | None = None
    phases: Collection[Phase] | None = None
    #: `entity/project/name` of a job, or the end of that from a slash on.
    job: str | None = None
    author: str | None = None
    #: A part of the display name, whatever its capital letters, or the id.
    search: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The filter in SQL."""
        found: list[ColumnElement[bool]] = []
        if self.queue_id is not None:
            found.append(items.c.queue_id == self.queue_id)
        if self.phases is not None:
            found.append(items.c.phase.in_(sorted(self.phases)))
        if self.job:
            end = items.c.job.endswith(f"/{self.job}", autoescape=True)
            found.append(or_(items.c.job == self.job, end))
        if self.author:
            found.append(items.c.author == self.author)
        if self.search:
            named = items.c.display_name.icontains(self.search, autoescape=True)
            # Looking at both columns takes twice as long.
            is_id = _ID.fullmatch(self.search) is not None
            found.append(or_(named, items.c.id == self.search) if is_id else named)
        return found


@dataclass(frozen=True, slots=True)
class Window:
    """Which part of a list: the newest items, or those beside one of its numbers."""

    limit: int
    #: Older than this number.
    before: int | None = None
    #: Newer than this number; the next ones, not the newest.
    newer_than: int | None = None


def page(
    tx: Tx, entity: str, narrow: ItemFilter, window: Window
) -> tuple[list[tuple[int, ItemRecord]], int]:
    """Items with their numbers, the next to the window's number first, and the total."""
    where = (items.c.entity == entity, *narrow.conditions())
    found = _window(tx, where, window)
    if window == Window(window.limit) and len(found) < window.limit:
        # These are all.
        return found, len(found)
    total = tx.run(select(func.count()).select_from(items).where(*where)).scalar_one()
    return found, total


def of_job(
    tx: Tx, job: str, entities: Collection[str] | None, window: Window
) -> tuple[list[tuple[int, ItemRecord]], int]:
    """As `page`, of the items of these entities (`None`: all) submitted with a job."""
    return _window(tx, _where_job(job, entities), window), count_of_job(tx, job, entities)


def count_of_job(tx: Tx, job: str, entities: Collection[str] | None) -> int:
    """Number of items of these entities (`None`: all) submitted with any version of a job."""
    query = select(func.count()).select_from(items).where(*_where_job(job, entities))
    return int(tx.run(query).scalar_one())


def last_of_jobs(
    tx: Tx, collection_ids: Collection[str], entities: Collection[str] | None
) -> dict[str, ItemRecord]:
    """The item of these entities (`None`: all) submitted last with any version of a job.

    By the job's collection.
    """
    newest = select(items.c.seq).where(items.c.job == _JOB, _of_entities(entities))
    last = newest.order_by(items.c.seq.desc()).limit(1).scalar_subquery().label("seq")
    query = select(collections.c.id, last).where(collections.c.id.in_(collection_ids))
    numbers = {row.id: row.seq for row in tx.all(query) if row.seq is not None}
    found = dict(store.numbered(tx, list(numbers.values())))
    return {collection: found[number] for collection, number in numbers.items()}


def _where_job(job: str, entities: Collection[str] | None) -> tuple[ColumnElement[bool], ...]:
    return items.c.job == job, _of_entities(entities)


def _of_entities(entities: Collection[str] | None) -> ColumnElement[bool]:
    return true() if entities is None else items.c.entity.in_(entities)


def numbers_of(where: tuple[ColumnElement[bool], ...], window: Window) -> Select[tuple[int]]:
    """The query for the numbers of the items in a window."""
    query = select(items.c.seq).where(*where).limit(window.limit)
    if window.newer_than is not None:
        return query.where(items.c.seq > window.newer_than).order_by(items.c.seq)
    if window.before is not None:
        query = query.where(items.c.seq < window.before)
    return query.order_by(items.c.seq.desc())


def _window(
    tx: Tx, where: tuple[ColumnElement[bool], ...], window: Window
) -> list[tuple[int, ItemRecord]]:
    numbers = [row.seq for row in tx.all(numbers_of(where, window))]
    found = dict(store.numbered(tx, numbers))
    return [(number, found[number]) for number in numbers]
