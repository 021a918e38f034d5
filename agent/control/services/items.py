"""Items, as people put them on queues, look at them and change them."""

from collections.abc import Sequence

from agent.control.services.policy import Principal
from agent.control.store.records import (
    AttemptRecord,
    EventRecord,
    Explanation,
    ItemRecord,
    Page,
    Submission,
)
from agent.model.phase import Phase


class Items:
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
        raise NotImplementedError

    async def get(self, principal: Principal, item_id: str) -> ItemRecord:
        """One item.

        Raises:
            NotFoundError: absent or hidden.
        """
        raise NotImplementedError

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
        raise NotImplementedError

    async def attempts(self, principal: Principal, item_id: str) -> tuple[AttemptRecord, ...]:
        """All attempts, first to last."""
        raise NotImplementedError

    async def events(self, principal: Principal, item_id: str) -> tuple[EventRecord, ...]:
        """The history, oldest first."""
        raise NotImplementedError

    async def held_by(self, principal: Principal, agent_id: str) -> tuple[ItemRecord, ...]:
        """Items an agent holds now."""
        raise NotImplementedError

    async def explain(self, principal: Principal, item_id: str) -> Explanation:
        """Why it waits, or how it ended, and what to do."""
        raise NotImplementedError

    async def stop(self, principal: Principal, item_id: str) -> ItemRecord:
        """Stop at once what is queued; ask the holder of anything else. Legal twice."""
        raise NotImplementedError

    async def retry(self, principal: Principal, item_id: str) -> ItemRecord:
        """Open a new attempt.

        Raises:
            ConflictError: not over yet, succeeded, or its queue is gone.
        """
        raise NotImplementedError

    async def move(self, principal: Principal, item_id: str, queue: str) -> ItemRecord:
        """Put a queued item at the end of another queue of the same entity.

        The template of the new queue is applied to what was submitted.

        Raises:
            ConflictError: not queued.
            NotFoundError: the queue.
            InvalidInputError: the spec does not fit the new queue.
        """
        raise NotImplementedError

    async def set_priority(self, principal: Principal, item_id: str, priority: int) -> ItemRecord:
        """Change the priority (0 critical … 3 low) of a queued item.

        Raises:
            ConflictError: not queued, or its queue has no priorities.
            InvalidInputError: not 0 to 3.
        """
        raise NotImplementedError

    async def delete(self, principal: Principal, queue_id: str, item_id: str) -> bool:
        """W&B's `deleteFromRunQueue`: stops it; false when that queue has no such item."""
        raise NotImplementedError
