"""`PUT|HEAD|GET /launch/blobs/{entity}/sha256:<hex>`."""

import re
from typing import Final

from aiohttp import web

from agent.control.files.blobs import DIGEST
from agent.control.http.bodies import pieces
from agent.control.keys import BLOBS, CONFIG, PLANE, principal_of
from agent.control.services.policy import Action, Policy
from agent.model.errors import InvalidInputError, NotFoundError

PATH: Final = "/launch/blobs/{entity}/{digest}"
_ENTITY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


async def put_blob(request: web.Request) -> web.Response:
    """Store a blob; once it is there, storing it again changes nothing."""
    entity, digest = await _allowed(request, Action.SUBMIT)
    size = await request.app[BLOBS].put(entity, digest, pieces(request))
    return web.json_response({"digest": digest, "size": size}, status=201)


async def get_blob(request: web.Request) -> web.StreamResponse:
    """The bytes of a blob; only its size for HEAD, which routes as GET does."""
    entity, digest = await _allowed(request, Action.READ)
    blobs = request.app[BLOBS]
    size = await blobs.size(entity, digest)
    found = None if request.method == "HEAD" or size is None else await blobs.read(entity, digest)
    if size is None:
        raise NotFoundError(f"There is no blob {digest} in '{entity}'.")
    response = web.StreamResponse(headers={"ETag": f'"{digest}"'})
    response.content_type = "application/octet-stream"
    response.content_length = size
    await response.prepare(request)
    if found is not None:
        async for chunk in found[1]:
            await response.write(chunk)
    await response.write_eof()
    return response


async def _allowed(request: web.Request, action: Action) -> tuple[str, str]:
    """Entity and digest of the path, once both are well-formed and the action is allowed."""
    entity, digest = request.match_info["entity"], request.match_info["digest"]
    if not _ENTITY.fullmatch(entity) or not DIGEST.fullmatch(digest):
        message = f"'{entity}/{digest}' is not an entity and a digest."
        raise InvalidInputError(message, hint="Write /launch/blobs/<entity>/sha256:<64 hex>.")
    principal = principal_of(request)
    known = await request.app[PLANE].accounts.entity(principal, entity)
    rules = Policy(request.app[CONFIG].personal_agents_in_teams)
    rules.require(principal, known.name, action)
    return known.name, digest
