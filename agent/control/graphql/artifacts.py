"""Artifacts, their collections and types, as clients read and change them."""

from typing import Any, Final

from ariadne import InterfaceType, ObjectType, UnionType

from agent.control.graphql.context import (
    Args,
    Context,
    Info,
    RootResolvers,
    connection,
    constant,
    context_of,
    nested,
    page_args,
    single_page,
)
from agent.control.graphql.files import entry_file, manifest_file
from agent.control.services.artifacts import ArtifactChange
from agent.control.services.paging import Page
from agent.control.store.artifacts import ArtifactRecord
from agent.control.store.collections import CollectionRecord
from agent.control.store.projects import ProjectRecord
from agent.control.store.runs import RunRecord
from agent.model.spec import Json


async def _client_id(context: Context, args: Args) -> Json | None:
    found = await context.plane.artifacts.server_id(context.principal, args["client_id"])
    return None if found is None else {"server_id": found}


async def _use(context: Context, args: Args) -> Json:
    artifact = await context.plane.artifacts.use(
        context.principal,
        args["artifact_id"],
        entity=args["entity_name"],
        project=args["project_name"],
        run_name=args["run_name"],
        used_as=args.get("used_as"),
    )
    return {"artifact": artifact}


async def _update(context: Context, args: Args) -> Json:
    aliases, metadata = args.get("aliases"), args.get("metadata")
    change = ArtifactChange(
        description=args.get("description"),
        metadata=metadata if isinstance(metadata, dict) else None,
        ttl_seconds=args.get("ttl_duration_seconds"),
        tags_to_add=tuple(tag["tag_name"] for tag in args.get("tags_to_add") or ()),
        tags_to_delete=tuple(tag["tag_name"] for tag in args.get("tags_to_delete") or ()),
        aliases=None if aliases is None else tuple(alias["alias"] for alias in aliases),
    )
    changed = await context.plane.artifacts.update(context.principal, args["artifact_id"], change)
    return {"artifact": changed}


async def _delete(context: Context, args: Args) -> Json:
    deleted = await context.plane.artifacts.delete(
        context.principal, args["artifact_id"], with_aliases=bool(args.get("delete_aliases"))
    )
    return {"artifact": deleted}


async def _add_aliases(context: Context, args: Args) -> Json:
    names = [alias["alias"] for alias in args["aliases"]]
    await context.plane.artifacts.add_aliases(context.principal, args["artifact_id"], names)
    return {"success": True}


async def _delete_aliases(context: Context, args: Args) -> Json:
    names = [alias["alias"] for alias in args["aliases"]]
    await context.plane.artifacts.delete_aliases(context.principal, args["artifact_id"], names)
    return {"success": True}


_ARTIFACT: Final = ObjectType("Artifact")
_MEMBERSHIP: Final = ObjectType("ArtifactCollectionMembership")
_CREATOR: Final = UnionType("ArtifactCreator")
_COLLECTION: Final = InterfaceType("ArtifactCollection")
_SEQUENCE: Final = ObjectType("ArtifactSequence")
_TYPE: Final = ObjectType("ArtifactType")
_PROJECT: Final = ObjectType("Project")
_RUN: Final = ObjectType("Run")
for _field, _attribute in {
    "versionIndex": "version",
    "ttlDurationSeconds": "ttl_seconds",
    "artifactSequence": "collection",
}.items():
    _ARTIFACT.set_alias(_field, _attribute)
_MEMBERSHIP.set_alias("versionIndex", "version")
_MEMBERSHIP.set_alias("artifactCollection", "collection")
_ARTIFACT.set_field("ttlIsInherited", lambda artifact, _info: artifact.ttl_seconds == 0)
_ARTIFACT.set_field("labels", constant(None))
_ARTIFACT.set_field("artifactType", lambda artifact, _info: _type_of(artifact.collection))
_MEMBERSHIP.set_field("id", lambda artifact, _info: f"{artifact.collection.id}:{artifact.id}")
_MEMBERSHIP.set_field("artifact", lambda artifact, _info: artifact)
_COLLECTION.set_type_resolver(constant("ArtifactSequence"))
_SEQUENCE.set_field("defaultArtifactType", lambda collection, _info: _type_of(collection))
_SEQUENCE.set_field("tags", constant(single_page(())))
_SEQUENCE.set_field("digestAlgorithm", constant("MANIFEST_MD5"))


