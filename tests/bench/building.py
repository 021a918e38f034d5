"""Building alone: source tree → image ready, without queue and run around it."""

import os
import statistics
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from agent.builders.docker import DockerBuilder
from agent.config.execution import BuilderConfig
from agent.docker.client import Engine
from agent.docker.images import EngineImages
from agent.ports.builder import BuildRequest
from agent.registries.logins import DockerLogins
from agent.registries.oci import OciRegistry
from agent.testing.builder_suite import RecordingLog
from tests.bench.table import Row
from tests.infrastructure import state

_LABEL = "launch-bench.building"
_TIMES = 5


@asynccontextmanager
async def _builder(root: Path, destination: str | None) -> AsyncIterator[DockerBuilder]:
    environment = dict(os.environ)
    with ThreadPoolExecutor(8) as threads:
        registry = OciRegistry([DockerLogins(environment, threads)], environment)
        docker = state.load().docker
        assert docker is not None
        async with Engine(docker.host, environment) as engine:
            yield DockerBuilder(
                BuilderConfig(destination=destination), engine, root / "cache",
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


async def _rows(root: Path, destination: str | None, where: str) -> list[Row]:
    async with _builder(root, destination) as builder:
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
    code, nothing = statistics.median(changed), statistics.median(unchanged)
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
