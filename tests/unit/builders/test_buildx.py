"""One run of `docker buildx build`: nothing secret in argv, everything cleaned up."""

import asyncio
from pathlib import Path

import pytest

from agent.builders.docker import buildx
from agent.builders.docker.buildx import Invocation, arguments, child_environment, secret_sources
from agent.builders.docker.failures import Attempt
from agent.builders.docker.plan import make_plan
from agent.builders.uv import indexes
from agent.config.base import Secret
from agent.config.execution import BuilderConfig
from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError
from agent.ports.builder import BuildRequest
from agent.testing.builder_suite import RecordingLog

ATTEMPT = Attempt("t", None, None)


@pytest.fixture
def plan(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    request = BuildRequest(root, root, None, None, None, ("x",), 1000, "t", {})
    return make_plan(request, BuilderConfig())


def invocation(plan, **changes):
    facts = {"plan": plan, "tag": "launch.invalid/t:1", "labels": {"a": "b"}, "secrets": {},
             "secret_files": {}, "proxies": {}, **changes}  # fmt: skip
    return Invocation(**facts)


def test_secrets_and_proxies_are_named_in_argv_and_held_by_the_environment(plan, tmp_path):
    canary = "c4n4ry"
    run = invocation(
        plan,
        secrets={"idx": canary, "another": canary + "2"},
        secret_files={"ca": Path("/with,comma/ca")},
        proxies={"HTTP_PROXY": f"http://u:{canary}@p"},
    )
    with buildx.workspace(tmp_path / "c", plan) as work:
        argv = arguments(work, run, BuilderConfig(network="host", platform="linux/arm64"))
    assert canary not in " ".join(argv)
    assert "id=idx,env=LAUNCH_BUILD_SECRET_1" in argv
    assert 'id=ca,"src=/with,comma/ca"' in argv
    assert argv[argv.index("--build-arg") + 1] == "HTTP_PROXY"
    assert {"network.host", "linux/arm64", "a=b"} <= set(argv)
    env = child_environment(run, "unix:///x", {"PATH": "/bin", "OTHER": "x"})
    assert env["LAUNCH_BUILD_SECRET_1"] == canary
    assert env["LAUNCH_BUILD_SECRET_0"] == canary + "2"
    assert env["DOCKER_HOST"] == "unix:///x"
    assert "OTHER" not in env


def test_the_workspace_holds_what_is_mounted_and_goes_away(plan, tmp_path):
    with buildx.workspace(tmp_path / "c", plan) as work:
        names = {str(path.relative_to(work.folder)) for path in work.folder.rglob("*")}
        assert names == {
            "Dockerfile", "Dockerfile.dockerignore", "launch", "launch/uv", "launch/install.sh",
            "launch/requirements.txt", "launch/constraints.txt",
        }  # fmt: skip
    assert list((tmp_path / "c").iterdir()) == []


def test_uv_is_copied_where_it_cannot_be_linked(plan, tmp_path, monkeypatch):
    def refuse(_self, _target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with buildx.workspace(tmp_path / "c", plan) as work:
        assert (work.folder / "launch/uv").stat().st_size > 1_000_000


def test_secrets_come_from_configuration_then_environment(tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_text("x")
    large = tmp_path / "large"
    large.write_text("x" * 200_000)
    config = BuilderConfig(
        index_url="https://a/simple",
        extra_index_urls=("https://b", "https://c"),
        ca_bundle=ca,
        secrets={"npm": Secret(env="NPM"), "big": Secret(file=large)},
    )
    found = indexes(config, {"UV_DEFAULT_INDEX": "https://other"})
    values, files = secret_sources(config, found, {"NPM": "token"})
    assert values == {
        "launch_index_url": "https://a/simple",
        "launch_extra_index_urls": "https://b https://c",
        "npm": "token",
    }
    assert files == {"launch_ca": ca, "big": large}
    with pytest.raises(ConfigError, match="NPM"):
        secret_sources(config, found, {})
    environment = {"PIP_INDEX_URL": "https://p", "PIP_EXTRA_INDEX_URL": "https://q",
                   "SSL_CERT_FILE": str(tmp_path / "none")}  # fmt: skip
    found = indexes(BuilderConfig(), environment)
    assert secret_sources(BuilderConfig(), found, {})[0] == {
        "launch_index_url": "https://p",
        "launch_extra_index_urls": "https://q",
    }
    assert secret_sources(BuilderConfig(), indexes(BuilderConfig(), {}), {}) == ({}, {})


def test_proxies_come_in_both_spellings():
    found = indexes(BuilderConfig(), {"https_proxy": "http://e", "NO_PROXY": "x"})
    assert found.proxies["HTTPS_PROXY"] == found.proxies["https_proxy"] == "http://e"
    configured = indexes(BuilderConfig(proxy="http://c"), {"https_proxy": "http://e"})
    assert configured.proxies["HTTPS_PROXY"] == configured.proxies["http_proxy"] == "http://c"
    assert indexes(BuilderConfig(), {}).proxies == {}


def script(tmp_path, text):
    """A program that stands in for docker."""
    program = tmp_path / "docker"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return (str(program),), {"PATH": "/bin:/usr/bin"}


async def fails(tmp_path, text):
    argv, env = script(tmp_path, text)
    with pytest.raises(JobError) as caught:
        await buildx.build(argv, env, ATTEMPT, RecordingLog())
    return caught.value


async def test_the_log_is_live(tmp_path):
    argv, env = script(tmp_path, "echo '#1 [1/1] RUN x' >&2; exec sleep 60")
    log = RecordingLog()
    running = asyncio.create_task(buildx.build(argv, env, ATTEMPT, log))
    await log.shows("#1 [1/1] RUN x")
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


async def test_a_machine_without_docker_or_buildx_is_told(tmp_path):
    with pytest.raises(JobError, match="`docker` is not installed") as caught:
        await buildx.build(("no-such-docker",), {}, ATTEMPT, RecordingLog())
    assert caught.value.cause is Cause.BUILD_UNAVAILABLE
    error = await fails(tmp_path, "echo \"docker: 'buildx' is not a docker command.\" >&2; exit 1")
    assert error.cause is Cause.BUILD_UNAVAILABLE
    assert "buildx is not installed" in error.message


async def test_ends_without_an_explanation_are_still_explained(tmp_path):
    error = await fails(tmp_path, "exit 4")
    assert error.cause is Cause.BUILD_FAILED
    assert "exit code 4" in error.message
    error = await fails(tmp_path, "echo 'cannot reach the daemon' >&2; exit 1")
    assert error.cause is Cause.BUILD_UNAVAILABLE
    error = await fails(tmp_path, "echo 'ERROR: something odd' >&2; exit 1")
    assert "something odd" in error.message
