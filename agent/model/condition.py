"""What keeps a live agent from claiming: a closed vocabulary, as causes are."""

from dataclasses import dataclass
from enum import StrEnum


class ConditionKind(StrEnum):
    """What is wrong on the agent's machine."""

    #: Less free space than `min_free_disk`: nothing is claimed.
    DISK_LOW = "DISK_LOW"
    #: The engine behind a resource does not answer: nothing is claimed for that resource.
    ENGINE_SILENT = "ENGINE_SILENT"

    @property
    def word(self) -> str:
        """As people read it."""
        return self.value.replace("_", " ").lower()


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is wrong, told in a sentence."""

    kind: ConditionKind
    message: str
    #: The resource it is about; `None`: all of them.
    resource: str | None = None

    def bars(self, resource: str | None) -> bool:
        """Whether jobs for this resource are not claimed meanwhile."""
        return self.resource is None or self.resource == resource
