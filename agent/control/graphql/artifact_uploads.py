"""W&B's mutations that make an artifact: create, manifest, files, commit."""

import asyncio
from typing import Final

from ariadne import ObjectType

from agent.control.files.manifest import parse_manifest
from agent.control.graphql.context import Args, Context, RootResolvers, as_object, single_page
from agent.control.graphql.files import manifest_file, upload_file
from agent.control.services.artifact_uploads import NewArtifact
from agent.control.store.artifact_files import EntryRecord
from agent.control.store.artifacts import ArtifactRecord, ArtifactState
from agent.model.errors import ConflictError, InvalidInputError, NotFoundError
from agent.model.job.digest import decoded
from agent.model.job.job_file import FILE_NAME, read_job_file
from agent.model.job.names import JOB_TYPE
from agent.model.json_values import decode
from agent.model.spec import Json

#: A job's file is read whole.
_JOB_FILE_LIMIT: Final = 1024 * 1024


async def _create(context: Context, args: Args) -> Json:
    names = args.get("artifact_collection_names") or []
    name = args.get("artifact_collection_name") or (names[0] if names else "")
    wanted = NewArtifact(
        entity=args["entity_name"],
        project=args["project_name"],
        type=args["artifact_type_name"],
        name=name,
        digest=args["digest"],
        digest_algorithm=args["digest_algorithm"],
        description=args.get("description"),
        metadata=as_object(args.get("metadata"), "metadata"),
        tags=tuple(tag["tag_name"] for tag in args.get("tags") or ()),
        aliases=tuple(alias["alias"] for alias in args.get("aliases") or ()),
        ttl_seconds=args.get("ttl_duration_seconds") or 0,
        history_step=args.get("history_step"),
        run_name=args.get("run_name"),
        client_id=args.get("client_id"),
        deduplicate=bool(args.get("enable_digest_deduplication")),
    )
    return {"artifact": await context.plane.uploads.create(context.principal, wanted)}


async def _create_manifest(context: Context, args: Args) -> Json:
    manifest = await context.plane.uploads.save_manifest(
        context.principal,
        args["artifact_id"],
        args["name"],
        args["digest"],
        args.get("type") or "FULL",
    )
    file = manifest_file(context, manifest)
    return {"artifact_manifest": {"id": manifest.id, "file": file}}


async def _update_manifest(context: Context, args: Args) -> Json:
    manifest = await context.plane.uploads.set_manifest_digest(
        context.principal, args["artifact_manifest_id"], args.get("digest") or ""
    )
    file = manifest_file(context, manifest)
    return {"artifact_manifest": {"id": manifest.id, "file": file}}


async def _create_files(context: Context, args: Args) -> Json:
    """One file per requested file, in the same order: clients match them by index."""
    specs = [(spec, _md5(spec)) for spec in args["artifact_files"]]
    known: dict[str, tuple[ArtifactRecord, frozenset[str]]] = {}
    for artifact_id in dict.fromkeys(spec["artifact_id"] for spec, _ in specs):
        md5s = [md5 for spec, md5 in specs if spec["artifact_id"] == artifact_id]
        known[artifact_id] = await context.plane.uploads.find_stored(
            context.principal, artifact_id, md5s
        )
    files = []
    for spec, md5 in specs:
        artifact, stored = known[spec["artifact_id"]]
        file = upload_file(context, artifact, spec["name"], md5, stored=md5 in stored)
        encoded = spec.get("md5") or spec["digest"]
        files.append({**file, "upload_headers": [f"Content-MD5:{encoded}"]})
    return {"files": single_page(files)}


async def _complete_multipart(context: Context, args: Args) -> Json:
    await context.plane.uploads.find_stored(context.principal, args["artifact_id"], ())
    raise InvalidInputError(
        "Multipart uploads are not supported.", hint="Send each file in one PUT to its `uploadUrl`."
    )


async def _commit(context: Context, args: Args) -> Json:
    artifact = await context.plane.artifacts.get(context.principal, args["artifact_id"])
    if artifact is None:
        raise NotFoundError(f"There is no artifact with the id '{args['artifact_id']}'.")
    if artifact.state is ArtifactState.COMMITTED:
        return {"artifact": artifact}
    entries = await _entries(context, artifact)
    job = await _job(context, artifact, entries)
    committed = await context.plane.uploads.commit(context.principal, artifact.id, entries, job)
    return {"artifact": committed}


async def _entries(context: Context, artifact: ArtifactRecord) -> list[EntryRecord]:
    manifest = await context.plane.artifacts.manifest(context.principal, artifact)
    text = None
    if manifest is not None and manifest.digest:
        md5 = decoded(manifest.digest).hex()
        entity = artifact.collection.entity
        text = await context.contents.read_all(entity, md5, context.max_manifest)
    if text is None:
        message = f"The manifest of the artifact '{artifact.collection.name}' was never uploaded."
        raise ConflictError(
            message, hint="Run the command again: files that have arrived are not sent twice."
        )
    return await asyncio.to_thread(parse_manifest, text)


async def _job(
    context: Context, artifact: ArtifactRecord, entries: list[EntryRecord]
) -> tuple[Json | None, str | None]:
    """The content of the job file, or why it cannot be read; such a job is stored as well."""
    if artifact.collection.type != JOB_TYPE:
        return None, None
    md5 = next((entry.md5 for entry in entries if entry.path == FILE_NAME), None)
    entity = artifact.collection.entity
    text = await context.contents.read_all(entity, md5, _JOB_FILE_LIMIT) if md5 else None
    if text is None:
        return None, f"It has no file `{FILE_NAME}`."
    try:
        content: Json = decode(text, FILE_NAME)
        read_job_file(text.decode())
    except InvalidInputError as error:
        return None, str(error)
    return content, None


def _md5(spec: Json) -> str:
    """The MD5 that a client announces, in hexadecimal.

    Raises:
        InvalidInputError: none, or another algorithm's.
    """
    digest = spec.get("md5") or spec.get("digest")
    if not digest:
        raise InvalidInputError(f"No MD5 was given for the file '{spec['name']}'.")
    return decoded(digest).hex()


QUERIES: Final[RootResolvers] = {}
MUTATIONS: Final = {
    "createArtifact": _create,
    "createArtifactManifest": _create_manifest,
    "updateArtifactManifest": _update_manifest,
    "createArtifactFiles": _create_files,
    "completeMultipartUploadArtifact": _complete_multipart,
    "commitArtifact": _commit,
}
TYPES: Final[tuple[ObjectType, ...]] = ()
