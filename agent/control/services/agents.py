"""Agents: sessions, liveness, and being asked to leave."""

from agent.control.services.policy import Principal
from agent.control.store.records import AgentRecord, Registration, StopMode, Welcome


class Agents:
    """Agents of an entity."""

    async def register(self, principal: Principal, registration: Registration) -> Welcome:
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
        raise NotImplementedError

    async def get(self, principal: Principal, agent_id: str) -> AgentRecord | None:
        """One agent; `None` when absent or hidden."""
        raise NotImplementedError

    async def list(
        self, principal: Principal, entity: str | None = None, *, queue_id: str | None = None
    ) -> tuple[AgentRecord, ...]:
        """Agents, newest heartbeat first.

        Raises:
            NotFoundError: the entity.
        """
        raise NotImplementedError

    async def stop(self, principal: Principal, agent_id: str, mode: StopMode) -> AgentRecord:
        """Ask an agent to leave; it learns with its next heartbeat.

        Raises:
            NotFoundError: absent or hidden.
        """
        raise NotImplementedError
