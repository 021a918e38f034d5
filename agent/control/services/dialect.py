"""W&B's protocol: pop, acknowledge, fail. An acknowledgement counts as the permit."""

from collections.abc import Sequence
from typing import Any

from agent.control.auth.policy import Action, Principal
from agent.control.services.context import Context, serves
from agent.control.services.notifications import topic_entity
from agent.control.services.popping import acknowledge, alive, fail, pop, warn
from agent.control.services.renewing import check_status, hand_back
from agent.control.store import agents, items
from agent.control.store.ids import new_id, new_run_name
from agent.control.store.records import AgentProtocol, AgentRecord, PoppedItem
from agent.control.store.tx import AnyRow, Tx
from agent.model.errors import InvalidInputError
from agent.model.spec import Json


class WandbDialect:
    """What unmodified W&B agents call."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def pop(
        self, principal: Principal, entity: str, queue: str, agent_id: str | None
    ) -> PoppedItem | None:
        """Lease the first item for `pop_lease` seconds; `None` when there is none.

        Raises:
            NotFoundError: entity, queue or agent.
            PermissionDeniedError: the caller may not run agents there.
        """

        def work(tx: Tx) -> PoppedItem | None:
            place = self._context.existing(tx, principal, entity, Action.RUN_AGENT)
            found = self._context.queue(tx, place, queue)
            serves(principal, queue)
            agent = None if agent_id is None else self._context.agent(tx, principal, agent_id)
            if found.paused or (agent is not None and agent.stop is not None):
                return None
            return pop(tx, self._context, found.id, agent)

        return await self._context.database.write(work)

    async def acknowledge(self, principal: Principal, item_id: str, run_name: str) -> bool:
        """Fix the run's name and permit the start; false when the lease is gone.

        The same run name twice is true twice.
        """

        def work(tx: Tx) -> bool:
            row = self._item(tx, principal, item_id)
            return row is not None and acknowledge(tx, self._context, row, run_name)

        return await self._context.database.write(work)

    async def fail(
        self,
        principal: Principal,
        item_id: str,
        message: str,
        stage: str,
        file_paths: Sequence[str] | None = None,
    ) -> bool:
        """End an item as errored; `stage` is `agent`, `build` or `run`."""

        def work(tx: Tx) -> bool:
            row = self._item(tx, principal, item_id)
            return row is not None and fail(tx, row, message, stage, list(file_paths or ()))

        return await self._context.database.write(work)

    async def warn(
        self,
        principal: Principal,
        item_id: str,
        message: str,
        stage: str,
        file_paths: Sequence[str] | None = None,
    ) -> bool:
        """Add a warning to an item that is held."""
        text = " ".join([f"{stage}: {message}", *(file_paths or ())])

        def work(tx: Tx) -> bool:
            row = self._item(tx, principal, item_id)
            return row is not None and warn(tx, row, text)

        return await self._context.database.write(work)

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
            InvalidInputError: no queue.
        """
        if not queue_ids:
            raise InvalidInputError("The agent serves no queue.", hint="Name at least one.")

        def work(tx: Tx) -> AgentRecord:
            place = self._context.existing(tx, principal, entity, Action.RUN_AGENT)
            for queue_id in queue_ids:
                found = self._context.queue_by_id(tx, principal, queue_id, Action.RUN_AGENT)
                serves(principal, found.name)
            agent_id = new_id()
            values: dict[str, Any] = {
                "id": agent_id,
                "entity": place,
                # Stock agents use the name as the id of a run of their own.
                "name": f"agent-{new_run_name()}",
                "hostname": hostname,
                "version": version,
                "protocol": AgentProtocol.WANDB.value,
                "key_id": principal.key_id,
                "resources": [],
                "config": config or {},
                "status": "POLLING",
            }
            agents.insert(tx, values)
            agents.serve(tx, agent_id, queue_ids)
            tx.notify(topic_entity(place))
            return self._record(tx, agent_id)

        return await self._context.database.write(work)

    async def update_agent(self, principal: Principal, agent_id: str, status: str | None) -> bool:
        """Heartbeat with a status; false for an unknown agent."""

        def work(tx: Tx) -> bool:
            row = agents.row(tx, agent_id, lock=True)
            if row is None:
                return False
            self._context.agent(tx, principal, agent_id)
            self._heard(tx, row, row.status if status is None else check_status(status))
            return True

        return await self._context.database.write(work)

    async def poll(self, principal: Principal, agent_id: str) -> AgentRecord | None:
        """`launchAgent(id)`: also counts as a sign of life when an agent of W&B's asks."""

        def work(tx: Tx) -> AgentRecord | None:
            row = agents.row(tx, agent_id)
            if row is None or not self._context.policy.allows(principal, row.entity, Action.READ):
                return None
            if row.protocol == AgentProtocol.WANDB and row.key_id == principal.key_id:
                self._heard(tx, row, row.status)
            return self._record(tx, agent_id)

        return await self._context.database.write(work)

    def _heard(self, tx: Tx, row: AnyRow, status: str) -> None:
        agents.beat(tx, row.id, status)
        alive(tx, self._context, row.id)
        if status == "KILLED":
            hand_back(tx, row)
        if row.status != status:
            tx.notify(topic_entity(row.entity))

    def _item(self, tx: Tx, principal: Principal, item_id: str) -> AnyRow | None:
        """An item, locked, whose queue the caller may serve; `None` when absent or hidden."""
        row = items.row(tx, item_id, lock=True)
        if row is None or not self._context.policy.allows(principal, row.entity, Action.READ):
            return None
        self._context.policy.require(principal, row.entity, Action.RUN_AGENT)
        serves(principal, row.queue)
        return row

    def _record(self, tx: Tx, agent_id: str) -> AgentRecord:
        rows = [agents.require(tx, agent_id)]
        return agents.records(tx, rows, self._context.config.agent_timeout)[0]
