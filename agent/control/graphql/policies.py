"""The policy of every field of Query and Mutation, in one table.

Two locks on one door: here, whether a credential of this kind may call the field at all;
in the services, whether this caller may do it in this entity, to this thing. A field that
is missing here keeps the schema from being built.
"""

from collections.abc import Mapping
from typing import Final

from agent.control.auth.policy import Action, Kind, Principal
from agent.model.errors import PermissionDeniedError

_EVERYBODY: Final = frozenset(Kind)
_KINDS: Final[Mapping[Action | None, frozenset[Kind]]] = {
    None: _EVERYBODY,
    Action.READ: _EVERYBODY,
    Action.RUN_AGENT: frozenset({Kind.USER, Kind.AGENT}),
    Action.WRITE_RUNS: frozenset({Kind.USER, Kind.RUN}),
}
_PEOPLE: Final = frozenset({Kind.USER})

#: `None`: anybody with a valid credential, about nothing but the caller and the server.
FIELDS: Final[Mapping[str, Action | None]] = {
    "Query.viewer": None,
    "Query.serverInfo": None,
    "Query.entity": Action.READ,
    "Query.project": Action.READ,
    "Query.model": Action.READ,
    "Query.models": Action.READ,
    "Query.artifact": Action.READ,
    "Query.artifactCollection": Action.READ,
    "Query.clientIDMapping": Action.READ,
    "Query.launchAgent": Action.READ,
    "Query.launchQueues": Action.READ,
    "Query.launchItems": Action.READ,
    "Query.launchItem": Action.READ,
    "Query.launchDryRun": Action.SUBMIT,
    "Query.launchAgents": Action.READ,
    "Query.launchCommands": Action.RUN_AGENT,
    "Query.launchEntities": Action.READ,
    "Query.launchMembers": Action.READ,
    "Query.launchKeys": Action.MANAGE_MEMBERS,
    "Query.launchJobs": Action.READ,
    "Query.launchJobVersion": Action.READ,
    "Mutation.upsertModel": Action.WRITE_RUNS,
    "Mutation.upsertBucket": Action.WRITE_RUNS,
    "Mutation.stopRun": Action.WRITE_RUNS,
    "Mutation.updateRunState": Action.WRITE_RUNS,
    "Mutation.deleteRun": Action.WRITE_RUNS,
    "Mutation.createRunFiles": Action.WRITE_RUNS,
    "Mutation.markRunFilesUploaded": Action.WRITE_RUNS,
    "Mutation.createArtifact": Action.WRITE_RUNS,
    "Mutation.createArtifactManifest": Action.WRITE_RUNS,
    "Mutation.updateArtifactManifest": Action.WRITE_RUNS,
    "Mutation.createArtifactFiles": Action.WRITE_RUNS,
    "Mutation.completeMultipartUploadArtifact": Action.WRITE_RUNS,
    "Mutation.commitArtifact": Action.WRITE_RUNS,
    "Mutation.useArtifact": Action.WRITE_RUNS,
    "Mutation.updateArtifact": Action.WRITE_RUNS,
    "Mutation.deleteArtifact": Action.WRITE_RUNS,
    "Mutation.addAliases": Action.WRITE_RUNS,
    "Mutation.deleteAliases": Action.WRITE_RUNS,
    "Mutation.createDefaultResourceConfig": Action.MANAGE_QUEUES,
    "Mutation.createRunQueue": Action.MANAGE_QUEUES,
    "Mutation.upsertRunQueue": Action.MANAGE_QUEUES,
    "Mutation.deleteRunQueues": Action.MANAGE_QUEUES,
    "Mutation.pushToRunQueue": Action.SUBMIT,
    "Mutation.pushToRunQueueByName": Action.SUBMIT,
    "Mutation.popFromRunQueue": Action.RUN_AGENT,
    "Mutation.ackRunQueueItem": Action.RUN_AGENT,
    "Mutation.failRunQueueItem": Action.RUN_AGENT,
    "Mutation.updateRunQueueItemWarning": Action.RUN_AGENT,
    "Mutation.deleteFromRunQueue": Action.CONTROL_OWN,
    "Mutation.createLaunchAgent": Action.RUN_AGENT,
    "Mutation.updateLaunchAgent": Action.RUN_AGENT,
    "Mutation.submitLaunchItem": Action.SUBMIT,
    "Mutation.saveLaunchQueue": Action.MANAGE_QUEUES,
    "Mutation.deleteLaunchQueue": Action.MANAGE_QUEUES,
    "Mutation.pauseLaunchQueue": Action.MANAGE_QUEUES,
    "Mutation.stopLaunchItem": Action.CONTROL_OWN,
    "Mutation.retryLaunchItem": Action.CONTROL_OWN,
    "Mutation.moveLaunchItem": Action.CONTROL_OWN,
    "Mutation.setLaunchItemPriority": Action.CONTROL_OWN,
    "Mutation.stopLaunchAgent": Action.MANAGE_AGENTS,
    "Mutation.createLaunchUser": Action.MANAGE_MEMBERS,
    "Mutation.createLaunchTeam": Action.MANAGE_MEMBERS,
    "Mutation.setLaunchMember": Action.MANAGE_MEMBERS,
    "Mutation.createLaunchKey": Action.MANAGE_MEMBERS,
    "Mutation.createLaunchAgentKey": Action.MANAGE_MEMBERS,
    "Mutation.revokeLaunchKey": Action.MANAGE_MEMBERS,
    "Mutation.registerLaunchAgent": Action.RUN_AGENT,
    "Mutation.claimLaunchItems": Action.RUN_AGENT,
    "Mutation.renewLaunchLeases": Action.RUN_AGENT,
    "Mutation.advanceLaunchItem": Action.RUN_AGENT,
    "Mutation.permitLaunchStart": Action.RUN_AGENT,
    "Mutation.finishLaunchItem": Action.RUN_AGENT,
    "Mutation.releaseLaunchItem": Action.RUN_AGENT,
}


def admit(field: str, principal: Principal) -> None:
    """Let pass, or refuse a credential of the wrong kind.

    Raises:
        PermissionDeniedError: a key of this kind can never do that.
    """
    action = FIELDS[field]
    if principal.kind not in _KINDS.get(action, _PEOPLE):
        what = action.value if action else "do that"
        message = f"{principal.name} may not {what}: `{field}` is not for {principal.kind} keys."
        raise PermissionDeniedError(message, hint="Use a user's key.")
