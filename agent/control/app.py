"""The control plane as an aiohttp application: what it opens, middlewares, routes, probes."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import SecretStr

from agent.config.base import read_secret_file
from agent.config.control import ControlConfig
from agent.control import provisioning
from agent.control.auth.throttle import Throttle
from agent.control.files import log_routes, run_stream_routes, storage_routes
from agent.control.files.contents import ContentStore
from agent.control.files.logs import LogStore
from agent.control.files.run_files import RunFileStore
from agent.control.files.run_streams import RunStreamStore
from agent.control.files.signed_urls import CONTENT_PATH, RUN_FILE_PATH
from agent.control.files.storage import open_store
from agent.control.graphql.handler import Executor, GraphQLHandler
from agent.control.graphql.schema import build_schema
from agent.control.job_creation import JobCreation
from agent.control.metrics import CONTENT_TYPE, Metrics
from agent.control.middleware.access import check_access, undeclared
from agent.control.middleware.browser_security import (
    HOSTS,
    HostRules,
    add_security_headers,
    check_host,
)
from agent.control.middleware.connections import CONNECTIONS, Connections, head_arrived
from agent.control.middleware.errors import answer_errors, error_response, log_and_mask
from agent.control.middleware.rate_limits import BUCKETS, Buckets, limit_requests
from agent.control.request_data import (
    CONFIG,
    CONTENTS,
    COOKIE,
    JOB_ADDRESSES,
    JOB_CREATION,
    LOGS,
    METRICS,
    PLANE,
    RUN_FILES,
    RUN_STREAMS,
    SCRAPE_KEY,
    STOPPING,
    THROTTLE,
    WAITED,
)
from agent.control.retention import Retention
from agent.control.services.assembly import open_services
from agent.control.web.rendering import RENDERER, Renderer
from agent.control.web.routes import add_web_routes
from agent.model.errors import ConfigError, LaunchError

_SHORTEST_KEY: Final = 16
_FORM_LIMIT: Final = 64 * 1024


def create_app(config: ControlConfig) -> web.Application:
    """The whole control plane; nothing is opened before the app starts up.

    Raises:
        RuntimeError: a route has no declared policy.
    """
    app = web.Application(
        middlewares=[
            head_arrived,
            measure_request,
            answer_errors,
            check_host,
            check_access,
            limit_requests,
        ],
        # For forms of pages only; the other bodies have limits of their own.
        client_max_size=_FORM_LIMIT,
    )
    app.on_response_prepare.append(add_security_headers)
    app[CONFIG] = config
    app[HOSTS] = HostRules.of(config.external_url, config.allowed_hosts)
    app[JOB_ADDRESSES] = set()
    app[THROTTLE] = Throttle()
    app[METRICS] = Metrics()
    app[CONNECTIONS] = Connections(
        config.max_connections, config.max_connections_per_address, config.head_timeout
    )
    app[BUCKETS] = Buckets(config.requests_per_second, config.request_burst)
    app[SCRAPE_KEY] = _scrape_key(config.scrape_key_file)
    app[STOPPING] = asyncio.Event()
    app[RENDERER] = Renderer()
    app.cleanup_ctx.append(_services)
    _add_routes(app)
    _add_storage_routes(app)
    provisioning.add_routes(app)
    # Last: one of its routes matches any path below `/launch`.
    add_web_routes(app)
    missing = undeclared(app)
    if missing:
        raise RuntimeError(f"Routes without a policy in middleware/access.py: {missing}")
    return app


def _scrape_key(file: Path | None) -> SecretStr:
    if file is None:
        return SecretStr("")
    key = read_secret_file(file)
    if len(key.get_secret_value()) < _SHORTEST_KEY:
        message = f"`control.scrape_key_file`: the key in {file} is too short."
        raise ConfigError(message, hint=f"Make one of at least {_SHORTEST_KEY} characters.")
    return key


async def _services(app: web.Application) -> AsyncIterator[None]:
    """Open the stores, and run the background tasks: the reaper and retention."""
    config = app[CONFIG]
    async with open_services(config) as plane, open_store(config) as store:
        app[PLANE] = plane
        app[COOKIE] = f"launch_session_{plane.control_plane_id[:8]}"
        app[CONTENTS] = ContentStore(store, plane.contents, plane.stored, config.max_file)
        app[RUN_FILES] = RunFileStore(store, plane.stored, config.max_file)
        app[RUN_STREAMS] = RunStreamStore(store, plane.run_streams, plane.stored)
        app[LOGS] = LogStore(store, plane.logs)
        app[JOB_CREATION] = JobCreation(plane, app[CONTENTS], app[RUN_FILES])
        await plane.reaper.start()
        stores = (app[LOGS], app[CONTENTS], app[RUN_FILES], app[RUN_STREAMS])
        retention = Retention(plane, *stores)
        tasks = (
            asyncio.create_task(plane.reaper.run(), name="reaper"),
            asyncio.create_task(retention.run(), name="retention"),
            asyncio.create_task(app[JOB_CREATION].run(), name="jobs of runs"),
        )
        yield
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        with suppress(LaunchError):  # the database is away: the lease expires
            await plane.reaper.stop()


def _add_routes(app: web.Application) -> None:
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    app.router.add_route("*", "/sdk/otel/{path:.*}", no_telemetry)
    app.router.add_post("/graphql", GraphQLHandler(Executor(build_schema())).__call__)
    app.router.add_post(log_routes.PATH, log_routes.append_log)
    app.router.add_get(log_routes.PATH, log_routes.read_log)


def _add_storage_routes(app: web.Application) -> None:
    app.router.add_post(storage_routes.BATCH_PATH, storage_routes.put_content_batch)
    app.router.add_put(CONTENT_PATH, storage_routes.put_content)
    app.router.add_get(CONTENT_PATH, storage_routes.get_content)
    app.router.add_options(CONTENT_PATH, storage_routes.options)
    app.router.add_put(RUN_FILE_PATH, storage_routes.put_run_file)
    app.router.add_get(RUN_FILE_PATH, storage_routes.get_run_file)
    app.router.add_options(RUN_FILE_PATH, storage_routes.options)
    for path in storage_routes.ENTRY_PATHS:
        app.router.add_get(path, storage_routes.get_entry)
    app.router.add_post(run_stream_routes.PATH, run_stream_routes.write_streams)


@web.middleware
async def measure_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Observe the duration by route and status, except of requests that wait for something."""
    began = time.perf_counter()
    status = 500
    try:
        response = await handler(request)
        status = response.status
    except web.HTTPException as error:
        status = error.status
        raise
    else:
        return response
    finally:
        resource = request.match_info.route.resource
        if WAITED not in request:
            route = resource.canonical if resource else "none"
            seconds = time.perf_counter() - began
            request.app[METRICS].requests.labels(route, str(status)).observe(seconds)


async def healthz(_request: web.Request) -> web.Response:
    """The process answers."""
    return web.Response(text="ok\n")


async def readyz(request: web.Request) -> web.Response:
    """The database answers, and the server is not shutting down."""
    if request.app[STOPPING].is_set():
        return error_response(request, 503, "STOPPING", "The server is shutting down.")
    try:
        await request.app[PLANE].ready()
    except Exception as error:  # noqa: BLE001 -- any failure of the database means not ready
        return error_response(request, 503, "NOT_READY", log_and_mask(error))
    return web.Response(text="ok\n")


async def metrics(request: web.Request) -> web.Response:
    """All metrics in Prometheus' text format."""
    body = await request.app[METRICS].expose(request.app[PLANE])
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})


async def no_telemetry(request: web.Request) -> web.Response:
    """404, at which W&B's clients send no telemetry; any other response would start it."""
    return error_response(request, 404, "NOT_FOUND", "This server takes no telemetry.")
