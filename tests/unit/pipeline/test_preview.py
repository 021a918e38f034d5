"""What is shown of a run that does not take place: the run's own words, masked, with origins."""

import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.builders.docker import DockerBuilder
from agent.config.execution import (
    Accelerator,
    BuilderConfig,
    DockerRunnerConfig,
    JobSecret,
    KubernetesRunnerConfig,
    MountConfig,
    ProcessRunnerConfig,
)
from agent.docker.client import Engine
from agent.model.errors import InvalidInputError, PolicyError
from agent.pipeline.dependencies import Backend, ResolveDependencies, Sources
from agent.pipeline.preview import Preview, Setting, masked_value, preview, settings_of
from agent.ports.runner import RunRequest
from agent.runners.docker.runner import DockerRunner
from agent.runners.kubernetes.runner import KubernetesRunner
from agent.runners.process.runner import ProcessRunner
from agent.sources.git.checkout import apply_patch
from agent.testing.builder_suite import RecordingLog
from tests.infrastructure.artifacts import ArtifactShelf
from tests.unit.pipeline.claims import claim
from tests.unit.pipeline.test_stored_jobs import CODE, GIT, Repository, Scene

RESOURCE = "local-container"


@pytest.fixture
async def show(tmp_path: Path) -> AsyncIterator[Any]:
    shelf, repository = ArtifactShelf(), Repository(dict(CODE))
    scene = Scene(shelf, repository, None, tmp_path)
    scene.job("repo", GIT, files={"requirements.frozen.txt": b"six==1.16.0"})
    with ThreadPoolExecutor(2) as threads:
        sources = Sources(git=repository, apply_patch=apply_patch, jobs=shelf)
        containers = DockerRunner("", DockerRunnerConfig(), threads)
        processes = ProcessRunner(tmp_path / "p", "", ProcessRunnerConfig(), threads, {})

        async def run(spec: dict[str, Any], *, images: bool = True, **given: Any) -> Preview:
            builder = BuilderConfig(**given.pop("builder", {}))
            offered = {kind: given.pop(kind, None) for kind in ("secrets", "mounts")}
            if images:
                making = DockerBuilder(
                    builder, Engine(), tmp_path / "b", threads=threads, environment={}
                )
                backend = Backend(containers, making, SimpleNamespace(), "http://p")
            else:
                backend = Backend(processes, None, None, "http://p")
            asked = claim({"job": "train:latest", **spec}, **given)
            folder = Path(tempfile.mkdtemp(dir=tmp_path))
            dependencies = ResolveDependencies(sources=sources, executor=threads, **offered)
            return await preview(asked, backend, dependencies, folder, RecordingLog())

        yield run
        await containers.close()


async def test_the_dockerfile_and_the_container_are_those_of_the_run(show: Any) -> None:
    spec = {
        "overrides": {"run_config": {"lr": 1}, "args": ["--fast"]},
        "resource_args": {RESOURCE: {"env": ["API_TOKEN=hunter22", "COLOUR=red"], "memory": "1g"}},
    }
    made = await show(spec)
    assert made.build.dockerfile.startswith("FROM python:3.11-slim\n")
    assert made.build.dockerfile.endswith('ENTRYPOINT ["python", "main.py"]\n')
    assert (made.build.own_dockerfile, made.build.requirements) == (
        None, "requirements.frozen.txt",
    )  # fmt: skip
    body = made.workload
    assert (body["Entrypoint"], body["Cmd"]) == (["python", "main.py"], ["--fast"])
    assert body["HostConfig"]["Memory"] == 1024**3
    (mount,) = body["HostConfig"]["Mounts"]
    assert mount["Target"] == "/run/launch/config.json"
    assert {"COLOUR=red", "API_TOKEN=***", "WANDB_API_KEY=***", 'WANDB_CONFIG={"lr": 1}'} <= set(
        body["Env"]
    )
    assert "hunter22" not in repr(made)
    assert "launchrun-token" not in repr(made)
    assert made.environment["LAUNCH_CONFIG_FILE"] == "/run/launch/config.json"


async def test_a_process_is_shown_as_its_command(show: Any) -> None:
    made = await show({}, images=False, resource="local-process")
    assert made.build is None
    assert (made.workload["argv"], made.workload["folder"]) == (["python", "main.py"], ".")
    assert made.workload["environment"]["WANDB_API_KEY"] == "***"


