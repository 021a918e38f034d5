"""When an item that ended gets another attempt, and after which delay."""

from typing import Final

from agent.control.store.tx import AnyRow
from agent.model.cause import Cause, is_infrastructure
from agent.model.phase import Phase

#: New attempts that `on_lost: retry` opens, and those after preemptions, unless `retries` allows
#: more.
UNASKED_RETRIES: Final = 5
#: Seconds before the first new attempt after an error; each further one waits twice as long.
_FIRST_DELAY: Final = 5.0
_MAX_DELAY_SECONDS: Final = 300.0


def may_retry(item: AnyRow, phase: Phase, cause: Cause) -> bool:
    """Whether the item gets another attempt; never after a stop request.

    Preempted ones always get one. `on_lost` decides about lost ones, `retries` about
    infrastructure causes; `LOST_ENGINE` counts as one of these, although its phase is LOST.
    """
    if item.stop_requested or item.queue_id is None:
        return False
    if phase is Phase.PREEMPTED or (phase is Phase.LOST and item.on_lost == "retry"):
        allowed = max(item.retries, UNASKED_RETRIES)
    elif phase is Phase.LOST and cause is not Cause.LOST_ENGINE:
        allowed = 0
    else:
        allowed = item.retries if is_infrastructure(cause) else 0
    return bool(item.retried < allowed)


def retry_delay(phase: Phase, number: int) -> float | None:
    """Seconds before retry `number` (from 1): growing after ERRORED, none after other phases.

    The causes of errors, such as a registry or a disk, seldom recover within seconds.
    """
    if phase is not Phase.ERRORED:
        return None
    return min(_FIRST_DELAY * 2.0 ** (number - 1), _MAX_DELAY_SECONDS)
