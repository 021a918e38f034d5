"""Agents: registration, adoption, and commands to them."""

import hashlib
import json
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any, Final

from agent.control.auth.policy import Action, Principal
from agent.control.services.audit import audited
from agent.control.services.context import (
    Service,
    ServiceContext,
    no_such_agent,
    read,
    require_serves,
    write,
)
from agent.control.services.leases import adopt
from agent.control.services.notifications import topic_agent, topic_entity
from agent.control.services.queues import queue_on_demand
from agent.control.services.transitions import quarantine_or_count_loss
from agent.control.store import accounts, agents, items, queues
from agent.control.store.agents import AgentProtocol, AgentRecord, StopMode
from agent.control.store.ids import new_id
from agent.control.store.items import ClaimRecord
from agent.control.store.tables import to_datetime
from agent.control.store.tx import AnyRow, Tx
from agent.model.errors import ConflictError, InvalidInputError, PermissionDeniedError
from agent.model.phase import MAY_RUN, UNSTARTED_HELD, Phase
from agent.model.protocol import AgentRegistration

_MAX_WAIT_SECONDS: Final = 30.0
_MAX_NAME_CHARS: Final = 128
_MAX_ID_CHARS: Final = 512


@dataclass(frozen=True, slots=True)
class AgentWithItems:
    """An agent that registered, with the items it holds."""

    agent: AgentRecord
    held: tuple[ClaimRecord, ...]