async def test_every_field_names_the_layer_that_set_it(show: Any) -> None:
    template = {"resource_args": {RESOURCE: {"memory": "1g", "cpus": "2"}}, "timeout": 60}
    submitted = {"overrides": {"args": ["1"]}, "resource_args": {RESOURCE: {"cpus": "4"}}}
    spec = {
        **submitted, "timeout": 60, "project": "things",
        "resource_args": {RESOURCE: {"memory": "1g", "cpus": "4"}},
    }  # fmt: skip
    made = await show(spec, layers={"queue": template, "submitter": submitted})
    who = {each.path: each.layer for each in made.settings}
    assert who[f"resource_args.{RESOURCE}.memory"] == "queue"
    assert who[f"resource_args.{RESOURCE}.cpus"] == "submitter"
    assert who["timeout"] == "queue"
    assert who["overrides.args"] == "submitter"
    assert who["overrides.entry_point"] == "job"
    assert who["build.python"] == "job"
    assert who["project"] == "control plane"
    assert who["base image"] == "runtime"
    assert who["user id"] == "agent"


@pytest.mark.parametrize(
    ("spec", "builder", "image", "layer"),
    [
        ({"build": {"base_image": "mine:1"}}, {"base_image": "agent:1"}, "mine:1", "submitter"),
        (
            {"resource_args": {RESOURCE: {"builder": {"base_image": "queue:1"}}}},
            {"base_image": "agent:1"}, "queue:1", "submitter",
        ),
        (
            {"resource_args": {RESOURCE: {"builder": {"accelerator": {"base_image": "cuda:1"}}}}},
            {"base_image": "agent:1"}, "cuda:1", "submitter",
        ),
        ({}, {"base_image": "agent:1"}, "agent:1", "agent"),
        ({}, {"accelerator": Accelerator(base_image="cuda:2")}, "cuda:2", "agent"),
        ({}, {}, "python:3.11-slim", "runtime"),
    ],
)  # fmt: skip
async def test_the_base_image_and_who_chose_it(
    show: Any, spec: dict[str, Any], builder: dict[str, Any], image: str, layer: str
) -> None:
    made = await show(spec, builder=builder, layers={"submitter": spec})
    assert made.build.dockerfile.startswith(f"FROM {image}\n")
    assert Setting("base image", image, layer) in made.settings
    assert ("install.sh python" in made.build.dockerfile) == image.startswith("cuda")


async def test_what_a_run_would_refuse_is_refused_in_the_same_words(show: Any) -> None:
    with pytest.raises(PolicyError, match="privileged"):
        await show({"resource_args": {RESOURCE: {"privileged": True}}})
    with pytest.raises(PolicyError, match="'s' is not named by the template"):
        await show({"resource_args": {RESOURCE: {"secrets": ["s"]}}})


@pytest.mark.parametrize("kind", ["secrets", "mounts"])
async def test_what_the_administrator_gives_to_other_queues_is_refused(
    show: Any, kind: str
) -> None:
    arguments = {"resource_args": {RESOURCE: {kind: ["a"]}}}
    given = {
        "secrets": {"a": JobSecret(value="hidden", as_env="A", queues=("others/gpu",))},
        "mounts": {"a": MountConfig(source=Path("/"), target="/a", queues=("others/gpu",))},
    }
    asked = {"spec": arguments, "layers": {"queue": arguments}}
    with pytest.raises(PolicyError, match=f"`{kind}`: this agent offers no 'a' to queue"):
        await show(**asked, **{kind: given[kind]})
    with pytest.raises(PolicyError, match="offers no 'a'"):
        await show(**asked, **{kind: {}})
    # A submitter's machine knows no secret of the agent's.
    made = await show(**asked)
    assert Setting(f"{kind}.a", "(from the agent's configuration)", "queue") in made.settings


def test_secrets_are_hidden_by_name_and_by_form() -> None:
    assert masked_value({"MY_PASSWORD": "x", "PLAIN": "y"}) == {"MY_PASSWORD": "***", "PLAIN": "y"}
    assert masked_value({"env": ["A_KEY=b", "C=d"], "n": 1}) == {
        "env": ["A_KEY=***", "C=d"],
        "n": 1,
    }
    hidden = settings_of(claim({"_wandb_api_key": "k" * 40}))
    assert Setting("_wandb_api_key", "***", "control plane") in hidden


@pytest.fixture
def clustered(tmp_path: Path) -> Backend:
    """A cluster whose server fills in a default."""
    runner = KubernetesRunner("", KubernetesRunnerConfig(namespace="jobs"))

    async def dry_run(request: RunRequest) -> list[dict[str, Any]]:
        made = runner.preview(request)
        filled = {**made, "spec": {**made["spec"], "completionMode": "NonIndexed"}}
        return [filled, *({**each, "filled": True} for each in runner.side_services(request))]

    return Backend(
        runner, None, SimpleNamespace(), "http://p",
        takes_manifest=True, side_services=runner.side_services, dry_run=dry_run,
    )  # fmt: skip


