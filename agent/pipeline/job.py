"""One attempt under way: what it is about, and what it works with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.model.work import Claim, Lease
from agent.pipeline.equipment import Backend, Equipment
from agent.pipeline.recall import Recalls
from agent.pipeline.report import Report


@dataclass(frozen=True, slots=True)
class Job:
    """Handed from stage to stage beside the values on the line."""

    claim: Claim
    #: Of its workload and its folder.
    name: str
    backend: Backend
    equipment: Equipment
    recalls: Recalls
    report: Report
    #: The attempt's own; exists while the attempt does.
    folder: Path
    #: Gives back what was set aside, as soon as the workload has ended; legal twice.
    free: Callable[[], None]

    @property
    def lease(self) -> Lease:
        """The right to write about it."""
        return self.claim.lease
