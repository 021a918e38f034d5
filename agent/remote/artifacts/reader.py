"""Reads artifacts over the operations of W&B's clients: membership, manifest, file URLs, GET.

The same documents work against W&B's servers and ours. Credentials go to the server's own
addresses only: file URLs that point elsewhere carry their own right.
"""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import aiohttp
from yarl import URL

from agent.model.cause import Cause
from agent.model.errors import (
    JobError,
    LaunchError,
    NotFoundError,
    PermissionDeniedError,
    ServerError,
    UnreachableError,
)
from agent.model.job.reference import CodeReference, JobReference
from agent.ports.artifact import Artifact, Entry
from agent.remote.artifacts import lookup
from agent.remote.client import GraphQLClient, pieces_of

_LARGEST_MANIFEST: Final = 256 * 1024 * 1024
_SILENCE: Final = 60.0
_TRIES: Final = 4

#: As `BY_ID` of `documents`, with the place of the artifact.
_BY_ID: Final = """
query ArtifactByID($id: ID!) {
  artifact(id: $id) {
    id versionIndex state metadata artifactType { name }
    artifactSequence { name project { name entity { name } } }
  }
}
"""

Json = dict[str, Any]


class RemoteArtifacts:
    """`ArtifactPort` over one client."""

    def __init__(
        self,
        client: GraphQLClient,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._sleep = sleep
        #: Addresses of files by artifact; asked for once, and anew when one has expired.
        self._urls: dict[str, Mapping[str, str]] = {}
        #: Held while asking: files are read many at a time, and one answer serves them all.
        self._asking = asyncio.Lock()

    async def find(self, reference: JobReference) -> Artifact:
        """See `ArtifactPort`. A job that is not there is told with its nearest neighbours."""
        facts = (await lookup.membership(self._client, reference) or {}).get("artifact")
        if not facts:
            raise await lookup.missing(self._client, reference)
        version = replace(reference, alias=f"v{facts['versionIndex']}")
        return await self._whole(facts, version)

    async def find_code(self, reference: CodeReference) -> Artifact:
        """See `ArtifactPort`."""
        if reference.name is not None:
            return await self.find(reference.name)
        data = await self._client.execute(_BY_ID, {"id": reference.id})
        facts = data.get("artifact")
        if not facts or facts.get("state") == "DELETED":
            message = f"The code artifact {reference} is not on the server: it was deleted."
            raise NotFoundError(message, hint="Create the job again.")
        return await self._whole(facts, _place(facts))

    async def read(self, artifact: Artifact, path: str) -> AsyncGenerator[bytes, None]:
        """See `ArtifactPort`. What was read counts only once the stream ended without error."""
        entry = artifact.entries[path]
        digest, sent = hashlib.md5(usedforsecurity=False), 0
        for remaining in reversed(range(_TRIES)):
            urls: Mapping[str, str] | None = None
            try:
                urls = await self._urls_of(artifact)
                async with aclosing(self._once(artifact, entry, sent, urls)) as pieces:
                    async for piece in pieces:
                        digest.update(piece)
                        sent += len(piece)
                        yield piece
                break
            except (UnreachableError, PermissionDeniedError) as error:
                # Refused: the address was good for a while only, and a daemon runs for weeks.
                if not remaining:
                    raise _unreadable(entry, error) from error
                if self._urls.get(artifact.id) is urls:
                    self._urls.pop(artifact.id, None)
                await self._sleep(1.0)
            except JobError:
                raise
            except LaunchError as error:
                raise _unreadable(entry, error) from error
        seen = base64.b64encode(digest.digest()).decode()
        if seen != entry.digest:
            message = f"'{path}' arrived with the digest {seen}, and is recorded as {entry.digest}."
            raise JobError(Cause.SOURCE_INVALID, message, hint="Create the job again.")

    # ------------------------------------------------------------------ inside

    async def _once(
        self, artifact: Artifact, entry: Entry, skip: int, urls: Mapping[str, str]
    ) -> AsyncGenerator[bytes, None]:
        if entry.path not in urls:
            message = f"The server has no file '{entry.path}' of {artifact.reference}."
            raise JobError(Cause.SOURCE_NOT_FOUND, message, hint="Create the job again.")
        received = 0
        async with self._open(urls[entry.path]) as content:
            async for piece in content:
                received += len(piece)
                if received > entry.size:
                    message = f"'{entry.path}' is longer than the {entry.size} bytes recorded."
                    raise JobError(Cause.SOURCE_INVALID, message)
                fresh, skip = piece[skip:], max(0, skip - len(piece))
                if fresh:
                    yield fresh

    async def _urls_of(self, artifact: Artifact) -> Mapping[str, str]:
        async with self._asking:
            known = self._urls.get(artifact.id)
            if known is None:
                known = await lookup.file_urls(self._client, artifact.reference)
                # Few artifacts are read at once; the oldest are asked for again if need be.
                while len(self._urls) >= 16:  # noqa: PLR2004
                    self._urls.pop(next(iter(self._urls)))
                self._urls[artifact.id] = known
        return known

    async def _whole(self, facts: Json, version: JobReference) -> Artifact:
        """Facts and manifest together."""
        url = await lookup.manifest_url(self._client, facts["id"])
        if not url:
            raise NotFoundError(f"{version} has no files.", hint="Create the job again.")
        entries = _entries(await self._document(url))
        kind = str((facts.get("artifactType") or {}).get("name"))
        return Artifact(str(facts["id"]), version, kind, entries, _metadata(facts))

    async def _document(self, url: str) -> Json:
        """A JSON object behind a file's address."""
        for remaining in reversed(range(_TRIES)):
            try:
                return await self._document_once(url)
            except UnreachableError:
                if not remaining:
                    raise
                await self._sleep(1.0)
        raise AssertionError  # the last try returned or raised

    async def _document_once(self, url: str) -> Json:
        text = bytearray()
        async with self._open(url) as content:
            async for piece in content:
                text += piece
                if len(text) > _LARGEST_MANIFEST:
                    raise ServerError("The artifact's list of files is larger than 256 MiB.")
        try:
            document = json.loads(text)
        except ValueError as error:
            raise _broken(error) from error
        return document if isinstance(document, dict) else {}

    @asynccontextmanager
    async def _open(self, url: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Content behind a URL of the server, or of a store that it names."""
        base = str(URL(self._client.endpoint.url)).rstrip("/")
        if url.startswith(("/", f"{base}/")):
            path = url.removeprefix(base)
            async with self._client.stream("GET", path, silence=_SILENCE) as response:
                yield pieces_of(response)
            return
        async with _foreign(url) as response:
            yield pieces_of(response)


@asynccontextmanager
async def _foreign(url: str) -> AsyncIterator[aiohttp.ClientResponse]:
    """An answer of somebody else's server, which gets no credential of ours."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=_SILENCE)
    try:
        async with (
            aiohttp.ClientSession(
                timeout=timeout, trust_env=True, cookie_jar=aiohttp.DummyCookieJar()
            ) as session,
            session.get(URL(url, encoded=True), max_redirects=3) as response,
        ):
            if response.status >= 400:  # noqa: PLR2004 -- where good answers end
                host = URL(url).host
                message = f"The store at {host} answered {response.status} {response.reason}."
                raise UnreachableError(message)
            yield response
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        message = f"The store cannot be reached ({type(error).__name__})."
        raise UnreachableError(message) from error


def _place(facts: Json) -> JobReference:
    try:
        sequence = facts["artifactSequence"]
        project = sequence["project"]
        version = f"v{int(facts['versionIndex'])}"
        return JobReference(project["entity"]["name"], project["name"], sequence["name"], version)
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(error) from error


def _entries(manifest: Json) -> dict[str, Entry]:
    contents = manifest.get("contents")
    if not isinstance(contents, dict):
        raise _broken(ValueError("no `contents`"))
    try:
        return {
            path: Entry(path, str(raw["digest"]), int(raw.get("size") or 0), raw.get("ref"))
            for path, raw in contents.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _broken(error) from error


def _metadata(facts: Json) -> Json:
    raw = facts.get("metadata")
    try:
        metadata = json.loads(raw) if isinstance(raw, str) else raw
    except ValueError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _unreadable(entry: Entry, error: LaunchError) -> JobError:
    message = f"The artifact's file '{entry.path}' could not be read: {error.message}"
    return JobError(Cause.SOURCE_UNREACHABLE, message)


def _broken(error: Exception) -> ServerError:
    message = f"The server's artifact is not what was expected ({type(error).__name__}: {error})."
    return ServerError(message, hint="Create the job again, or update the older of the two sides.")
