"""`POST /files/{entity}/{project}/{run}/file_stream`: how the process of a run reports."""

import asyncio
from typing import Final

from aiohttp import web

from agent.control.bodies import read_bytes
from agent.control.middleware.errors import error_response
from agent.control.request_data import JOB_CREATION, RUN_STREAMS, principal_of
from agent.control.services.run_streams import RunName
from agent.control.services.stored_bytes import QuotaExceededError
from agent.control.services.stream_update import parse_update
from agent.model.errors import ServerError
from agent.model.spec import Json

PATH: Final = "/files/{entity}/{project}/{run}/file_stream"
#: W&B's clients send about 10 MiB of lines at most, which are longer as texts within JSON.
_LIMIT: Final = 32 * 1024**2
#: Seconds.
_RETRY_AFTER: Final = "10"


async def write_streams(request: web.Request) -> web.Response:
    """Store lines, summary and state; they are on disk before the response is sent."""
    body = await read_bytes(request, _LIMIT)
    update = await asyncio.to_thread(parse_update, body)
    name = RunName(**request.match_info)
    try:
        written = await request.app[RUN_STREAMS].write(principal_of(request), name, update)
    except (ServerError, QuotaExceededError) as error:
        # Clients keep what they have, and send it again after an answer of 503.
        response = error_response(request, 503, error.code, error.message, hint=error.hint)
        response.headers["Retry-After"] = _RETRY_AFTER
        return response
    if update.exit_code is not None:
        # Before the response: the job is there when the client says that the run is over.
        await request.app[JOB_CREATION].create_if_possible(written.run_id)
    answer: Json = {"exitcode": update.exit_code, "limits": {}, "stopped": written.stopped}
    return web.json_response(answer)
