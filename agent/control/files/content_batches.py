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

from agent.control.files.contents import ContentStore, SmallContent
from agent.control.files.links import Links
from agent.control.http.bodies import parts
from agent.control.keys import CONFIG, CONTENTS, PLANE
from agent.model.errors import InvalidInputError

PATH: Final = "/storage/contents"
#: Bytes of one part, and parts of one request.
_LARGEST: Final = 1024 * 1024
_MOST: Final = 1000
#: Parts, or bytes, that are written together, and how many such groups at a time.
_GROUP: Final = 32
_GROUP_BYTES: Final = 2 * 1024 * 1024
_AT_ONCE: Final = 2
_PLACE: Final = re.compile(r"/storage/contents/([^/]+)/([0-9a-f]{32})/[^/]+$")


async def put_contents(request: web.Request) -> web.Response:
    """Store every part; what was written before one that is refused stays."""
    contents, room, stored = request.app[CONTENTS], asyncio.Semaphore(_AT_ONCE), 0
    try:
        async with asyncio.TaskGroup() as writing:
            async for group in _groups(request):
                await room.acquire()
                writing.create_task(_store(contents, room, group))
                stored += len(group)
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return web.json_response({"stored": stored})


async def _groups(request: web.Request) -> AsyncIterator[list[SmallContent]]:
    config, plane = request.app[CONFIG], request.app[PLANE]
    links = Links(plane.signing_key, "", config.link_lifetime)
    group: list[SmallContent] = []
    size = 0
    async for address, data in parts(request, _LARGEST, _MOST):
        group.append(SmallContent(*_signed(links, address), data))
        size += len(data)
        if len(group) == _GROUP or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


async def _store(
    contents: ContentStore, room: asyncio.Semaphore, group: list[SmallContent]
) -> None:
    try:
        await contents.put_all(group)
    finally:
        room.release()


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
