"""W&B's protocol for agents: pop, acknowledge, fail. An acknowledgement counts as the permit.

An acknowledgement names neither agent nor epoch, so it counts only while the pop's lease
lasts. Popped by A, lease expired, popped by B, then A's late acknowledgement arrives: B has a
new lease by then, and one of the two starts, never both.
"""

from collections.abc import Sequence
from typing import Any, Final

from agent.control.auth.policy import Action, Principal
from agent.control.services.agents import agent_record
from agent.control.services.claims import refuse_for_author
from agent.control.services.context import Service, require_serves, write
from agent.control.services.leases import add_warning, check_status, requeue_unstarted
from agent.control.services.notifications import topic_entity
from agent.control.services.submitted_keys import with_keys
from agent.control.services.transitions import end, move, notify_watchers
from agent.control.store import agents, claimable, items
from agent.control.store.agents import AgentProtocol, AgentRecord
from agent.control.store.ids import new_id, new_run_name
from agent.control.store.items import PoppedItem
from agent.control.store.tx import AnyRow, Tx
from agent.model.cause import Cause
from agent.model.errors import InvalidInputError
from agent.model.phase import HELD, MAY_RUN, Phase
from agent.model.spec import Json

_CAUSE_BY_STAGE: Final = {
    "agent": Cause.INTERNAL,
    "build": Cause.BUILD_FAILED,
    "run": Cause.START_FAILED,
}


