"""The docker builder on the real engine: what is built, what is not built again, what is told."""

import asyncio
import json
import os
import subprocess
import uuid

import pytest

from agent.builders.docker import DockerBuilder
from agent.config.execution import BuilderConfig, BuildSecret
from agent.docker.client import Engine
from agent.model.cause import Cause
from agent.model.errors import UnavailableError
from tests.integration.builders.refusing import refused

pytestmark = pytest.mark.docker


def run(image, *command):
    entry = ["--entrypoint", command[0]] if command else []
    return subprocess.run(
        ["docker", "run", "--rm", *entry, image.reference, *command[1:]],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


async def test_a_job_is_built_and_runs_as_a_user_of_its_own(builder, request_for, build, job):
    image, log = await build(builder(), request_for(job, user_id=4711))
    assert run(image) == "hello 1.16.0\n"
    assert run(image, "id", "-u").strip() == "4711"
    assert run(image, "pwd").strip() == "/home/launch/src"
    assert "with requirements.txt" in log.text
    assert image.pinned_by in {"digest", "image-id"}
    assert f"({image.pinned_by} " in log.text


async def test_a_change_of_code_reuses_the_packages(builder, request_for, build, job):
    made = builder()
    await build(made, request_for(job))
    (job / "main.py").write_text("print('changed')\n")
    image, log = await build(made, request_for(job))
    assert run(image) == "changed\n"
    install = next(line for line in log.text.splitlines() if "install.sh base" in line)
    step = install.split(" ")[0]
    assert f"\n{step} CACHED" in log.text
    assert "Resolved" not in log.text


async def test_when_nothing_changed_nothing_is_built(builder, request_for, build, job):
    made = builder()
    first, _ = await build(made, request_for(job))
    again, log = await build(made, request_for(job, title="launch-test/other/name"))
    assert again.reused
    assert again.reference == first.reference
    assert log.data == b""


async def test_another_entry_point_is_another_image_of_the_same_layers(
    builder, request_for, build, job
):
    made = builder()
    first, _ = await build(made, request_for(job))
    second, log = await build(made, request_for(job, command=("python", "-c", "print('$HOME x')")))
    assert first.reference != second.reference
    assert run(second) == "$HOME x\n"
    assert "Resolved" not in log.text


async def test_what_is_never_part_of_the_code_is_not_sent(builder, request_for, build, job):
    runs, environment = "pkg/wandb/run-1-x", "my [env] \\*"
    for name in (".git", "wandb", "pkg/__pycache__", "data", runs, environment):
        (job / name).mkdir(parents=True)
        (job / name / "file").write_text("x")
    (job / environment / "pyvenv.cfg").write_text("home = /usr/bin")
    (job / ".dockerignore").write_text("data\n")
    image, _ = await build(builder(), request_for(job))
    names = run(image, "find", ".", "-type", "f").split()
    assert sorted(names) == ["./.dockerignore", "./main.py", "./requirements.txt"]


@pytest.mark.parametrize(
    "dockerfile",
    [
        "ARG TAG=1\nFROM {base}:${{TAG}}\nARG TAG=2\n",
        "ARG V=1\nARG IMAGE={base}:${{V:-2}}\nFROM $IMAGE AS made\nFROM made\n",
        "FROM {base}:1\nCOPY <<EOF /x.py\nfrom torch import nn\nFROM nothing\nEOF\n",
        "FROM scratch\nCOPY --from={base}:1 /content /content\n",
    ],
)
async def test_a_base_image_counts_by_its_content_however_it_is_named(
    builder, request_for, build, tmp_path, docker_engine, dockerfile
):
    """An own Dockerfile; the image that it is based on is made anew meanwhile."""
    base = f"launch-test/base-{uuid.uuid4().hex}"
    root = tmp_path / "own"
    root.mkdir()
    (root / "Dockerfile").write_text(dockerfile.format(base=base))
    request = request_for(root, dockerfile=root / "Dockerfile")
    found = []
    try:
        for content in ("one", "one", "two"):
            (tmp_path / "content").write_text(content)
            os.utime(tmp_path / "content", (0, 0))
            tar = ["tar", "-C", str(tmp_path), "--owner=0", "--group=0", "-c", "content"]
            packed = subprocess.run(tar, check=True, capture_output=True).stdout
            if not found or content == "two":
                command = ["docker", "import", "-", f"{base}:1"]
                subprocess.run(command, check=True, capture_output=True, input=packed)
            image, _log = await build(builder(), request)
            found.append((image.reference, image.reused))
    finally:
        subprocess.run(["docker", "rmi", "-f", f"{base}:1"], check=False, capture_output=True)
    first, again, changed = found
    assert (first[1], again, changed[1]) == (False, (first[0], True), False)
    assert changed[0] != first[0]


async def test_packages_in_the_code_are_installed_after_it(builder, request_for, build, job):
    (job / "lib").mkdir()
    (job / "lib/setup.py").write_text(
        "from setuptools import setup\nsetup(name='mylib', py_modules=['mylib'])\n"
    )
    (job / "lib/mylib.py").write_text("NAME = 'my lib'\n")
    (job / "requirements.txt").write_text("six==1.16.0\n-e ./lib\n")
    (job / "main.py").write_text("import mylib, six\nprint(mylib.NAME)\n")
    image, _ = await build(builder(), request_for(job))
    assert run(image) == "my lib\n"


async def test_a_job_without_requirements_needs_no_index(builder, request_for, build, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "main.py").write_text("print('bare')\n")
    image, log = await build(builder(index_url="http://127.0.0.1:1/simple"), request_for(bare))
    assert run(image) == "bare\n"
    assert "without requirements" in log.text


async def test_a_package_that_does_not_exist_is_named(builder, request_for, build, job):
    (job / "requirements.txt").write_text("six\nlaunch-agent-no-such-package==1\n")
    error = await refused(builder(), request_for(job), build)
    assert error.cause is Cause.BUILD_REQUIREMENTS
    assert "package `launch-agent-no-such-package` does not exist" in error.message


async def test_an_index_that_does_not_answer_is_not_the_job_s_fault(
    builder, request_for, build, job
):
    (job / "requirements.txt").write_text("launch-agent-unheard-of==1\n")
    made = builder(index_url="http://user:hunter22@127.0.0.1:1/simple")
    error = await refused(made, request_for(job), build)
    assert error.cause is Cause.BUILD_UNAVAILABLE
    assert "127.0.0.1:1/simple" in error.message
    assert "hunter22" not in str(error)


async def test_a_failing_dockerfile_shows_step_and_last_lines(
    builder, request_for, build, job, docker_engine
):
    (job / "Dockerfile").write_text(
        f"FROM {docker_engine.shell_image}\nRUN echo preparing; echo kaputt >&2; exit 7\n"
    )
    error = await refused(builder(), request_for(job, dockerfile=job / "Dockerfile"), build)
    assert error.cause is Cause.BUILD_DOCKERFILE
    assert "step [2/2] RUN echo preparing" in error.message
    assert "exit code: 7" in error.message
    # Two streams of one step: which line comes first is the engine's business.
    assert set(error.message.splitlines()[-2:]) == {"preparing", "kaputt"}


async def test_a_dockerfile_s_own_rules_hold(builder, request_for, build, job, docker_engine):
    (job / "sub").mkdir()
    (job / "sub/Dockerfile.own").write_text(
        f'FROM {docker_engine.shell_image}\nCOPY . /code\nENTRYPOINT ["ls", "/code"]\n'
    )
    request = request_for(job, context=job / "sub", dockerfile=job / "sub/Dockerfile.own")
    image, log = await build(builder(), request)
    assert run(image) == "Dockerfile.own\n"
    assert "from its Dockerfile.own" in log.text


async def test_a_base_image_that_is_not_there_is_named(
    builder, request_for, build, job, registries
):
    base = f"{registries.address}/no-such-base:1"
    error = await refused(builder(), request_for(job, base_image=base), build)
    assert error.cause is Cause.BUILD_FAILED
    assert f"Base image '{base}' does not exist" in error.message


async def test_build_secrets_are_usable_and_stay_out_of_the_image(
    builder, request_for, build, job, docker_engine, tmp_path
):
    """A canary in every way that a secret comes in; searched in layers, history and log."""
    canary = "c4n4ry-5ecret-value"
    file = tmp_path / "token"
    file.write_text(canary + "\n")
    (job / "Dockerfile").write_text(
        f"FROM {docker_engine.shell_image}\n"
        "RUN --mount=type=secret,id=token --mount=type=secret,id=launch_index_url "
        "wc -c < /run/secrets/token > /size; wc -c < /run/secrets/launch_index_url >> /size\n"
        'ENTRYPOINT ["cat", "/size"]\n'
    )
    index = f"https://me:{canary}@127.0.0.1/simple"
    made = builder(
        secrets={"token": BuildSecret(file=file, queues=("*",))},
        index_url=index,
        proxy=f"http://u:{canary}@127.0.0.1:1",
    )
    image, log = await build(made, request_for(job, dockerfile=job / "Dockerfile"))
    assert run(image).split() == [str(len(canary)), str(len(index))]
    saved = subprocess.run(["docker", "save", image.reference], check=True, capture_output=True)
    history = subprocess.run(
        ["docker", "history", "--no-trunc", image.reference], check=True, capture_output=True
    )
    inspected = subprocess.run(
        ["docker", "inspect", image.reference], check=True, capture_output=True
    )
    for data in (saved.stdout, history.stdout, inspected.stdout, log.data):
        assert canary.encode() not in data


async def test_a_stopped_build_leaves_no_child(
    builder, request_for, job, docker_engine, tmp_path, build
):
    text = f"FROM {docker_engine.shell_image}\nRUN echo {tmp_path.name} star''ted; sleep 100\n"
    (job / "Dockerfile").write_text(text)
    request = request_for(job, dockerfile=job / "Dockerfile")
    from agent.testing.builder_suite import RecordingLog

    made, log = builder(), RecordingLog()
    building = asyncio.create_task(made.build(request, await made.key(request), log))
    await log.shows(f"{tmp_path.name} started")
    building.cancel()
    await asyncio.wait([building])
    assert building.cancelled()
    listed = subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True)
    assert str(tmp_path) not in listed.stdout
    assert list((tmp_path / "cache").glob("build-*")) == []


