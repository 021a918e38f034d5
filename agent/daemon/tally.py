"""How many attempts ended how, since this process began."""

from collections import Counter

from agent.model.outcome import Outcome


class Tally:
    """Counts by kind of outcome and cause."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def observe(self, outcome: Outcome) -> None:
        """Count one."""
        self.counts[type(outcome).__name__.lower(), outcome.cause] += 1
