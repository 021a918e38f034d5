"""What W&B's clients send about artifacts and jobs: names, variables and selections.

Facts of recorded traffic (client 0.31.0); the texts are ours.
"""

from typing import Final

_SEQUENCE = "artifactSequence { __typename name project { id internalId name entity { name } } }"
_FRAGMENT: Final = (
    f"__typename id {_SEQUENCE} versionIndex artifactType {{ name }} description metadata "
    "ttlDurationSeconds ttlIsInherited tags { __typename id name } historyStep state size digest "
    "commitHash fileCount createdAt updatedAt aliases { artifactCollection { __typename name "
    "project { id internalId name entity { name } } } __typename id alias }"
)
ARTIFACT_TYPE: Final = (
    "query ArtifactType($entity: String, $project: String, $name: String!) "
    "{ project(name: $project, entityName: $entity) "
    "{ artifact(name: $name) { artifactType { name } } } }"
)
CREATE: Final = (
    "mutation CreateArtifact($input: CreateArtifactInput!) { createArtifact(input: $input) "
    "{ artifact { id state artifactSequence { latestArtifact { id } } } } }"
)
CREATE_JOB: Final = (
    "mutation CreateArtifact($artifactTypeName: String!, $artifactCollectionNames: [String!], "
    "$entityName: String!, $projectName: String!, $runName: String, $description: String, "
    "$digest: String!, $digestAlgorithm: ArtifactDigestAlgorithm!, "
    "$aliases: [ArtifactAliasInput!], $metadata: JSONString, $clientID: ID, "
    "$sequenceClientID: ID, $tags: [TagInput!]) { createArtifact(input: { "
    "artifactTypeName: $artifactTypeName, artifactCollectionNames: $artifactCollectionNames, "
    "entityName: $entityName, projectName: $projectName, runName: $runName, "
    "description: $description, digest: $digest, digestAlgorithm: $digestAlgorithm, "
    "aliases: $aliases, metadata: $metadata, clientID: $clientID, "
    "sequenceClientID: $sequenceClientID, tags: $tags, enableDigestDeduplication: true }) "
    "{ artifact { id state artifactSequence { id latestArtifact { id versionIndex } } } } }"
)
MANIFEST: Final = (
    "mutation CreateArtifactManifest($artifactID: ID!, $baseArtifactID: ID, $name: String!, "
    "$digest: String!, $entityName: String!, $projectName: String!, $runName: String!, "
    "$manifestType: ArtifactManifestType!, $includeUpload: Boolean!) "
    "{ createArtifactManifest(input: { artifactID: $artifactID, baseArtifactID: $baseArtifactID, "
    "name: $name, digest: $digest, entityName: $entityName, projectName: $projectName, "
    "runName: $runName, type: $manifestType }) { artifactManifest { id file { id "
    "uploadUrl @include(if: $includeUpload) uploadHeaders @include(if: $includeUpload) } } } }"
)
FILES: Final = (
    "mutation CreateArtifactFiles($input: CreateArtifactFilesInput!) "
    "{ createArtifactFiles(input: $input) { files { edges { node { storagePath uploadUrl "
    "uploadHeaders uploadMultipartUrls { uploadID uploadUrlParts { partNumber uploadUrl } } "
    "artifact { id } } } } } }"
)
COMMIT: Final = (
    "mutation CommitArtifact($artifactID: ID!) { commitArtifact(input: {artifactID: $artifactID}) "
    "{ artifact { id digest } } }"
)
USE: Final = (
    "mutation UseArtifact($entityName: String!, $projectName: String!, $runName: String!, "
    "$artifactID: ID!) { useArtifact(input: {entityName: $entityName, projectName: $projectName, "
    "runName: $runName, artifactID: $artifactID}) "
    "{ artifact { id digest description state createdAt metadata } } }"
)
BY_ID: Final = f"query ArtifactByID($id: ID!) {{ artifact(id: $id) {{ {_FRAGMENT} }} }}"
MEMBERSHIP: Final = (
    "query ArtifactMembershipByName($entity: String!, $project: String!, $name: String!) "
    "{ project(name: $project, entityName: $entity) { artifactCollectionMembership(name: $name) "
    "{ __typename id versionIndex createdAt aliases { __typename id alias } "
    "artifactCollection { __typename name project { id internalId name entity { name } } } "
    f"artifact {{ {_FRAGMENT} }} }} }} }}"
)
FETCH_MANIFEST: Final = (
    "query FetchArtifactManifest($id: ID!) "
    "{ artifact(id: $id) { currentManifest { file { directUrl } } } }"
)
FILE_URLS: Final = (
    "query GetArtifactMembershipFileUrls($entity: String!, $project: String!, "
    "$collection: String!, $alias: String!, $cursor: String, $perPage: Int) "
    "{ project(name: $project, entityName: $entity) { artifactCollection(name: $collection) "
    "{ __typename artifactMembership(aliasName: $alias) { files(first: $perPage, after: $cursor) "
    "{ pageInfo { __typename endCursor hasNextPage } edges { node { __typename name directUrl } } "
    "} } } } }"
)
OF_TYPE: Final = (
    "query ArtifactOfType($entityName: String!, $projectName: String!, "
    "$artifactTypeName: String!) { project(name: $projectName, entityName: $entityName) "
    "{ artifactType(name: $artifactTypeName) { artifactCollections { edges { node { artifacts "
    "{ edges { node { id state aliases { alias } artifactSequence { name } } } } } } } } } }"
)
PROJECT_ARTIFACTS: Final = (
    "query ProjectArtifacts($entity: String!, $project: String!, $type: String!, "
    "$collection: String!, $cursor: String, $perPage: Int, $order: String, $filters: JSONString) "
    "{ project(name: $project, entityName: $entity) { artifactType(name: $type) "
    "{ artifactCollection(name: $collection) { __typename artifacts(first: $perPage, "
    "after: $cursor, order: $order, filters: $filters) { totalCount "
    "pageInfo { __typename endCursor hasNextPage } "
    f"edges {{ version node {{ {_FRAGMENT} }} }} }} }} }} }} }}"
)
USED_BY: Final = (
    "query ArtifactUsedBy($id: ID!) { artifact(id: $id) { usedBy { edges { node "
    "{ __typename id name project { id internalId name entity { name } } } } } } }"
)
CREATED_BY: Final = (
    "query ArtifactCreatedBy($id: ID!) { artifact(id: $id) { createdBy { __typename "
    "... on Run { id name project { id internalId name entity { name } } } "
    "... on User { id name } } } }"
)
UPDATE: Final = (
    "mutation UpdateArtifact($input: UpdateArtifactInput!) { result: updateArtifact(input: $input) "
    f"{{ artifact {{ {_FRAGMENT} }} }} }}"
)
DELETE: Final = (
    "mutation DeleteArtifact($artifactID: ID!, $deleteAliases: Boolean) { deleteArtifact(input: "
    "{artifactID: $artifactID, deleteAliases: $deleteAliases}) { artifact { id } } }"
)
ADD_ALIASES: Final = (
    "mutation AddAliases($input: AddAliasesInput!) { addAliases(input: $input) { success } }"
)
DELETE_ALIASES: Final = (
    "mutation DeleteAliases($input: DeleteAliasesInput!) "
    "{ deleteAliases(input: $input) { success } }"
)
CLIENT_ID: Final = (
    "query ClientIDMapping($clientID: ID!) { clientIDMapping(clientID: $clientID) { serverID } }"
)
UPSERT_RUN: Final = (
    "mutation UpsertBucket($name: String, $project: String, $entity: String, $jobType: String) "
    "{ upsertBucket(input: {name: $name, modelName: $project, entityName: $entity, "
    "jobType: $jobType}) { bucket { id name } inserted } }"
)
RUN_FILES: Final = (
    "mutation CreateRunFiles($entity: String!, $project: String!, $run: String!, "
    "$files: [String!]!) { createRunFiles(input: {entityName: $entity, projectName: $project, "
    "runName: $run, files: $files}) { runID uploadHeaders files { name uploadUrl } } }"
)
DELETE_RUN: Final = (
    "mutation DeleteRun($id: ID!) { deleteRun(input: {id: $id}) { clientMutationId } }"
)

COMPLETE_PARTS = """
mutation CompleteMultipartUploadArtifact($input: CompleteMultipartUploadArtifactInput!) {
  completeMultipartUploadArtifact(input: $input) { digest }
}
"""
