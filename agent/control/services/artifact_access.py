"""Which artifacts a caller may see and change."""

from agent.control.auth.policy import Action, Principal
from agent.control.services.context import Context
from agent.control.services.runs import check_scope
from agent.control.store import artifacts
from agent.control.store.artifact_records import ArtifactRecord
from agent.control.store.tx import Tx
from agent.model.errors import NotFoundError


def visible(
    context: Context, principal: Principal, found: ArtifactRecord | None
) -> ArtifactRecord | None:
    """An artifact, once the caller may read its entity."""
    if found is None:
        return None
    allowed = context.policy.allows(principal, found.collection.entity, Action.READ)
    return found if allowed else None


def writable(tx: Tx, context: Context, principal: Principal, artifact_id: str) -> ArtifactRecord:
    """An artifact that the caller may change.

    Raises:
        NotFoundError, PermissionDeniedError
    """
    found = visible(context, principal, artifacts.by_id(tx, artifact_id))
    if found is None:
        raise absent(artifact_id)
    context.policy.require(principal, found.collection.entity, Action.WRITE_RUNS)
    check_scope(principal, found.collection.project)
    return found


def absent(artifact_id: str) -> NotFoundError:
    """The one answer for an artifact that is absent or hidden."""
    message = f"There is no artifact with the id '{artifact_id}', or this key may not read it."
    return NotFoundError(message)
