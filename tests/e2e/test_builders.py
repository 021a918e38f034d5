"""Builders and registries as administrators configure them, through the installed commands."""

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import quick
from tests.e2e.harness.home import BIN, Home
from tests.infrastructure.state import RegistryFacts

PLUGIN = Path(__file__).parents[1] / "plugins" / "example_builder"
NO_ENGINE = {"local-container": {"enabled": False}}


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """Code with a tool of its own."""
    made = tmp_path / "job"
    (made / "tools").mkdir(parents=True)
    (made / "tools" / "greet").write_text('#!/bin/sh\necho "greeting from $(basename $0): $1"\n')
    (made / "main.py").write_text(f"print('ran', {tmp_path.name!r})\n")
    return made


async def submitted(home: Home, job: Path, *command: str) -> dict[str, Any]:
    """Submit and wait; give the item as the command line shows it."""
    flags = ("--uri", str(job), "--entry-point", " ".join(command), "--queue", "default")
    done = await home.launch("submit", *flags, "--follow")
    listed = await home.items()
    assert listed, done.out + done.err
    shown = await home.item(listed[0]["id"])
    shown["output"] = done.out + done.err
    return shown


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example package, installed into a folder of its own."""
    scratch = tmp_path_factory.mktemp("plugin")
    source, target = scratch / "source", scratch / "site"
    shutil.copytree(PLUGIN, source)
    subprocess.run(
        [
            BIN / "uv", "pip", "install", "--quiet", "--offline", "--no-deps",
            "--no-build-isolation", "--python", sys.executable, "--target", target, source,
        ],
        check=True,
        capture_output=True,
        env={**os.environ, "UV_CACHE_DIR": str(scratch / "cache")},
    )  # fmt: skip
    return target


async def test_a_builder_of_a_third_party_builds_for_its_resource(
    tmp_path: Path, installed: Path, job: Path
) -> None:
    home = Home(tmp_path, {"PYTHONPATH": str(installed)})
    home.configure(quick(runners=NO_ENGINE))
    try:
        await home.start("launch-agent", "--queue", "default")
        first = await submitted(home, job, "greet", "everybody")
        assert first["phase"] == "SUCCEEDED", first
        assert "greeting from greet: everybody" in first["output"]
        assert first["facts"]["image_built_by"] == "example-tools"
        again = await submitted(home, job, "greet", "again")
        assert "greeting from greet: again" in again["output"]
        assert str(again["facts"]["image_reused"]).lower() == "true"
        shutil.rmtree(job / "tools")
        refused = await submitted(home, job, "greet", "nobody")
        assert refused["cause"] == "SOURCE_INVALID"
        assert "has no folder `tools`" in refused["message"]
    finally:
        await home.close()


@pytest.mark.parametrize("runners", [pytest.param({}, marks=pytest.mark.docker), NO_ENGINE])
async def test_noop_refuses_code_and_says_why(home: Home, job: Path, runners: Any) -> None:
    home.configure(quick(builder={"type": "noop"}, runners=runners))
    await home.start("launch-agent", "--queue", "default")
    shown = await submitted(home, job, "python", "main.py")
    assert (shown["phase"], shown["cause"]) == ("REFUSED", "POLICY_SOURCE")
    assert "`builder.type: noop`" in shown["message"]


@pytest.mark.parametrize("kind", ["kaniko", "kubernetes"])
async def test_a_builder_in_a_cluster_without_one_is_an_error_at_start(
    home: Home, kind: str
) -> None:
    home.configure(quick(builder={"type": kind}, runners=NO_ENGINE))
    done = await home.run("launch-agent", "--queue", "default", "--config", str(home.config))
    assert done.code == 2
    assert f"`builder.type: {kind}` builds in a cluster, and this agent has none" in done.err
    assert "builder.type" in done.err


@pytest.fixture
def repository(registries: RegistryFacts) -> Iterator[str]:
    """A repository that no earlier run has pushed to; its images leave the engine again."""
    name = f"{registries.address}/launch-test/{uuid.uuid4().hex}"
    yield name
    listed = subprocess.run(["docker", "images", "-q", name], check=True, capture_output=True)
    for image in set(listed.stdout.decode().split()):
        subprocess.run(["docker", "rmi", "-f", image], check=True, capture_output=True)


@pytest.mark.docker
@pytest.mark.registry
async def test_w_b_s_words_kaniko_and_registry_build_here_and_push_there(
    home: Home, job: Path, repository: str
) -> None:
    """Kaniko is answered by BuildKit with a warning; the destination gets the image."""
    (job / "once").write_text(repository)
    home.configure(quick(builder={"type": "kaniko", "destination": f"https://{repository}"}))
    daemon = await home.start("launch-agent", "--queue", "default")
    assert "kaniko builds with BuildKit here" in daemon.output()
    shown = await submitted(home, job, "python", "main.py")
    assert shown["phase"] == "SUCCEEDED", shown
    assert shown["facts"]["image"].startswith(f"{repository}@sha256:")
    assert "BuildKit" in shown["facts"]["image_built_by"]
    again = await submitted(home, job, "python", "main.py")
    assert str(again["facts"]["image_reused"]).lower() == "true"
    assert again["facts"]["image"] == shown["facts"]["image"]


@pytest.mark.docker
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"builder": {"destination": "reg.example/x:tag"}}, "`builder.destination`"),
        ({"registry": {"type": "quay", "uri": "q.example/x"}}, "`registry.type`: 'quay'"),
    ],
)
async def test_a_destination_that_cannot_be_read_is_an_error_at_start(
    home: Home, settings: dict[str, Any], words: str
) -> None:
    home.configure(quick(**settings))
    done = await home.run("launch-agent", "--queue", "default", "--config", str(home.config))
    assert done.code == 2
    assert words in done.err
