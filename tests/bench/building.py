"""Building alone: source tree → image ready, without queue and run around it."""

import json
import os
import shutil
import statistics
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from agent.builders.docker import DockerBuilder
from agent.config.execution import BuilderConfig, BuildPodConfig, KubernetesRunnerConfig
from agent.docker.client import Engine
from agent.docker.images import EngineImages
from agent.ports.build_daemon import BuildDaemonsPort
from agent.ports.builder import BuildRequest
from agent.registries.logins import DockerLogins
from agent.registries.oci import OciRegistry
from agent.runners.kubernetes.api import ClusterApi
from agent.runners.kubernetes.build_pod_manifest import PORT, job_of
from agent.runners.kubernetes.build_pods import BuildPods
from agent.testing.builder_suite import RecordingLog
from tests.bench.table import Row
from tests.infrastructure import buildkit, certificates, state
from tests.infrastructure.engine import docker
from tests.infrastructure.kubernetes_account import kubectl
from tests.infrastructure.state import KubernetesFacts

_LABEL = "launch-bench.building"
_TIMES = 5


@asynccontextmanager
async def _builder(
    root: Path, destination: str | None, base: str | None = None
) -> AsyncIterator[DockerBuilder]:
    environment = dict(os.environ)
    with ThreadPoolExecutor(8) as threads:
        registry = OciRegistry([DockerLogins(environment, threads)], environment)
        docker = state.load().docker
        assert docker is not None
        async with Engine(docker.host, environment) as engine:
            yield DockerBuilder(
                BuilderConfig(destination=destination, base_image=base), engine, root / "cache",
                threads=threads, environment=environment, registry=registry,
            )  # fmt: skip
            await registry.close()
            images = EngineImages(engine)
            for listed in await images.labelled(f"{_LABEL}={root.name}"):
                for tag in listed["RepoTags"] or ():
                    await images.remove(tag)


def _hello(root: Path, text: str) -> BuildRequest:
    folder = root / "hello-world"
    folder.mkdir(exist_ok=True)
    (folder / "requirements.txt").write_text("six==1.16.0\n")
    (folder / "job.py").write_text(f"import six\nprint({text!r}, six.__version__)\n")
    return BuildRequest(
        root=folder, context=folder, dockerfile=None, base_image=None, python=None,
        command=("python", "job.py"), user_id=1000, title="launch-bench/hello/world",
        entity="launch-bench", queue="q", labels={_LABEL: root.name},
    )  # fmt: skip


async def _ready(builder: DockerBuilder, request: BuildRequest) -> tuple[float, bool]:
    """Seconds until an image is ready, and whether it was there already."""
    begin = time.monotonic()
    key = await builder.key(request)
    image = await builder.find(key) or await builder.build(request, key, RecordingLog())
    return time.monotonic() - begin, image.reused


async def building(root: Path) -> list[Row]:
    """The hello-world job: a change of code only, and no change at all."""
    rows = await _rows(root, None, "")
    registry = state.load().registry
    assert registry is not None
    destination = f"{registry.address}/launch-bench/hello"
    return rows + await _rows(root, destination, ", pushed to a registry")


async def _measured(builder: DockerBuilder, root: Path) -> tuple[float, float, float]:
    """Seconds of a first build, of a change of code, and of no change at all."""
    first, _ = await _ready(builder, _hello(root, f"{root.name} first"))
    changed, unchanged = [], []
    for number in range(_TIMES):
        request = _hello(root, f"{root.name} {number}")
        seconds, reused = await _ready(builder, request)
        assert not reused
        changed.append(seconds)
        seconds, reused = await _ready(builder, request)
        assert reused
        unchanged.append(seconds)
    return first, statistics.median(changed), statistics.median(unchanged)


async def _rows(root: Path, destination: str | None, where: str) -> list[Row]:
    async with _builder(root, destination) as builder:
        first, code, nothing = await _measured(builder, root)
    return [
        Row(
            f"change of code only → image ready{where}",
            f"{code:.2f} s",
            f"first build {first:.2f} s",
            "≤ 3 s",
            code <= 3,
        ),
        Row(
            f"nothing changed → image ready{where}",
            f"{1000 * nothing:.0f} ms",
            f"after a change of code {code:.2f} s",
            "no build, ≤ 0.3 s",
            nothing <= 0.3,
        ),
    ]


