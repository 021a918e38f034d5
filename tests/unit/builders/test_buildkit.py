"""One run of `docker buildx build`: nothing secret in argv, everything cleaned up."""

import asyncio
import base64
import json
from pathlib import Path

import pytest

from agent.builders.buildkit import (
    CONTAINERD,
    BuildKitService,
    BuildRun,
    arguments,
    docker_environment,
    run_build,
    run_environment,
    secret_sources,
    workspace,
)
from agent.builders.image.plan import make_plan
from agent.builders.image.repository import engine_auth, write_docker_config
from agent.builders.uv import indexes
from agent.config.execution import BuilderConfig, BuildSecret
from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError
from agent.ports.builder import BuildRequest
from agent.ports.registry import Credentials
from agent.testing.builder_suite import RecordingLog


@pytest.fixture
def plan(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    request = BuildRequest(root, root, None, None, None, ("x",), 1000, "t", "team", "team/q", {})
    return make_plan(request, BuilderConfig())


def build_run(plan, **changes):
    facts = {"title": "t", "plan": plan, "tag": "launch.invalid/t:1", "labels": {"a": "b"},
             "cache_namespace": "n",
             "secrets": {}, "secret_files": {}, "proxies": {}, **changes}  # fmt: skip
    return BuildRun(**facts)


def test_secrets_and_proxies_are_named_in_argv_and_held_by_the_environment(plan, tmp_path):
    canary = "c4n4ry"
    run = build_run(
        plan,
        secrets={"idx": canary, "another": canary + "2"},
        secret_files={"ca": Path("/with,comma/ca")},
        proxies={"HTTP_PROXY": f"http://u:{canary}@p"},
    )
    with workspace(tmp_path / "c", plan, {}) as work:
        argv = arguments(work, run, BuilderConfig(network="host", platform="linux/arm64"))
    assert canary not in " ".join(argv)
    assert "id=idx,env=LAUNCH_BUILD_SECRET_1" in argv
    assert 'id=ca,"src=/with,comma/ca"' in argv
    assert argv[argv.index("--build-arg") + 1] == "HTTP_PROXY"
    assert {"network.host", "linux/arm64", "a=b"} <= set(argv)
    base = docker_environment("unix:///x", tmp_path, {"PATH": "/bin", "OTHER": "x"})
    env = run_environment(run, base, work)
    assert env["LAUNCH_BUILD_SECRET_1"] == canary
    assert env["LAUNCH_BUILD_SECRET_0"] == canary + "2"
    assert env["DOCKER_HOST"] == "unix:///x"
    assert "OTHER" not in env


def flags(plan, tmp_path, **changes):
    with workspace(tmp_path / "c", plan, {}) as work:
        return " ".join(arguments(work, build_run(plan, **changes), BuilderConfig()))


def test_each_backend_puts_the_image_where_it_can(plan, tmp_path):
    remote = BuildKitService("buildkitd", "launch-x", True, True)
    classic = flags(plan, tmp_path)
    assert "--builder default" in classic
    assert "--tag launch.invalid/t:1" in classic
    assert "--load" not in classic
    assert "--cache-to" not in classic
    kept = flags(plan, tmp_path, buildkit=CONTAINERD, cache="r.example/x:c")
    assert "--tag launch.invalid/t:1" in kept
    assert "--cache-from type=registry,ref=r.example/x:c" in kept
    assert "--cache-to type=registry,ref=r.example/x:c,mode=max,ignore-error=true" in kept
    pushed = flags(plan, tmp_path, buildkit=remote, pushed_as="r.example/x:k")
    assert "--builder launch-x" in pushed
    assert "--output type=image,name=r.example/x:k,push=true" in pushed
    assert "--tag" not in pushed
    assert "--load" in flags(plan, tmp_path, buildkit=remote)


def test_the_destination_s_login_is_the_build_s_own_and_the_user_s_stay(plan, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    theirs = {"auths": {"other": {"auth": "eA=="}}, "credsStore": "keychain"}
    (own / "config.json").write_text(json.dumps(theirs))
    login = Credentials("r.example", "me", "c4n4ry")
    with workspace(tmp_path / "c", plan, {}) as work:
        write_docker_config(work.login_folder, login, {"DOCKER_CONFIG": str(own)})
        file = work.login_folder / "config.json"
        found = json.loads(file.read_text())
        assert file.stat().st_mode & 0o777 == 0o600
        env = run_environment(build_run(plan, login=login), {"DOCKER_CONFIG": "x"}, work)
        assert env["DOCKER_CONFIG"] == str(work.login_folder)
    assert found["auths"]["other"] == {"auth": "eA=="}
    assert base64.b64decode(found["auths"]["r.example"]["auth"]) == b"me:c4n4ry"
    assert found["credsStore"] == "keychain"
    assert found["credHelpers"] == {"r.example": ""}
    assert not file.exists()
    assert "c4n4ry" not in repr(login)


def test_an_identity_token_takes_the_place_of_a_password(tmp_path):
    login = Credentials("r.example", "", "", "t0ken")
    write_docker_config(tmp_path / "d", login, {"HOME": str(tmp_path)})
    found = json.loads((tmp_path / "d" / "config.json").read_text())
    assert found["auths"] == {"r.example": {"identitytoken": "t0ken"}}
    header = json.loads(base64.urlsafe_b64decode(engine_auth(login)))
    assert header == {"serveraddress": "r.example", "identitytoken": "t0ken"}
    assert engine_auth(None) is None


def test_the_workspace_holds_what_is_mounted_and_goes_away(plan, tmp_path):
    with workspace(tmp_path / "c", plan, {}) as work:
        names = {str(path.relative_to(work.folder)) for path in work.folder.rglob("*")}
        assert names == {
            "Dockerfile", "Dockerfile.dockerignore", "policy.json", "launch", "launch/uv",
            "launch/install.sh",
            "launch/mode", "launch/options", "launch/variants.txt", "launch/local.txt",
            "launch/folders.txt",
            "launch/requirements.txt", "launch/constraints.txt", "launch/pylock.toml",
        }  # fmt: skip
    assert list((tmp_path / "c").iterdir()) == []


def test_uv_is_copied_where_it_cannot_be_linked(plan, tmp_path, monkeypatch):
    def refuse(_self, _target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with workspace(tmp_path / "c", plan, {}) as work:
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
        secrets={
            "npm": BuildSecret(env="NPM", queues=("team/q",)),
            "big": BuildSecret(file=large, queues=("*",)),
            "other": BuildSecret(value="x", queues=("bob/q",)),
        },
    )
    found = indexes(config, {"UV_DEFAULT_INDEX": "https://other"})
    values, files = secret_sources(config, "team/q", found, {"NPM": "token"})
    assert values == {
        "launch_index_url": "https://a/simple",
        "launch_extra_index_urls": "https://b https://c",
        "npm": "token",
    }
    assert files == {"launch_ca": ca, "big": large}
    with pytest.raises(ConfigError, match="NPM"):
        secret_sources(config, "team/q", found, {})
    environment = {"PIP_INDEX_URL": "https://p", "PIP_EXTRA_INDEX_URL": "https://q",
                   "SSL_CERT_FILE": str(tmp_path / "none")}  # fmt: skip
    found = indexes(BuilderConfig(), environment)
    assert secret_sources(BuilderConfig(), "q", found, {})[0] == {
        "launch_index_url": "https://p",
        "launch_extra_index_urls": "https://q",
    }
    assert secret_sources(BuilderConfig(), "q", indexes(BuilderConfig(), {}), {}) == ({}, {})


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


async def fails(tmp_path, plan, text):
    argv, env = script(tmp_path, text)
    with pytest.raises(JobError) as caught:
        await run_build(argv, env, build_run(plan), RecordingLog())
    return caught.value


async def test_the_log_is_live(tmp_path, plan):
    argv, env = script(tmp_path, "echo '#1 [1/1] RUN x' >&2; exec sleep 60")
    log = RecordingLog()
    running = asyncio.create_task(run_build(argv, env, build_run(plan), log))
    await log.shows("#1 [1/1] RUN x")
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


async def test_a_machine_without_docker_or_buildx_is_told(tmp_path, plan):
    with pytest.raises(JobError, match="`docker` is not installed") as caught:
        await run_build(("no-such-docker",), {}, build_run(plan), RecordingLog())
    assert caught.value.cause is Cause.BUILD_UNAVAILABLE
    text = "echo \"docker: 'buildx' is not a docker command.\" >&2; exit 1"
    error = await fails(tmp_path, plan, text)
    assert error.cause is Cause.BUILD_UNAVAILABLE
    assert "buildx is not installed" in error.message


async def test_a_buildkitd_that_left_is_named_and_not_the_engine(tmp_path, plan):
    far = BuildKitService("buildkitd at tcp://b:1", "launch-x", pushes=True, registry_cache=True)
    argv, env = script(tmp_path, "echo 'ERROR: closing transport: EOF' >&2; exit 1")
    with pytest.raises(JobError, match=r"^The buildkitd at tcp://b:1 does not answer"):
        await run_build(argv, env, build_run(plan, buildkit=far), RecordingLog())
    with pytest.raises(JobError, match=r"^The container engine does not answer"):
        await run_build(argv, env, build_run(plan), RecordingLog())


async def test_ends_without_an_explanation_are_still_explained(tmp_path, plan):
    error = await fails(tmp_path, plan, "exit 4")
    assert error.cause is Cause.BUILD_FAILED
    assert "exit code 4" in error.message
    error = await fails(tmp_path, plan, "echo 'cannot reach the daemon' >&2; exit 1")
    assert error.cause is Cause.BUILD_UNAVAILABLE
    error = await fails(tmp_path, plan, "echo 'ERROR: something odd' >&2; exit 1")
    assert "something odd" in error.message
