"""The control plane as an aiohttp application."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from aiohttp import web

from agent.config.control import ControlConfig
from agent.control import probes
from agent.control.app_keys import (
    CONFIG,
    CONTENTS,
    LOGS,
    METRICS,
    PLANE,
    RUN_FILES,
    SESSIONS,
    STOPPING,
    THROTTLE,
)
from agent.control.auth.sessions import Sessions, Throttle
from agent.control.files import artifact_routes, log_routes
from agent.control.files.contents import ContentStore
from agent.control.files.links import CONTENT_PATH, RUN_FILE_PATH
from agent.control.files.logs import LogStore
from agent.control.files.run_files import RunFileStore
from agent.control.files.storage import open_folder
from agent.control.graphql.handler import Executor, GraphQLHandler
from agent.control.graphql.schema import build_schema
from agent.control.metrics import Metrics
from agent.control.middleware.authentication import check_access
from agent.control.middleware.browser_security import (
    HOSTS,
    HostRules,
    add_security_headers,
    check_host,
)
from agent.control.middleware.errors import answer_errors
from agent.control.middleware.route_access import undeclared
from agent.control.retention import Retention
from agent.control.services.plane import Plane, open_plane
from agent.control.web.routes import add_web_routes

OpenPlane = Callable[[ControlConfig], AbstractAsyncContextManager[Plane]]

_FORM_LIMIT: Final = 64 * 1024


def create_app(config: ControlConfig, *, opener: OpenPlane = open_plane) -> web.Application:
    """The whole control plane; nothing is opened before the app starts up.

    Raises:
        RuntimeError: a route has no declared policy.
    """
    app = web.Application(
        middlewares=[probes.measure_request, answer_errors, check_host, check_access],
        # For forms of pages only; the other bodies have limits of their own.
        client_max_size=_FORM_LIMIT,
    )
    app.on_response_prepare.append(add_security_headers)
    app[CONFIG] = config
    app[HOSTS] = HostRules.of(config.external_url, config.allowed_hosts)
    app[THROTTLE] = Throttle()
    app[METRICS] = Metrics()
    app[STOPPING] = asyncio.Event()
    # The store first: it holds the lock that keeps a second process from sweeping the folder.
    app.cleanup_ctx.append(_plane_of(opener))
    app.cleanup_ctx.append(_storage)
    app.cleanup_ctx.append(_keeping_up)
    _add_routes(app)
    missing = undeclared(app)
    if missing:
        raise RuntimeError(f"Routes without a policy in middleware/route_access.py: {missing}")
    return app


def _add_routes(app: web.Application) -> None:
    app.router.add_get("/healthz", probes.healthz)
    app.router.add_get("/readyz", probes.readyz)
    app.router.add_get("/metrics", probes.metrics)
    app.router.add_route("*", "/sdk/otel/{path:.*}", probes.no_telemetry)
    app.router.add_post("/graphql", GraphQLHandler(Executor(build_schema())).__call__)
    app.router.add_post(log_routes.PATH, log_routes.append_log)
    app.router.add_get(log_routes.PATH, log_routes.read_log)
    _add_artifact_routes(app)
    add_web_routes(app)


def _add_artifact_routes(app: web.Application) -> None:
    app.router.add_post(artifact_routes.BATCH_PATH, artifact_routes.put_contents)
    app.router.add_put(CONTENT_PATH, artifact_routes.put_content)
    app.router.add_get(CONTENT_PATH, artifact_routes.get_content)
    app.router.add_options(CONTENT_PATH, artifact_routes.options)
    app.router.add_put(RUN_FILE_PATH, artifact_routes.put_run_file)
    app.router.add_options(RUN_FILE_PATH, artifact_routes.options)
    for path in artifact_routes.ENTRY_PATHS:
        app.router.add_get(path, artifact_routes.get_entry)
    app.router.add_post(artifact_routes.STREAM_PATH, artifact_routes.file_stream)


async def _storage(app: web.Application) -> AsyncIterator[None]:
    folder = await open_folder(app[CONFIG].data_dir)
    app[CONTENTS] = ContentStore(folder, app[PLANE].contents, app[CONFIG].max_file)
    app[RUN_FILES] = RunFileStore(folder, app[CONFIG].max_file)
    app[LOGS] = LogStore(folder)
    yield


def _plane_of(opener: OpenPlane) -> Callable[[web.Application], AsyncIterator[None]]:
    async def opened(app: web.Application) -> AsyncIterator[None]:
        async with opener(app[CONFIG]) as plane:
            app[PLANE] = plane
            app[SESSIONS] = Sessions(plane.signing_key, plane.control_plane_id)
            yield

    return opened


async def _keeping_up(app: web.Application) -> AsyncIterator[None]:
    """What goes on beside the requests: expired leases, lost agents, bytes without an owner."""
    plane = app[PLANE]
    await plane.reaper.start()
    retention = Retention(plane, app[LOGS], app[CONTENTS])
    tasks = (
        asyncio.create_task(plane.reaper.run(), name="reaper"),
        asyncio.create_task(retention.run(), name="retention"),
    )
    yield
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
