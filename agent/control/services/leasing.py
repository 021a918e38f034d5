"""Leases: how agents take items, keep them and report about them.

Every write names item, attempt and epoch, and the agent that holds them; the store changes
the row only if all four match. Zero rows changed is `Verdict.FENCED`, never an exception.
"""

from collections.abc import Sequence

from agent.control.services.policy import Principal
from agent.control.store.records import BeatAnswer, ClaimRecord, Verdict
from agent.model.capacity import Capacity
from agent.model.cause import Cause
from agent.model.phase import Phase
from agent.model.spec import Json
from agent.model.work import Lease


class Leases:
    """The dialect of our own agents; see `agent.ports.queue` for the life cycle."""

    async def claim(
        self,
        principal: Principal,
        agent_id: str,
        session: str,
        request_id: str,
        *,
        free: Capacity,
        queues: Sequence[str] | None = None,
        max_items: int = 1,
        wait_seconds: float = 0.0,
    ) -> tuple[ClaimRecord, ...]:
        """Hand out what fits, by priority and age; wait for it up to `wait_seconds` (≤ 30).

        The same request id gives the same claims back while they are held. An agent that
        was asked to leave and a paused queue get nothing.

        Raises:
            NotFoundError: the agent, or a queue it did not register for.
            FencedError: a newer session took the agent over.
        """
        raise NotImplementedError

    async def renew(
        self,
        principal: Principal,
        agent_id: str,
        session: str,
        status: str,
        leases: Sequence[Lease],
    ) -> BeatAnswer:
        """Heartbeat and batch renewal; status KILLED is a goodbye.

        Raises:
            NotFoundError: the agent.
            InvalidInputError: the status.
        """
        raise NotImplementedError

    async def advance(
        self,
        principal: Principal,
        agent_id: str,
        lease: Lease,
        *,
        phase: Phase | None = None,
        activity: str | None = None,
        facts: Json | None = None,
        warning: str | None = None,
    ) -> Verdict:
        """Report progress. A phase that is behind already changes nothing.

        Raises:
            InvalidInputError: a phase other than PREPARING or STARTED; facts too large.
            ConflictError: STARTED without a permit.
        """
        raise NotImplementedError

    async def permit(self, principal: Principal, agent_id: str, lease: Lease) -> Verdict:
        """Grant the one permit to start; KEPT again to the holder until it says STARTED.

        An item still LEASED passes PREPARING on the way.

        Raises:
            ConflictError: the attempt has been started already.
        """
        raise NotImplementedError

    async def finish(
        self,
        principal: Principal,
        agent_id: str,
        lease: Lease,
        *,
        phase: Phase,
        cause: Cause,
        message: str,
        exit_code: int | None = None,
        facts: Json | None = None,
    ) -> Verdict:
        """Store the outcome; repeating it is KEPT. May open a new attempt by policy.

        Raises:
            InvalidInputError: not a terminal phase.
            ConflictError: the transition table has no such edge.
        """
        raise NotImplementedError

    async def release(
        self, principal: Principal, agent_id: str, lease: Lease, reason: str | None = None
    ) -> Verdict:
        """Hand an item back that was not permitted; it keeps its place and its attempt.

        Raises:
            ConflictError: it was permitted.
        """
        raise NotImplementedError
