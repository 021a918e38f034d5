"""Leases: how our agents claim items, renew leases, and report on items.

Every write names item, attempt and epoch, and the agent that holds them; it counts only if all
four match a held item. Otherwise the answer is `LeaseStatus.FENCED`, never an exception.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from agent.control.auth.policy import Principal
from agent.control.services.claims import claim_record
from agent.control.services.context import Service, ServiceContext, urgent_write
from agent.control.services.notifications import topic_entity
from agent.control.services.transitions import add_event, end, move, notify_watchers, requeue
from agent.control.services.waiting_claims import WaitingClaims
from agent.control.store import agents, history, items
from agent.control.store.agents import AgentProtocol
from agent.control.store.items import ClaimRecord
from agent.control.store.tx import AnyRow, Tx
from agent.model.cause import Cause
from agent.model.errors import ConflictError, InvalidInputError
from agent.model.phase import HELD, MAY_RUN, TERMINAL, UNSTARTED_HELD, Phase
from agent.model.protocol import MAX_CLAIMED, ClaimRequest, Heartbeat, HeartbeatReply, LeaseStatus
from agent.model.spec import Json
from agent.model.work import Lease

STATUSES: Final = ("POLLING", "RUNNING", "DRAINING", "KILLED")
#: In these an agent takes over what others left.
_ADOPTING: Final = {"POLLING", "RUNNING"}

_MAX_FACTS: Final = 64 * 1024
_MAX_TEXT: Final = 4_000
_MAX_ACTIVITY: Final = 200
_MAX_WARNINGS: Final = 100
#: For which a released item may be kept from being claimed again.
_MAX_DELAY_SECONDS: Final = 300.0


class Leases(Service):
    """What our own agents call; see `agent.ports.queue` for the life cycle."""

    def __init__(self, context: ServiceContext) -> None:
        super().__init__(context)
        self._waiting = WaitingClaims(context)

    async def claim(self, principal: Principal, request: ClaimRequest) -> tuple[ClaimRecord, ...]:
        """Lease what fits, by priority and age; wait for it up to `wait_seconds` (≤ 30).

        A repeated request id returns the same claims while they are held. An agent that
        was told to shut down and paused queues get nothing.

        Raises:
            NotFoundError: the agent, or all queues that it names.
            FencedError: a newer session of the agent registered.
            AuthenticationError: the key was revoked while the claim waited.
        """
        if not 1 <= request.max_items <= MAX_CLAIMED:
            message = f"A claim asks for 1 to {MAX_CLAIMED} items, not {request.max_items}."
            raise InvalidInputError(message)
        return await self._waiting.claim(principal, request)

    @urgent_write
    def renew(self, tx: Tx, principal: Principal, heartbeat: Heartbeat) -> HeartbeatReply:
        """Heartbeat and batch renewal; status KILLED means that the agent disconnects.

        A superseded session only learns about its leases, which are fenced by their epochs:
        its heartbeat must not keep the new session's agent alive.

        Raises:
            NotFoundError: the agent.
            InvalidInputError: the status.
        """
        status = check_status(heartbeat.status)
        agent = self._context.agent(tx, principal, heartbeat.agent_id, lock=True)
        current = agent.session == heartbeat.session
        statuses = self._extend(tx, agent, heartbeat.leases)
        if current and agent.status == "KILLED":
            # A session does not come back: this heartbeat was overtaken by the last one.
            return HeartbeatReply(statuses, current, agent.stop)
        if current:
            reported = heartbeat.conditions if status != "KILLED" else ()
            conditions = agents.stored_conditions(reported)
            agents.heartbeat(tx, agent.id, status, conditions)
            if (agent.status, agent.conditions) != (status, conditions):
                tx.notify(topic_entity(agent.entity))
            if status == "KILLED":
                requeue_unstarted(tx, agent)
        adoptable = current and status in _ADOPTING and self._has_adoptable(tx, agent)
        return HeartbeatReply(statuses, current, agent.stop, adoptable)

    def _has_adoptable(self, tx: Tx, agent: AnyRow) -> bool:
        live_since = tx.now - self._context.config.agent_timeout
        return agent.backend_id is not None and items.any_abandoned(tx, agent, live_since)

    def _extend(self, tx: Tx, agent: AnyRow, leases: Sequence[Lease]) -> dict[str, LeaseStatus]:
        found = {row.id: row for row in items.rows(tx, {one.item_id for one in leases}, lock=True)}
        statuses: dict[str, LeaseStatus] = {}
        held: list[AnyRow] = []
        for lease in leases:
            row = found.get(lease.item_id)
            if row is None or not _is_holder(row, agent.id, lease):
                statuses[lease.item_id] = LeaseStatus.FENCED
                continue
            statuses[lease.item_id] = _status(row)
            held.append(row)
        items.extend_leases(tx, [row.id for row in held], tx.now + self._context.config.lease)
        for row in held:
            if row.lost_contact_at is not None:
                add_event(tx, row, "contact regained", actor=agent.name, lost_contact_at=None)
        return statuses

    @urgent_write
    def advance(
        self,
        tx: Tx,
        principal: Principal,
        agent_id: str,
        lease: Lease,
        *,
        phase: Phase | None = None,
        activity: str | None = None,
        facts: Json | None = None,
        warning: str | None = None,
    ) -> LeaseStatus:
        """Report progress. A phase that the item has passed already changes nothing.

        Raises:
            InvalidInputError: a phase other than PREPARING or STARTED; facts too large.
            ConflictError: STARTED without a permit.
        """
        self._context.require_agent(tx, principal, agent_id)
        if phase not in {None, Phase.PREPARING, Phase.STARTED}:
            raise InvalidInputError(f"An item cannot be advanced to {phase}.")
        row = _held(tx, agent_id, lease)
        if row is None:
            return LeaseStatus.FENCED
        changes = _progress(row, activity, facts, warning)
        if phase is None or _is_past(Phase(row.phase), phase):
            if changes:
                items.change(tx, row, {**changes, "updated_at": tx.now})
                notify_watchers(tx, row)
        else:
            started = {"started_at": tx.now} if phase is Phase.STARTED else {}
            move(tx, row, phase, actor=row.agent_name, changes={**changes, **started})
        return _status(row)

    @urgent_write
    def permit(self, tx: Tx, principal: Principal, agent_id: str, lease: Lease) -> LeaseStatus:
        """Permit the start. Repeated calls by the holder return HELD until it reports STARTED.

        An item still LEASED passes PREPARING on the way.

        Raises:
            ConflictError: the attempt has been started already.
        """
        self._context.require_agent(tx, principal, agent_id)
        row = _held(tx, agent_id, lease)
        if row is None:
            return LeaseStatus.FENCED
        if row.stop_requested:
            return LeaseStatus.STOP
        phase = Phase(row.phase)
        if phase is Phase.STARTED:
            raise ConflictError(
                f"Attempt {row.attempt} of item {row.id} has been started already.",
                hint="Look for its workload before anything is started.",
            )
        if phase is not Phase.PERMITTED:
            through = Phase.PREPARING if phase is Phase.LEASED else None
            changes = {"lease_losses": 0}
            move(tx, row, Phase.PERMITTED, through=through, actor=row.agent_name, changes=changes)
        return LeaseStatus.HELD

    @urgent_write
    def finish(
        self,
        tx: Tx,
        principal: Principal,
        agent_id: str,
        lease: Lease,
        *,
        phase: Phase,
        cause: Cause,
        message: str,
        exit_code: int | None = None,
        facts: Json | None = None,
    ) -> LeaseStatus:
        """Store the outcome. `retries` or `on_lost` of the item may open a new attempt.

        Repeating an identical report returns HELD.

        Raises:
            InvalidInputError: not a terminal phase.
            ConflictError: the transition table does not allow it.
        """
        self._context.require_agent(tx, principal, agent_id)
        if phase not in TERMINAL:
            raise InvalidInputError(f"{phase} is not a terminal phase.")
        row = _held(tx, agent_id, lease)
        if row is not None:
            changes = _progress(row, None, facts, None)
            text, actor = message[:_MAX_TEXT], row.agent_name
            end(tx, row, phase, cause, text, exit_code=exit_code, actor=actor, changes=changes)
            return LeaseStatus.HELD
        ended = history.attempt(tx, lease.item_id, lease.attempt)
        if ended is None:
            return LeaseStatus.FENCED
        stored = (ended.agent_id, ended.epoch, ended.phase, ended.cause, ended.exit_code)
        repeated = stored == (agent_id, lease.epoch, phase.value, cause.value, exit_code)
        return LeaseStatus.HELD if repeated else LeaseStatus.FENCED

    @urgent_write
    def release(
        self,
        tx: Tx,
        principal: Principal,
        agent_id: str,
        lease: Lease,
        reason: str | None = None,
        delay: float = 0.0,
    ) -> LeaseStatus:
        """Requeue an item that was not permitted; it keeps its place and attempt.

        No agent claims it again before `delay` seconds (at most 300) have passed.

        Raises:
            ConflictError: it was permitted.
        """
        self._context.require_agent(tx, principal, agent_id)
        row = _held(tx, agent_id, lease)
        if row is None:
            return LeaseStatus.HELD if _was_released(tx, lease) else LeaseStatus.FENCED
        if Phase(row.phase) not in UNSTARTED_HELD:
            raise ConflictError(
                f"Item {row.id} has a start permit: it may be running and cannot be released."
            )
        requeue(
            tx,
            row,
            (reason or "released by its agent")[:_MAX_TEXT],
            actor=row.agent_name,
            losses=row.lease_losses,
            not_before=tx.now + min(delay, _MAX_DELAY_SECONDS) if delay > 0 else None,
        )
        return LeaseStatus.HELD


def adopt(
    tx: Tx, context: ServiceContext, row: AnyRow, agent: AnyRow, text: str, losses: int
) -> ClaimRecord:
    """Give a held item to an agent under a new epoch, in the phase it is in.

    `losses`: leases lost in a row before the start. The token of the job that may be running
    already stays the same.
    """
    attempt = {"epoch": row.epoch + 1, "agent_id": agent.id, "agent_name": agent.name}
    changes = {
        **attempt,
        "protocol": AgentProtocol.LAUNCH.value,
        "request_id": None,
        "lease_expires_at": tx.now + context.config.lease,
        "lost_contact_at": None,
        "lease_losses": losses,
    }
    add_event(tx, row, text, actor=agent.name, **changes)
    history.change_attempt(tx, row.id, row.attempt, attempt)
    return claim_record(tx, context, row.id)


def requeue_unstarted(tx: Tx, agent: AnyRow) -> None:
    """Requeue what an agent that disconnects has not started."""
    for row in items.held_by(tx, agent.id, lock=True):
        if Phase(row.phase) in UNSTARTED_HELD:
            text = f"agent {agent.name} shut down"
            requeue(tx, row, text, actor=agent.name, losses=row.lease_losses)


def check_status(status: str) -> str:
    """A status that agents have.

    Raises:
        InvalidInputError
    """
    if status not in STATUSES:
        known = ", ".join(STATUSES)
        raise InvalidInputError(f"Unknown agent status '{status}'.", hint=f"Use {known}.")
    return status


def add_warning(row: AnyRow, warning: str) -> list[str]:
    """The item's warnings with one more; repeated ones, and more than 100, are dropped."""
    text = warning[:_MAX_TEXT]
    if text in row.warnings or len(row.warnings) >= _MAX_WARNINGS:
        return list(row.warnings)
    return [*row.warnings, text]


