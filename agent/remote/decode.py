"""Values on the wire to values of the model, and back."""

from datetime import datetime
from typing import Any

from agent.model.capacity import Allocation, Capacity
from agent.model.errors import ServerError
from agent.model.phase import Phase
from agent.model.spec import Json, parse_spec
from agent.model.work import Claim, Lease


def lease_of(raw: Json) -> Lease:
    """Which attempt a claim is about.

    Raises:
        ServerError: the answer lacks what the schema promises.
    """
    try:
        return Lease(str(raw["itemId"]), int(raw["attempt"]), int(raw["epoch"]))
    except (KeyError, TypeError, ValueError) as error:
        raise _broken("claim", error) from error


def claim_of(raw: Json) -> Claim:
    """A claim.

    Raises:
        InvalidInputError: its spec cannot be read.
        ServerError: the answer lacks what the schema promises.
    """
    lease = lease_of(raw)
    spec = parse_spec(raw.get("runSpec") or {})
    try:
        return Claim(
            lease=lease,
            phase=Phase(raw["phase"]),
            entity=raw["entityName"],
            project=raw["projectName"],
            queue=raw["queueName"],
            run_name=raw["runName"],
            name=raw.get("name"),
            author=raw.get("author"),
            priority=int(raw["priority"]),
            resource=raw["resource"],
            spec=spec,
            layers=raw.get("layers") or {},
            allocation=_allocation(raw),
            run_token=raw["runToken"],
            stop_requested=bool(raw["stopRequested"]),
            created_at=datetime.fromisoformat(raw["createdAt"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _broken("claim", error) from error


def capacity_input(capacity: Capacity) -> dict[str, Any]:
    """`CapacityInput` of the schema."""
    return {
        "slots": capacity.slots,
        "cpus": capacity.cpus,
        "memory": capacity.memory,
        "gpus": list(capacity.gpus),
    }


def _allocation(raw: Json) -> Allocation:
    memory = raw.get("memory")
    return Allocation(
        cpus=raw.get("cpus"),
        memory=None if memory is None else int(memory),
        gpus=tuple(raw.get("gpus") or ()),
    )


def _broken(what: str, error: Exception) -> ServerError:
    seen = f"{type(error).__name__}: {error}"
    message = f"The server's {what} is not what the schema promises ({seen})."
    return ServerError(message, hint="Update the older of the two sides.")
