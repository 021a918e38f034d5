"""Queues: templates, pausing, removal."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

from agent.control.auth.policy import Action, Principal
from agent.control.services.audit import audited
from agent.control.services.context import Service, ServiceContext, read, write
from agent.control.services.notifications import topic_entity, topic_queue
from agent.control.services.spec_layers import (
    DEFAULT_PRIORITY,
    check_resource,
    parse_config,
    parse_variables,
    resource_warnings,
    template_problems,
)
from agent.control.services.transitions import request_stop
from agent.control.store import items, projects, queues
from agent.control.store.ids import new_id
from agent.control.store.queues import Access, Prioritization, QueueRecord
from agent.control.store.tx import Tx
from agent.model.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
)
from agent.model.names import DEFAULT_QUEUE
from agent.model.phase import Phase
from agent.model.spec import Json

SaveMode = Literal["CREATE", "UPDATE", "EITHER"]

_DEFAULTS: Final[Mapping[str, Any]] = {
    "access": "PROJECT",
    "resource": None,
    "config": {},
    "template_variables": {},
    "prioritization": "V0",
    "paused": False,
}
#: Items that one transaction stops.
_PART: Final = 100
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


class Queues(Service):
    """Queues of an entity; for W&B's clients they are in its project `model-registry`."""

    @read
    def list(
        self, tx: Tx, principal: Principal, entity: str | None = None
    ) -> tuple[QueueRecord, ...]:
        """All queues, by name.

        Raises:
            NotFoundError: the entity.
        """
        owner = self._context.existing_entity(tx, principal, entity, Action.READ)
        return queues.of_entity(tx, owner)

    @read
    def get(self, tx: Tx, principal: Principal, entity: str | None, name: str) -> QueueRecord:
        """One queue.

        Raises:
            NotFoundError: the entity, or the queue; near misses are offered.
        """
        owner = self._context.existing_entity(tx, principal, entity, Action.READ)
        return self._context.queue(tx, owner, name)

    @read
    def by_id(self, tx: Tx, principal: Principal, queue_id: str) -> QueueRecord:
        """One queue by id.

        Raises:
            NotFoundError: absent or hidden.
        """
        return self._context.queue_by_id(tx, principal, queue_id, Action.READ)

    @read
    def counts(
        self, tx: Tx, principal: Principal, queue_ids: Sequence[str]
    ) -> Mapping[str, Mapping[Phase, int]]:
        """Items by queue id and phase; only phases that occur."""
        for queue_id in queue_ids:
            self._context.queue_by_id(tx, principal, queue_id, Action.READ)
        return queues.counts(tx, queue_ids)

    async def save(
        self,
        principal: Principal,
        entity: str | None,
        name: str,
        *,
        resource: str | None,
        config: Json | None = None,
        template_variables: Any = None,
        prioritization: Prioritization | None = None,
        external_links: Json | None = None,
        mode: SaveMode = "EITHER",
    ) -> QueueRecord:
        """Create or change a queue; what is `None` keeps its value, or takes its default (V0).

        Raises:
            NotFoundError: mode UPDATE and no such queue, or the entity.
            AlreadyExistsError: mode CREATE and there is one.
            InvalidInputError: name, resource, config or a variable's schema; names the path.
        """
        self._context.entity_of(principal, entity, Action.MANAGE_QUEUES)
        values = await self._context.checker.run(
            lambda: _columns(resource, config, template_variables, prioritization, external_links)
        )
        return await self._save(principal, entity, name, values, mode)

    @audited("queue.save", repeatable=True)
    def _save(
        self,
        tx: Tx,
        principal: Principal,
        entity: str | None,
        name: str,
        values: dict[str, Any],
        mode: SaveMode,
    ) -> QueueRecord:
        owner = self._context.existing_entity(tx, principal, entity, Action.MANAGE_QUEUES)
        current, saved = _saved(tx, self._context, owner, name, values, mode)
        if current is None:
            return insert_queue(tx, owner, name, principal.name, values)
        _change(tx, current, values)
        return saved

    async def check(
        self,
        principal: Principal,
        entity: str | None,
        name: str,
        *,
        resource: str | None,
        config: Json,
        template_variables: Any,
        prioritization: Prioritization,
        mode: SaveMode,
    ) -> QueueRecord:
        """The queue that `save` would give; nothing is stored.

        Raises: as `save`.
        """
        self._context.entity_of(principal, entity, Action.MANAGE_QUEUES)
        values = await self._context.checker.run(
            lambda: _columns(resource, config, template_variables, prioritization, None)
        )
        return await self._check(principal, entity, name, values, mode)

    @read
    def _check(
        self,
        tx: Tx,
        principal: Principal,
        entity: str | None,
        name: str,
        values: dict[str, Any],
        mode: SaveMode,
    ) -> QueueRecord:
        owner = self._context.existing_entity(tx, principal, entity, Action.MANAGE_QUEUES)
        return _saved(tx, self._context, owner, name, values, mode)[1]

    @audited("queue.create")
    def create_wandb(
        self,
        tx: Tx,
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
        owner = self._context.existing_entity(tx, principal, entity, Action.MANAGE_QUEUES)
        values: dict[str, Any] = {"access": access, "prioritization": prioritization or "DISABLED"}
        if resource_config_id is not None:
            default = projects.config(tx, owner, resource_config_id)
            if default is None:
                message = f"'{owner}' has no default resource config '{resource_config_id}'."
                raise NotFoundError(message)
            values |= {
                "resource": default.resource,
                "config": default.config,
                "template_variables": default.template_variables,
                "resource_config_id": default.id,
            }
        return insert_queue(tx, owner, check_queue_name(name), principal.name, values)

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
        """W&B's `upsertRunQueue`: save, and return problems that do not forbid saving."""
        self._context.entity_of(principal, entity, Action.MANAGE_QUEUES)
        values = await self._context.checker.run(
            lambda: _columns(resource, config, template_variables, prioritization, external_links)
        )
        await self._upsert_wandb(principal, entity, name, values)
        problems = template_problems(config, values.get("template_variables", {}))
        return (*problems, *resource_warnings(resource))

    @audited("queue.save")
    def _upsert_wandb(
        self, tx: Tx, principal: Principal, entity: str, name: str, values: dict[str, Any]
    ) -> None:
        owner = self._context.existing_entity(tx, principal, entity, Action.MANAGE_QUEUES)
        found = queues.by_name(tx, owner, name)
        if found is None:
            new = {"prioritization": "DISABLED", **values}
            insert_queue(tx, owner, check_queue_name(name), principal.name, new)
        else:
            _change(tx, found, values)

    @audited("queue.pause")
    def pause(
        self, tx: Tx, principal: Principal, entity: str | None, name: str, *, paused: bool
    ) -> QueueRecord:
        """Pause or resume claims; items are accepted all the time."""
        owner = self._context.existing_entity(tx, principal, entity, Action.MANAGE_QUEUES)
        found = self._context.queue(tx, owner, name)
        queues.change(tx, found.id, {"paused": paused})
        tx.notify(topic_queue(found.id), topic_entity(owner))
        return self._context.queue(tx, owner, name)

    async def delete(
        self, principal: Principal, entity: str | None, name: str, *, force: bool = False
    ) -> None:
        """Remove a queue; its items stay readable.

        Raises:
            ConflictError: live items and no `force`; with it queued ones are stopped at
                once and a stop is requested of the others.
        """
        if force:

            def find(tx: Tx) -> QueueRecord:
                owner = self._context.existing_entity(tx, principal, entity, Action.MANAGE_QUEUES)
                return self._context.queue(tx, owner, name)

            await self._stop_all(principal, find)
        await self._delete(principal, entity, name, force=force)

    async def delete_ids(self, principal: Principal, queue_ids: Sequence[str]) -> None:
        """W&B's `deleteRunQueues`; as `delete` with `force`."""
        for queue_id in queue_ids:
            await self._stop_all(
                principal,
                lambda tx, queue_id=queue_id: self._context.queue_by_id(  # type: ignore[misc]
                    tx, principal, queue_id, Action.MANAGE_QUEUES
                ),
            )
        await self._delete_ids(principal, queue_ids)

    async def _stop_all(self, principal: Principal, find: Callable[[Tx], QueueRecord]) -> None:
        """Stop what is live in a queue, in parts: each locks its items until it is committed.

        What cannot be found or is not allowed, the removal itself refuses.
        """
        with suppress(NotFoundError, PermissionDeniedError):
            while await self._stop_some(principal, find):
                pass

    @write
    def _stop_some(self, tx: Tx, principal: Principal, find: Callable[[Tx], QueueRecord]) -> bool:
        found = items.live_in(tx, find(tx).id, not_stopped=_PART)
        for row in found:
            request_stop(tx, row, principal.name)
        return bool(found)

    @audited("queue.delete", repeatable=True)
    def _delete(
        self, tx: Tx, principal: Principal, entity: str | None, name: str, *, force: bool
    ) -> None:
        owner = self._context.existing_entity(tx, principal, entity, Action.MANAGE_QUEUES)
        _remove(tx, self._context.queue(tx, owner, name), principal.name, force=force)

    @audited("queue.delete")
    def _delete_ids(self, tx: Tx, principal: Principal, queue_ids: Sequence[str]) -> None:
        for queue_id in queue_ids:
            found = self._context.queue_by_id(tx, principal, queue_id, Action.MANAGE_QUEUES)
            _remove(tx, found, principal.name, force=True)


def check_queue_name(name: str) -> str:
    """A name that pages, commands and W&B's clients can carry.

    Raises:
        InvalidInputError
    """
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"'{name}' cannot be the name of a queue.",
            hint="1 to 64 letters, digits, blanks, `.`, `_`, `-`; first a letter or digit.",
        )
    return name


