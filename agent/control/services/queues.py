"""Queues: templates, pausing, removal."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from agent.control.services.policy import Principal
from agent.control.store.records import Access, Prioritization, QueueRecord
from agent.model.phase import Phase
from agent.model.spec import Json

SaveMode = Literal["CREATE", "UPDATE", "EITHER"]


class Queues:
    """Queues of an entity; for W&B's clients they live in its project `model-registry`."""

    async def list(
        self, principal: Principal, entity: str | None = None
    ) -> tuple[QueueRecord, ...]:
        """All queues, by name.

        Raises:
            NotFoundError: the entity.
        """
        raise NotImplementedError

    async def get(self, principal: Principal, entity: str | None, name: str) -> QueueRecord:
        """One queue.

        Raises:
            NotFoundError: the entity, or the queue; near misses are offered.
        """
        raise NotImplementedError

    async def by_id(self, principal: Principal, queue_id: str) -> QueueRecord:
        """One queue by id.

        Raises:
            NotFoundError: absent or hidden.
        """
        raise NotImplementedError

    async def save(
        self,
        principal: Principal,
        entity: str | None,
        name: str,
        *,
        resource: str,
        config: Json | None = None,
        template_variables: Any = None,
        prioritization: Prioritization | None = None,
        external_links: Json | None = None,
        mode: SaveMode = "EITHER",
    ) -> QueueRecord:
        """Create or change a queue; what is `None` stays as it is, or takes its default (V0).

        Raises:
            NotFoundError: mode UPDATE and no such queue, or the entity.
            AlreadyExistsError: mode CREATE and there is one.
            InvalidInputError: name, resource, config or a variable's schema; says which path.
        """
        raise NotImplementedError

    async def create_wandb(
        self,
        principal: Principal,
        entity: str,
        name: str,
        *,
        access: Access = "PROJECT",
        prioritization: Prioritization | None = None,
        resource_config_id: str | None = None,
    ) -> QueueRecord:
        """W&B's `createRunQueue`; prioritisation is off unless asked for.

        Raises:
            AlreadyExistsError, InvalidInputError, NotFoundError
        """
        raise NotImplementedError

    async def upsert_wandb(
        self,
        principal: Principal,
        entity: str,
        name: str,
        *,
        resource: str,
        config: Json,
        template_variables: Any = None,
        prioritization: Prioritization | None = None,
        external_links: Json | None = None,
    ) -> tuple[str, ...]:
        """W&B's `upsertRunQueue`; saves, and returns complaints that do not forbid saving."""
        raise NotImplementedError

    async def pause(
        self, principal: Principal, entity: str | None, name: str, *, paused: bool
    ) -> QueueRecord:
        """Stop or resume handing out; items are accepted all the time."""
        raise NotImplementedError

    async def delete(
        self, principal: Principal, entity: str | None, name: str, *, force: bool = False
    ) -> None:
        """Remove a queue; its items stay readable.

        Raises:
            ConflictError: live items and no `force`; with it queued ones are stopped at
                once and a stop is asked of the others.
        """
        raise NotImplementedError

    async def delete_ids(self, principal: Principal, queue_ids: Sequence[str]) -> None:
        """W&B's `deleteRunQueues`; as `delete` with `force`."""
        raise NotImplementedError

    async def counts(
        self, principal: Principal, queue_ids: Sequence[str]
    ) -> Mapping[str, Mapping[Phase, int]]:
        """Items by queue id and phase; only phases that occur."""
        raise NotImplementedError

    async def ensure_default(self, entity: str, resource: str) -> QueueRecord:
        """For the embedded plane: the queue `default` exists and has a resource."""
        raise NotImplementedError
