"""Queues: templates, pausing, removal."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from agent.control.auth.policy import Action, Principal
from agent.control.services.composing import DEFAULT_PRIORITY
from agent.control.services.context import Context
from agent.control.services.notifications import topic_entity, topic_queue
from agent.control.services.queueing import check_queue_name, insert_queue
from agent.control.services.stopping import request_stop
from agent.control.services.templates import (
    check_resource,
    complaints,
    parse_config,
    parse_variables,
)
from agent.control.store import items, projects, queues
from agent.control.store.records import Access, Prioritization, QueueRecord
from agent.control.store.tx import Tx
from agent.model.errors import ConflictError, InvalidInputError, NotFoundError
from agent.model.phase import Phase
from agent.model.spec import Json

SaveMode = Literal["CREATE", "UPDATE", "EITHER"]


class Queues:
    """Queues of an entity; for W&B's clients they live in its project `model-registry`."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def list(
        self, principal: Principal, entity: str | None = None
    ) -> tuple[QueueRecord, ...]:
        """All queues, by name.

        Raises:
            NotFoundError: the entity.
        """

        def work(tx: Tx) -> tuple[QueueRecord, ...]:
            place = self._context.existing(tx, principal, entity, Action.READ)
            return queues.of_entity(tx, place)

        return await self._context.database.read(work)

    async def get(self, principal: Principal, entity: str | None, name: str) -> QueueRecord:
        """One queue.

        Raises:
            NotFoundError: the entity, or the queue; near misses are offered.
        """

        def work(tx: Tx) -> QueueRecord:
            place = self._context.existing(tx, principal, entity, Action.READ)
            return self._context.queue(tx, place, name)

        return await self._context.database.read(work)

    async def by_id(self, principal: Principal, queue_id: str) -> QueueRecord:
        """One queue by id.

        Raises:
            NotFoundError: absent or hidden.
        """
        return await self._context.database.read(
            lambda tx: self._context.queue_by_id(tx, principal, queue_id, Action.READ)
        )

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
        values = _template(resource, config, template_variables, prioritization, external_links)
        complete = {"config": {}, "template_variables": {}, **values}
        wrong = complaints(complete["config"], complete["template_variables"])

        def work(tx: Tx) -> QueueRecord:
            place = self._context.existing(tx, principal, entity, Action.MANAGE_QUEUES)
            found = queues.by_name(tx, place, name)
            if mode == "CREATE" or (mode == "EITHER" and found is None):
                _refuse(wrong)
                return insert_queue(tx, place, check_queue_name(name), principal.name, values)
            current = self._context.queue(tx, place, name)
            _change(tx, current, values, strict=True)
            return self._context.queue(tx, place, name)

        return await self._context.database.write(work)

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

        def work(tx: Tx) -> QueueRecord:
            place = self._context.existing(tx, principal, entity, Action.MANAGE_QUEUES)
            values: dict[str, Any] = {
                "access": access,
                "prioritization": prioritization or "DISABLED",
            }
            if resource_config_id is not None:
                values.update(_from_config(tx, place, resource_config_id))
            return insert_queue(tx, place, check_queue_name(name), principal.name, values)

        return await self._context.database.write(work)

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
        values = _template(resource, config, template_variables, prioritization, external_links)
        variables = values.get("template_variables", {})

        def work(tx: Tx) -> None:
            place = self._context.existing(tx, principal, entity, Action.MANAGE_QUEUES)
            found = queues.by_name(tx, place, name)
            if found is None:
                fresh = {"prioritization": "DISABLED", **values}
                insert_queue(tx, place, check_queue_name(name), principal.name, fresh)
            else:
                _change(tx, found, values, strict=False)

        await self._context.database.write(work)
        return complaints(values["config"], variables)

    async def pause(
        self, principal: Principal, entity: str | None, name: str, *, paused: bool
    ) -> QueueRecord:
        """Stop or resume handing out; items are accepted all the time."""

        def work(tx: Tx) -> QueueRecord:
            place = self._context.existing(tx, principal, entity, Action.MANAGE_QUEUES)
            found = self._context.queue(tx, place, name)
            queues.change(tx, found.id, {"paused": paused})
            tx.notify(topic_queue(found.id), topic_entity(place))
            return self._context.queue(tx, place, name)

        return await self._context.database.write(work)

    async def delete(
        self, principal: Principal, entity: str | None, name: str, *, force: bool = False
    ) -> None:
        """Remove a queue; its items stay readable.

        Raises:
            ConflictError: live items and no `force`; with it queued ones are stopped at
                once and a stop is asked of the others.
        """

        def work(tx: Tx) -> None:
            place = self._context.existing(tx, principal, entity, Action.MANAGE_QUEUES)
            _remove(tx, self._context.queue(tx, place, name), principal.name, force=force)

        await self._context.database.write(work)

    async def delete_ids(self, principal: Principal, queue_ids: Sequence[str]) -> None:
        """W&B's `deleteRunQueues`; as `delete` with `force`."""

        def work(tx: Tx) -> None:
            for queue_id in queue_ids:
                found = self._context.queue_by_id(tx, principal, queue_id, Action.MANAGE_QUEUES)
                _remove(tx, found, principal.name, force=True)

        await self._context.database.write(work)

    async def counts(
        self, principal: Principal, queue_ids: Sequence[str]
    ) -> Mapping[str, Mapping[Phase, int]]:
        """Items by queue id and phase; only phases that occur."""

        def work(tx: Tx) -> Mapping[str, Mapping[Phase, int]]:
            for queue_id in queue_ids:
                self._context.queue_by_id(tx, principal, queue_id, Action.READ)
            return queues.counts(tx, queue_ids)

        return await self._context.database.read(work)


