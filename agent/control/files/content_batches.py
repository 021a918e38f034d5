"""Many small contents in one request, since a directory of code is a thousand small files.

`POST /storage/contents`, `multipart/mixed`: each part says by `Content-Location` for which
address it is meant, and that address is its right, as in a request of its own.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web
from yarl import URL

from agent.control.files.contents import ContentStore
from agent.control.files.links import Links
from agent.control.http.bodies import parts
from agent.control.keys import CONFIG, CONTENTS, PLANE
from agent.model.errors import InvalidInputError

PATH: Final = "/storage/contents"
#: Bytes of one part, parts of one request, and parts that are being written at a time.
_LARGEST: Final = 1024 * 1024
_MOST: Final = 1000
_AT_ONCE: Final = 16
_PLACE: Final = re.compile(r"/storage/contents/([^/]+)/([0-9a-f]{32})/[^/]+$")


async def put_contents(request: web.Request) -> web.Response:
    """Store every part; those before one that is refused stay, since each counts by itself."""
    config, plane, contents = request.app[CONFIG], request.app[PLANE], request.app[CONTENTS]
    links = Links(plane.signing_key, "", config.link_lifetime)
    room, stored = asyncio.Semaphore(_AT_ONCE), 0
    try:
        async with asyncio.TaskGroup() as writing:
            async for address, content in parts(request, _LARGEST, _MOST):
                entity, md5 = _signed(links, address)
                await room.acquire()
                writing.create_task(_store(contents, room, entity, md5, content))
                stored += 1
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return web.json_response({"stored": stored})


async def _store(
    contents: ContentStore, room: asyncio.Semaphore, entity: str, md5: str, content: bytes
) -> None:
    try:
        await contents.put(entity, md5, _once(content), len(content))
    finally:
        room.release()


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _signed(links: Links, address: str) -> tuple[str, str]:
    """Entity and MD5 that an address was made for."""
    try:
        url = URL(address)
    except ValueError:
        url = URL()
    place = _PLACE.search(url.path)
    if place is None:
        message = f"`Content-Location`: «{address[:80]}» is not the address of a content."
        raise InvalidInputError(message, hint="Use the `uploadUrl` of the file as it is.")
    entity, md5 = place.groups()
    shown = url.query.get("expires", ""), url.query.get("signature", "")
    links.check(("write", "content", entity, md5), *shown)
    return entity, md5
