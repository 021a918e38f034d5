"""Whose workload a name stands for, by its labels."""

from collections.abc import Mapping
from typing import Final

from agent.model.names import LABEL_ATTEMPT, LABEL_CONTROL_PLANE, LABEL_ITEM

_FENCE: Final = (LABEL_CONTROL_PLANE, LABEL_ITEM, LABEL_ATTEMPT)


def same_attempt(found: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether what was found belongs to the attempt that is wanted; epochs may differ."""
    return all(label in found and found[label] == wanted.get(label) for label in _FENCE)
