"""What BuildKit may fetch for a Dockerfile."""

import fnmatch

import pytest

from agent.builders.image.source_policy import frontends, source_policy
from agent.config.execution import BuilderConfig
from agent.model.cause import Cause
from agent.model.errors import InvalidInputError, PolicyError
from agent.model.job.image_reference import parse_image


@pytest.mark.parametrize("text", ["sha256:0c9b", "library/sha256:0", "docker.io/library/sha256:0c"])
def test_the_beginning_of_an_id_is_no_name(text):
    with pytest.raises(InvalidInputError, match="id"):
        parse_image(text)


@pytest.mark.parametrize(
    "text",
    [
        "# syntax=evil/frontend:1\nFROM a", "#syntax = evil/frontend\nFROM a",
        "\ufeff# syntax=evil/x\n", "#!/usr/bin/env x\n# syntax=evil/x\n", "// syntax=evil/x\n",
        "# escape=`\n# Syntax=evil/x\n", '{"syntax": "evil/x"}', '#!/x\n{"syntax": "evil/x"}',
        "# syntax=docker/dockerfile-other:1\n", "# syntax=127.0.0.1:5000/docker/dockerfile:1\n",
        "# syntax=docker/dockerfile:1\r\n# syntax=evil/x\r\n", "\t# \tsyntax\t=\tevil/x\n",
    ],
)  # fmt: skip
def test_foreign_frontends_are_refused(text):
    with pytest.raises(PolicyError, match="not allowed") as caught:
        frontends(text, BuilderConfig())
    assert caught.value.cause is Cause.POLICY_SOURCE


@pytest.mark.parametrize("name", ["docker/dockerfile:1", "docker.io/docker/dockerfile:1.7-labs"])
def test_docker_s_own_frontend_is_allowed(name):
    assert frontends(f"# syntax={name}\nFROM a", BuilderConfig()) == (name,)


def allowed(policy, source):
    """As BuildKit decides: the last rule that matches."""
    answer = None
    for rule in policy["rules"]:
        if fnmatch.fnmatchcase(source, rule["selector"]["identifier"]):
            answer = rule["action"]
    return answer == "ALLOW"


def test_only_what_is_named_and_not_built_for_others_is_allowed():
    config = BuilderConfig(destination="r.example/launch", add_urls=("https://github.com/*",))
    images = ("python:3.11", "r.example/base", "launch.invalid/ann/x:1", "r.example/launch:abc")
    policy = source_policy(images, ("docker/dockerfile:1",), config)
    for source in (
        "docker-image://docker.io/library/python:3.11@sha256:1", "local://context",
        "docker-image://r.example/base:latest", "docker-image://docker.io/docker/dockerfile:1",
        "https://github.com/a/b.txt", "git://github.com/a/b.git#main",
    ):  # fmt: skip
        assert allowed(policy, source), source
    for source in (
        "docker-image://launch.invalid/ann/x:1", "docker-image://r.example/launch:abc",
        "docker-image://r.example/launch@sha256:1", "docker-image://docker.io/library/sha256:0c9b",
        "http://127.0.0.1/", "https://example.org/", "git://example.org/x", "http://github.com/a",
        "docker-image://docker.io/library/other:1", "oci-layout://x",
    ):  # fmt: skip
        assert not allowed(policy, source), source