def _held(tx: Tx, agent_id: str, lease: Lease) -> AnyRow | None:
    """The item of a lease, locked; `None` means fenced."""
    row = items.row(tx, lease.item_id, lock=True)
    return row if row is not None and _is_holder(row, agent_id, lease) else None


def _is_holder(row: AnyRow, agent_id: str, lease: Lease) -> bool:
    """Whether the lease is the one under which the item is held."""
    holder = (row.agent_id, row.attempt, row.epoch)
    return holder == (agent_id, lease.attempt, lease.epoch) and Phase(row.phase) in HELD


def _status(row: AnyRow) -> LeaseStatus:
    return LeaseStatus.STOP if row.stop_requested else LeaseStatus.HELD


def _is_past(now: Phase, reported: Phase) -> bool:
    """Whether the report is a late repetition."""
    return now is reported or (reported is Phase.PREPARING and now in MAY_RUN)


def _progress(
    row: AnyRow, activity: str | None, facts: Json | None, warning: str | None
) -> dict[str, Any]:
    """The columns that a report changes."""
    changes: dict[str, Any] = {}
    if activity is not None:
        changes["activity"] = activity[:_MAX_ACTIVITY]
    if facts:
        merged = {**row.facts, **facts}
        size = len(json.dumps(merged))
        if size > _MAX_FACTS:
            raise InvalidInputError(f"The facts of item {row.id} would take {size} bytes.")
        changes["facts"] = merged
    if warning:
        changes["warnings"] = add_warning(row, warning)
    return changes


def _was_released(tx: Tx, lease: Lease) -> bool:
    """Whether the item is queued and has not been leased since this lease."""
    row = items.row(tx, lease.item_id)
    queued = (lease.attempt, lease.epoch, Phase.QUEUED.value)
    return row is not None and (row.attempt, row.epoch, row.phase) == queued
