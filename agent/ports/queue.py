"""The control plane's queue, as the agent uses it.

Life cycle
----------
`register` once per process; its answer names leases that an earlier process of the same
installation held, already under a new epoch. Then, concurrently and until shutdown: `claim`
(long poll), `renew` (heartbeat and batch renewal, every `heartbeat_seconds`) and `commands`
(long poll: when to renew at once), and `adopt` when a renewal asks for it. Per lease: `advance`
any number of times, `permit` immediately before the one call that starts the job,
`advance(phase=STARTED)` once it runs, `finish`; or, before `permit`, `release`.

Every write names a `Lease`. An answer `FENCED` means that another agent owns the attempt:
stop and touch nothing. All calls are idempotent, so the implementation may repeat them;
each call has a deadline of its own, and raises `UnreachableError` when that has passed.
Nothing here retries without limit: callers that must (renewal, delivery of outcomes) do it
themselves.
"""

from typing import Any, Literal, Protocol

from agent.model.phase import Outcome, Phase
from agent.model.protocol import (
    AgentRegistration,
    AttemptStatus,
    ClaimRequest,
    Heartbeat,
    HeartbeatReply,
    LeaseStatus,
    RegisteredAgent,
)
from agent.model.work import Claim, Lease

Channel = Literal["setup", "job"]


class QueuePort(Protocol):
    """See the module's docstring for order, idempotence and deadlines."""

    async def register(self, registration: AgentRegistration) -> RegisteredAgent:
        """Announce this process.

        Raises:
            NotFoundError: a queue or the entity does not exist; the message names it.
            ConflictError: another live installation uses this name.
            AuthenticationError, PermissionDeniedError: the key.
        """

    async def claim(self, request: ClaimRequest) -> tuple[Claim, ...]:
        """Wait for items that fit; empty after `wait_seconds` without any."""

    async def renew(self, heartbeat: Heartbeat) -> HeartbeatReply:
        """Renew all leases in one call."""

    async def adopt(self, agent_id: str, session: str) -> tuple[Claim, ...]:
        """Take over started attempts, each under a new epoch, whose agents are gone.

        These used the same backend and are lost or have shut down. Called when the reply to a
        renewal says that there are some; an answer that was lost is made up for after the lease.
        """

    async def commands(
        self, agent_id: str, session: str, seen: str | None, wait_seconds: float
    ) -> str:
        """Wait until the reply to a renewal would change: a stop, a shutdown, a takeover.

        The token that is returned stands for the present state; pass it as `seen` the next
        time, so that nothing is missed between two calls. The same token: nothing changed.
        """

    async def advance(
        self,
        lease: Lease,
        *,
        phase: Phase | None = None,
        activity: str | None = None,
        facts: dict[str, Any] | None = None,
        warning: str | None = None,
    ) -> LeaseStatus:
        """Report progress; `phase` only PREPARING or STARTED."""

    async def permit(self, lease: Lease) -> LeaseStatus:
        """Request the one permit to start; `HELD` grants it."""

    async def finish(self, lease: Lease, outcome: Outcome, facts: dict[str, Any]) -> LeaseStatus:
        """Report the outcome; the same outcome twice is `HELD` twice."""

    async def release(self, lease: Lease, reason: str, delay: float = 0.0) -> LeaseStatus:
        """Return an item that was not permitted to its queue.

        No agent gets it within `delay` seconds. `reason` is shown to users.
        """

    async def append_log(self, lease: Lease, channel: Channel, offset: int, data: bytes) -> int:
        """Store bytes at `offset` and return the end of what is stored.

        Bytes that are stored already are skipped. An answer below `offset` means a gap: send
        again from there.

        Raises:
            FencedError: the lease is lost.
        """

    async def log_end(self, lease: Lease, channel: Channel) -> int:
        """How many bytes of a channel are stored, to go on after a restart."""

    async def attempt_status(self, lease: Lease) -> AttemptStatus:
        """Whether an attempt whose lease is lost is over; asked before its workload is removed."""
