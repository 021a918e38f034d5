"""Items, as people put them on queues, look at them and change them."""

from collections.abc import Sequence

from agent.control.auth.policy import Action, Principal
from agent.control.services.composing import check_priority
from agent.control.services.context import Service, no_such_agent, read
from agent.control.services.explain import Surroundings, explain
from agent.control.services.notifications import topic_entity, topic_item, topic_queue
from agent.control.services.paging import cursor, numbered_page, page_size
from agent.control.services.stopping import request_stop
from agent.control.services.submitting import recompose, submit
from agent.control.services.transitions import remark, reopen
from agent.control.store import agents, history, items, queues
from agent.control.store.records import (
    AttemptRecord,
    EventRecord,
    Explanation,
    ItemRecord,
    Page,
    Submission,
)
from agent.control.store.tx import Tx
from agent.model.capacity import Allocation, Capacity, minus
from agent.model.errors import ConflictError
from agent.model.phase import TERMINAL, Phase


class Items(Service):
    """All but what agents do; that is `Leases`."""

    async def submit(self, principal: Principal, submission: Submission) -> ItemRecord:
        """Put one item on a queue.

        The same idempotency key gives the same item back for 24 hours. The queue `default`
        is made on demand.

        Raises:
            NotFoundError: entity or queue; near misses are offered.
            InvalidInputError: spec, template variables or priority; names path, value, rule.
            ConflictError: the idempotency key was used for something else.
            PermissionDeniedError: the caller may not submit.
        """

        def work(tx: Tx) -> ItemRecord:
            item_id = submit(tx, self._context, principal, submission)
            return self._context.item(tx, principal, item_id)

        return await self._context.database.write(work)

    @read
    def get(self, tx: Tx, principal: Principal, item_id: str) -> ItemRecord:
        """One item.

        Raises:
            NotFoundError: absent or hidden.
        """
        return self._context.item(tx, principal, item_id)

    async def list(
        self,
        principal: Principal,
        entity: str | None = None,
        *,
        queue: str | None = None,
        queue_id: str | None = None,
        phases: Sequence[Phase] | None = None,
        after: str | None = None,
        first: int = 100,
    ) -> Page[ItemRecord]:
        """Items, newest first; at most 5,000 at a time.

        Raises:
            NotFoundError: the entity or the queue.
            InvalidInputError: `first` or `after`.
        """
        size, before = page_size(first), cursor(after)

        def work(tx: Tx) -> Page[ItemRecord]:
            where = self._context.existing(tx, principal, entity, Action.READ)
            narrow = queue_id or (self._context.queue(tx, where, queue).id if queue else None)
            found, total = items.page(
                tx, where, queue_id=narrow, phases=phases, before=before, limit=size + 1
            )
            return numbered_page(found, size, total)

        return await self._context.database.read(work)

    async def attempts(self, principal: Principal, item_id: str) -> tuple[AttemptRecord, ...]:
        """All attempts, first to last."""

        def work(tx: Tx) -> tuple[AttemptRecord, ...]:
            self._context.item(tx, principal, item_id)
            return history.attempt_list(tx, item_id)

        return await self._context.database.read(work)

    async def events(self, principal: Principal, item_id: str) -> tuple[EventRecord, ...]:
        """The history, oldest first."""

        def work(tx: Tx) -> tuple[EventRecord, ...]:
            self._context.item(tx, principal, item_id)
            return history.event_list(tx, item_id)

        return await self._context.database.read(work)

    async def held_by(self, principal: Principal, agent_id: str) -> tuple[ItemRecord, ...]:
        """Items an agent holds now."""

        def work(tx: Tx) -> tuple[ItemRecord, ...]:
            row = agents.row(tx, agent_id)
            if row is None or not self._context.policy.allows(principal, row.entity, Action.READ):
                raise no_such_agent(agent_id)
            return items.records(tx, items.held_by(tx, agent_id))

        return await self._context.database.read(work)

    async def explain(self, principal: Principal, item_id: str) -> Explanation:
        """Why it waits, or how it ended, and what to do."""

        def work(tx: Tx) -> Explanation:
            item = self._context.item(tx, principal, item_id)
            return explain(item, self._surroundings(tx, item))

        return await self._context.database.read(work)

    def _surroundings(self, tx: Tx, item: ItemRecord) -> Surroundings:
        if item.phase in TERMINAL or item.queue_id is None:
            return Surroundings(None, (), 0)
        rows = agents.of_entity(tx, item.entity, item.queue_id)
        serving = agents.records(tx, rows, self._context.config.agent_timeout)
        ahead = items.ahead(tx, item) if item.phase is Phase.QUEUED else 0
        room = {one.id: _room(tx, one.id, one.capacity) for one in serving if one.capacity}
        return Surroundings(queues.by_id(tx, item.queue_id), serving, ahead, room)

    async def stop(self, principal: Principal, item_id: str) -> ItemRecord:
        """Stop at once what is queued; ask the holder of anything else. Legal twice."""

        def work(tx: Tx) -> ItemRecord:
            row = self._context.item_to_change(tx, principal, item_id)
            request_stop(tx, row, principal.name)
            return self._context.item(tx, principal, item_id)

        return await self._context.database.write(work)

    async def retry(self, principal: Principal, item_id: str) -> ItemRecord:
        """Open a new attempt.

        Raises:
            ConflictError: not over yet, succeeded, or its queue is gone.
        """

        def work(tx: Tx) -> ItemRecord:
            row = self._context.item_to_change(tx, principal, item_id)
            phase = Phase(row.phase)
            if phase not in TERMINAL or phase is Phase.SUCCEEDED:
                over = phase is Phase.SUCCEEDED
                raise ConflictError(
                    f"Item {item_id} is {phase.word}: only what ended badly can be retried.",
                    hint="Submit it again to run it once more." if over else "Stop it first.",
                )
            if row.queue_id is None:
                raise ConflictError(
                    f"The queue '{row.queue}' of item {item_id} was deleted.",
                    hint="Submit the job again, to another queue.",
                )
            reopen(tx, row, "retried", actor=principal.name)
            return self._context.item(tx, principal, item_id)

        return await self._context.database.write(work)

    async def move(self, principal: Principal, item_id: str, queue: str) -> ItemRecord:
        """Put a queued item at the end of another queue of the same entity.

        The template of the new queue is applied to what was submitted.

        Raises:
            ConflictError: not queued.
            NotFoundError: the queue.
            InvalidInputError: the spec does not fit the new queue.
        """

        def work(tx: Tx) -> ItemRecord:
            row = self._context.item_to_change(tx, principal, item_id)
            _must_be_queued(row.id, Phase(row.phase), "moved")
            target = self._context.queue(tx, row.entity, queue)
            changes = recompose(tx, row, target)
            priority = check_priority(target, row.priority)
            text = f"moved from {row.queue} to {target.name}"
            place = {"enqueued_at": tx.now, "priority": priority}
            remark(tx, row, text, actor=principal.name, **changes, **place)
            tx.notify(topic_queue(target.id))
            return self._context.item(tx, principal, item_id)

        return await self._context.database.write(work)

    async def set_priority(self, principal: Principal, item_id: str, priority: int) -> ItemRecord:
        """Change the priority (0 critical … 3 low) of a queued item.

        Raises:
            ConflictError: not queued.
            InvalidInputError: not 0 to 3, or its queue has no priorities.
        """

        def work(tx: Tx) -> ItemRecord:
            row = self._context.item_to_change(tx, principal, item_id)
            _must_be_queued(row.id, Phase(row.phase), "given another priority")
            check_priority(self._context.queue(tx, row.entity, row.queue), priority)
            text = f"priority {row.priority} → {priority}"
            remark(tx, row, text, actor=principal.name, priority=priority)
            return self._context.item(tx, principal, item_id)

        return await self._context.database.write(work)

    async def delete(self, principal: Principal, queue_id: str, item_id: str) -> bool:
        """W&B's `deleteFromRunQueue`: stops it; false when that queue has no such item."""

        def work(tx: Tx) -> bool:
            row = items.row(tx, item_id)
            if row is None or row.queue_id != queue_id:
                return False
            locked = self._context.item_to_change(tx, principal, item_id)
            request_stop(tx, locked, principal.name)
            tx.notify(topic_item(item_id), topic_entity(row.entity))
            return True

        return await self._context.database.write(work)


def _room(tx: Tx, agent_id: str, capacity: Capacity) -> Capacity:
    """What an agent has left beside the items it holds."""
    for row in items.held_by(tx, agent_id):
        capacity = minus(capacity, items.allocation_from(row.allocation) or Allocation())
    return capacity


def _must_be_queued(item_id: str, phase: Phase, what: str) -> None:
    if phase is not Phase.QUEUED:
        over = phase in TERMINAL
        raise ConflictError(
            f"Item {item_id} is {phase.word}: only waiting items can be {what}.",
            hint="Submit it again." if over else "Stop it and submit it again.",
        )