def _template(
    resource: str,
    config: Json | None,
    template_variables: Any,
    prioritization: Prioritization | None,
    external_links: Json | None,
) -> dict[str, Any]:
    """The columns that were given, checked."""
    given: dict[str, Any] = {"resource": check_resource(resource)}
    if config is not None:
        given["config"] = parse_config(config, resource)
    if template_variables is not None:
        given["template_variables"] = parse_variables(template_variables)
    if prioritization is not None:
        given["prioritization"] = prioritization
    if external_links is not None:
        given["external_links"] = external_links
    return given


def _change(tx: Tx, found: QueueRecord, values: dict[str, Any], *, strict: bool) -> None:
    config = values.get("config", found.config)
    variables = values.get("template_variables", found.template_variables)
    if strict:
        parse_config(config, values["resource"])
        _refuse(complaints(config, variables))
    queues.change(tx, found.id, values)
    if values.get("prioritization") == "DISABLED":
        items.level_priorities(tx, found.id, DEFAULT_PRIORITY)
    tx.notify(topic_entity(found.entity), topic_queue(found.id))


def _refuse(wrong: tuple[str, ...]) -> None:
    if wrong:
        raise InvalidInputError(
            " ".join(wrong), hint="Declare what is used, and use what is declared."
        )


def _from_config(tx: Tx, entity: str, config_id: str) -> dict[str, Any]:
    found = projects.config(tx, entity, config_id)
    if found is None:
        raise NotFoundError(f"'{entity}' has no default resource config '{config_id}'.")
    return {
        "resource": found.resource,
        "config": found.config,
        "template_variables": found.template_variables,
        "resource_config_id": found.id,
    }


def _remove(tx: Tx, queue: QueueRecord, actor: str, *, force: bool) -> None:
    alive = items.alive_in(tx, queue.id)
    if alive and not force:
        raise ConflictError(
            f"Queue '{queue.name}' has {len(alive)} items that are not over.",
            hint="Wait for them, stop them, or delete with force, which stops them.",
        )
    for row in alive:
        request_stop(tx, row, actor)
    queues.remove(tx, queue.id)
    tx.notify(topic_entity(queue.entity), topic_queue(queue.id))