async def shown_on_cluster(
    backend: Backend, tmp_path: Path, *, server_side: bool
) -> dict[str, tuple[Any, str]]:
    variable = {"name": "DB_TOKEN", "value": "$(X)hunter22"}
    container = {"name": "main", "env": [variable]}
    pod = {"containers": [container], "nodeSelector": {"gpu": "${author}"}}
    queue = {"resource_args": {"kubernetes": {"spec": {"backoffLimit": 1}}}}
    arguments = {"spec": {"backoffLimit": 1, "template": {"spec": pod}}}
    submitted = {
        "docker": {"docker_image": "org/app:1"},
        "overrides": {"entry_point": ["run"], "args": ["-x"]},
        "resource_args": {"kubernetes": {"spec": {"template": {"spec": pod}}}},
    }
    spec = {**submitted, "resource_args": {"kubernetes": arguments}}
    asked = claim(
        spec, resource="kubernetes", layers={"queue": queue, "job": {}, "submitter": submitted}
    )
    with ThreadPoolExecutor(1) as threads:
        sources = Sources(git=Repository({}), apply_patch=apply_patch)
        dependencies = ResolveDependencies(sources=sources, executor=threads)
        made = await preview(
            asked, backend, dependencies, tmp_path, RecordingLog(), server_side=server_side
        )
    assert "hunter22" not in repr(made)
    assert not any(each.path.startswith("resource_args") for each in made.settings)
    return {each.path: (each.value, each.layer) for each in made.settings}


async def test_every_field_of_a_manifest_names_who_set_it(
    clustered: Backend, tmp_path: Path
) -> None:
    fields = await shown_on_cluster(clustered, tmp_path, server_side=False)
    pod = "manifest.spec.template.spec"
    assert fields["manifest.spec.backoffLimit"] == (1, "queue")
    assert fields[f"{pod}.nodeSelector.gpu"] == ("ann", "submitter")
    assert fields[f"{pod}.containers.0.name"] == ("main", "submitter")
    assert fields[f"{pod}.containers.0.image"] == ("org/app:1", "agent")
    assert fields[f"{pod}.containers.0.command.0"] == ("run", "submitter")
    assert fields[f"{pod}.containers.0.args.0"] == ("-x", "submitter")
    assert fields[f"{pod}.containers.0.env.0.value"] == ("***", "submitter")
    assert fields[f"{pod}.restartPolicy"] == ("Never", "agent")
    assert fields["manifest.metadata.namespace"] == ("jobs", "agent")
    assert "manifest.spec.completionMode" not in fields


async def test_a_dry_run_shows_what_the_cluster_fills_in(
    clustered: Backend, tmp_path: Path
) -> None:
    fields = await shown_on_cluster(clustered, tmp_path, server_side=True)
    assert fields["manifest.spec.completionMode"] == ("NonIndexed", "cluster")
    assert fields["manifest.spec.backoffLimit"] == (1, "queue")


@pytest.mark.parametrize("server_side", [False, True])
async def test_side_services_are_shown_as_they_would_be_created(
    clustered: Backend, tmp_path: Path, server_side: bool
) -> None:
    variable = {"name": "DB_TOKEN", "value": "hunter22"}
    container = {"name": "cache", "image": "redis:7", "env": [variable]}
    service = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "Cache_${run_id}"},
        "spec": {"containers": [container]},
    }  # fmt: skip
    spec = {"docker": {"docker_image": "a:1"}, "additional_services": [{"config": service}]}
    with ThreadPoolExecutor(1) as threads:
        sources = Sources(git=Repository({}), apply_patch=apply_patch)
        made = await preview(
            claim(spec, resource="kubernetes"), clustered,
            ResolveDependencies(sources=sources, executor=threads), tmp_path, RecordingLog(),
            server_side=server_side,
        )  # fmt: skip
    (shown,) = made.side_services
    assert shown["metadata"]["name"] == f"cache-{claim(spec).run_name}"
    assert shown["metadata"]["namespace"] == "jobs"
    (container,) = shown["spec"]["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "hunter22" not in repr(made)
    assert ("filled" in shown) is server_side


async def test_a_dry_run_needs_a_server(tmp_path: Path) -> None:
    runner = ProcessRunner(tmp_path, "", ProcessRunnerConfig(), None, {})
    backend = Backend(runner, None, None, "http://p")
    with pytest.raises(InvalidInputError, match="local-process has no server"):
        await preview(
            claim(resource="local-process"), backend, None, tmp_path, RecordingLog(),
            server_side=True,
        )  # fmt: skip
