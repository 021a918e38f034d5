"""Agents: sessions, liveness, being asked to leave, and hearing so at once."""

from time import monotonic
from typing import Final

from agent.control.auth.policy import Action, Principal
from agent.control.services.commands import mark
from agent.control.services.context import Context, no_such_agent
from agent.control.services.notifications import topic_agent, topic_entity
from agent.control.services.registering import register
from agent.control.store import agents
from agent.control.store.records import AgentRecord, RegisteredAgent, Registration, StopMode
from agent.control.store.tx import AnyRow, Tx

_LONGEST_WAIT: Final = 30.0


class Agents:
    """Agents of an entity."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def register(self, principal: Principal, registration: Registration) -> RegisteredAgent:
        """Announce a process.

        The same identity supersedes its older session and gets what it held back, under a
        fresh epoch; an agent on the same backend also gets what a lost or departed one may
        have running.

        Raises:
            NotFoundError: the entity or a queue; near misses are offered. `default` is made
                on demand.
            ConflictError: another live installation uses the name; says where and since.
            PermissionDeniedError: the key may not serve a queue.
            InvalidInputError: no queue, a malformed name, no resource.
        """
        return await self._context.database.write(
            lambda tx: register(tx, self._context, principal, registration)
        )

    async def get(self, principal: Principal, agent_id: str) -> AgentRecord | None:
        """One agent; `None` when absent or hidden."""

        def work(tx: Tx) -> AgentRecord | None:
            row = agents.row(tx, agent_id)
            return self._record(tx, row) if row and self._visible(principal, row) else None

        return await self._context.database.read(work)

    async def list(
        self, principal: Principal, entity: str | None = None, *, queue_id: str | None = None
    ) -> tuple[AgentRecord, ...]:
        """Agents, newest heartbeat first.

        Raises:
            NotFoundError: the entity.
        """

        def work(tx: Tx) -> tuple[AgentRecord, ...]:
            place = self._context.existing(tx, principal, entity, Action.READ)
            rows = agents.of_entity(tx, place, queue_id)
            return agents.records(tx, rows, self._context.config.agent_timeout)

        return await self._context.database.read(work)

    async def stop(self, principal: Principal, agent_id: str, mode: StopMode) -> AgentRecord:
        """Ask an agent to leave; it hears so by `commands`, else with its next heartbeat.

        Raises:
            NotFoundError: absent or hidden.
        """

        def work(tx: Tx) -> AgentRecord:
            row = agents.row(tx, agent_id, lock=True)
            if row is None or not self._visible(principal, row):
                raise no_such_agent(agent_id)
            self._context.policy.require(principal, row.entity, Action.MANAGE_AGENTS)
            agents.change(tx, agent_id, {"stop": mode})
            tx.notify(topic_agent(agent_id), topic_entity(row.entity))
            return self._record(tx, agents.require(tx, agent_id))

        return await self._context.database.write(work)

    async def commands(
        self,
        principal: Principal,
        agent_id: str,
        session: str,
        seen: str | None,
        *,
        wait_seconds: float = 0.0,
    ) -> str:
        """A mark of what a renewal would tell this session to do now.

        Waits up to `wait_seconds` (≤ 30) for one that is not `seen`. Nobody looks without
        having been woken: behind a notice that was lost there is the heartbeat.

        Raises:
            NotFoundError: the agent.
        """
        deadline = monotonic() + min(wait_seconds, _LONGEST_WAIT)

        def look(tx: Tx) -> str:
            return mark(tx, self._context.agent(tx, principal, agent_id), session)

        with self._context.notifications.subscribe([topic_agent(agent_id)]) as subscription:
            while (now := await self._context.database.read(look)) == seen:
                if (left := deadline - monotonic()) <= 0:
                    break
                await subscription.wait(left)
        return now

    def _visible(self, principal: Principal, row: AnyRow) -> bool:
        return self._context.policy.allows(principal, row.entity, Action.READ)

    def _record(self, tx: Tx, row: AnyRow) -> AgentRecord:
        return agents.records(tx, [row], self._context.config.agent_timeout)[0]