@_ARTIFACT.field("tags")
def _tags(artifact: ArtifactRecord, _info: Info) -> list[Json]:
    return [{"id": f"Tag:{tag}", "name": tag} for tag in artifact.tags]


@_ARTIFACT.field("aliases")
@_MEMBERSHIP.field("aliases")
def _aliases(artifact: ArtifactRecord, _info: Info) -> list[Json]:
    """Free aliases and `v<N>`, which clients recognise by its form."""
    own = () if artifact.version is None else (f"v{artifact.version}",)
    return [_alias(artifact.collection, name) for name in (*artifact.aliases, *own)]


@_ARTIFACT.field("currentManifest")
async def _manifest(artifact: ArtifactRecord, info: Info) -> Json | None:
    context = nested(info)
    found = await context.plane.artifacts.manifest(context.principal, artifact)
    return None if found is None else {"id": found.id, "file": manifest_file(context, found)}


@_ARTIFACT.field("files")
@_MEMBERSHIP.field("files")
async def _files(artifact: ArtifactRecord, info: Info, **args: Any) -> Json:
    context = nested(info)
    page = await context.plane.artifacts.entries(
        context.principal, artifact, names=args.get("names"), **page_args(args)
    )
    files = tuple(entry_file(context, artifact, entry) for entry in page.rows)
    return connection(Page(files, page.end_cursor, page.has_next, page.total))


@_ARTIFACT.field("filesByManifestEntries")
async def _files_by_entries(artifact: ArtifactRecord, info: Info, **args: Any) -> Json:
    """URLs of files that the client found in the manifest, as far as they are this artifact's."""
    context = nested(info)
    names = {entry["name"] for entry in args.get("entries") or ()}
    size = max(1, len(names))
    page = await context.plane.artifacts.entries(
        context.principal, artifact, names=names, first=size
    )
    found = {entry.path: entry for entry in page.rows}
    wanted = [found[entry["name"]] for entry in args.get("entries") or () if entry["name"] in found]
    return single_page([entry_file(context, artifact, entry) for entry in wanted])


@_ARTIFACT.field("usedBy")
async def _used_by(artifact: ArtifactRecord, info: Info) -> Json:
    context = nested(info)
    return single_page(await context.plane.artifacts.users_of(context.principal, artifact))


@_ARTIFACT.field("createdBy")
async def _created_by(artifact: ArtifactRecord, info: Info) -> RunRecord | Json | None:
    """The run that made it, if it still exists, else the user."""
    context, place = nested(info), artifact.collection
    if artifact.run_name is not None:
        run = await context.plane.runs.get(
            context.principal, place.entity, place.project, artifact.run_name
        )
        if run is not None:
            return run
    user = artifact.user
    return None if user is None else {"id": user, "name": user, "username": user}


@_CREATOR.type_resolver
def _creator(creator: RunRecord | Json, *_: Any) -> str:
    return "Run" if isinstance(creator, RunRecord) else "User"


@_RUN.field("inputArtifacts")
async def _inputs(run: RunRecord, info: Info, **_page: Any) -> Json:
    context = nested(info)
    return _all(await context.plane.artifacts.inputs_of(context.principal, run))


@_RUN.field("outputArtifacts")
async def _outputs(run: RunRecord, info: Info, **_page: Any) -> Json:
    context = nested(info)
    return _all(await context.plane.artifacts.outputs_of(context.principal, run))


def _all(found: tuple[ArtifactRecord, ...]) -> Json:
    return connection(Page(found, None, has_next=False, total=len(found)))


@_SEQUENCE.field("project")
async def _collection_project(collection: CollectionRecord, info: Info) -> ProjectRecord | None:
    context, place = context_of(info), (collection.entity, collection.project)
    return await context.once(
        ("project", *place), lambda: context.plane.projects.get(context.principal, *place)
    )