class Agents(Service):
    """Agents of an entity."""

    @write
    def register(
        self, tx: Tx, principal: Principal, registration: AgentRegistration
    ) -> AgentWithItems:
        """Register a process.

        It supersedes the older session of the same identity and gets the items which that one
        held, under a new epoch; an agent on the same backend also gets those that a lost or
        stopped agent may have running.

        Raises:
            NotFoundError: the entity or a queue; near misses are offered. `default` is made
                on demand.
            ConflictError: another live installation uses the name; says where and since.
            PermissionDeniedError: the key may not serve a queue.
            InvalidInputError: no queue, a malformed name, no resource.
        """
        _check_registration(registration)
        entity = self._context.existing_entity(tx, principal, registration.entity, Action.RUN_AGENT)
        # Locked, so that two registrations cannot take one name.
        accounts.entity(tx, entity, lock=True)
        self._refuse_rival(tx, entity, registration)
        for name in registration.queues:
            require_serves(principal, name)
        served = [
            queue_on_demand(tx, self._context, principal, entity, name).id
            for name in registration.queues
        ]
        for queue_id in served:
            queues.fill_resource(tx, queue_id, registration.resources[0])
        known = agents.by_identity(tx, entity, registration.identity)
        agent = _store(tx, principal, entity, registration, known)
        agents.serve(tx, agent.id, served)
        # A repetition by the same process does not mean that it died.
        restarted = known is not None and known.session != registration.session
        died = restarted and not registration.after_shutdown
        held = self._adopt(tx, principal, agent, died=died)
        tx.notify(topic_entity(entity), topic_agent(agent.id))
        return AgentWithItems(agent_record(tx, self._context, agent.id), held)

    def _refuse_rival(self, tx: Tx, entity: str, registration: AgentRegistration) -> None:
        """A name belongs to one live installation."""
        live_since = tx.now - self._context.config.agent_timeout
        name = registration.name
        for rival in agents.same_name(tx, entity, name, registration.identity):
            if rival.status == "KILLED" or agents.is_lost(rival, live_since):
                continue
            heartbeat = f"{to_datetime(rival.heartbeat_at):%Y-%m-%d %H:%M:%S} UTC"
            raise ConflictError(
                f"Another agent called '{name}' is alive, on {rival.hostname}; "
                f"its last heartbeat came at {heartbeat}.",
                hint="Give this one another name (`--name`), or stop that one.",
            )

    def _adopt(
        self, tx: Tx, principal: Principal, agent: AnyRow, *, died: bool
    ) -> tuple[ClaimRecord, ...]:
        """What this installation held, and what others of its backend left running.

        A process that shuts down releases what it has not started. So if one `died` that held an
        item before its start, that counts as a lost lease, as if it had expired.

        Identity and backend are the caller's claims: a key gets nothing by them from queues
        that it is not bound to.
        """
        adopted: list[ClaimRecord] = []
        for row in _adoptable(tx, principal, agent.id):
            losses = row.lease_losses
            if died and Phase(row.phase) in UNSTARTED_HELD:
                losses = quarantine_or_count_loss(tx, row)
            if losses is not None:
                text = f"adopted by a new session of {agent.name}"
                adopted.append(adopt(tx, self._context, row, agent, text, losses))
        return (*adopted, *self._adopt_of_others(tx, principal, agent))

    @write
    def adopt(
        self, tx: Tx, principal: Principal, agent_id: str, session: str
    ) -> tuple[ClaimRecord, ...]:
        """Started items that others of the agent's backend left, lost or in order.

        Also those that an earlier call gave to it and whose answer was lost: their leases have
        expired, although their agent is alive. Nothing for a superseded session.

        Raises:
            NotFoundError: the agent.
        """
        agent = self._context.agent(tx, principal, agent_id, lock=True)
        if agent.session != session:
            return ()
        text = f"adopted again by {agent.name}, which had not learned of it"
        again = [
            adopt(tx, self._context, row, agent, text, row.lease_losses)
            for row in _adoptable(tx, principal, agent.id)
            if Phase(row.phase) in MAY_RUN and (row.lease_expires_at or tx.now) < tx.now
        ]
        return (*again, *self._adopt_of_others(tx, principal, agent))

    def _adopt_of_others(
        self, tx: Tx, principal: Principal, agent: AnyRow
    ) -> tuple[ClaimRecord, ...]:
        if agent.backend_id is None:
            return ()
        adopted: list[ClaimRecord] = []
        live_since = tx.now - self._context.config.agent_timeout
        for other in agents.on_backend(tx, agent.entity, agent.backend_id, agent.id):
            if other.status != "KILLED" and not agents.is_lost(other, live_since):
                continue
            text = f"adopted from {other.name}, which used the same backend"
            adopted += [
                adopt(tx, self._context, row, agent, text, row.lease_losses)
                for row in _adoptable(tx, principal, other.id)
                if Phase(row.phase) in MAY_RUN
            ]
        return tuple(adopted)

    @read
    def get(self, tx: Tx, principal: Principal, agent_id: str) -> AgentRecord | None:
        """One agent; `None` when absent or hidden."""
        row = agents.row(tx, agent_id)
        if row is None or not self._context.policy.allows(principal, row.entity, Action.READ):
            return None
        return agent_record(tx, self._context, agent_id)

    @read
    def list(
        self,
        tx: Tx,
        principal: Principal,
        entity: str | None = None,
        *,
        queue_id: str | None = None,
    ) -> tuple[AgentRecord, ...]:
        """Agents, newest heartbeat first.

        Raises:
            NotFoundError: the entity.
        """
        owner = self._context.existing_entity(tx, principal, entity, Action.READ)
        rows = agents.of_entity(tx, owner, queue_id)
        return agents.records(tx, rows, self._context.config.agent_timeout)

    @audited("agent.stop")
    def stop(self, tx: Tx, principal: Principal, agent_id: str, mode: StopMode) -> AgentRecord:
        """Ask an agent to shut down; it learns so by `commands`, else by its next heartbeat.

        Raises:
            NotFoundError: absent or hidden.
        """
        row = agents.row(tx, agent_id, lock=True)
        if row is None or not self._context.policy.allows(principal, row.entity, Action.READ):
            raise no_such_agent(agent_id)
        self._context.policy.require(principal, row.entity, Action.MANAGE_AGENTS)
        agents.change(tx, agent_id, {"stop": mode})
        tx.notify(topic_agent(agent_id), topic_entity(row.entity))
        return agent_record(tx, self._context, agent_id)

    async def commands(
        self,
        principal: Principal,
        agent_id: str,
        session: str,
        seen: str | None,
        *,
        wait_seconds: float = 0.0,
    ) -> str:
        """A digest of what a heartbeat's reply would tell this session to do now.

        Waits up to `wait_seconds` (≤ 30) for one that is not `seen`. The store is read only
        after a notification: where one was lost, the next heartbeat makes up for it.

        Raises:
            NotFoundError: the agent.
        """
        deadline = monotonic() + min(wait_seconds, _MAX_WAIT_SECONDS)
        with self._context.notifications.subscribe([topic_agent(agent_id)]) as subscription:
            while (digest := await self._digest(principal, agent_id, session)) == seen:
                if (left := deadline - monotonic()) <= 0:
                    break
                await subscription.wait(left)
        return digest

    @read
    def _digest(self, tx: Tx, principal: Principal, agent_id: str, session: str) -> str:
        """Made of what is stored: it needs no column, and no replica can miss a change."""
        agent = self._context.agent(tx, principal, agent_id)
        self._context.require_still_allowed(tx, principal, agent.entity, Action.RUN_AGENT)
        stops = [[row.id, row.attempt] for row in items.to_stop(tx, agent.id)]
        commands = json.dumps([agent.session == session, agent.stop, stops])
        return hashlib.sha256(commands.encode()).hexdigest()[:24]


