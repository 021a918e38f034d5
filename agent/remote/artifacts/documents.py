"""Operations about artifacts, as W&B's clients send them; their servers answer them, too."""

from typing import Final

ARTIFACT_TYPE: Final = """
query ArtifactType($entity: String, $project: String, $name: String!) {
  project(name: $project, entityName: $entity) { artifact(name: $name) { artifactType { name } } }
}
"""

CREATE: Final = """
mutation CreateArtifact($input: CreateArtifactInput!) {
  createArtifact(input: $input) {
    artifact { id state artifactSequence { id latestArtifact { id versionIndex } } }
  }
}
"""

MANIFEST: Final = """
mutation CreateArtifactManifest(
  $artifactID: ID!, $baseArtifactID: ID, $name: String!, $digest: String!,
  $entityName: String!, $projectName: String!, $runName: String!,
  $manifestType: ArtifactManifestType!, $includeUpload: Boolean!
) {
  createArtifactManifest(input: {
    artifactID: $artifactID, baseArtifactID: $baseArtifactID, name: $name, digest: $digest,
    entityName: $entityName, projectName: $projectName, runName: $runName, type: $manifestType
  }) {
    artifactManifest {
      id
      file { id uploadUrl @include(if: $includeUpload) uploadHeaders @include(if: $includeUpload) }
    }
  }
}
"""

FILES: Final = """
mutation CreateArtifactFiles($input: CreateArtifactFilesInput!) {
  createArtifactFiles(input: $input) {
    files { edges { node {
      storagePath uploadUrl uploadHeaders artifact { id }
      uploadMultipartUrls { uploadID uploadUrlParts { partNumber uploadUrl } }
    } } }
  }
}
"""

COMPLETE_PARTS: Final = """
mutation CompleteMultipartUploadArtifact($input: CompleteMultipartUploadArtifactInput!) {
  completeMultipartUploadArtifact(input: $input) { digest }
}
"""

COMMIT: Final = """
mutation CommitArtifact($artifactID: ID!) {
  commitArtifact(input: { artifactID: $artifactID }) { artifact { id digest } }
}
"""

HIDDEN_RUN: Final = """
mutation UpsertBucket($name: String, $project: String, $entity: String, $jobType: String) {
  upsertBucket(input: {
    name: $name, modelName: $project, entityName: $entity, jobType: $jobType
  }) { bucket { id name } inserted }
}
"""

DELETE_RUN: Final = """
mutation DeleteRun($id: ID!, $deleteArtifacts: Boolean) {
  deleteRun(input: { id: $id, deleteArtifacts: $deleteArtifacts }) { clientMutationId }
}
"""

_VERSION: Final = """
fragment version on Artifact {
  id state digest versionIndex description metadata size fileCount createdAt
  aliases { alias artifactCollection { name } } artifactType { name } artifactSequence { name }
}
"""

MEMBERSHIP: Final = (
    """
query ArtifactMembershipByName($entity: String!, $project: String!, $name: String!) {
  project(name: $project, entityName: $entity) {
    artifactCollectionMembership(name: $name) {
      id versionIndex aliases { alias } artifact { ...version }
    }
  }
}
"""
    + _VERSION
)

BY_ID: Final = "query ArtifactByID($id: ID!) { artifact(id: $id) { ...version } }" + _VERSION

FETCH_MANIFEST: Final = """
query FetchArtifactManifest($id: ID!) {
  artifact(id: $id) { currentManifest { file { directUrl } } }
}
"""

FILE_URLS: Final = """
query GetArtifactMembershipFileUrls(
  $entity: String!, $project: String!, $collection: String!, $alias: String!,
  $cursor: String, $perPage: Int
) {
  project(name: $project, entityName: $entity) {
    artifactCollection(name: $collection) {
      artifactMembership(aliasName: $alias) {
        files(after: $cursor, first: $perPage) {
          pageInfo { endCursor hasNextPage } edges { node { name directUrl sizeBytes } }
        }
      }
    }
  }
}
"""

OF_TYPE: Final = """
query ArtifactOfType(
  $entityName: String!, $projectName: String!, $artifactTypeName: String!, $after: String
) {
  project(name: $projectName, entityName: $entityName) {
    artifactType(name: $artifactTypeName) {
      artifactCollections(after: $after, first: 100) {
        pageInfo { endCursor hasNextPage }
        edges { node {
          name
          artifacts(first: 100) { edges { node {
            id state versionIndex createdAt aliases { alias } artifactSequence { name }
          } } }
        } }
      }
    }
  }
}
"""

VERSIONS: Final = """
query ArtifactVersions(
  $entity: String!, $project: String!, $type: String!, $collection: String!, $after: String
) {
  project(name: $project, entityName: $entity) {
    artifactType(name: $type) {
      artifactCollection(name: $collection) {
        artifacts(after: $after, first: 100) {
          pageInfo { endCursor hasNextPage }
          edges { node { id state versionIndex digest size createdAt aliases { alias } } }
        }
      }
    }
  }
}
"""

ADD_ALIASES: Final = """
mutation AddAliases($input: AddAliasesInput!) { result: addAliases(input: $input) { success } }
"""

DELETE_ALIASES: Final = """
mutation DeleteAliases($input: DeleteAliasesInput!) {
  result: deleteAliases(input: $input) { success }
}
"""

DELETE: Final = """
mutation DeleteArtifact($input: DeleteArtifactInput!) {
  deleteArtifact(input: $input) { artifact { id } }
}
"""
