"""The agent, from its configuration to `AgentDaemon.run`."""

import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import urlsplit

from agent import __version__
from agent.compose.backends import (
    BackendContext,
    detect_resources,
    make_sources,
    open_backends,
    shared_backend_id,
)
from agent.compose.control_plane import Announcement, Server, serve_embedded
from agent.compose.logs import configure_log
from agent.config.choose_server import EmbeddedServer, RemoteServer
from agent.config.control import ControlConfig
from agent.config.execution import OfferedResources
from agent.config.load import Loaded
from agent.config.schema import missing_inputs
from agent.daemon.process import SystemdNotifier, locked_state_folder
from agent.daemon.service import AgentDaemon, Backends
from agent.model.capacity import Capacity
from agent.model.names import CONTAINERS, KUBERNETES, PROCESSES
from agent.model.protocol import AgentRegistration, RegisteredAgent
from agent.model.redact import Redactor
from agent.pipeline.dependencies import AttemptTimeouts
from agent.remote.artifacts.reader import RemoteArtifacts
from agent.remote.artifacts.transfers import Transfers
from agent.remote.client import ControlPlaneClient, Endpoint
from agent.remote.launch_queue import LaunchQueue
from agent.remote.retry_policy import DEFAULT_POLICY, RetryPolicy
from agent.system import machine
from agent.system.network import is_loopback

Number = TypeVar("Number", int, float)


async def run_agent(
    loaded: Loaded, choice: RemoteServer | EmbeddedServer, announce: Callable[[Announcement], None]
) -> int:
    """Run an agent, with its control plane if it embeds one; returns the exit code.

    Raises:
        LaunchError: it cannot start; the message says why.
    """
    config = loaded.config
    redactor = configure_log(config)
    async with AsyncExitStack() as stack:
        identity = stack.enter_context(locked_state_folder(config.state_dir))
        threads = stack.enter_context(ThreadPoolExecutor(config.threads, thread_name_prefix="work"))
        resources = await detect_resources(config, os.environ)
        server, client = await connect(
            stack, choice, config.control, config.state_dir,
            origin=f"embedded: {choice.origin}", program="launch-agent",
        )  # fmt: skip
        redactor.add(server.remote.api_key.get_secret_value())
        url, origin = server.remote.url, server.remote.origin
        context = BackendContext(config, os.environ, threads, url, server.control_plane, resources)
        daemon = await make_daemon(stack, context, client, identity, redactor, waits=True)
        warnings = (*loaded.warnings, *_warnings(context))
        announce(Announcement(url, origin, server.sign_in, resources, warnings))
        return await daemon.run()


async def connect(
    stack: AsyncExitStack,
    choice: RemoteServer | EmbeddedServer,
    control: ControlConfig,
    state_dir: Path,
    *,
    origin: str,
    program: str,
    retry_policy: RetryPolicy = DEFAULT_POLICY,
) -> tuple[Server, ControlPlaneClient]:
    """Open a session with the chosen control plane, starting it if it is to be embedded.

    `stack` closes both. `origin` describes an embedded one to the user, `program` is this
    client's name towards the server.

    Raises:
        ConfigError, ConflictError: see `serve_embedded`.
    """
    if isinstance(choice, EmbeddedServer):
        server = await stack.enter_async_context(serve_embedded(control, state_dir, origin))
    else:
        server = Server(choice)
    remote = server.remote
    endpoint = Endpoint(remote.url, remote.api_key.get_secret_value(), remote.ca_bundle)
    client = ControlPlaneClient(
        endpoint, user_agent=f"{program}/{__version__}", retry_policy=retry_policy
    )
    return server, await stack.enter_async_context(client)


async def make_daemon(
    stack: AsyncExitStack,
    context: BackendContext,
    client: ControlPlaneClient,
    identity: str,
    redactor: Redactor,
    *,
    waits: bool = False,
) -> AgentDaemon:
    """An agent on an open session; `stack` closes what it opens when it runs.

    `redactor` knows the secrets that no log may show. `waits`: for a cluster that does not answer.

    Raises:
        ConfigError: the cluster that its jobs should run on cannot be used.
    """
    if KUBERNETES in context.resources:
        from agent.runners.kubernetes.access import check_cluster

        await check_cluster(
            context.config.runners.kubernetes, SystemdNotifier().waiting if waits else None
        )
    transfers = await stack.enter_async_context(
        Transfers(
            client.endpoint.ca_bundle, proxied=client.proxied, retry_policy=client.retry_policy
        )
    )
    sources, pruners = make_sources(context, RemoteArtifacts(client, transfers))

    config = context.config
    auto: Literal["wait", "detach"] = "wait" if context.control_plane is not None else "detach"

    async def backends(agent: RegisteredAgent) -> Backends:
        named = replace(context, agent_name=agent.agent_name)
        return await open_backends(stack, named, agent.control_plane_id, pruners)

    return AgentDaemon(
        queue=LaunchQueue(client),
        registration=await _registration(context, identity),
        open_backends=backends,
        sources=sources,
        config=config,
        limits=AttemptTimeouts(grace=config.stopped_run_timeout, pending=config.pending_timeout),
        on_stop=auto if config.on_stop == "auto" else config.on_stop,
        executor=context.threads,
        redactor=redactor,
    )


async def _registration(context: BackendContext, identity: str) -> AgentRegistration:
    config = context.config
    host = machine.host_name()
    return AgentRegistration(
        entity=config.entity,
        name=config.name or host,
        hostname=host,
        version=__version__,
        queues=config.queues,
        identity=identity,
        session=secrets.token_hex(12),
        backend_id=await shared_backend_id(context),
        resources=context.resources,
        capacity=await offered_capacity(config.resources, config.max_jobs),
        config={"max_jobs": config.max_jobs, "builder": config.builder.type},
    )


async def offered_capacity(offered: OfferedResources, max_jobs: int) -> Capacity:
    """The capacity that the agent registers; `auto` is measured now."""
    return Capacity(
        slots=None if max_jobs < 0 else max_jobs,
        cpus=_measured(offered.cpus, machine.cores),
        memory=_measured(offered.memory, machine.memory),
        gpus=await machine.gpus() if offered.gpus == "auto" else offered.gpus,
    )


def _measured(
    configured: Number | Literal["auto", "unlimited"], measure: Callable[[], Number]
) -> Number | None:
    match configured:
        case "unlimited":
            return None
        case "auto":
            return measure()
        case _:
            return configured


def _warnings(context: BackendContext) -> list[str]:
    """Warnings about the configuration, for the user who starts the agent."""
    warnings = list(missing_inputs(context.config, context.environment))
    exposure = context.config.runners.local_process.exposure
    if PROCESSES in context.resources and exposure is not None:
        warnings.append(exposure)
    host_network = context.config.runners.local_container.host_network
    remote = context.control_plane is None and not host_network
    if CONTAINERS in context.resources and remote and is_loopback(urlsplit(context.url).hostname):
        warnings.append(
            f"Jobs in containers cannot reach {context.url}: inside them it means the container. "
            "Name the server by an address of this machine, if they use its API."
        )
    return warnings
