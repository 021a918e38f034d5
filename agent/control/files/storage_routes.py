"""Uploads and downloads: contents and run files by signed URL, and W&B's entries."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final

import structlog
from aiohttp import web

from agent.control.bodies import framed, pieces
from agent.control.files.contents import SmallContent
from agent.control.files.signed_urls import SignedUrls, Verb
from agent.control.files.storage import DamagedError, DigestMismatchError
from agent.control.request_data import CONFIG, CONTENTS, PLANE, RUN_FILES, base_url, principal_of
from agent.model.errors import InvalidInputError, LaunchError, NotFoundError
from agent.model.job.digest import decoded, encoded

_COLLECTION_PATH: Final = "/artifactsV2/{region}/{entity}/{project}/{collection}"
_CONTENT: Final = "{birth}/{md5:[0-9a-f]{32}}/{name:.+}"
#: Where clients read one file of an artifact; the longer first, since both would match it.
ENTRY_PATHS: Final = (
    f"{_COLLECTION_PATH}/{{artifact}}/{_CONTENT}",
    f"{_COLLECTION_PATH}/{_CONTENT}",
)

BATCH_PATH: Final = "/storage/contents"

_ALLOWED: Final = "GET, HEAD, OPTIONS, PUT"
_BATCH_TYPE: Final = "application/vnd.launch.contents"
#: Bytes of one content of a batch, and contents of one batch.
_BATCH_CONTENT: Final = 1024 * 1024
_BATCH_COUNT: Final = 1000


class RangeNotSatisfiableError(LaunchError):
    """The range begins behind the file's end."""

    code = "RANGE_NOT_SATISFIABLE"


async def put_content(request: web.Request) -> web.Response:
    """Store a content by signed URL; idempotent."""
    entity, md5 = _signed_content(request, "write")
    announced = request.headers.get("Content-MD5")
    if announced is not None and announced != encoded(bytes.fromhex(md5)):
        message = f"The header `Content-MD5` says {announced}, the URL was signed for {md5}."
        raise DigestMismatchError(message)
    await request.app[CONTENTS].put(entity, md5, pieces(request), request.content_length)
    return web.Response(headers={"ETag": f'"{md5}"'})


async def put_content_batch(request: web.Request) -> web.Response:
    """Store many small contents in one request, since a directory of code has a thousand.

    In the body, each content follows a line with its size and its signed URL. A multipart body
    would do the same, but parsing one takes longer than storing the contents. The contents
    before one that is refused stay stored.
    """
    if request.content_type != _BATCH_TYPE:
        message = f"The body is declared as {request.content_type}."
        raise InvalidInputError(message, hint=f"Send Content-Type: {_BATCH_TYPE}.")
    stored = await request.app[CONTENTS].put_all(_contents(request))
    return web.json_response({"stored": stored})


async def _contents(request: web.Request) -> AsyncIterator[SmallContent]:
    signed_urls = _signed_urls(request)
    async for place, data in framed(
        request, _BATCH_CONTENT, _BATCH_COUNT, signed_urls.writable_content
    ):
        yield SmallContent(*place, data)


async def get_content(request: web.Request) -> web.StreamResponse:
    """The bytes of a content by signed URL."""
    entity, md5 = _signed_content(request, "read")
    return await _send(request, entity, md5)


async def get_entry(request: web.Request) -> web.StreamResponse:
    """One file of an artifact, with a key: how a launched run reads its job."""
    info = request.match_info
    principal, plane = principal_of(request), request.app[PLANE]
    names = (info["entity"], info["project"], info["collection"])
    collection = await plane.artifacts.collection(principal, *names)
    known = collection is not None and await plane.artifacts.has_content(
        principal, collection, info["md5"]
    )
    if collection is None or not known:
        message = f"There is no file '{info['name']}' with that content in {'/'.join(names)}."
        raise NotFoundError(message)
    return await _send(request, collection.entity, info["md5"])


async def put_run_file(request: web.Request) -> web.Response:
    """Store a file of a run by signed URL."""
    info = request.match_info
    subject = ("write", "run-file", info["entity"], info["run"], info["name"])
    _signed_urls(request).check(subject, *_signature(request))
    announced = request.headers.get("Content-MD5")
    md5 = None if announced is None else decoded(announced).hex()
    place = (info["entity"], info["run"], info["name"])
    await request.app[RUN_FILES].put(*place, pieces(request), md5)
    return web.Response()


