"""`builder.destination` and W&B's `registry` block."""

import pytest

from agent.model.errors import ConfigError
from agent.registries.destination import read_destination, read_registry

ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/team/launch"
GOOGLE = "europe-west1-docker.pkg.dev/project/repository/image"
ACR = "launch.azurecr.io/jobs"


@pytest.mark.parametrize(
    ("text", "kind", "region"),
    [
        (ECR, "ecr", "eu-central-1"),
        (GOOGLE, "google", "europe-west1"),
        (ACR, "acr", ""),
        ("reg.example:5000/a/b", "oci", ""),
        ("org/launch", "oci", ""),
        ("docker.pkg.dev.example.org/a", "oci", ""),
        ("evil.example/123456789012.dkr.ecr.eu-central-1.amazonaws.com/x", "oci", ""),
    ],
)
@pytest.mark.parametrize("prefix", ["", "https://"])
def test_the_kind_of_a_registry_is_read_from_its_host(text, kind, region, prefix):
    found = read_destination(f"{prefix}{text}")
    assert (found.kind, found.region, found.repository) == (kind, region, text)


def test_docker_hub_is_where_no_host_is_given():
    assert read_destination("org/launch").host == "docker.io"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{ECR}:tag", "'" + ECR + ":tag' has a tag or digest"),
        ("reg.example/x@sha256:" + "a" * 64, "has a tag or digest"),
        (
            "europe-west1-docker.pkg.dev/project/repository",
            "the form of Google's Artifact Registry",
        ),
        ("launch.azurecr.io/a/b", "the form of Azure's Container Registry"),
        ("reg.example/Team", "no upper-case letters"),
        ("http://reg.example/x", "begins with `http://`"),
        ("", "is empty"),
    ],
)
def test_what_is_no_repository_is_told_with_its_key(text, words):
    with pytest.raises(ConfigError) as caught:
        read_destination(text)
    assert caught.value.message.startswith("`builder.destination`: ")
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("block", "environment", "repository"),
    [
        ({"type": "ecr", "uri": f"https://{ECR}"}, None, ECR),
        (
            {"type": "ecr", "account_id": "123456789012", "repo_name": "team/launch"},
            {"type": "aws", "region": "eu-central-1"},
            ECR,
        ),
        (
            {
                "type": "ecr", "account_id": "123456789012", "region": "eu-central-1",
                "repository": "team/launch",
            },
            None,
            ECR,
        ),
        (
            {
                "type": "gcr", "repository": "repository", "image-name": "image",
                "region": "europe-west1", "project": "project",
            },
            None,
            GOOGLE,
        ),
        ({"type": "acr", "uri": ACR}, None, ACR),
    ],
)  # fmt: skip
def test_w_b_s_block_names_the_same_repositories(block, environment, repository):
    assert read_registry(block, environment).repository == repository


@pytest.mark.parametrize("block", [{}, {"type": "local"}, {"type": None, "uri": "x"}])
def test_a_local_registry_pushes_nowhere(block):
    assert read_registry(block, None) is None


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"type": "quay"}, "'quay' is not known"),
        ({"type": "ecr", "uri": ACR}, "no address of a registry of type ecr"),
        ({"type": "acr"}, "`uri` is not given"),
        ({"type": "ecr", "account_id": "123456789012", "repository": "x"}, "no `region`"),
        ({"type": "gcr", "project": "p"}, "nor `repository`"),
    ],
)
def test_a_block_that_cannot_be_read_is_told(block, words):
    with pytest.raises(ConfigError, match="`registry") as caught:
        read_registry(block, None)
    assert words in caught.value.message
