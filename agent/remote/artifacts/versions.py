"""Versions of artifacts on a server: found, listed, read, aliased, deleted.

Answers are the wire's own objects, since `--json` shows them as they are.
"""

import json
from collections.abc import Iterable
from typing import Any, Final

from agent.model.errors import NotFoundError, ServerError
from agent.model.job.digest import entry_digest
from agent.model.job.reference import JobReference
from agent.remote.artifacts import documents, lookup
from agent.remote.artifacts.lookup import JOB
from agent.remote.artifacts.transfers import Transfers
from agent.remote.client import GraphQLClient

Json = dict[str, Any]

_MANIFEST_LIMIT: Final = 64 << 20
_FILE_LIMIT: Final = 16 << 20


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
        found = await lookup.membership(self._client, reference) or {}
        artifact = found.get("artifact")
        if artifact is None or (artifact.get("artifactType") or {}).get("name", JOB) != JOB:
            raise await lookup.missing(self._client, reference)
        return {
            **artifact,
            "versionIndex": found.get("versionIndex"),
            "aliases": [each["alias"] for each in found.get("aliases") or []],
        }

    async def type_of(self, entity: str, project: str, name: str) -> str | None:
        """The type of a collection; `None` when nothing has that name."""
        data = await self._client.execute(
            documents.ARTIFACT_TYPE,
            {"entity": entity, "project": project, "name": f"{name}:latest"},
        )
        artifact = (data.get("project") or {}).get("artifact") or {}
        found: str | None = (artifact.get("artifactType") or {}).get("name")
        return found

    async def jobs(self, entity: str, project: str) -> list[Json] | None:
        """Jobs of a project by name: `name`, and `versions`, newest first; `None`: no project."""
        return await lookup.jobs(self._client, entity, project)

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
            found += [lookup.with_aliases(edge["node"]) for edge in page["edges"]]
            after = page["pageInfo"]["endCursor"]
            if not page["pageInfo"]["hasNextPage"]:
                break
        kept = lookup.committed(found)
        if not kept:
            raise await lookup.missing(self._client, reference)
        return kept

    async def text(self, reference: JobReference, artifact_id: str, path: str) -> str:
        """A small text file of a version, compared with its digest.

        Raises:
            NotFoundError: the version has no such file.
            ServerError: what was sent is not what the manifest promises.
        """
        entries = await self.manifest(artifact_id)
        if path not in entries:
            message = f"The version {reference} has no file '{path}'."
            raise NotFoundError(message, hint="Create the job again.")
        url = (await lookup.file_urls(self._client, reference)).get(path)
        if url is None:
            raise ServerError(f"The server lists no address for '{path}' of {reference}.")
        content = await self._transfers.read(url, _FILE_LIMIT)
        if entry_digest([content]) != entries[path]["digest"]:
            message = f"'{path}' of {reference} is not what its manifest promises."
            raise ServerError(message, hint="It was damaged on its way or where it is stored.")
        return content.decode("utf-8", "replace")

    async def manifest(self, artifact_id: str) -> Json:
        """Path to entry, for all files of a version.

        Raises:
            ServerError: there is no manifest, or it cannot be read.
        """
        url = await lookup.manifest_url(self._client, artifact_id)
        if url is None:
            raise ServerError(f"The artifact {artifact_id} has no manifest.")
        raw = await self._transfers.read(url, _MANIFEST_LIMIT)
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