@_SEQUENCE.field("latestArtifact")
async def _latest(collection: CollectionRecord, info: Info) -> ArtifactRecord | None:
    context = nested(info)
    return await context.plane.artifacts.newest(context.principal, collection)


@_SEQUENCE.field("aliases")
async def _collection_aliases(collection: CollectionRecord, info: Info, **args: Any) -> Json:
    """Free aliases and `v<N>` of the newest versions."""
    context = nested(info)
    page = await context.plane.artifacts.versions(context.principal, collection, **page_args(args))
    names = [name for version in page.rows for name in (*version.aliases, f"v{version.version}")]
    return single_page([_alias(collection, name) for name in names])


@_SEQUENCE.field("artifacts")
async def _collection_artifacts(collection: CollectionRecord, info: Info, **args: Any) -> Json:
    """Committed versions, newest first; filters are ignored."""
    context = nested(info)
    page = await context.plane.artifacts.versions(context.principal, collection, **page_args(args))
    found = connection(page)
    for edge in found["edges"]:
        edge["version"] = f"v{edge['node'].version}"
    return found


@_SEQUENCE.field("artifactMembership")
async def _collection_membership(
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
async def _project_type(project: ProjectRecord, info: Info, *, name: str) -> Json | None:
    found = await _types(project, info)
    return next((kind for kind in found if kind["name"] == name), None)


@_PROJECT.field("artifactTypes")
async def _all_types(project: ProjectRecord, info: Info, **_page: Any) -> Json:
    return single_page(await _types(project, info))


@_PROJECT.field("artifactCollection")
async def _project_collection(
    project: ProjectRecord, info: Info, *, name: str
) -> CollectionRecord | None:
    context = nested(info)
    return await context.plane.artifacts.collection(
        context.principal, project.entity, project.name, name
    )


@_PROJECT.field("artifactCollections")
async def _all_collections(project: ProjectRecord, info: Info, **args: Any) -> Json:
    return await _collections(info, project.entity, project.name, None, args)


@_PROJECT.field("artifactCollectionMembership")
@_PROJECT.field("artifact")
async def _project_artifact(
    project: ProjectRecord, info: Info, *, name: str
) -> ArtifactRecord | None:
    context = nested(info)
    return await context.plane.artifacts.by_name(
        context.principal, project.entity, project.name, name
    )


async def _collections(
    info: Info, entity: str, project: str, kind: str | None, args: dict[str, Any]
) -> Json:
    context = nested(info)
    page = await context.plane.artifacts.collections(
        context.principal, entity, project, kind=kind, **page_args(args)
    )
    return connection(page)


async def _types(project: ProjectRecord, info: Info) -> list[Json]:
    context = nested(info)
    found = await context.plane.artifacts.types(context.principal, project.entity, project.name)
    place = {"entity": project.entity, "project": project.name}
    return [{"name": name, "created_at": created_at, **place} for name, created_at in found]


def _alias(collection: CollectionRecord, name: str) -> Json:
    """An alias in W&B's shape."""
    return {
        "id": f"{collection.id}:{name}",
        "alias": name,
        "artifact_collection": collection,
        "artifact_collection_name": collection.name,
    }


def _type_of(collection: CollectionRecord) -> Json:
    """The type of a collection, with the collection's time of creation."""
    return {
        "name": collection.type,
        "created_at": collection.created_at,
        "entity": collection.entity,
        "project": collection.project,
    }


QUERIES: Final[RootResolvers] = {
    "artifact": lambda context, args: context.plane.artifacts.get(context.principal, args["id"]),
    "artifactCollection": lambda context, args: context.plane.artifacts.collection_by_id(
        context.principal, args["id"]
    ),
    "clientIDMapping": _client_id,
}
MUTATIONS: Final = {
    "useArtifact": _use,
    "updateArtifact": _update,
    "deleteArtifact": _delete,
    "addAliases": _add_aliases,
    "deleteAliases": _delete_aliases,
}
TYPES: Final = (
    _ARTIFACT,
    _MEMBERSHIP,
    _CREATOR,
    _COLLECTION,
    _SEQUENCE,
    _TYPE,
    _PROJECT,
    _RUN,
)
