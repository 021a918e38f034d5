"""What services share: their base class, transactions, look-ups and access checks."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from agent.config.control import ControlConfig
from agent.control.auth import principals
from agent.control.auth.policy import Action, CredentialKind, Policy, Principal, no_such_entity
from agent.control.auth.signing import SigningKeys
from agent.control.services.notifications import Notifications
from agent.control.services.schema_checks import Checker
from agent.control.store import accounts, agents, items, queues
from agent.control.store.items import ItemRecord
from agent.control.store.queues import QueueRecord
from agent.control.store.tx import AnyRow, Database, Turn, Tx
from agent.model.errors import (
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
)
from agent.model.names import did_you_mean

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="Service")

_NO_QUEUE = (
    "There is no queue yet: `launch queue create NAME --resource local-container -e {entity}` "
    "makes one, and `default` is made on demand."
)


@dataclass(frozen=True, slots=True)
class ServiceContext:
    """What all services share: store, notifications, rules and settings."""

    database: Database
    notifications: Notifications
    policy: Policy
    config: ControlConfig
    control_plane_id: str
    keys: SigningKeys = field(repr=False)
    checker: Checker = field(default_factory=Checker)

    def entity_of(self, principal: Principal, name: str | None, action: Action) -> str:
        """The named or default entity, if the caller may do this there.

        Raises:
            NotFoundError, PermissionDeniedError
        """
        entity = name or principal.default_entity
        self.policy.require(principal, entity, action)
        return entity

    def require_still_allowed(
        self, tx: Tx, principal: Principal, entity: str, action: Action
    ) -> None:
        """Check key and role again, for calls that wait: both may have been taken away since.

        Raises:
            AuthenticationError, NotFoundError, PermissionDeniedError
        """
        found = principals.by_key(tx, accounts.key_by_id(tx, principal.key_id))
        if found is None:
            raise AuthenticationError(f"The key of {principal.name} was revoked.")
        self.policy.require(found, entity, action)

    def author_refusal(self, tx: Tx, item: AnyRow) -> str | None:
        """Why an item may not run now for lack of its author's rights; `None` where it may.

        `item` has `run_spec`. Rights may have changed since it was submitted, and the run gets
        a token that reads and writes for the author.
        """
        user = principals.by_user(tx, item.author_id)
        if user is None:
            return f"{item.author}, who submitted it, is no user of this server any more."
        if not self.policy.allows(user, item.entity, Action.SUBMIT):
            return f"{user.name}, who submitted it, may no longer submit items in '{item.entity}'."
        if not self.policy.allows(user, item.run_entity, Action.WRITE_RUNS):
            return f"{user.name}, who submitted it, may no longer write to '{item.run_entity}'."
        for entity in principals.source_entities(tx, item.run_spec, item.run_entity):
            if not self.policy.allows(user, entity, Action.READ_PROJECT):
                return f"{user.name}, who submitted it, may no longer read its job in '{entity}'."
        return None

    def existing_entity(
        self, tx: Tx, principal: Principal, name: str | None, action: Action
    ) -> str:
        """As `entity_of`, for an entity that must exist.

        An administrator passes the check of access for any name.
        """
        entity = self.entity_of(principal, name, action)
        if principal.admin and accounts.entity(tx, entity) is None:
            raise no_such_entity(entity)
        return entity

    def queue(self, tx: Tx, entity: str, name: str) -> QueueRecord:
        """A queue by name.

        Raises:
            NotFoundError: offers near misses.
        """
        found = queues.by_name(tx, entity, name)
        if found is None:
            known = queues.names(tx, entity)
            hint = did_you_mean(name, known, "queue") if known else _NO_QUEUE.format(entity=entity)
            raise NotFoundError(f"There is no queue '{name}' in '{entity}'.", hint=hint)
        return found

    def queue_by_id(
        self, tx: Tx, principal: Principal, queue_id: str, action: Action
    ) -> QueueRecord:
        """A queue by id, if the caller may do this in its entity."""
        found = queues.by_id(tx, queue_id)
        if found is None or not self.policy.allows(principal, found.entity, Action.READ):
            raise NotFoundError(f"There is no queue with the id '{queue_id}'.")
        self.policy.require(principal, found.entity, action)
        return found

    def item(self, tx: Tx, principal: Principal, item_id: str) -> ItemRecord:
        """An item the caller may read.

        Raises:
            NotFoundError
        """
        found = items.record(tx, item_id)
        if found is None or not self.policy.allows(principal, found.entity, Action.READ):
            raise no_such_item(item_id)
        return found

    def item_to_change(self, tx: Tx, principal: Principal, item_id: str) -> AnyRow:
        """An item, locked, that the caller may change: an own one, or as administrator.

        Raises:
            NotFoundError, PermissionDeniedError
        """
        found = items.row(tx, item_id, lock=True)
        if found is None or not self.policy.allows(principal, found.entity, Action.READ):
            raise no_such_item(item_id)
        self.require_may_change(principal, found)
        return found

    def require_may_change(self, principal: Principal, item: AnyRow) -> None:
        """Check that an item is the caller's own, or that it administers the entity.

        Raises:
            NotFoundError, PermissionDeniedError
        """
        own = item.author_id is not None and item.author_id == principal.user_id
        action = Action.CONTROL_OWN if own else Action.CONTROL_ANY
        self.policy.require(principal, item.entity, action)

    def agent(self, tx: Tx, principal: Principal, agent_id: str, *, lock: bool = False) -> AnyRow:
        """An agent's row, if the caller may act for it.

        An agent key acts only for agents that registered with it.

        Raises:
            NotFoundError, PermissionDeniedError
        """
        return self._checked_agent(principal, agent_id, agents.row(tx, agent_id, lock=lock))

    def require_agent(self, tx: Tx, principal: Principal, agent_id: str) -> None:
        """As `agent`, where the row itself is not needed: this reads four columns of it."""
        self._checked_agent(principal, agent_id, agents.owner(tx, agent_id))

    def _checked_agent(self, principal: Principal, agent_id: str, found: AnyRow | None) -> AnyRow:
        if found is None or not self.policy.allows(principal, found.entity, Action.READ):
            raise no_such_agent(agent_id)
        self.policy.require(principal, found.entity, Action.RUN_AGENT)
        if principal.kind is CredentialKind.AGENT and found.key_id != principal.key_id:
            raise PermissionDeniedError(
                f"Agent '{found.name}' registered with another key.",
                hint="Register again, or use the key it was registered with.",
            )
        return found


class Service:
    """Base of the services; `read`, `write` and `audit.audited` make a method a transaction.

    Most public methods are transactions. The others are `async` and call private transactions,
    for example after checks that would hold one up.

    A decorated method is written as a plain function with the transaction as its first
    parameter, `def get(self, tx, principal, item_id)`, and called without it:
    `await items.get(principal, item_id)`. It cannot await anything, and may run again after a
    deadlock, so it changes nothing but the store. What several methods share is a plain
    function or method with a `Tx`.
    """

    def __init__(self, context: ServiceContext) -> None:
        self._context = context


def read(
    method: Callable[Concatenate[S, Tx, P], T],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Run a service method in a transaction that changes nothing; see `Service`."""

    @wraps(method)
    async def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        database = self._context.database
        return await database.read(lambda tx: method(self, tx, *args, **kwargs))

    return run


