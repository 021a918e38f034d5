"""Projects, and W&B's default resource configs."""

from typing import Any

from agent.control.services.policy import Principal
from agent.control.store.records import Page, ProjectRecord, ResourceConfigRecord
from agent.model.spec import Json


class Projects:
    """Projects of an entity. `model-registry` always exists."""

    async def get(
        self, principal: Principal, entity: str | None, name: str
    ) -> ProjectRecord | None:
        """A project; `None` when it does not exist, or the entity is hidden."""
        raise NotImplementedError

    async def list(
        self, principal: Principal, entity: str | None, *, after: str | None, first: int
    ) -> Page[ProjectRecord]:
        """Projects by name.

        Raises:
            NotFoundError: the entity.
        """
        raise NotImplementedError

    async def upsert(
        self, principal: Principal, entity: str | None, name: str
    ) -> tuple[ProjectRecord, bool]:
        """Make sure that a project exists; true when it was inserted now."""
        raise NotImplementedError

    async def create_resource_config(
        self,
        principal: Principal,
        entity: str,
        resource: str,
        config: Json,
        template_variables: Any,
    ) -> ResourceConfigRecord:
        """Store a template that `Queues.create_wandb` refers to.

        Raises:
            InvalidInputError: unknown resource, or a malformed schema.
        """
        raise NotImplementedError

    async def resource_config(
        self, principal: Principal, entity: str, config_id: str
    ) -> ResourceConfigRecord | None:
        """A stored config; `None` when the entity has none of that id."""
        raise NotImplementedError