def insert_queue(
    tx: Tx, entity: str, name: str, created_by: str, values: dict[str, Any] | None = None
) -> QueueRecord:
    """Make a queue; what `values` leaves out takes its default.

    Raises:
        AlreadyExistsError: the name is taken.
    """
    row = {
        "id": new_id(),
        "entity": entity,
        "name": name,
        "created_by": created_by,
        **_DEFAULTS,
        **(values or {}),
    }
    inserted = queues.insert(tx, row)
    made = queues.by_name(tx, entity, name)
    if not inserted or made is None:
        raise _name_taken(entity, name)
    tx.notify(topic_entity(entity))
    return made


def _name_taken(entity: str, name: str) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"There is a queue '{name}' in '{entity}' already.",
        hint=f"Take another name, or change that one: `launch queue update {name} -e {entity}`.",
    )


def queue_on_demand(
    tx: Tx, context: ServiceContext, principal: Principal, entity: str, name: str
) -> QueueRecord:
    """A queue by name; `default` is made when it does not exist.

    Raises:
        NotFoundError: any other name; near misses are offered.
    """
    if name == DEFAULT_QUEUE and queues.by_name(tx, entity, name) is None:
        return insert_queue(tx, entity, name, principal.name)
    return context.queue(tx, entity, name)


def unsaved_queue(entity: str, name: str) -> QueueRecord:
    """A queue with all defaults that is not stored, for dry runs."""
    return QueueRecord(
        id="",
        entity=entity,
        name=name,
        created_by="",
        external_links=None,
        resource_config_id=None,
        created_at=datetime.now(UTC),
        **_DEFAULTS,
    )


