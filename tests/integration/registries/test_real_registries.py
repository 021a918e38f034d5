"""The registry port against real registries: open, and with a login."""

import base64
import json
import os
import subprocess

import pytest

from agent.model.cause import Cause
from agent.model.errors import JobError

pytestmark = [pytest.mark.docker, pytest.mark.registry]


@pytest.fixture
def entry(registries):
    pair = f"{registries.username}:{registries.password}".encode()
    return {"auth": base64.b64encode(pair).decode()}


@pytest.fixture
def config(tmp_path):
    """A folder for DOCKER_CONFIG with this content."""

    def write(content):
        (tmp_path / "config.json").write_text(json.dumps(content))
        return {**os.environ, "DOCKER_CONFIG": str(tmp_path)}

    return write


@pytest.fixture
def pushed(docker_engine, registries, config, entry):
    """Push the shell image; give its name and the digest that docker tells."""
    environment = config({"auths": {registries.private_address: entry}})

    def push(address):
        name = f"{address}/launch-test/exists:1"
        for argv in (["tag", docker_engine.shell_image, name], ["push", name]):
            done = subprocess.run(
                ["docker", *argv], env=environment, check=True, capture_output=True, text=True
            )
        subprocess.run(["docker", "rmi", name], check=True, capture_output=True)
        return name, done.stdout.partition("digest: ")[2].split()[0]

    return push


async def test_an_open_registry_tells_the_digest(pushed, registries, registry, config):
    name, digest = pushed(registries.address)
    made = registry(config({}))
    assert await made.exists(name) == digest
    assert await made.exists(f"{name.rpartition(':')[0]}@{digest}") == digest
    assert await made.exists(f"{name}-other") is None
    assert await made.exists(f"{registries.address}/launch-test/no-such-repository:1") is None


async def test_a_login_from_docker_s_configuration_opens_the_door(
    pushed, registries, registry, config, entry
):
    name, digest = pushed(registries.private_address)
    made = registry(config({"auths": {registries.private_address: entry}}))
    assert await made.exists(name) == digest


async def test_a_credential_helper_is_asked(
    pushed, registries, registry, config, tmp_path, monkeypatch
):
    name, digest = pushed(registries.private_address)
    answer = {"Username": registries.username, "Secret": registries.password}
    helper = tmp_path / "docker-credential-launchtest"
    helper.write_text(f"#!/bin/sh\ncat > {tmp_path}/asked\necho '{json.dumps(answer)}'\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    made = registry(config({"credHelpers": {registries.private_address: "launchtest"}}))
    assert await made.exists(name) == digest
    assert (tmp_path / "asked").read_text().strip() == registries.private_address


async def test_a_helper_that_fails_is_told(registries, registry, config, tmp_path, monkeypatch):
    helper = tmp_path / "docker-credential-broken"
    helper.write_text("#!/bin/sh\necho 'the vault is locked' >&2\nexit 1\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    made = registry(config({"credHelpers": {registries.private_address: "broken"}}))
    with pytest.raises(JobError, match="cannot be read") as caught:
        await made.exists(f"{registries.private_address}/launch-test/exists:1")
    assert caught.value.cause is Cause.IMAGE_AUTH


async def test_without_a_login_or_with_a_wrong_one_the_door_stays_shut(
    pushed, registries, registry, config
):
    name, _ = pushed(registries.private_address)
    wrong = {"auth": base64.b64encode(b"launch:wrong").decode()}
    for content in ({}, {"auths": {registries.private_address: wrong}}):
        with pytest.raises(JobError, match="refuses the agent's login") as caught:
            await registry(config(content)).exists(name)
        assert caught.value.cause is Cause.IMAGE_AUTH
