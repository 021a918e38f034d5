"""The write-ahead journal: intent before a side effect, result after it."""

from typing import Protocol

from agent.model.phase import Outcome
from agent.model.work import Lease


class AttemptJournal(Protocol):
    """Write-ahead journal of one agent's attempts.

    Methods that are awaited return once the fact is durable. The others keep the order of
    writing and become durable with the next one that is awaited, or soon.
    """

    def opened(self, lease: Lease) -> None:
        """No start was sent so far under any lease of this attempt."""

    async def reopened(self, lease: Lease) -> None:
        """As `opened`, under a renewed lease, when the permit is requested next."""

    async def start_sent(self, lease: Lease) -> None:
        """The start will be sent now, and never again. Without this, nothing was ever started."""

    def log_resumes(self, lease: Lease, point: str) -> None:
        """Where a later process goes on with the job's log; text of a `ResumePoint`."""

    async def outcome_known(self, lease: Lease, outcome: Outcome) -> None:
        """The outcome, to be delivered by this or a later process."""

    def closed(self, lease: Lease) -> None:
        """The control plane has the outcome, or the lease is lost or given up."""
