"""The agent: from its configuration to `AgentDaemon.run`."""

import asyncio
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

from agent import __version__, plugins
from agent.compose.backends import BackendContext, open_backends
from agent.compose.logs import start_log
from agent.compose.plane import Announcement, serving
from agent.compose.survey import CONTAINERS, PROCESSES, capacity, offered_resources
from agent.config.control import ControlConfig
from agent.config.load import Loaded
from agent.config.messages import missing_inputs
from agent.config.server import EmbeddedServer, RemoteServer
from agent.daemon.pruning import Pruner
from agent.daemon.service import AgentDaemon, Backends, Settings
from agent.daemon.state_folder import locked_state_folder
from agent.model.protocol import AgentRegistration, RegisteredAgent
from agent.pipeline.dependencies import Limits, Sources
from agent.remote.artifacts.memory import RememberedArtifacts
from agent.remote.artifacts.reader import RemoteArtifacts
from agent.remote.client import Endpoint, GraphQLClient
from agent.remote.queue import RemoteQueue
from agent.sources.artifact import ArtifactFetcher
from agent.sources.git.source import GitFetcher
from agent.system import machine

if TYPE_CHECKING:
    from agent.control.server import ControlPlane

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_UNGUARDED: Final = (
    "Jobs run as processes of this machine, as this user: that is no security boundary. "
    "Serve queues of people you trust, or set `runners.local-process.user`."
)


@dataclass(frozen=True, slots=True)
class _Fetchers:
    """The sources, and what prunes their caches."""

    sources: Sources
    pruners: tuple[Pruner, ...]


def run_agent(
    loaded: Loaded, choice: RemoteServer | EmbeddedServer, announce: Callable[[Announcement], None]
) -> int:
    """Run an agent, with its control plane if it embeds one; returns the exit code.

    Raises:
        LaunchError: it cannot begin; the message says why.
    """
    return asyncio.run(_run_agent(loaded, choice, announce))


async def _run_agent(
    loaded: Loaded,
    choice: RemoteServer | EmbeddedServer,
    announce: Callable[[Announcement], None],
) -> int:
    config = loaded.config
    redactor = start_log(config)
    async with AsyncExitStack() as stack:
        identity = stack.enter_context(locked_state_folder(config.state_dir))
        workers = config.runners.local_container.threads
        threads = stack.enter_context(ThreadPoolExecutor(workers, thread_name_prefix="work"))
        resources = await offered_resources(config, os.environ)
        far = await connect(
            stack, choice, config.control, config.state_dir,
            origin=f"embedded: {choice.origin}", program="launch-agent",
        )  # fmt: skip
        redactor.add(far.remote.api_key.get_secret_value())
        shop = BackendContext(config, os.environ, threads, far.remote.url, far.plane, resources)
        daemon = await make_daemon(stack, shop, far.client, identity)
        url, origin = far.remote.url, far.remote.origin
        warnings = (*loaded.warnings, *_remarks(shop))
        announce(Announcement(url, origin, far.sign_in, resources, warnings))
        return await daemon.run()


@dataclass(frozen=True, slots=True)
class Connected:
    """A session with a control plane, and the plane itself where it is this process's own."""

    remote: RemoteServer
    client: GraphQLClient
    plane: "ControlPlane | None" = None
    #: See `Announcement`.
    sign_in: str | None = None


async def connect(
    stack: AsyncExitStack,
    choice: RemoteServer | EmbeddedServer,
    control: ControlConfig,
    state_dir: Path,
    *,
    origin: str,
    program: str,
) -> Connected:
    """Speak with the chosen plane; one to be embedded is served first. `stack` closes both.

    `origin` is what people are told of an embedded one, `program` what the plane is told of us.

    Raises:
        ConfigError, ConflictError: see `serving`.
    """
    if isinstance(choice, EmbeddedServer):
        served = await stack.enter_async_context(serving(control, state_dir, origin))
        client = await _session(stack, served.remote, program)
        return Connected(served.remote, client, served.plane, served.sign_in)
    return Connected(choice, await _session(stack, choice, program))