def write(
    method: Callable[Concatenate[S, Tx, P], T],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Run a service method in a transaction, commit, then notify; see `Service`."""
    return _write_in(Turn.ALONE, method)


def urgent_write(
    method: Callable[Concatenate[S, Tx, P], T],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """As `write`, in the turn `URGENT`."""
    return _write_in(Turn.URGENT, method)


def shared_write(
    method: Callable[Concatenate[S, Tx, P], T],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """As `write`, in the turn `SHARED`."""
    return _write_in(Turn.SHARED, method)


def _write_in(
    turn: Turn, method: Callable[Concatenate[S, Tx, P], T]
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    @wraps(method)
    async def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        database = self._context.database
        return await database.write(lambda tx: method(self, tx, *args, **kwargs), turn)

    return run


def require_serves(principal: Principal, queue: str) -> None:
    """Check that an agent key is bound to this queue.

    Raises:
        PermissionDeniedError
    """
    if principal.queues is not None and queue not in principal.queues:
        bound = ", ".join(principal.queues)
        raise PermissionDeniedError(
            f"This agent key does not serve the queue '{queue}'.", hint=f"It serves: {bound}."
        )


def no_such_item(item_id: str) -> NotFoundError:
    """The same error for an item that is absent and one that is hidden."""
    return NotFoundError(
        f"There is no item '{item_id}', or this key may not read it.",
        hint="`launch item list` shows the newest.",
    )


def no_such_agent(agent_id: str) -> NotFoundError:
    """The same error for an agent that is absent and one that is hidden."""
    return NotFoundError(
        f"There is no agent '{agent_id}', or this key may not read it.",
        hint="`launch agent list` shows them.",
    )
