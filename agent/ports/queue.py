"""The queue, as the agent sees it.

Life cycle
----------
`register` once per process; its answer names leases that an earlier process of the same
installation held, already under a fresh epoch. Then, concurrently and for ever: `claim`
(long poll), `renew` (heartbeat and batch renewal, every `heartbeat_seconds`) and, where the
far end has it, `commands` (long poll: when to renew at once). Per held
lease: `advance` any number of times, `permit` exactly before the one call that starts,
`advance(phase=STARTED)`, `finish`; or, before `permit`, `release`.

Every write names a `Lease`. An answer `FENCED` means that somebody else owns the attempt:
stop and touch nothing. All calls are idempotent, so the implementation may repeat them;
each call carries its own deadline, and raises `UnreachableError` once that has passed.
Nothing here retries for ever: loops that must (renewal, the outcome outbox) do it
themselves.
"""

from typing import Any, Literal, Protocol

from agent.model.outcome import Outcome
from agent.model.phase import Phase
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
    """See the module's text for order, idempotence and deadlines."""

    async def register(self, hello: AgentRegistration) -> RegisteredAgent:
        """Announce this process.

        Raises:
            NotFoundError: a queue or the entity does not exist; the message names it.
            ConflictError: another live installation uses this name.
            AuthenticationError, PermissionDeniedError: the key.
        """

    async def claim(self, request: ClaimRequest) -> tuple[Claim, ...]:
        """Wait for items that fit; empty after `wait_seconds` without any."""

    async def renew(self, beat: Heartbeat) -> HeartbeatReply:
        """Renew all leases in one call."""

    async def commands(
        self, agent_id: str, session: str, seen: str | None, wait_seconds: float
    ) -> str:
        """Wait until a renewal would answer something new: a stop, leave, give way.

        The mark that comes back stands for what there is now; hand it in as `seen` the next
        time, so that nothing is missed between two calls. The same mark: nothing came.
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
        """Ask for the one permit to start; `HELD` grants it."""

    async def finish(self, lease: Lease, outcome: Outcome, facts: dict[str, Any]) -> LeaseStatus:
        """Report the outcome; the same outcome twice is `HELD` twice."""

    async def release(self, lease: Lease, reason: str) -> LeaseStatus:
        """Hand an item back that was not permitted."""

    async def append_log(self, lease: Lease, channel: Channel, offset: int, data: bytes) -> int:
        """Store bytes at `offset` and return the end of what is stored.

        What is stored already is skipped. An answer below `offset` means a gap: send again
        from there, or say what is missing.

        Raises:
            FencedError: the lease is not ours any more.
        """

    async def log_end(self, lease: Lease, channel: Channel) -> int:
        """How many bytes of a channel are stored: where to go on after a restart."""

    async def attempt_status(self, lease: Lease) -> AttemptStatus:
        """Whether an attempt that is not ours any more is over; used before sweeping."""
