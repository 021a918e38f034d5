"""Whose workload a name stands for, by its labels."""

from collections.abc import Mapping
from typing import Final

from agent.model.errors import FencedError
from agent.model.work import LABEL_ATTEMPT, LABEL_CONTROL_PLANE, LABEL_ITEM, Lease
from agent.ports.runner import Workload, WorkloadState

_FENCE: Final = (LABEL_CONTROL_PLANE, LABEL_ITEM, LABEL_ATTEMPT)


def same_attempt(found: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether what was found belongs to the attempt that is wanted; epochs may differ."""
    return all(label in found and found[label] == wanted.get(label) for label in _FENCE)


def is_void(found: Workload, wanted: Lease) -> bool:
    """Whether an earlier grant of the attempt created it and never started it.

    1. A lease lapses before the permit; its container stays behind. 2. The item is granted
    again, perhaps from another queue. 3. The old container would run with a token that is no
    longer valid, on devices that belong to another job by now.

    Raises:
        FencedError: a later grant created it: it is not ours to use or to remove.
    """
    if found.lease.epoch > wanted.epoch:
        message = f"'{found.name}' was created for a later grant of the same attempt."
        raise FencedError(message)
    return found.state is WorkloadState.CREATED and found.lease.epoch < wanted.epoch
