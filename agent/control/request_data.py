"""What handlers get from the app and the request: typed keys, caller, base URL, address."""

import asyncio
from typing import Final

from aiohttp import web
from pydantic import SecretStr

from agent.config.control import ControlConfig
from agent.control.auth.policy import Principal
from agent.control.auth.throttle import Throttle
from agent.control.files.contents import ContentStore
from agent.control.files.logs import LogStore
from agent.control.files.run_files import RunFileStore
from agent.control.files.run_streams import RunStreamStore
from agent.control.job_creation import JobCreation
from agent.control.metrics import Metrics
from agent.control.services.assembly import Services

CONFIG: Final = web.AppKey("config", ControlConfig)
#: The services; set once the store is open, before the first request.
PLANE: Final = web.AppKey("plane", Services)
CONTENTS: Final = web.AppKey("contents", ContentStore)
RUN_FILES: Final = web.AppKey("run_files", RunFileStore)
RUN_STREAMS: Final = web.AppKey("run_streams", RunStreamStore)
JOB_CREATION: Final = web.AppKey("job_creation", JobCreation)
LOGS: Final = web.AppKey("logs", LogStore)
#: Name of the session cookie. Browsers send a cookie to every port of a host: the name tells
#: control planes apart.
COOKIE: Final = web.AppKey("cookie", str)
#: Addresses of this machine that only its jobs can reach.
JOB_ADDRESSES: Final = web.AppKey("job_addresses", set[str])
THROTTLE: Final = web.AppKey("throttle", Throttle)
METRICS: Final = web.AppKey("metrics", Metrics)
#: What Prometheus sends to read `/metrics`; empty: nobody may.
SCRAPE_KEY: Final = web.AppKey("scrape_key", SecretStr)
#: Set when the server stops: long polls answer at once, event streams end.
STOPPING: Final = web.AppKey("stopping", asyncio.Event)

#: Who is calling; absent on public routes without a credential.
PRINCIPAL: Final = web.RequestKey("principal", Principal)
#: Whether the credential came in a header (a client) and not in a cookie (a browser).
BY_HEADER: Final = web.RequestKey("by_header", bool)
#: Set by handlers that wait for events: their duration is not one of processing.
WAITED: Final = web.RequestKey("waited", bool)


def principal_of(request: web.Request) -> Principal:
    """The caller; only on routes whose policy requires a credential."""
    return request[PRINCIPAL]


def base_url(request: web.Request) -> str:
    """For URLs in responses: `external_url`, else the host name that the client used.

    Never from forwarded headers, which any client can write. Jobs call at an address of their
    own, from where the external name may not be reachable: that address is answered with.
    """
    external = request.app[CONFIG].external_url
    sockname = request.get_extra_info("sockname")
    by_job = isinstance(sockname, tuple) and sockname[0] in request.app[JOB_ADDRESSES]
    return external.rstrip("/") if external and not by_job else f"{request.scheme}://{request.host}"


def peer_address(request: web.Request) -> str:
    """The IP address of the client; empty when the connection is closed."""
    peer = request.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else ""
