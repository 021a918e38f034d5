"""Collections and types of artifacts, and how projects lead to them."""

from typing import Any, Final

from ariadne import InterfaceType, ObjectType

from agent.control.graphql.artifacts import alias, artifact_type
from agent.control.graphql.connections import connection, whole
from agent.control.graphql.context import Args, Context, Info, context_of, nested
from agent.control.graphql.limits import check_page
from agent.control.store.artifact_records import ArtifactRecord, CollectionRecord
from agent.control.store.records import ProjectRecord
from agent.model.spec import Json


async def _collection_by_id(context: Context, args: Args) -> CollectionRecord | None:
    return await context.plane.artifacts.collection_by_id(context.principal, args["id"])


_COLLECTION: Final = InterfaceType("ArtifactCollection")
_SEQUENCE: Final = ObjectType("ArtifactSequence")
_TYPE: Final = ObjectType("ArtifactType")
_PROJECT: Final = ObjectType("Project")


@_COLLECTION.type_resolver
def _kind(*_: Any) -> str:
    return "ArtifactSequence"


@_SEQUENCE.field("project")
async def _project(collection: CollectionRecord, info: Info) -> ProjectRecord | None:
    context, place = context_of(info), (collection.entity, collection.project)
    return await context.once(
        ("project", *place), lambda: context.plane.projects.get(context.principal, *place)
    )


@_SEQUENCE.field("defaultArtifactType")
def _default_type(collection: CollectionRecord, _info: Info) -> Json:
    return artifact_type(collection)


@_SEQUENCE.field("tags")
def _tags(_collection: CollectionRecord, _info: Info) -> Json:
    return whole(())


@_SEQUENCE.field("digestAlgorithm")
def _algorithm(_collection: CollectionRecord, _info: Info) -> str:
    return "MANIFEST_MD5"


@_SEQUENCE.field("latestArtifact")
async def _latest(collection: CollectionRecord, info: Info) -> ArtifactRecord | None:
    context = nested(info)
    return await context.plane.artifacts.newest(context.principal, collection)


@_SEQUENCE.field("aliases")
async def _aliases(collection: CollectionRecord, info: Info, **args: Any) -> Json:
    """Aliases of the newest versions, free ones and `v<N>`."""
    context = nested(info)
    page = await context.plane.artifacts.versions(
        context.principal,
        collection,
        after=args.get("after"),
        first=check_page(args.get("first")),
    )
    names = [name for version in page.rows for name in (*version.aliases, f"v{version.version}")]
    return whole([alias(collection, name) for name in names])


@_SEQUENCE.field("artifacts")
async def _artifacts(collection: CollectionRecord, info: Info, **args: Any) -> Json:
    """Newest first. Filters are not looked at: only whole versions are shown."""
    context = nested(info)
    page = await context.plane.artifacts.versions(
        context.principal,
        collection,
        after=args.get("after"),
        first=check_page(args.get("first")),
    )
    found = connection(page)
    for edge in found["edges"]:
        edge["version"] = f"v{edge['node'].version}"
    return found


@_SEQUENCE.field("artifactMembership")
async def _membership(
    collection: CollectionRecord, info: Info, *, alias_name: str
) -> ArtifactRecord | None:
    context = nested(info)
    return await context.plane.artifacts.by_alias(context.principal, collection, alias_name)


@_TYPE.field("id")
def _type_id(kind: Json, _info: Info) -> str:
    return f"ArtifactType:{kind['entity']}:{kind['project']}:{kind['name']}"


@_TYPE.field("artifactCollection")
async def _collection_of_type(kind: Json, info: Info, *, name: str) -> CollectionRecord | None:
    context = nested(info)
    found = await context.plane.artifacts.collection(
        context.principal, kind["entity"], kind["project"], name
    )
    return found if found is not None and found.type == kind["name"] else None


@_TYPE.field("artifactCollections")
async def _collections_of_type(kind: Json, info: Info, **args: Any) -> Json:
    return await _collections(info, kind["entity"], kind["project"], kind["name"], args)


@_PROJECT.field("artifactType")
async def _type(project: ProjectRecord, info: Info, *, name: str) -> Json | None:
    found = await _types(project, info)
    return next((kind for kind in found if kind["name"] == name), None)


@_PROJECT.field("artifactTypes")
async def _all_types(project: ProjectRecord, info: Info, **_page: Any) -> Json:
    return whole(await _types(project, info))


@_PROJECT.field("artifactCollection")
async def _collection(project: ProjectRecord, info: Info, *, name: str) -> CollectionRecord | None:
    context = nested(info)
    return await context.plane.artifacts.collection(
        context.principal, project.entity, project.name, name
    )


@_PROJECT.field("artifactCollections")
async def _all_collections(project: ProjectRecord, info: Info, **args: Any) -> Json:
    return await _collections(info, project.entity, project.name, None, args)


@_PROJECT.field("artifactCollectionMembership")
@_PROJECT.field("artifact")
async def _artifact(project: ProjectRecord, info: Info, *, name: str) -> ArtifactRecord | None:
    context = nested(info)
    return await context.plane.artifacts.by_name(
        context.principal, project.entity, project.name, name
    )


async def _collections(
    info: Info, entity: str, project: str, kind: str | None, args: dict[str, Any]
) -> Json:
    context = nested(info)
    page = await context.plane.artifacts.collections(
        context.principal,
        entity,
        project,
        kind=kind,
        after=args.get("after"),
        first=check_page(args.get("first")),
    )
    return connection(page)


async def _types(project: ProjectRecord, info: Info) -> list[Json]:
    context = nested(info)
    found = await context.plane.artifacts.types(context.principal, project.entity, project.name)
    place = {"entity": project.entity, "project": project.name}
    return [{"name": name, "created_at": created_at, **place} for name, created_at in found]


QUERIES: Final = {"artifactCollection": _collection_by_id}
MUTATIONS: Final[dict[str, Any]] = {}
TYPES: Final = (_COLLECTION, _SEQUENCE, _TYPE, _PROJECT)
