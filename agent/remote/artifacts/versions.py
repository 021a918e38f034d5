"""Versions of artifacts on a server: found, listed, read, aliased, deleted.

The operations are those of W&B's clients, whose servers answer them, too. Replies are the
wire's own objects, since `--json` shows them as they are.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from agent.model.errors import NotFoundError, ServerError
from agent.model.job.digest import entry_digest
from agent.model.job.names import JobReference, no_such_job, no_such_version
from agent.ports.artifact import ArtifactEntry
from agent.remote.artifacts.transfers import Transfers
from agent.remote.client import ControlPlaneClient

Json = dict[str, Any]

JOB: Final = "job"
_PER_PAGE: Final = 5000
#: Bytes of a manifest, and of a file that is read whole.
_MAX_MANIFEST_BYTES: Final = 256 << 20
_MAX_FILE_BYTES: Final = 16 << 20

_ARTIFACT_TYPE: Final = """
query ArtifactType($entity: String, $project: String, $name: String!) {
  project(name: $project, entityName: $entity) { artifact(name: $name) { artifactType { name } } }
}
"""

_VERSION: Final = """
fragment version on Artifact {
  id state digest versionIndex description metadata size fileCount createdAt
  aliases { alias artifactCollection { name } } artifactType { name } artifactSequence { name }
}
"""

_MEMBERSHIP: Final = (
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

_BY_ID: Final = """
query ArtifactByID($id: ID!) {
  artifact(id: $id) {
    id versionIndex state metadata aliases { alias } artifactType { name }
    artifactSequence { name project { name entity { name } } }
  }
}
"""

_FETCH_MANIFEST: Final = """
query FetchArtifactManifest($id: ID!) {
  artifact(id: $id) { currentManifest { file { directUrl } } }
}
"""

_FILE_URLS: Final = """
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

_OF_TYPE: Final = """
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

_VERSIONS: Final = """
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

_ADD_ALIASES: Final = """
mutation AddAliases($input: AddAliasesInput!) { result: addAliases(input: $input) { success } }
"""

_DELETE_ALIASES: Final = """
mutation DeleteAliases($input: DeleteAliasesInput!) {
  result: deleteAliases(input: $input) { success }
}
"""

_DELETE: Final = """
mutation DeleteArtifact($input: DeleteArtifactInput!) {
  deleteArtifact(input: $input) { artifact { id } }
}
"""