async def cluster_build(root: Path) -> list[Row]:
    """A change of code, built in the cluster and by the engine, from one base in the registry."""
    facts = state.load()
    assert facts.docker is not None
    assert facts.registry is not None
    assert facts.kubernetes is not None
    repository = f"{facts.registry.address}/launch-bench/{root.name}"
    base, image = f"{repository}:base", f"{repository}:buildkit"
    docker(facts.docker.host, "tag", facts.docker.base_image, base)
    docker(facts.docker.host, "push", "--quiet", base)
    buildkit.push_image(facts.docker.host, image, facts.docker.shell_image)
    namespace = f"bench-{uuid.uuid4().hex[:8]}"
    kubectl(facts.kubernetes, "create", "namespace", namespace)
    runner = KubernetesRunnerConfig(kubeconfig=facts.kubernetes.kubeconfig, namespace=namespace)
    # The registry is on the loopback of the only node.
    pod = {"mode": "privileged", "image": image, "spec": {"hostNetwork": True}}
    config = BuilderConfig(
        type="kubernetes", destination=f"{repository}/pods", base_image=base, pod=pod
    )
    try:
        async with ClusterApi(runner) as api:
            pods = BuildPods(api, runner, config)
            async with _in_cluster(root, config, pods) as builder:
                each, _ = await _ready(builder, _hello(root, f"{root.name} first"))
        address, client = _kept_daemon(root, facts.kubernetes, namespace, image)
        kept_config = config.model_copy(
            update={
                "destination": f"{repository}/kept",
                "buildkit": address,
                "buildkit_certs": client,
            }
        )
        async with (
            _builder(root, f"{repository}/engine", base) as by_engine,
            _in_cluster(root, kept_config, None) as by_cluster,
        ):
            engine, kept = await _in_turn(root, by_engine, by_cluster)
    finally:
        kubectl(facts.kubernetes, "delete", "namespace", namespace, "--wait=false")
        for name in (base, image):
            docker(facts.docker.host, "image", "rm", name)
    return [
        Row(
            "change of code only → image ready, by the cluster's BuildKit",
            f"{kept:.2f} s (first build in a pod of its own {each:.1f} s)",
            f"by the engine's BuildKit {engine:.2f} s",
            f"≤ 1.3 × (here {kept / engine:.2f} ×)",
            kept <= 1.3 * engine,
        )
    ]


async def _in_turn(root: Path, *builders: DockerBuilder) -> list[float]:
    """Median seconds of each after a change of code; what else the machine does hits all alike."""
    seconds: list[list[float]] = [[] for _ in builders]
    for number in range(-1, 2 * _TIMES):
        request = _hello(root, f"{root.name} {number}")
        for builder, taken in zip(builders, seconds, strict=True):
            took, reused = await _ready(builder, request)
            assert not reused
            if number >= 0:  # the first build fills the caches
                taken.append(took)
    return [statistics.median(taken) for taken in seconds]


def _kept_daemon(
    root: Path, cluster: KubernetesFacts, namespace: str, image: str
) -> tuple[str, Path]:
    """A `buildkitd` as the chart's, behind TLS on the node's loopback; its address and client."""
    folder = root / "certificates"
    folder.mkdir()
    server, client = certificates.make_mutual(folder)
    given = root / "client"
    given.mkdir()
    for source, name in ((client.authority, "ca"), (client.chain, "cert"), (client.key, "key")):
        shutil.copy(source, given / f"{name}.pem")
    files = [
        f"--from-file={name}.pem={path}"
        for name, path in (("ca", server.authority), ("cert", server.chain), ("key", server.key))
    ]
    words = ("-n", namespace)
    kubectl(cluster, *words, "create", "secret", "generic", "kept", *files)
    config = BuildPodConfig(image=image, spec={"hostNetwork": True})
    job = job_of("kept", "privileged", config, platform=None, pull_secrets=(), lifetime=3600)
    kubectl(cluster, *words, "apply", "-f=-", stdin=json.dumps(job))
    kubectl(
        cluster, *words, "wait", "--for=jsonpath={.status.ready}=1", "job/kept", "--timeout=120s"
    )
    return f"tcp://127.0.0.1:{PORT}", given


@asynccontextmanager
async def _in_cluster(
    root: Path, config: BuilderConfig, daemons: BuildDaemonsPort | None
) -> AsyncIterator[DockerBuilder]:
    environment = dict(os.environ)
    with ThreadPoolExecutor(8) as threads:
        registry = OciRegistry([DockerLogins(environment, threads)], environment)
        yield DockerBuilder(
            config, None, root / "cache", threads=threads, environment=environment,
            registry=registry, runs_on_engine=False, daemons=daemons,
        )  # fmt: skip
        await registry.close()