async def _session(stack: AsyncExitStack, remote: RemoteServer, program: str) -> GraphQLClient:
    endpoint = Endpoint(remote.url, remote.api_key.get_secret_value(), remote.ca_bundle)
    client = GraphQLClient(endpoint, user_agent=f"{program}/{__version__}")
    return await stack.enter_async_context(client)


async def make_daemon(
    stack: AsyncExitStack, shop: BackendContext, client: GraphQLClient, identity: str
) -> AgentDaemon:
    """An agent on an open session; `stack` closes what it opens when it runs."""
    fetchers = _fetchers(shop, client)

    async def workshop(welcome: RegisteredAgent) -> Backends:
        return await open_backends(stack, shop, welcome.control_plane_id, fetchers.pruners)

    return AgentDaemon(
        queue=RemoteQueue(client),
        registration=await _hello(shop, identity),
        open_backends=workshop,
        sources=fetchers.sources,
        settings=_settings(shop),
        executor=shop.threads,
    )


async def _hello(shop: BackendContext, identity: str) -> AgentRegistration:
    config = shop.config
    host = machine.host_name()
    return AgentRegistration(
        entity=config.entity,
        name=config.name or host,
        hostname=host,
        version=__version__,
        queues=config.queues,
        identity=identity,
        session=secrets.token_hex(12),
        backend=await _backend(shop),
        resources=shop.resources,
        capacity=await capacity(config.resources, config.max_jobs),
        config={"max_jobs": config.max_jobs, "builder": config.builder.type},
    )


async def _backend(shop: BackendContext) -> str | None:
    """Id of the engine, where it is all that this agent runs jobs on.

    Agents that share it may adopt each other's jobs. What runs as processes is seen by the
    agent of its own state folder only, which the identity names already.
    """
    if shop.resources != (CONTAINERS,):
        return None
    from agent.runners.docker.runner import DockerRunner

    config = shop.config.runners.local_container
    async with DockerRunner("", config, shop.threads) as runner:
        return await runner.backend_id()


def _fetchers(shop: BackendContext, client: GraphQLClient) -> _Fetchers:
    config = shop.config
    given = plugins.find(plugins.SOURCES)
    git = GitFetcher(
        config.sources.git,
        shop.cache / "git",
        # A direct run beside one's own daemon is one's own as much as without it.
        embedded=shop.plane is not None or shop.neighbour,
        threads=shop.threads,
        environment=shop.environment,
    )
    jobs = RememberedArtifacts(RemoteArtifacts(client))
    artifact = ArtifactFetcher(jobs, config.sources.code, shop.cache / "code", shop.threads)
    context = shop.plugin_context("", "sources")
    sources = Sources(
        git=given["git"](context) if "git" in given else git,
        artifact=given["artifact"](context) if "artifact" in given else artifact,
        jobs=jobs,
    )
    pruners = (
        Pruner("mirrors", config.prune.mirrors, git.prune),
        Pruner("code", config.prune.mirrors, artifact.prune),
    )
    return _Fetchers(sources, pruners)


def _settings(shop: BackendContext) -> Settings:
    config = shop.config
    auto: Literal["wait", "detach"] = "wait" if shop.plane is not None else "detach"
    return Settings(
        state_dir=config.state_dir,
        on_stop=auto if config.on_stop == "auto" else config.on_stop,
        limits=Limits(grace=config.stopped_run_timeout),
        build_timeout=config.builder.timeout,
        build_concurrency=config.builder.concurrency,
        min_free_disk=config.min_free_disk,
        prune_interval=config.prune.interval,
        keep_attempts=config.prune.attempts.max_age,
        secrets=config.secrets,
        mounts=config.mounts,
        health=config.health,
    )


def _remarks(shop: BackendContext) -> list[str]:
    """What people should know before they rely on it."""
    found = list(missing_inputs(shop.config, shop.environment))
    if PROCESSES in shop.resources and not shop.config.runners.local_process.user:
        found.append(_UNGUARDED)
    far = shop.plane is None and not shop.config.runners.local_container.host_network
    if CONTAINERS in shop.resources and far and urlsplit(shop.url).hostname in _LOOPBACK:
        found.append(
            f"Jobs in containers cannot reach {shop.url}: inside them it means the container. "
            "Name the server by an address of this machine, if they use its API."
        )
    return found
