"""W&B's dialect: pop, acknowledge, fail. An acknowledgement counts as the permit."""

from collections.abc import Sequence

from agent.control.services.policy import Principal
from agent.control.store.records import AgentRecord, PoppedItem
from agent.model.spec import Json


class WandbDialect:
    """What unmodified W&B agents call."""

    async def pop(
        self, principal: Principal, entity: str, queue: str, agent_id: str | None
    ) -> PoppedItem | None:
        """Lease the first item for `pop_lease` seconds; `None` when there is none."""
        raise NotImplementedError

    async def acknowledge(self, principal: Principal, item_id: str, run_name: str) -> bool:
        """Fix the run's name and permit the start; false when the lease is gone.

        The same run name twice is true twice.
        """
        raise NotImplementedError

    async def fail(
        self,
        principal: Principal,
        item_id: str,
        message: str,
        stage: str,
        file_paths: Sequence[str] | None = None,
    ) -> bool:
        """End an item as errored; `stage` is `agent`, `build` or `run`."""
        raise NotImplementedError

    async def warn(
        self,
        principal: Principal,
        item_id: str,
        message: str,
        stage: str,
        file_paths: Sequence[str] | None = None,
    ) -> bool:
        """Add a warning to an item that is held."""
        raise NotImplementedError

    async def create_agent(
        self,
        principal: Principal,
        entity: str,
        queue_ids: Sequence[str],
        hostname: str,
        *,
        config: Json | None = None,
        version: str | None = None,
    ) -> AgentRecord:
        """Make an agent with a name that is a legal run id.

        Raises:
            NotFoundError: entity or queue.
        """
        raise NotImplementedError

    async def update_agent(self, principal: Principal, agent_id: str, status: str | None) -> bool:
        """Heartbeat with a status; false for an unknown agent."""
        raise NotImplementedError

    async def poll(self, principal: Principal, agent_id: str) -> AgentRecord | None:
        """`launchAgent(id)`: also counts as a sign of life when an agent of W&B's asks."""
        raise NotImplementedError
