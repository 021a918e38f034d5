"""Many small contents in one request, since a directory of code is a thousand small files.

`POST /storage/contents`: each content behind a line with its size and the address that was made
for it, which is its right, as in a request of its own. A multipart body would say the same, but
reading one costs the control plane more than storing what is in it.
"""

from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from agent.control.app_keys import CONFIG, CONTENTS, PLANE
from agent.control.files.contents import SmallContent
from agent.control.files.links import Links
from agent.control.middleware.bodies import framed
from agent.model.errors import InvalidInputError

PATH: Final = "/storage/contents"
_TYPE: Final = "application/vnd.launch.contents"
#: Bytes of one content, and contents of one request.
_LARGEST: Final = 1024 * 1024
_MOST: Final = 1000


async def put_contents(request: web.Request) -> web.Response:
    """Store every content; what came before one that is refused stays."""
    if request.content_type != _TYPE:
        message = f"The body is declared as {request.content_type}."
        raise InvalidInputError(message, hint=f"Send Content-Type: {_TYPE}.")
    stored = await request.app[CONTENTS].put_all(_contents(request))
    return web.json_response({"stored": stored})


async def _contents(request: web.Request) -> AsyncIterator[SmallContent]:
    config, plane = request.app[CONFIG], request.app[PLANE]
    links = Links(plane.signing_key, "", config.link_lifetime)
    async for place, data in framed(request, _LARGEST, _MOST, links.written_content):
        yield SmallContent(*place, data)
