"""Projects, and W&B's default resource configs."""

from typing import Any

from agent.control.auth.policy import Action, Principal
from agent.control.services.audit import audited
from agent.control.services.context import Service, read, write
from agent.control.services.paging import Page, page_of, page_size
from agent.control.services.runs import check_project
from agent.control.services.spec_layers import check_resource, parse_config, parse_variables
from agent.control.store import projects, queues
from agent.control.store.ids import new_id
from agent.control.store.projects import ProjectRecord, ResourceConfigRecord
from agent.control.store.tx import Tx
from agent.model.names import checked_project
from agent.model.spec import Json


class Projects(Service):
    """Projects of an entity. `model-registry` always exists."""

    @read
    def get(
        self, tx: Tx, principal: Principal, entity: str | None, name: str
    ) -> ProjectRecord | None:
        """A project; `None` when it does not exist, or the entity is hidden."""
        entity = entity or principal.default_entity
        if not self._context.policy.sees_entity_or_project(principal, entity, name):
            return None
        return projects.project(tx, entity, name)

    @read
    def list(
        self, tx: Tx, principal: Principal, entity: str | None, *, after: str | None, first: int
    ) -> Page[ProjectRecord]:
        """Projects by name."""
        size = page_size(first)
        entity = self._context.existing_entity(tx, principal, entity, Action.READ)
        rows, total = projects.page(tx, entity, after or "", size + 1)
        return page_of(rows, size, total, lambda project: project.name)

    @write
    def upsert(
        self, tx: Tx, principal: Principal, entity: str | None, name: str
    ) -> tuple[ProjectRecord, bool]:
        """Insert a project unless it exists; true when it was inserted.

        Raises:
            InvalidInputError: no project may have that name.
            PermissionDeniedError: the caller may not, or a run token and another project.
        """
        checked_project(name)
        entity = self._context.existing_entity(tx, principal, entity, Action.WRITE_RUNS)
        check_project(principal, name)
        return projects.ensure(tx, entity, name)

    async def create_resource_config(
        self,
        principal: Principal,
        entity: str,
        resource: str,
        config: Json,
        template_variables: Any,
    ) -> ResourceConfigRecord:
        """Store a template for queues that W&B's clients create.

        Raises:
            InvalidInputError: unknown resource, or a malformed schema.
        """
        self._context.entity_of(principal, entity, Action.MANAGE_QUEUES)
        values = {
            "id": new_id(),
            "resource": check_resource(resource),
            "config": parse_config(config, resource),
            "template_variables": await self._context.checker.run(
                lambda: parse_variables(template_variables)
            ),
        }
        return await self._insert_config(principal, entity, values)

    @audited("queue.template")
    def _insert_config(
        self, tx: Tx, principal: Principal, entity: str, values: Json
    ) -> ResourceConfigRecord:
        entity = self._context.existing_entity(tx, principal, entity, Action.MANAGE_QUEUES)
        return projects.insert_config(tx, {"entity": entity, **values})

    @read
    def resource_config(
        self, tx: Tx, principal: Principal, entity: str, config_id: str
    ) -> ResourceConfigRecord | None:
        """A stored config, or the template of a queue; `None` when the entity has neither."""
        if not self._context.policy.allows(principal, entity, Action.READ):
            return None
        queue = queues.by_id(tx, config_id)
        if queue is None or queue.entity != entity:
            return projects.config(tx, entity, config_id)
        template = (queue.config, queue.template_variables)
        return ResourceConfigRecord(queue.id, entity, queue.resource or "", *template)