class ArtifactVersions:
    """Reads and changes versions, over one client.

    Every method raises `UnreachableError`, `AuthenticationError` and `PermissionDeniedError`
    besides what it names.
    """

    def __init__(self, client: ControlPlaneClient, transfers: Transfers) -> None:
        self._client = client
        self._transfers = transfers

    # ------------------------------------------------------------------ one version

    async def version_of_any_type(self, reference: JobReference) -> Json | None:
        """One version of a collection of any type; `None` when there is none."""
        name = f"{reference.name}:{reference.alias}"
        variables = {"entity": reference.entity, "project": reference.project, "name": name}
        data = await self._client.execute(_MEMBERSHIP, variables)
        found: Json | None = (data.get("project") or {}).get("artifactCollectionMembership")
        return found

    async def by_id(self, artifact_id: str) -> Json | None:
        """A version by the server's id; `None` when there is none."""
        data = await self._client.execute(_BY_ID, {"id": artifact_id})
        found: Json | None = data.get("artifact")
        return found

    async def version(self, reference: JobReference) -> Json:
        """The version of a job that an alias names, with `versionIndex` and `aliases`.

        Raises:
            NotFoundError: no such job or alias; suggests similar names.
        """
        found = await self.version_of_any_type(reference) or {}
        artifact = found.get("artifact")
        if artifact is None or (artifact.get("artifactType") or {}).get("name", JOB) != JOB:
            raise await self.missing(reference)
        return {
            **artifact,
            "versionIndex": found.get("versionIndex"),
            "aliases": [each["alias"] for each in found.get("aliases") or []],
        }

    async def missing(self, reference: JobReference) -> NotFoundError:
        """The error for a job or version that does not exist; suggests similar names."""
        listed = await self.jobs(reference.entity, reference.project)
        if listed is None:
            message = f"There is no job {reference.job}: `{reference.entity}` has no such project."
            return NotFoundError(message, hint="Check the project's name; capitals count.")
        known = {job["name"]: job for job in listed}
        if reference.name not in known:
            return no_such_job(reference, known)
        found = known[reference.name]["versions"]
        aliases = {alias for one in found for alias in one["aliases"]}
        indices = (one.get("versionIndex") for one in found)
        numbers = {f"v{index}" for index in indices if index is not None}
        return no_such_version(reference, aliases | numbers)

    async def type_of(self, entity: str, project: str, name: str) -> str | None:
        """The type of a collection; `None` when nothing has that name."""
        variables = {"entity": entity, "project": project, "name": f"{name}:latest"}
        data = await self._client.execute(_ARTIFACT_TYPE, variables)
        artifact = (data.get("project") or {}).get("artifact") or {}
        found: str | None = (artifact.get("artifactType") or {}).get("name")
        return found

    # ------------------------------------------------------------------ lists

    async def jobs(self, entity: str, project: str) -> list[Json] | None:
        """Jobs of a project by name: `name`, and `versions`, newest first; `None`: no project."""
        found: list[Json] = []
        variables = {"entityName": entity, "projectName": project, "artifactTypeName": JOB}
        after: str | None = None
        while True:
            data = await self._client.execute(_OF_TYPE, {**variables, "after": after})
            if data.get("project") is None:
                return None
            page = (data["project"].get("artifactType") or {}).get("artifactCollections")
            if page is None:
                return found
            found += [_job(edge["node"]) for edge in page["edges"]]
            after = page["pageInfo"]["endCursor"]
            if not page["pageInfo"]["hasNextPage"]:
                kept = (each for each in found if each["versions"])
                return sorted(kept, key=lambda job: str(job["name"]))

    async def versions(self, reference: JobReference) -> list[Json]:
        """All versions of a job, newest first.

        Raises:
            NotFoundError: there is no such job.
        """
        found: list[Json] = []
        variables = {
            "entity": reference.entity,
            "project": reference.project,
            "type": JOB,
            "collection": reference.name,
        }
        after: str | None = None
        while True:
            data = await self._client.execute(_VERSIONS, {**variables, "after": after})
            kind = (data.get("project") or {}).get("artifactType") or {}
            page = (kind.get("artifactCollection") or {}).get("artifacts")
            if page is None:
                break
            found += [_with_aliases(edge["node"]) for edge in page["edges"]]
            after = page["pageInfo"]["endCursor"]
            if not page["pageInfo"]["hasNextPage"]:
                break
        kept = _committed(found)
        if not kept:
            raise await self.missing(reference)
        return kept

    # ------------------------------------------------------------------ files

    async def entries(self, artifact_id: str) -> dict[str, ArtifactEntry] | None:
        """Files of a version by path; `None` when it has no manifest.

        Raises:
            ServerError: the manifest cannot be read.
        """
        data = await self._client.execute(_FETCH_MANIFEST, {"id": artifact_id})
        file = ((data.get("artifact") or {}).get("currentManifest") or {}).get("file") or {}
        if not file.get("directUrl"):
            return None
        raw = await self._transfers.read(file["directUrl"], _MAX_MANIFEST_BYTES)
        try:
            contents = json.loads(raw)["contents"].items()
            return {
                path: ArtifactEntry(
                    path, str(raw["digest"]), int(raw.get("size") or 0), raw.get("ref")
                )
                for path, raw in contents
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _invalid(error) from error

    async def file_urls(self, reference: JobReference) -> dict[str, str]:
        """URLs of a version's files by path; they expire. Empty when there is no such version."""
        urls: dict[str, str] = {}
        variables = {
            "entity": reference.entity,
            "project": reference.project,
            "collection": reference.name,
            "alias": reference.alias,
            "perPage": _PER_PAGE,
        }
        cursor: str | None = None
        while True:
            data = await self._client.execute(_FILE_URLS, {**variables, "cursor": cursor})
            collection = (data.get("project") or {}).get("artifactCollection") or {}
            files = (collection.get("artifactMembership") or {}).get("files") or {}
            nodes = [edge["node"] for edge in files.get("edges") or ()]
            urls |= {str(node["name"]): str(node["directUrl"]) for node in nodes}
            page = files.get("pageInfo") or {}
            cursor = page.get("endCursor")
            if not page.get("hasNextPage") or not nodes or cursor is None:
                return urls

    async def text(self, reference: JobReference, artifact_id: str, path: str) -> str:
        """A small text file of a version, compared with its digest.

        Raises:
            NotFoundError: the version has no such file.
            ServerError: it cannot be read, or does not have the recorded digest.
        """
        entry = (await self.entries(artifact_id) or {}).get(path)
        if entry is None:
            message = f"The version {reference} has no file '{path}'."
            raise NotFoundError(message, hint="Create the job again.")
        url = (await self.file_urls(reference)).get(path)
        if url is None:
            raise ServerError(f"The server lists no URL for '{path}' of {reference}.")
        content = await self._transfers.read(url, _MAX_FILE_BYTES)
        if entry_digest([content]) != entry.digest:
            message = f"'{path}' of {reference} does not have the digest of its manifest."
            raise ServerError(message, hint="It was damaged in transfer or in storage.")
        return content.decode("utf-8", "replace")

    # ------------------------------------------------------------------ changes

    async def add_aliases(
        self, reference: JobReference, artifact_id: str, aliases: Iterable[str]
    ) -> None:
        """Give aliases to a version; from another version they move."""
        await self._change_aliases(_ADD_ALIASES, reference, artifact_id, aliases)

    async def remove_aliases(
        self, reference: JobReference, artifact_id: str, aliases: Iterable[str]
    ) -> None:
        """Take aliases from a version."""
        await self._change_aliases(_DELETE_ALIASES, reference, artifact_id, aliases)

    async def delete(self, artifact_id: str) -> None:
        """Delete a version together with its aliases."""
        given = {"artifactID": artifact_id, "deleteAliases": True}
        await self._client.execute(_DELETE, {"input": given}, idempotent=True)

    async def _change_aliases(
        self, document: str, reference: JobReference, artifact_id: str, aliases: Iterable[str]
    ) -> None:
        named = [
            {
                "artifactCollectionName": reference.name,
                "entityName": reference.entity,
                "projectName": reference.project,
                "alias": alias,
            }
            for alias in aliases
        ]
        given = {"artifactID": artifact_id, "aliases": named}
        await self._client.execute(document, {"input": given}, idempotent=True)


def reference_of(artifact: Mapping[str, Any]) -> JobReference:
    """The full name of a version that was found by its id.

    Raises:
        ServerError: the reply lacks a part of it.
    """
    try:
        sequence = artifact["artifactSequence"]
        project = sequence["project"]
        version = f"v{int(artifact['versionIndex'])}"
        return JobReference(project["entity"]["name"], project["name"], sequence["name"], version)
    except (KeyError, TypeError, ValueError) as error:
        raise _invalid(error) from error


def metadata_of(artifact: Mapping[str, Any]) -> Json:
    """The metadata of a version; empty when it is not a JSON object."""
    raw = artifact.get("metadata")
    try:
        metadata = json.loads(raw) if isinstance(raw, str) else raw
    except ValueError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _job(node: Json) -> Json:
    edges = (node.get("artifacts") or {}).get("edges") or []
    versions = _committed([_with_aliases(edge["node"]) for edge in edges])
    return {"name": node["name"], "versions": versions}


def _with_aliases(node: Json) -> Json:
    """A version with its aliases as a list of names."""
    return {**node, "aliases": [each["alias"] for each in node.get("aliases") or []]}


def _committed(versions: list[Json]) -> list[Json]:
    """Those that are complete, newest first."""
    kept = [each for each in versions if each["state"] == "COMMITTED"]
    return sorted(kept, key=lambda each: -(each.get("versionIndex") or 0))


def _invalid(error: Exception) -> ServerError:
    message = f"The server's artifact is not as expected ({type(error).__name__}: {error})."
    return ServerError(message, hint="Create the job again, or update the agent or the server.")