class WandbProtocol(Service):
    """What unmodified W&B agents call."""

    @write
    def pop(
        self, tx: Tx, principal: Principal, entity: str, queue: str, agent_id: str | None
    ) -> PoppedItem | None:
        """Lease the first item for `pop_lease` seconds; `None` when there is none.

        Raises:
            NotFoundError: entity, queue or agent.
            PermissionDeniedError: the caller may not run agents there.
        """
        owner = self._context.existing_entity(tx, principal, entity, Action.RUN_AGENT)
        found = self._context.queue(tx, owner, queue)
        require_serves(principal, queue)
        agent = None if agent_id is None else self._context.agent(tx, principal, agent_id)
        if found.paused or (agent is not None and agent.stop is not None):
            return None
        row = self._first_allowed(tx, found.id)
        if row is None:
            return None
        name = None if agent is None else agent.name
        changes: dict[str, Any] = {
            "epoch": row.epoch + 1,
            "agent_id": agent_id,
            "agent_name": name,
            "protocol": AgentProtocol.WANDB.value,
            "lease_expires_at": tx.now + self._context.config.pop_lease,
        }
        move(tx, row, Phase.LEASED, actor=name, text="popped", changes=changes)
        return PoppedItem(row.id, with_keys(self._context.keys, row)["run_spec"])

    def _first_allowed(self, tx: Tx, queue_id: str) -> AnyRow | None:
        """The first queued item, locked, with its spec; those of authors without rights end."""
        while (item_id := claimable.lock_first(tx, queue_id)) is not None:
            row = items.with_specs(tx, item_id)
            if not refuse_for_author(tx, self._context, row):
                return row
        return None

    @write
    def acknowledge(self, tx: Tx, principal: Principal, item_id: str, run_name: str) -> bool:
        """Set the run's name and permit the start; false when the lease is lost.

        Repeating it with the same run name is true.
        """
        row = self._item(tx, principal, item_id)
        if row is None or row.protocol != AgentProtocol.WANDB:
            return False
        phase = Phase(row.phase)
        if phase in MAY_RUN:
            return bool(row.run_name == run_name)
        expired = row.lease_expires_at is not None and row.lease_expires_at < tx.now
        if phase is not Phase.LEASED or expired or row.stop_requested:
            return False
        # A pop that named no agent cannot be renewed by heartbeats, so it must not expire.
        expires_at = None if row.agent_id is None else tx.now + self._context.config.agent_timeout
        changes = {"run_name": run_name, "lease_expires_at": expires_at}
        move(
            tx, row, Phase.PERMITTED, through=Phase.PREPARING,
            actor=row.agent_name, text="acknowledged", changes=changes,
        )  # fmt: skip
        return True

    @write
    def fail(
        self,
        tx: Tx,
        principal: Principal,
        item_id: str,
        message: str,
        stage: str,
        file_paths: Sequence[str] | None = None,
    ) -> bool:
        """End a held item as errored; true again for one that ended so already.

        `stage` is `agent`, `build` or `run`.
        """
        row = self._item(tx, principal, item_id)
        if row is None:
            return False
        phase = Phase(row.phase)
        if phase is Phase.ERRORED:
            return True
        if row.protocol != AgentProtocol.WANDB or phase not in HELD:
            return False
        text = message or f"the agent reported a failure at stage {stage}"
        if row.stop_requested:
            end(tx, row, Phase.STOPPED, Cause.STOPPED_BY_USER, text, actor=row.agent_name)
            return True
        cause = _CAUSE_BY_STAGE.get(stage, Cause.INTERNAL)
        changes = {"facts": {**row.facts, "files": list(file_paths)}} if file_paths else {}
        end(tx, row, Phase.ERRORED, cause, text, actor=row.agent_name, changes=changes)
        return True

    @write
    def warn(
        self,
        tx: Tx,
        principal: Principal,
        item_id: str,
        message: str,
        stage: str,
        file_paths: Sequence[str] | None = None,
    ) -> bool:
        """Add a warning to an item that is held."""
        row = self._item(tx, principal, item_id)
        if row is None or Phase(row.phase) not in HELD:
            return False
        text = " ".join([f"{stage}: {message}", *(file_paths or ())])
        items.change(tx, row, {"warnings": add_warning(row, text), "updated_at": tx.now})
        notify_watchers(tx, row)
        return True

    @write
    def create_agent(
        self,
        tx: Tx,
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
        owner = self._context.existing_entity(tx, principal, entity, Action.RUN_AGENT)
        for queue_id in queue_ids:
            found = self._context.queue_by_id(tx, principal, queue_id, Action.RUN_AGENT)
            require_serves(principal, found.name)
        agent_id = new_id()
        values: dict[str, Any] = {
            "id": agent_id,
            "entity": owner,
            # W&B's agents use the name as the id of a run of their own.
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
        tx.notify(topic_entity(owner))
        return agent_record(tx, self._context, agent_id)

    @write
    def update_agent(self, tx: Tx, principal: Principal, agent_id: str, status: str | None) -> bool:
        """Heartbeat with a status; false for an unknown agent."""
        row = agents.row(tx, agent_id, lock=True)
        if row is None:
            return False
        self._context.agent(tx, principal, agent_id)
        self._heartbeat(tx, row, row.status if status is None else check_status(status))
        return True

    @write
    def poll(self, tx: Tx, principal: Principal, agent_id: str) -> AgentRecord | None:
        """`launchAgent(id)`; it counts as a heartbeat when a W&B agent asks for itself."""
        row = agents.row(tx, agent_id)
        if row is None or not self._context.policy.allows(principal, row.entity, Action.READ):
            return None
        if row.protocol == AgentProtocol.WANDB and row.key_id == principal.key_id:
            self._heartbeat(tx, row, row.status)
        return agent_record(tx, self._context, agent_id)

    def _heartbeat(self, tx: Tx, row: AnyRow, status: str) -> None:
        """Renew also what the agent has acknowledged: its heartbeats do not name items."""
        agents.heartbeat(tx, row.id, status)
        ids = items.permitted_to(tx, row.id)
        items.extend_leases(tx, ids, tx.now + self._context.config.agent_timeout)
        items.regain_contact(tx, ids)
        if status == "KILLED":
            requeue_unstarted(tx, row)
        if row.status != status:
            tx.notify(topic_entity(row.entity))

    def _item(self, tx: Tx, principal: Principal, item_id: str) -> AnyRow | None:
        """An item, locked, whose queue the caller may serve; `None` when absent or hidden."""
        row = items.row(tx, item_id, lock=True)
        if row is None or not self._context.policy.allows(principal, row.entity, Action.READ):
            return None
        self._context.policy.require(principal, row.entity, Action.RUN_AGENT)
        require_serves(principal, row.queue)
        return row