async def test_an_engine_that_is_away_is_told(request_for, job, threads, tmp_path):
    async with Engine(f"unix://{tmp_path}/none.sock", {}) as engine:
        made = DockerBuilder(BuilderConfig(), engine, tmp_path, threads=threads, environment={})
        with pytest.raises(UnavailableError, match="does not answer") as caught:
            await made.key(request_for(job))
    assert caught.value.cause is Cause.LOST_ENGINE


async def test_an_engine_that_goes_away_before_the_build_is_told(
    request_for, job, threads, tmp_path
):
    """The key was made while it was there: now buildx itself finds nothing."""
    import os

    async with Engine(f"unix://{tmp_path}/none.sock", {}) as engine:
        made = DockerBuilder(
            BuilderConfig(), engine, tmp_path / "c", threads=threads, environment=dict(os.environ)
        )
        from agent.testing.builder_suite import RecordingLog

        with pytest.raises(UnavailableError) as caught:
            await made.build(request_for(job), "a" * 64, RecordingLog())
    assert caught.value.cause is Cause.LOST_ENGINE


@pytest.mark.registry
async def test_with_a_destination_the_image_is_pushed_and_named_by_its_digest_there(
    builder, request_for, build, job, registries, login, engine
):
    import os

    # The registry keeps what earlier runs pushed.
    destination = f"{registries.private_address}/launch-test/{uuid.uuid4().hex}"
    environment = {**os.environ, "DOCKER_CONFIG": login}
    made = builder(destination=destination, environment=environment)
    image, log = await build(made, request_for(job))
    assert image.pinned_by == "digest"
    assert image.reference.startswith(f"{destination}@sha256:")
    assert "pushing to" in log.text
    again, _ = await build(made, request_for(job))
    assert again.reused
    assert again.reference == image.reference
    assert run(again) == "hello 1.16.0\n"


@pytest.mark.registry
async def test_a_push_without_a_login_is_told(
    builder, request_for, build, job, registries, tmp_path
):
    import os

    (tmp_path / "config.json").write_text(json.dumps({}))
    environment = {**os.environ, "DOCKER_CONFIG": str(tmp_path)}
    made = builder(
        destination=f"{registries.private_address}/launch-test/x", environment=environment
    )
    error = await refused(made, request_for(job), build)
    assert error.cause is Cause.IMAGE_AUTH
    assert "refuses the agent's login" in error.message
    assert "docker login" in str(error)
