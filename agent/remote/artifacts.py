"""Versions of artifacts on a server: found, listed, read, aliased, deleted.

Answers are the wire's own objects, since `--json` shows them as they are.
"""

import json
from collections.abc import Iterable
from typing import Any, Final

from agent.model.errors import NotFoundError, ServerError
from agent.model.job.digest import entry_digest
from agent.model.job.reference import JobReference, no_such_job, no_such_version
from agent.remote import artifact_documents as documents
from agent.remote.client import GraphQLClient
from agent.remote.transfers import Transfers

Json = dict[str, Any]

JOB: Final = "job"
_MANIFEST_LIMIT: Final = 64 << 20
_FILE_LIMIT: Final = 16 << 20
_PER_PAGE: Final = 5000


class Artifacts:
    """The read half, over one client.

    Every method raises `UnreachableError`, `AuthenticationError` and `PermissionDeniedError`
    besides what it names.
    """

    def __init__(self, client: GraphQLClient, transfers: Transfers) -> None:
        self._client = client
        self._transfers = transfers

    async def version(self, reference: JobReference) -> Json:
        """The version of a job that an alias names, with `versionIndex` and `aliases`.

        Raises:
            NotFoundError: no such job or alias; near misses are offered.
        """
        membership = await self.membership(reference)
        artifact = (membership or {}).get("artifact")
        if artifact is None or (artifact.get("artifactType") or {}).get("name", JOB) != JOB:
            raise await self._missing(reference)
        return {
            **artifact,
            "versionIndex": (membership or {}).get("versionIndex"),
            "aliases": [each["alias"] for each in (membership or {}).get("aliases") or []],
        }

    async def membership(self, reference: JobReference) -> Json | None:
        """One version of a collection of any type; `None` when there is none."""
        data = await self._client.execute(
            documents.MEMBERSHIP,
            {
                "entity": reference.entity,
                "project": reference.project,
                "name": f"{reference.name}:{reference.alias}",
            },
        )
        found: Json | None = (data.get("project") or {}).get("artifactCollectionMembership")
        return found

    async def type_of(self, entity: str, project: str, name: str) -> str | None:
        """The type of a collection; `None` when nothing has that name."""
        data = await self._client.execute(
            documents.ARTIFACT_TYPE,
            {"entity": entity, "project": project, "name": f"{name}:latest"},
        )
        artifact = (data.get("project") or {}).get("artifact") or {}
        found: str | None = (artifact.get("artifactType") or {}).get("name")
        return found

    async def jobs(self, entity: str, project: str) -> list[Json]:
        """Jobs of a project by name: `name`, and `versions`, newest first."""
        found: list[Json] = []
        after: str | None = None
        while True:
            data = await self._client.execute(
                documents.OF_TYPE,
                {
                    "entityName": entity,
                    "projectName": project,
                    "artifactTypeName": JOB,
                    "after": after,
                },
            )
            kind = (data.get("project") or {}).get("artifactType") or {}
            page = kind.get("artifactCollections")
            if page is None:
                return found
            found += [_job(edge["node"]) for edge in page["edges"]]
            after = page["pageInfo"]["endCursor"]
            if not page["pageInfo"]["hasNextPage"]:
                return sorted((each for each in found if each["versions"]), key=_name)

    async def versions(self, reference: JobReference) -> list[Json]:
        """All versions of a job, newest first.

        Raises:
            NotFoundError: there is no such job.
        """
        found: list[Json] = []
        after: str | None = None
        while True:
            page = await self._versions_after(reference, after)
            if page is None:
                break
            found += [_version(edge["node"]) for edge in page["edges"]]
            after = page["pageInfo"]["endCursor"]
            if not page["pageInfo"]["hasNextPage"]:
                break
        kept = _alive(found)
        if not kept:
            raise await self._missing(reference)
        return kept

    async def text(self, reference: JobReference, artifact_id: str, path: str) -> str:
        """A small text file of a version, compared with its digest.

        Raises:
            NotFoundError: the version has no such file.
            ServerError: what was sent is not what the manifest promises.
        """
        entries = await self.manifest(artifact_id)
        if path not in entries:
            message = f"The version {reference} has no file «{path}»."
            raise NotFoundError(message, hint="Create the job again.")
        url = await self._url(reference, path)
        content = await self._transfers.read(url, _FILE_LIMIT)
        if entry_digest([content]) != entries[path]["digest"]:
            message = f"«{path}» of {reference} is not what its manifest promises."
            raise ServerError(message, hint="It was damaged on its way or where it is stored.")
        return content.decode("utf-8", "replace")

    async def manifest(self, artifact_id: str) -> Json:
        """Path to entry, for all files of a version.

        Raises:
            ServerError: there is no manifest, or it cannot be read.
        """
        data = await self._client.execute(documents.FETCH_MANIFEST, {"id": artifact_id})
        current = (data.get("artifact") or {}).get("currentManifest")
        if current is None:
            raise ServerError(f"The artifact {artifact_id} has no manifest.")
        raw = await self._transfers.read(current["file"]["directUrl"], _MANIFEST_LIMIT)
        try:
            contents: Json = json.loads(raw)["contents"]
        except (ValueError, KeyError, TypeError) as error:
            raise ServerError(f"The manifest of {artifact_id} cannot be read ({error}).") from None
        return contents

    async def add_aliases(
        self, reference: JobReference, artifact_id: str, aliases: Iterable[str]
    ) -> None:
        """Give aliases to a version; from another version they move."""
        await self._change_aliases(documents.ADD_ALIASES, reference, artifact_id, aliases)

    async def remove_aliases(
        self, reference: JobReference, artifact_id: str, aliases: Iterable[str]
    ) -> None:
        """Take aliases from a version."""
        await self._change_aliases(documents.DELETE_ALIASES, reference, artifact_id, aliases)

    async def delete(self, artifact_id: str) -> None:
        """Delete a version together with its aliases."""
        given = {"artifactID": artifact_id, "deleteAliases": True}
        await self._client.execute(documents.DELETE, {"input": given}, idempotent=True)

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

    async def _versions_after(self, reference: JobReference, after: str | None) -> Json | None:
        data = await self._client.execute(
            documents.VERSIONS,
            {
                "entity": reference.entity,
                "project": reference.project,
                "type": JOB,
                "collection": reference.name,
                "after": after,
            },
        )
        kind = (data.get("project") or {}).get("artifactType") or {}
        page: Json | None = (kind.get("artifactCollection") or {}).get("artifacts")
        return page

    async def _missing(self, reference: JobReference) -> NotFoundError:
        known = {job["name"]: job for job in await self.jobs(reference.entity, reference.project)}
        if reference.name not in known:
            return no_such_job(reference, known)
        aliases = (alias for one in known[reference.name]["versions"] for alias in one["aliases"])
        return no_such_version(reference, set(aliases))

    async def _url(self, reference: JobReference, path: str) -> str:
        cursor: str | None = None
        while True:
            data = await self._client.execute(
                documents.FILE_URLS,
                {
                    "entity": reference.entity,
                    "project": reference.project,
                    "collection": reference.name,
                    "alias": reference.alias,
                    "cursor": cursor,
                    "perPage": _PER_PAGE,
                },
            )
            collection = (data.get("project") or {}).get("artifactCollection") or {}
            files = (collection.get("artifactMembership") or {}).get("files")
            if files is None:
                raise await self._missing(reference)
            for edge in files["edges"]:
                if edge["node"]["name"] == path:
                    return str(edge["node"]["directUrl"])
            cursor = files["pageInfo"]["endCursor"]
            if not files["pageInfo"]["hasNextPage"]:
                raise ServerError(f"The server lists no address for «{path}» of {reference}.")


def _job(node: Json) -> Json:
    versions = [_version(edge["node"]) for edge in (node.get("artifacts") or {}).get("edges") or []]
    return {"name": node["name"], "versions": _alive(versions)}


def _version(node: Json) -> Json:
    return {**node, "aliases": [each["alias"] for each in node.get("aliases") or []]}


def _alive(versions: list[Json]) -> list[Json]:
    kept = [each for each in versions if each["state"] == "COMMITTED"]
    return sorted(kept, key=lambda each: -(each.get("versionIndex") or 0))


def _name(job: Json) -> str:
    return str(job["name"])
