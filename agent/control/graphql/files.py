"""W&B's type `File`, with signed URLs for uploads and downloads."""

import mimetypes
from typing import Final

from ariadne import ObjectType

from agent.control.graphql.context import Context, Info
from agent.control.store.artifact_files import EntryRecord, ManifestRecord
from agent.control.store.artifacts import ArtifactRecord
from agent.control.store.run_files import RunFileRecord
from agent.model.job.digest import MANIFEST_NAME, decoded
from agent.model.spec import Json


def entry_file(context: Context, artifact: ArtifactRecord, entry: EntryRecord) -> Json:
    """A file of an artifact; the URL of a reference is its target."""
    entity = artifact.collection.entity
    url = entry.ref or ""
    if entry.md5 is not None:
        url = context.signed_urls.content("read", entity, entry.md5, entry.path)
    return {
        **_file(f"{artifact.id}:{entry.path}", entry.path, url),
        "size_bytes": entry.size,
        "md5": entry.digest if entry.md5 is not None else None,
        "digest": entry.digest,
        "storage_path": _storage_path(entity, entry.md5) if entry.md5 is not None else None,
        "updated_at": artifact.updated_at,
        "artifact": artifact,
    }


def upload_file(
    context: Context, artifact: ArtifactRecord, name: str, md5: str, *, stored: bool
) -> Json:
    """A file to upload; without `uploadUrl` when its content (MD5, hexadecimal) is stored."""
    entity = artifact.collection.entity
    signed_urls = context.signed_urls
    return {
        **_file(f"{artifact.id}:{name}", name, signed_urls.content("read", entity, md5, name)),
        "storage_path": _storage_path(entity, md5),
        "upload_url": None if stored else signed_urls.content("write", entity, md5, name),
        "artifact": artifact,
    }


def manifest_file(context: Context, manifest: ManifestRecord) -> Json:
    """A manifest as a file; without URLs until its digest is known."""
    found = _file(manifest.id, MANIFEST_NAME, "")
    if not manifest.digest:
        return found
    md5 = decoded(manifest.digest).hex()
    place = (manifest.entity, md5, MANIFEST_NAME)
    return {
        **found,
        "direct_url": context.signed_urls.content("read", *place),
        "upload_url": context.signed_urls.content("write", *place),
        "upload_headers": [f"Content-MD5:{manifest.digest}"],
        "md5": manifest.digest,
        "digest": manifest.digest,
    }


def run_file(context: Context, entity: str, run_id: str, file: RunFileRecord) -> Json:
    """A file of a run, with URLs to download it and to upload it."""
    place = (entity, run_id, file.name)
    read = context.signed_urls.run_file("read", *place) if file.updated_at else ""
    return {
        **_file(f"{run_id}:{file.name}", file.name, read),
        "upload_url": context.signed_urls.run_file("write", *place),
        "size_bytes": file.size,
        "updated_at": file.updated_at,
        "mimetype": mimetypes.guess_type(file.name)[0] or "application/octet-stream",
    }


def _file(file_id: str, name: str, url: str) -> Json:
    return {
        "id": file_id,
        "name": name,
        "display_name": name,
        "url": url,
        "direct_url": url,
        "size_bytes": 0,
        "upload_headers": [],
    }


def _storage_path(entity: str, md5: str) -> str:
    return f"contents/{entity}/{md5}"


FILE: Final = ObjectType("File")


@FILE.field("url")
def _url(file: Json, _info: Info, *, upload: bool = False) -> str | None:
    url: str | None = file.get("upload_url") if upload else file["url"]
    return url