def agent_record(tx: Tx, context: ServiceContext, agent_id: str) -> AgentRecord:
    """An agent that exists."""
    rows = [agents.require(tx, agent_id)]
    return agents.records(tx, rows, context.config.agent_timeout)[0]


def _check_registration(registration: AgentRegistration) -> None:
    if not 0 < len(registration.name) <= _MAX_NAME_CHARS:
        raise InvalidInputError(f"'{registration.name}' cannot be the name of an agent.")
    if not registration.identity or not registration.session:
        raise InvalidInputError("An agent needs an identity and a session.")
    ids = (registration.identity, registration.session, registration.backend_id or "")
    if any(len(each) > _MAX_ID_CHARS for each in ids):
        raise InvalidInputError(
            f"Identity, session and backend of an agent have at most {_MAX_ID_CHARS} characters."
        )
    if not registration.queues:
        raise InvalidInputError(
            "The agent serves no queue.", hint="Name one: `launch-agent --queue default`."
        )
    if not registration.resources:
        raise InvalidInputError(
            f"Agent '{registration.name}' offers no runner.",
            hint="Start a container engine, or enable `runners.local-process`.",
        )


def _store(
    tx: Tx,
    principal: Principal,
    entity: str,
    registration: AgentRegistration,
    known: AnyRow | None,
) -> AnyRow:
    """The agent's row, under the new session; `known` is that of its last one."""
    values: dict[str, Any] = {
        "name": registration.name,
        "hostname": registration.hostname,
        "version": registration.version or None,
        "session": registration.session,
        "backend_id": registration.backend_id,
        "key_id": principal.key_id,
        "resources": list(registration.resources),
        "capacity": asdict(registration.capacity),
        "config": registration.config,
        "status": "POLLING",
        "conditions": None,
    }
    if known is not None:
        _check_owner(tx, principal, known)
    if known is None:
        agent_id = new_id()
        fixed = {"id": agent_id, "entity": entity, "identity": registration.identity}
        agents.insert(tx, {**values, **fixed, "protocol": AgentProtocol.LAUNCH.value})
    else:
        agent_id = known.id
        # A repetition by the same process must not undo a request to shut down.
        stop = known.stop if known.session == registration.session else None
        agents.change(tx, agent_id, {**values, "stop": stop, "heartbeat_at": tx.now})
    return agents.require(tx, agent_id)


def _check_owner(tx: Tx, principal: Principal, known: AnyRow) -> None:
    """Knowing an agent's identity is not enough to take over its row and what it has running.

    Allowed are its own key, keys of the same user, and any key once its own is no longer valid.

    Raises:
        PermissionDeniedError
    """
    owner = accounts.key_by_id(tx, known.key_id)
    same_user = owner is not None and owner.user_id and owner.user_id == principal.user_id
    if owner is None or owner.id == principal.key_id or same_user or principal.admin:
        return
    raise PermissionDeniedError(
        f"Agent '{known.name}' registered with another key, which is still valid.",
        hint="Use that key, or revoke it first: `launch key revoke ID`.",
    )


def _adoptable(tx: Tx, principal: Principal, agent_id: str) -> list[AnyRow]:
    rows = items.held_by(tx, agent_id, lock=True)
    return [row for row in rows if principal.queues is None or row.queue in principal.queues]
