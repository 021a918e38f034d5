"""One item of the control plane in memory."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from agent.model.errors import ConflictError
from agent.model.phase import Outcome, Phase, may_follow
from agent.model.spec import Json
from agent.model.work import Lease


@dataclass
class FakeItem:
    """One item, as the control plane knows it."""

    id: str
    spec: Json
    resource: str
    queue: str
    layers: dict[str, Json]
    phase: Phase = Phase.QUEUED
    attempt: int = 1
    epoch: int = 0
    #: Identity of the holder, and the request that it was given to.
    holder: str | None = None
    request_id: str | None = None
    stop_requested: bool = False
    outcome: Outcome | None = None
    facts: Json = field(default_factory=dict)
    activity: str | None = None
    warnings: list[str] = field(default_factory=list)
    #: Every phase it was in, in order.
    history: list[Phase] = field(default_factory=lambda: [Phase.QUEUED])
    logs: dict[str, bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    allocation: Any = None
    lease_losses: int = 0
    #: Reason and delay of every return to the queue.
    releases: list[tuple[str, float]] = field(default_factory=list)

    @property
    def lease(self) -> Lease:
        """What its holder writes with."""
        return Lease(self.id, self.attempt, self.epoch)

    def move(self, phase: Phase) -> None:
        """Change the phase; the transition table decides."""
        if not may_follow(self.phase, phase):
            raise ConflictError(f"Item {self.id} is {self.phase.word}, not to be {phase.word}.")
        if self.phase is not phase:
            self.history.append(phase)
        self.phase = phase
