"""Questions about artifacts that the command line and the agent both ask.

Answers are the wire's own objects.
"""

from typing import Any, Final

from agent.model.errors import NotFoundError
from agent.model.job.reference import JobReference, no_such_job, no_such_version
from agent.remote.artifacts import documents
from agent.remote.client import GraphQLClient

Json = dict[str, Any]

JOB: Final = "job"
_PER_PAGE: Final = 5000


async def membership(client: GraphQLClient, reference: JobReference) -> Json | None:
    """One version of a collection of any type; `None` when there is none."""
    data = await client.execute(
        documents.MEMBERSHIP,
        {
            "entity": reference.entity,
            "project": reference.project,
            "name": f"{reference.name}:{reference.alias}",
        },
    )
    found: Json | None = (data.get("project") or {}).get("artifactCollectionMembership")
    return found


async def jobs(client: GraphQLClient, entity: str, project: str) -> list[Json] | None:
    """Jobs of a project by name: `name`, and `versions`, newest first; `None`: no such project."""
    found: list[Json] = []
    after: str | None = None
    while True:
        data = await client.execute(
            documents.OF_TYPE,
            {
                "entityName": entity,
                "projectName": project,
                "artifactTypeName": JOB,
                "after": after,
            },
        )
        if data.get("project") is None:
            return None
        kind = data["project"].get("artifactType") or {}
        page = kind.get("artifactCollections")
        if page is None:
            return found
        found += [_job(edge["node"]) for edge in page["edges"]]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            return sorted((each for each in found if each["versions"]), key=_name)


async def missing(client: GraphQLClient, reference: JobReference) -> NotFoundError:
    """The error for a job or version that is not there, with near misses."""
    listed = await jobs(client, reference.entity, reference.project)
    if listed is None:
        message = f"There is no job {reference.job}: `{reference.entity}` has no such project."
        return NotFoundError(message, hint="Check the project's name; capitals count.")
    known = {job["name"]: job for job in listed}
    if reference.name not in known:
        return no_such_job(reference, known)
    versions = known[reference.name]["versions"]
    aliases = {alias for one in versions for alias in one["aliases"]}
    numbers = {f"v{one['versionIndex']}" for one in versions if one.get("versionIndex") is not None}
    return no_such_version(reference, aliases | numbers)


async def manifest_url(client: GraphQLClient, artifact_id: str) -> str | None:
    """Where the list of a version's files is; `None` when it has none."""
    data = await client.execute(documents.FETCH_MANIFEST, {"id": artifact_id})
    file = ((data.get("artifact") or {}).get("currentManifest") or {}).get("file") or {}
    return file.get("directUrl")


async def file_urls(client: GraphQLClient, reference: JobReference) -> dict[str, str]:
    """Addresses of a version's files, good for a while; empty when the version is not there."""
    urls: dict[str, str] = {}
    cursor: str | None = None
    while True:
        data = await client.execute(
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
        files = (collection.get("artifactMembership") or {}).get("files") or {}
        nodes = [edge["node"] for edge in files.get("edges") or ()]
        urls |= {str(node["name"]): str(node["directUrl"]) for node in nodes}
        page = files.get("pageInfo") or {}
        cursor = page.get("endCursor")
        if not page.get("hasNextPage") or not nodes or cursor is None:
            return urls


def with_aliases(node: Json) -> Json:
    """A version with the names of its aliases alone."""
    return {**node, "aliases": [each["alias"] for each in node.get("aliases") or []]}


def committed(versions: list[Json]) -> list[Json]:
    """Those that others may see, newest first."""
    kept = [each for each in versions if each["state"] == "COMMITTED"]
    return sorted(kept, key=lambda each: -(each.get("versionIndex") or 0))


def _job(node: Json) -> Json:
    edges = (node.get("artifacts") or {}).get("edges") or []
    return {"name": node["name"], "versions": committed([with_aliases(e["node"]) for e in edges])}


def _name(job: Json) -> str:
    return str(job["name"])
