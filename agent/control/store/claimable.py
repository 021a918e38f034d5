"""Queued items that can be claimed: which come first, and which fit."""

from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import BindParameter, and_, bindparam, false, or_, select, text

from agent.control.store.items import QUEUE_ORDER
from agent.control.store.prepared import Prepared
from agent.control.store.tables import QUEUED_ONLY, items
from agent.control.store.tx import Tx
from agent.model.capacity import Capacity

#: Larger than any machine.
_NO_CPU_LIMIT: Final = 1e9
_NO_MEMORY_LIMIT: Final = 2**62

_CLAIMABLE: Final = Prepared(
    select(items.c.id)
    .where(
        text(QUEUED_ONLY), items.c.queue_id == bindparam("in_queue"), items.c.not_before.is_(None)
    )
    .limit(1)
)


@cache
def _fitting_queries(
    resources: int, self_scheduled: int = 0, *, without_resource: bool
) -> tuple[Prepared, Prepared]:
    """Two queries for the first queued item of a queue that fits; the second also locks it.

    Parameters `offered_0`, `offered_1`, … are the agent's resources, the last `self_scheduled` of
    them those whose items fit whatever they demand. With `without_resource` items that name no
    resource are found, too. Rows that other claims have locked are skipped, not waited for (SQLite
    has one writer and ignores the clause). Cached per number of resources; a list of any length
    would be rendered for every claim.
    """
    offered: list[BindParameter[str]] = [
        bindparam(f"offered_{index}") for index in range(resources)
    ]
    suited = [items.c.resource == one for one in offered]
    if without_resource:
        suited.append(items.c.resource.is_(None))
    fits = and_(
        items.c.demand_cpus <= bindparam("cpus"),
        items.c.demand_memory <= bindparam("memory"),
        items.c.demand_gpus <= bindparam("gpus"),
    )
    fits = or_(fits, *(items.c.resource == one for one in offered[resources - self_scheduled :]))
    where = (
        text(QUEUED_ONLY),
        items.c.queue_id == bindparam("in_queue"),
        items.c.not_before.is_(None),
        or_(false(), *suited),
        fits,
    )
    query = select(items.c.id, *QUEUE_ORDER).where(*where).order_by(*QUEUE_ORDER).limit(1)
    return Prepared(query), Prepared(query.with_for_update(skip_locked=True))


def lock_first_fitting(
    tx: Tx,
    queue_ids: Sequence[str],
    offered: Sequence[str],
    free: Capacity,
    *,
    without_resource: bool = True,
    self_scheduled: Collection[str] = (),
) -> str | None:
    """The id of the first queued item that fits, over several queues; locked.

    `without_resource`: items that name no resource fit, too. Items for `self_scheduled`
    resources fit whatever they demand; those that name none do not.
    """
    counted = [one for one in offered if one not in self_scheduled]
    ordered = [*counted, *(one for one in offered if one in self_scheduled)]
    fitting = {
        **{f"offered_{index}": one for index, one in enumerate(ordered)},
        "cpus": _NO_CPU_LIMIT if free.cpus is None else free.cpus,
        "memory": _NO_MEMORY_LIMIT if free.memory is None else free.memory,
        "gpus": len(free.gpus),
    }
    numbers = len(ordered), len(ordered) - len(counted)
    query, locking = _fitting_queries(*numbers, without_resource=without_resource)
    for queue_id in _by_head(tx, queue_ids, query, fitting):
        found = tx.one(locking, in_queue=queue_id, **fitting)
        if found is not None:
            return str(found.id)
    return None


def _by_head(
    tx: Tx, queue_ids: Sequence[str], query: Prepared, fitting: dict[str, Any]
) -> Sequence[str]:
    """Queues ordered by their first fitting item; one query each, so that each uses the index."""
    if len(queue_ids) < 2:  # noqa: PLR2004 -- nothing to order
        return queue_ids
    heads = [(tx.one(query, in_queue=one, **fitting), one) for one in queue_ids]
    places = [((head.priority, head.enqueued_at, head.seq), one) for head, one in heads if head]
    return [one for _, one in sorted(places)]


def any_claimable(tx: Tx, queue_ids: Iterable[str]) -> bool:
    """Whether anything is queued on these queues, whatever its demand."""
    return any(tx.one(_CLAIMABLE, in_queue=one) is not None for one in queue_ids)


def lock_first(tx: Tx, queue_id: str) -> str | None:
    """The id of the first queued item, whatever its demand; locked."""
    query = select(items.c.id).where(
        text(QUEUED_ONLY), items.c.queue_id == queue_id, items.c.not_before.is_(None)
    )
    found = tx.one(query.order_by(*QUEUE_ORDER).limit(1).with_for_update(skip_locked=True))
    return None if found is None else str(found.id)
