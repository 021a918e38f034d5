"""Projects, and W&B's default resource configs."""

from typing import Any

from agent.control.auth.policy import Action, Principal
from agent.control.services.composition import check_resource, parse_config, parse_variables
from agent.control.services.context import Context
from agent.control.services.paging import Page, page_of, page_size
from agent.control.store import projects
from agent.control.store.ids import new_id
from agent.control.store.projects import ProjectRecord, ResourceConfigRecord
from agent.control.store.tx import Tx
from agent.model.names import checked_project
from agent.model.spec import Json


class Projects:
    """Projects of an entity. `model-registry` always exists."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def get(
        self, principal: Principal, entity: str | None, name: str
    ) -> ProjectRecord | None:
        """A project; `None` when it does not exist, or the entity is hidden."""
        place = entity or principal.default_entity
        if not self._context.policy.allows(principal, place, Action.READ):
            return None
        return await self._context.database.read(lambda tx: projects.project(tx, place, name))

    async def list(
        self, principal: Principal, entity: str | None, *, after: str | None, first: int
    ) -> Page[ProjectRecord]:
        """Projects by name.

        Raises:
            NotFoundError: the entity.
        """
        size = page_size(first)

        def work(tx: Tx) -> Page[ProjectRecord]:
            place = self._context.existing(tx, principal, entity, Action.READ)
            rows, total = projects.page(tx, place, after or "", size + 1)
            return page_of(rows, size, total, lambda project: project.name)

        return await self._context.database.read(work)

    async def upsert(
        self, principal: Principal, entity: str | None, name: str
    ) -> tuple[ProjectRecord, bool]:
        """Make sure that a project exists; true when it was inserted now.

        Raises:
            InvalidInputError: no project may have that name.
        """
        checked_project(name)

        def work(tx: Tx) -> tuple[ProjectRecord, bool]:
            place = self._context.existing(tx, principal, entity, Action.WRITE_RUNS)
            return projects.ensure(tx, place, name)

        return await self._context.database.write(work)

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
        values = {
            "id": new_id(),
            "resource": check_resource(resource),
            "config": parse_config(config, resource),
            "template_variables": parse_variables(template_variables),
        }

        def work(tx: Tx) -> ResourceConfigRecord:
            place = self._context.existing(tx, principal, entity, Action.MANAGE_QUEUES)
            return projects.insert_config(tx, {"entity": place, **values})

        return await self._context.database.write(work)

    async def resource_config(
        self, principal: Principal, entity: str, config_id: str
    ) -> ResourceConfigRecord | None:
        """A stored config; `None` when the entity has none of that id."""
        if not self._context.policy.allows(principal, entity, Action.READ):
            return None
        return await self._context.database.read(lambda tx: projects.config(tx, entity, config_id))
