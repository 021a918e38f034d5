"""What keeps this agent from claiming: noted by its loops, told by its heartbeat."""

from collections.abc import Callable

from agent.model.protocol import Condition, ConditionKind


class Conditions:
    """The board; `changed` is called when a condition begins or ends."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._noted: dict[tuple[ConditionKind, str | None], Condition] = {}

    @property
    def now(self) -> tuple[Condition, ...]:
        """All of them, the oldest first."""
        return tuple(self._noted.values())

    def note(self, kind: ConditionKind, message: str, resource: str | None = None) -> None:
        """Something is wrong; again with newer words, it is told so with the next heartbeat."""
        key = (kind, resource)
        fresh = key not in self._noted
        self._noted[key] = Condition(kind, " ".join(message.split()), resource)
        if fresh:
            self._changed()

    def lift(self, kind: ConditionKind, resource: str | None = None) -> None:
        """It is right again; legal where nothing was noted."""
        if self._noted.pop((kind, resource), None) is not None:
            self._changed()