def _columns(
    resource: str | None,
    config: Json | None,
    template_variables: Any,
    prioritization: Prioritization | None,
    external_links: Json | None,
) -> dict[str, Any]:
    """The columns that were given, checked: schemas outside of transactions, they may take long."""
    given: dict[str, Any] = {}
    if resource is not None:
        given["resource"] = check_resource(resource)
    if config is not None:
        given["config"] = parse_config(config, resource)
    if template_variables is not None:
        given["template_variables"] = parse_variables(template_variables)
    if prioritization is not None:
        given["prioritization"] = prioritization
    if external_links is not None:
        given["external_links"] = external_links
    return given


def _saved(
    tx: Tx,
    context: ServiceContext,
    owner: str,
    name: str,
    values: dict[str, Any],
    mode: SaveMode,
) -> tuple[QueueRecord | None, QueueRecord]:
    """The queue as it is, if there is one, and as it will be with these columns.

    Raises: see `Queues.save`.
    """
    current = queues.by_name(tx, owner, name)
    if current is not None and mode == "CREATE":
        raise _name_taken(owner, name)
    if current is None and mode == "UPDATE":
        current = context.queue(tx, owner, name)
    base = current or unsaved_queue(owner, check_queue_name(name))
    saved = replace(base, **values, resource_config_id=None)
    if current is not None:
        parse_config(saved.config, saved.resource)
    problems = template_problems(saved.config, saved.template_variables)
    if problems:
        hint = "Declare what is used, and use what is declared."
        raise InvalidInputError(" ".join(problems), hint=hint)
    return current, saved


def _change(tx: Tx, found: QueueRecord, values: dict[str, Any]) -> None:
    # The default config that it was made with says no longer what the queue has.
    queues.change(tx, found.id, {**values, "resource_config_id": None})
    if values.get("prioritization") == "DISABLED":
        items.reset_priorities(tx, found.id, DEFAULT_PRIORITY)
    tx.notify(topic_entity(found.entity), topic_queue(found.id))


def _remove(tx: Tx, queue: QueueRecord, actor: str, *, force: bool) -> None:
    live = items.live_in(tx, queue.id)
    if live and not force:
        raise ConflictError(
            f"Queue '{queue.name}' has items that are not over: {len(live)}.",
            hint="Wait for them, stop them, or delete it with `--force`, which stops them.",
        )
    for row in live:
        request_stop(tx, row, actor)
    queues.remove(tx, queue.id)
    tx.notify(topic_entity(queue.entity), topic_queue(queue.id))