async def get_run_file(request: web.Request) -> web.StreamResponse:
    """The bytes of a run's file by signed URL."""
    entity, run, name = (request.match_info[key] for key in ("entity", "run", "name"))
    _signed_urls(request).check(("read", "run-file", entity, run, name), *_signature(request))
    files = request.app[RUN_FILES]
    found = await files.find(run, name)
    if found is None:
        raise NotFoundError(f"The run has no file '{name}'.")
    return await _respond(request, *found, partial(files.read_part, run, name))


async def options(request: web.Request) -> web.Response:
    """Methods of a signed URL; `wandb verify` asks whether our own site may use them."""
    headers = {"Allow": _ALLOWED}
    if request.headers.get("Origin") == base_url(request):
        headers["Access-Control-Allow-Origin"] = base_url(request)
        headers["Access-Control-Allow-Methods"] = _ALLOWED
    return web.Response(status=204, headers=headers)


def _signed_content(request: web.Request, verb: Verb) -> tuple[str, str]:
    entity, md5 = request.match_info["entity"], request.match_info["md5"]
    _signed_urls(request).check((verb, "content", entity, md5), *_signature(request))
    return entity, md5


def _signature(request: web.Request) -> tuple[str, str]:
    return request.query.get("expires", ""), request.query.get("signature", "")


def _signed_urls(request: web.Request) -> SignedUrls:
    """For checking signatures, for which the base does not matter."""
    config, plane = request.app[CONFIG], request.app[PLANE]
    return SignedUrls(plane.keys, "", config.signed_url_lifetime)


async def _send(request: web.Request, entity: str, md5: str) -> web.StreamResponse:
    """Stream a content, or a part; the connection is aborted if it turns out to be damaged."""
    contents, etag = request.app[CONTENTS], f'"{md5}"'
    found = await contents.read(entity, md5)
    if found is None:
        raise NotFoundError(f"There is no content {md5} in '{entity}'.")
    size, whole = found

    async def read(start: int, end: int) -> AsyncIterator[bytes]:
        complete = (start, end) == (0, size)
        chunks = whole if complete else await contents.read_part(entity, md5, start, end)
        async for chunk in chunks:
            yield chunk

    return await _respond(request, size, etag, read)


async def _respond(
    request: web.Request,
    size: int,
    etag: str,
    read: Callable[[int, int], AsyncIterator[bytes]],
) -> web.StreamResponse:
    """The whole of what `read` gives, or the part that was asked for."""
    headers = {"ETag": etag, "Content-Disposition": "attachment", "Accept-Ranges": "bytes"}
    response = web.StreamResponse(headers=headers)
    response.content_type = "application/octet-stream"
    start, end = 0, size
    part = _wanted_range(request, size, etag)
    if part is not None:
        start, end = part
        response.set_status(206)
        response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    response.content_length = end - start
    await response.prepare(request)
    if request.method != "HEAD":
        try:
            async for chunk in read(start, end):
                await response.write(chunk)
        except DamagedError as error:
            structlog.get_logger().error(
                "stored content is damaged", path=request.path, error=str(error)
            )
            if request.transport is not None:
                request.transport.abort()
            return response
    await response.write_eof()
    return response


def _wanted_range(request: web.Request, size: int, etag: str) -> tuple[int, int] | None:
    """First byte and the one after the last; `None` when the whole file is wanted.

    Interrupted downloads ask for a part. Several ranges, other units and malformed headers count
    as none, as RFC 9110 allows.

    Raises:
        RangeNotSatisfiableError
    """
    if request.method != "GET" or request.headers.get("If-Range", etag) != etag:
        return None
    try:
        given = request.http_range
    except ValueError:
        return None
    if given.start is None:
        return None
    start = max(size + given.start, 0) if given.start < 0 else given.start
    end = size if given.stop is None else min(given.stop, size)
    if start >= size or start >= end:
        raise RangeNotSatisfiableError(f"The file has {size} bytes.")
    return start, end
