"""What W&B's clients send about queues, items and agents: names, variables and selections.

Facts of recorded traffic (clients 0.31.0 and 0.23.1); the texts are ours.
"""

from typing import Final

_QUEUE = "project(name: $projectName, entityName: $entityName) { runQueue(name: $runQueue)"
_NAMED = "$projectName: String!, $entityName: String!, $runQueue: String!"
_PUSH = "entityName: $entityName, projectName: $projectName, queueName: $queueName"
_PUSH_TYPES = (
    "$entityName: String!, $projectName: String!, $queueName: String!, $runSpec: JSONString!"
)

VIEWER: Final = (
    "query Viewer { viewer { id entity username email flags teams { edges { node { name } } } } }"
)
OLD_VIEWER: Final = (
    "query Viewer { viewer { id entity username email flags admin "
    "apiKeys { edges { node { id name description } } } teams { edges { node { name } } } } "
    "serverInfo { cliVersionInfo "
    "latestLocalVersionInfo { outOfDate latestVersionString versionOnThisInstanceString } } }"
)
FEATURES: Final = "query ServerFeaturesQuery { serverInfo { features { name isEnabled } } }"
SERVER_INFO: Final = "query ServerInfo { serverInfo { cliVersionInfo } }"
ORGANIZATION: Final = (
    "query O($entityName: String!) { entity(name: $entityName) "
    "{ organization { coreWeaveOrganizationId } } }"
)
IS_TEAM: Final = "query EntityIsTeam($entity: String!) { entity(name: $entity) { id isTeam } }"
CREATE_PROJECT: Final = (
    "mutation CreateProject($input: UpsertModelInput!) { result: upsertModel(input: $input) { "
    "project { id name entityName description access views } "
    "model { id name entityName description access views } inserted } }"
)
PROJECT_QUEUES: Final = (
    "query ProjectRunQueues($entity: String!, $projectName: String!) "
    "{ project(name: $projectName, entityName: $entity) "
    "{ runQueues { id name createdBy access } } }"
)
RESOURCE_CONFIG: Final = (
    "mutation C($entityName: String!, $resource: String!, $config: JSONString!, "
    "$templateVariables: JSONString) { createDefaultResourceConfig(input: "
    "{entityName: $entityName, resource: $resource, config: $config, "
    "templateVariables: $templateVariables}) { defaultResourceConfigID success } }"
)
GET_RESOURCE_CONFIG: Final = (
    "query G($entityName: String!, $id: ID!) { entity(name: $entityName) "
    "{ defaultResourceConfig(id: $id) "
    "{ config resource templateVariables { name schema } } } }"
)
CREATE_QUEUE: Final = (
    "mutation CreateRunQueue($entity: String!, $project: String!, $queueName: String!, "
    "$access: RunQueueAccessType!, $prioritizationMode: RunQueuePrioritizationMode, "
    "$defaultResourceConfigID: ID) { createRunQueue(input: {entityName: $entity, "
    "projectName: $project, queueName: $queueName, access: $access, "
    "prioritizationMode: $prioritizationMode, "
    "defaultResourceConfigID: $defaultResourceConfigID}) { success queueID } }"
)
UPSERT_QUEUE: Final = (
    "mutation UpsertRunQueue($entityName: String!, $projectName: String!, $queueName: String!, "
    "$resourceType: String!, $resourceConfig: JSONString!, $templateVariables: JSONString, "
    "$prioritizationMode: RunQueuePrioritizationMode, $externalLinks: JSONString, "
    "$clientMutationId: String) { upsertRunQueue(input: {entityName: $entityName, "
    "projectName: $projectName, queueName: $queueName, resourceType: $resourceType, "
    "resourceConfig: $resourceConfig, templateVariables: $templateVariables, "
    "prioritizationMode: $prioritizationMode, externalLinks: $externalLinks, "
    "clientMutationId: $clientMutationId}) { success configSchemaValidationErrors } }"
)
METADATA: Final = (
    f"query GetRunQueueMetadata({_NAMED}) {{ {_QUEUE} {{ id access defaultResourceConfigID "
    "prioritizationMode externalLinks } } }"
)
QUEUE_ITEMS: Final = (
    f"query GetRunQueueItems({_NAMED}) {{ {_QUEUE} "
    "{ runQueueItems(first: 100) { edges { node { id } } } } } }"
)
OLD_QUEUE_ITEMS: Final = (
    f"query GetRunQueueItem({_NAMED}) {{ {_QUEUE} "
    "{ runQueueItems { edges { node { id state associatedRunId } } } } } }"
)
QUEUE_ITEM: Final = (
    f"query GetRunQueueItem({_NAMED}, $itemId: ID!) {{ {_QUEUE} "
    "{ runQueueItem(id: $itemId) { id state associatedRunId } } } }"
)
DELETE_ITEM: Final = (
    "mutation DeleteFromRunQueue($queueID: ID!, $runQueueItemId: ID!) { deleteFromRunQueue("
    "input: {queueID: $queueID, runQueueItemId: $runQueueItemId}) { success clientMutationId } }"
)
DELETE_QUEUE: Final = (
    "mutation DeleteRunQueue($id: ID!) { deleteRunQueues(input: {queueIDs: [$id]}) "
    "{ success clientMutationId } }"
)
PUSH_BY_NAME: Final = (
    f"mutation pushToRunQueueByName({_PUSH_TYPES}) {{ pushToRunQueueByName(input: "
    f"{{{_PUSH}, runSpec: $runSpec}}) {{ runQueueItemId runSpec }} }}"
)
PUSH_WITH_ALL: Final = (
    f"mutation pushToRunQueueByName({_PUSH_TYPES}, $priority: Int, "
    "$templateVariableValues: JSONString) { pushToRunQueueByName(input: "
    f"{{{_PUSH}, runSpec: $runSpec, priority: $priority, "
    "templateVariableValues: $templateVariableValues}) { runQueueItemId runSpec } }"
)
PUSH: Final = (
    "mutation pushToRunQueue($queueID: ID!, $runSpec: JSONString!) { pushToRunQueue(input: "
    "{queueID: $queueID, runSpec: $runSpec}) { runQueueItemId } }"
)
POP: Final = (
    "mutation popFromRunQueue($entity: String!, $project: String!, $queueName: String!, "
    "$launchAgentId: ID) { popFromRunQueue(input: {entityName: $entity, projectName: $project, "
    "queueName: $queueName, launchAgentId: $launchAgentId}) { runQueueItemId runSpec } }"
)
ACK: Final = (
    "mutation ackRunQueueItem($itemId: ID!, $runId: String!) { ackRunQueueItem(input: "
    "{runQueueItemId: $itemId, runName: $runId}) { success } }"
)
FAIL: Final = (
    "mutation failRunQueueItem($runQueueItemId: ID!, $message: String!, $stage: String!, "
    "$filePaths: [String!]) { failRunQueueItem(input: {runQueueItemId: $runQueueItemId, "
    "message: $message, stage: $stage, filePaths: $filePaths}) { success } }"
)
WARN: Final = FAIL.replace("failRunQueueItem", "updateRunQueueItemWarning")
CREATE_AGENT: Final = (
    "mutation createLaunchAgent($entity: String!, $project: String!, $queues: [ID!]!, "
    "$hostname: String!, $agentConfig: JSONString, $version: String) { createLaunchAgent(input: "
    "{entityName: $entity, projectName: $project, runQueues: $queues, hostname: $hostname, "
    "agentConfig: $agentConfig, version: $version}) { launchAgentId } }"
)
AGENT: Final = (
    "query LaunchAgent($agentId: ID!) { launchAgent(id: $agentId) "
    "{ id name runQueues hostname agentStatus stopPolling heartbeatAt } }"
)
UPDATE_AGENT: Final = (
    "mutation updateLaunchAgent($agentId: ID!, $agentStatus: String) { updateLaunchAgent(input: "
    "{launchAgentId: $agentId, agentStatus: $agentStatus}) { success } }"
)
UPSERT_BUCKET: Final = (
    "mutation UpsertBucket($id: String, $name: String, $project: String, $entity: String, "
    "$config: JSONString, $tags: [String!], $host: String, $state: String, "
    "$summaryMetrics: JSONString, $program: String, $displayName: String) { upsertBucket(input: "
    "{id: $id, name: $name, modelName: $project, entityName: $entity, config: $config, "
    "tags: $tags, host: $host, state: $state, summaryMetrics: $summaryMetrics, "
    "jobProgram: $program, displayName: $displayName}) { bucket { id name displayName description "
    "config sweepName project { id name entity { id name } } historyLineCount } inserted } }"
)
RUN: Final = (
    "query Run($project: String!, $entity: String!, $name: String!) "
    "{ project(name: $project, entityName: $entity) { run(name: $name) { projectId id tags name "
    "displayName sweepName state config group jobType commit readOnly createdAt heartbeatAt "
    "description notes summaryMetrics historyLineCount user { name username } stopped failed "
    "running shouldStop exitcode eventsLineCount logLineCount project { name } } } }"
)
RUN_STATE: Final = (
    "query RunState($project: String!, $entity: String!, $name: String!) "
    "{ project(name: $project, entityName: $entity) { run(name: $name) { state } } }"
)
STOPPED: Final = (
    "query RunStoppedStatus($projectName: String, $entityName: String, $runId: String!) "
    "{ project(name: $projectName, entityName: $entityName) { run(name: $runId) { stopped } } }"
)
STOP_RUN: Final = "mutation StopRun($id: ID!) { stopRun(input: {id: $id}) { success } }"
RUN_UPDATE_STATE: Final = (
    "mutation U($input: UpdateRunStateInput!) { updateRunState(input: $input) { success } }"
)
INPUT_FIELDS: Final = (
    "query InputFields($typeName: String!) { __type(name: $typeName) "
    "{ inputFields { name } fields { name } } }"
)
