"""Which runners, builders and addresses a configuration leads to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from agent import plugins
from agent.builders.noop import NoBuilder
from agent.compose import backends
from agent.compose.agent import _warnings, offered_capacity
from agent.compose.backends import BackendContext, open_backends, open_registry
from agent.compose.job_urls import url_for_pods
from agent.compose.logs import configure_log
from agent.config.agent import AgentConfig
from agent.model.capacity import Capacity
from agent.model.errors import ConfigError, PolicyError
from agent.ports.builder import BuildRequest

NOWHERE = "unix:///nowhere/docker.sock"


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[str]:
    """An engine that can say its version, and nothing else."""

    async def version(_: web.Request) -> web.Response:
        return web.json_response({"Os": "linux", "Arch": "amd64", "ApiVersion": "1.45"})

    app = web.Application()
    app.router.add_get("/{tail:.*}", version)
    runner = web.AppRunner(app)
    await runner.setup()
    socket = tmp_path / "engine.sock"
    await web.UnixSite(runner, str(socket)).start()
    yield f"unix://{socket}"
    await runner.cleanup()


def config(**settings: Any) -> AgentConfig:
    return AgentConfig.model_validate({"queues": ["q"], **settings})


def runners(containers: object, processes: object, host: str) -> dict[str, Any]:
    return {
        "local-container": {"enabled": containers, "host": host},
        "local-process": {"enabled": processes},
    }


@pytest.mark.parametrize(
    ("containers", "processes", "there", "chosen"),
    [
        ("auto", "auto", True, ("local-container",)),
        ("auto", "auto", False, ("local-process",)),
        ("auto", True, True, ("local-container", "local-process")),
        (False, "auto", True, ("local-process",)),
        (False, True, False, ("local-process",)),
        (True, False, True, ("local-container",)),
        ("auto", False, True, ("local-container",)),
        ("auto", False, False, "This agent has no runner"),
        (False, False, True, "This agent has no runner"),
        (True, "auto", False, "The container engine does not answer"),
    ],
)
async def test_what_jobs_run_on(
    engine: str, containers: object, processes: object, there: bool, chosen: object
) -> None:
    host = engine if there else NOWHERE
    settings = config(runners=runners(containers, processes, host))
    if isinstance(chosen, str):
        with pytest.raises(ConfigError, match=chosen):
            await backends.detect_resources(settings, {})
    else:
        assert await backends.detect_resources(settings, {}) == chosen


async def test_a_cluster_is_used_where_the_administrator_says_so(engine: str) -> None:
    chosen = {"kubernetes": {"enabled": True}}
    alone = config(runners=chosen | runners(containers=False, processes="auto", host=NOWHERE))
    assert await backends.detect_resources(alone, {}) == ("kubernetes",)
    beside = config(runners=chosen | runners(containers="auto", processes=True, host=engine))
    every = ("local-container", "kubernetes", "local-process")
    assert await backends.detect_resources(beside, {}) == every


async def test_an_engine_that_never_answers_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_DETECTION_TIMEOUT", 0.1)
    left = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await left.wait()
        writer.close()

    server = await asyncio.start_unix_server(silent, str(tmp_path / "s"))
    complaint = await backends.engine_failure(f"unix://{tmp_path}/s", {})
    assert complaint == "no answer within 0 s"
    left.set()
    server.close()
    await server.wait_closed()


async def test_capacity_is_configured_or_measured() -> None:
    offered = config(resources={"cpus": 2.5, "memory": "1GiB", "gpus": ["0", "2"]}).resources
    assert await offered_capacity(offered, 3) == Capacity(3, 2.5, 2**30, ("0", "2"))
    offered = config(resources={"cpus": "auto", "memory": "auto"}).resources
    measured = await offered_capacity(offered, -1)
    assert measured.slots is None
    assert measured.cpus
    assert measured.memory
    by_default = await offered_capacity(config().resources, 1)
    assert by_default == Capacity(1, None, measured.memory, ())


def context(
    settings: AgentConfig,
    threads: ThreadPoolExecutor,
    resources: tuple[str, ...] = ("local-process",),
    environment: Mapping[str, str] | None = None,
) -> BackendContext:
    url = "http://127.0.0.1:1"
    return BackendContext(settings, environment or {}, threads, url, None, resources)


@pytest.mark.parametrize(
    ("builder", "built_by"),
    [
        ("auto", "virtualenv"),
        ("docker", "virtualenv"),
        ("virtualenv", "virtualenv"),
        ("noop", "noop"),
        ("kaniko", "virtualenv"),
    ],
)
async def test_processes_get_environments_whatever_builds_images(
    tmp_path: Path, threads: ThreadPoolExecutor, builder: str, built_by: str
) -> None:
    settings = config(builder={"type": builder}, state_dir=str(tmp_path))
    async with AsyncExitStack() as stack:
        opened = await open_backends(stack, context(settings, threads), "plane", ())
    backend = opened.backends["local-process"]
    assert backend.builder is not None
    assert backend.builder.name == built_by
    assert isinstance(backend.builder, NoBuilder) == (builder == "noop")
    assert backend.images is None
    assert backend.job_url == "http://127.0.0.1:1"
    assert [pruner.name for pruner in opened.pruners] == ["environments"]


@pytest.mark.parametrize(
    ("builder", "built_by"),
    [
        ("auto", "docker"),
        ("docker", "docker"),
        ("kaniko", "docker"),
        ("virtualenv", "virtualenv"),
        ("noop", "noop"),
    ],
)
async def test_containers_get_images_from_one_builder(
    tmp_path: Path, threads: ThreadPoolExecutor, engine: str, builder: str, built_by: str
) -> None:
    from agent.docker.client import Engine

    settings = config(builder={"type": builder}, state_dir=str(tmp_path))
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(Engine(engine, {}))
        offered = context(settings, threads)
        registry = await open_registry(stack, offered, None)
        made = backends.image_builder(offered, opened, settings.builder, registry)
    assert made.name == built_by
    assert isinstance(made, NoBuilder) == (built_by != "docker")


@pytest.mark.parametrize(
    ("control", "inside"),
    [
        ({"also_listen": ["10.0.0.5"]}, "http://10.0.0.5:1"),
        ({"listen": "10.0.0.6", "also_listen": ["10.0.0.5"]}, "http://10.0.0.6:1"),
        ({"also_listen": ["10.0.0.5"], "external_url": "https://l.example"}, "https://l.example"),
        ({}, None),
        ({"listen": "0.0.0.0", "also_listen": ["::1"]}, None),
    ],
)
def test_pods_reach_an_embedded_control_plane_by_an_address_that_is_not_loopback(
    threads: ThreadPoolExecutor, control: dict[str, Any], inside: str | None
) -> None:
    settings = config(control=control)
    offered = replace(context(settings, threads), embedded_elsewhere=True)
    if inside is not None:
        assert url_for_pods(offered) == inside
        return
    with pytest.raises(ConfigError, match="means the pod") as error:
        url_for_pods(offered)
    assert "`control.also_listen`" in str(error.value)


def test_pods_get_the_address_of_a_server_unless_it_is_loopback(
    threads: ThreadPoolExecutor,
) -> None:
    offered = context(config(), threads)
    with pytest.raises(ConfigError, match="cannot reach the control plane at http"):
        url_for_pods(offered)
    far = "https://launch.example.org"
    assert url_for_pods(replace(offered, url=far)) == far


@pytest.mark.parametrize(
    ("builder", "built_by", "because"),
    [
        ({}, "nothing", "`builder.destination` is not set"),
        ({"type": "noop"}, "nothing", "`builder.type: noop`"),
        ({"destination": "r.example/x"}, "pods", "no container engine answers: "),
        ({"destination": "r.example/x", "type": "kubernetes"}, "pods", "kubernetes`"),
        ({"destination": "r.example/x", "type": "kaniko"}, "pods", "kaniko`"),
        (
            {"destination": "r.example/x", "type": "kaniko", "buildkit": "tcp://b:1"},
            "buildkitd",
            "tcp://b:1",
        ),
        ({"destination": "r.example/x", "buildkit": "tcp://b:1"}, "buildkitd", "tcp://b:1"),
        ({"destination": "r.example/x", "type": "docker"}, "engine", "`builder.type: docker`"),
    ],
)
async def test_what_builds_images_for_a_cluster(
    threads: ThreadPoolExecutor,
    tmp_path: Path,
    builder: dict[str, str],
    built_by: str,
    because: str,
) -> None:
    """The log says which, and why."""
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    where = runners(containers=False, processes=False, host=NOWHERE)
    where["kubernetes"] = {"enabled": True, "kubeconfig": str(tmp_path / "kubeconfig")}
    settings = config(builder=builder, state_dir=str(tmp_path), runners=where)
    offered = context(settings, threads, ("kubernetes",))
    async with AsyncExitStack() as stack:
        registry = await open_registry(stack, offered, None)
        with capture_logs() as logs:
            made = await backends._cluster_builder(stack, offered, registry)
        (entry,) = logs
        assert (entry["event"], entry["built_by"]) == ("images for the cluster", built_by)
        assert because in entry["because"]
        if built_by == "nothing":
            with pytest.raises(PolicyError, match=because):
                await made.preview(code_job(tmp_path))
        else:
            assert made.name == "docker"


KUBECONFIG = """
current-context: a
clusters: [{name: a, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: a, user: {token: t}}]
contexts: [{name: a, context: {cluster: a, user: a}}]
"""


def code_job(folder: Path) -> BuildRequest:
    return BuildRequest(
        folder, folder, None, None, None, ("python", "main.py"), 1000, "e/p/n", "e", "e/q", {}
    )


def test_the_user_is_warned_of_missing_boundaries_and_unreachable_addresses(
    threads: ThreadPoolExecutor,
) -> None:
    assert "no security boundary" in _warnings(context(config(), threads))[0]
    shared = config(runners={"local-process": {"user": "jobs"}})
    assert "all run as 'jobs'" in _warnings(context(shared, threads))[0]
    guarded = config(runners={"local-process": {"user": "200000-200007"}})
    assert _warnings(context(guarded, threads)) == []
    (far,) = _warnings(context(config(), threads, ("local-container",)))
    assert "cannot reach http://127.0.0.1:1" in far
    lacking = config(secrets={"a": {"env": "NOT_SET", "as_env": "A", "queues": ["*"]}})
    assert "NOT_SET" in _warnings(context(lacking, threads))[0]


# ---- plugins


def installed(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str, str]) -> None:
    every = EntryPoints(EntryPoint(name, value, group) for name, value, group in points)
    monkeypatch.setattr(plugins, "entry_points", lambda group: every.select(group=group))


class Runner:
    resource = "slurm"

    def __init__(self, context: plugins.PluginContext) -> None:
        self.context = context


class Builder:
    name = "special"

    def __init__(self, context: plugins.PluginContext) -> None:
        self.context = context


async def test_plugins_make_a_backend(
    tmp_path: Path, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "agent.plugins._load", lambda point: {"R": Runner, "B": Builder}[point.value]
    )
    installed(monkeypatch, ("slurm", "R", plugins.RUNNERS), ("slurm", "B", plugins.BUILDERS))
    settings = config(
        state_dir=str(tmp_path), runners=runners(containers=False, processes=False, host=NOWHERE)
    )
    resources = await backends.detect_resources(settings, {})
    assert resources == ("slurm",)
    async with AsyncExitStack() as stack:
        opened = await open_backends(stack, context(settings, threads, resources), "plane", ())
    backend = opened.backends["slurm"]
    assert isinstance(backend.runner, Runner)
    assert backend.runner.context.control_plane_id == "plane"
    assert backend.builder is not None
    assert backend.builder.name == "special"


def test_two_plugins_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, ("slurm", "a:x", plugins.RUNNERS), ("slurm", "b:x", plugins.RUNNERS))
    with pytest.raises(ConfigError, match="Two installed packages offer `slurm`"):
        plugins.find("launch_agent.runners")


def test_a_plugin_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, ("slurm", "no_such_module:x", plugins.RUNNERS))
    with pytest.raises(ConfigError, match=r"`slurm` \(no_such_module:x\) cannot be loaded"):
        plugins.find("launch_agent.runners")


def test_a_plugin_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    point = ("json", "json:loads", plugins.RUNNERS)
    installed(monkeypatch, point, point)
    assert plugins.find("launch_agent.runners") == {"json": __import__("json").loads}


# ---- the log


def test_every_secret_of_the_configuration_is_redacted_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import logging

    import structlog

    monkeypatch.setenv("A_SECRET", "from-environment")
    settings = config(
        log={"file": str(tmp_path / "log")},
        server={"url": "https://s", "api_key": "server-key"},
        builder={"index_url": "https://u:index-password@i/simple"},
        secrets={
            "a": {"env": "A_SECRET", "as_env": "A", "queues": ["*"]},
            "b": {"env": "NOT_SET_ANYWHERE", "as_env": "B", "queues": ["*"]},
        },
    )
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        redactor = configure_log(settings)
        told = redactor.text("server-key from-environment https://u:index-password@i/simple")
        assert told == "*** *** ***"
    finally:
        for handler in root.handlers:
            with contextlib.suppress(AttributeError):
                handler.stream.close()  # type: ignore[attr-defined]
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
