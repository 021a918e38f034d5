"""Which registry an agent's configuration means, and who is asked for its login."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

import pytest
from structlog.testing import capture_logs

from agent.compose.backends import (
    BackendContext,
    _warn_of_deprecated_settings,
    builder_config,
    image_destination,
    open_registry,
)
from agent.config.agent import AgentConfig
from agent.model.errors import ConfigError

ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/team/launch"


def config(**given):
    return AgentConfig.model_validate(given)


@pytest.mark.parametrize(
    ("destination", "names"),
    [
        (None, ["DockerLogins"]),
        ("reg.example/x", ["DockerLogins"]),
        (ECR, ["DockerLogins", "ecr_logins"]),
        ("europe-west1-docker.pkg.dev/p/r/i", ["DockerLogins", "google_logins"]),
        ("launch.azurecr.io/x", ["DockerLogins", "acr_logins"]),
    ],
)
async def test_docker_s_own_logins_come_before_the_cloud_s(destination, names):
    given = config(builder={"destination": destination})
    with ThreadPoolExecutor(1) as threads:
        async with AsyncExitStack() as stack:
            context = BackendContext(given, {}, threads, "http://server.test", None, ())
            made = await open_registry(stack, context, image_destination(given))
            asked = [getattr(source, "ask", source.login) for source in made._logins]
            assert [one.__qualname__.partition(".")[0] for one in asked] == names


def test_the_builder_s_destination_wins_over_w_b_s_block():
    block = {"type": "ecr", "uri": ECR}
    assert image_destination(config(registry=block)).repository == ECR
    both = config(registry=block, builder={"destination": "https://reg.example/x"})
    found = image_destination(both)
    assert found.repository == "reg.example/x"
    assert builder_config(both, found).destination == "reg.example/x"
    assert image_destination(config()) is None
    assert image_destination(config(registry={"type": "local"})) is None


def test_w_b_s_block_takes_its_region_from_the_environment_s():
    given = config(
        registry={"type": "ecr", "account_id": "123456789012", "repo_name": "team/launch"},
        environment={"type": "aws", "region": "eu-central-1"},
    )
    assert image_destination(given).repository == ECR


def test_older_words_are_answered_with_a_warning():
    given = config(registry={"type": "ecr", "uri": ECR}, builder={"type": "kaniko"})
    with capture_logs() as logs:
        _warn_of_deprecated_settings(given, image_destination(given))
    assert [entry["log_level"] for entry in logs] == ["warning", "warning"]
    assert logs[0]["destination"] == ECR
    with capture_logs() as logs:
        _warn_of_deprecated_settings(config(), None)
    assert logs == []


@pytest.mark.parametrize("address", ["reg.example:1234", "http://b:1", "tcp://", "tcp://a b"])
def test_an_address_of_a_buildkitd_names_its_way(address):
    with pytest.raises(ValueError, match="buildkit"):
        config(builder={"buildkit": address})


def test_a_destination_that_cannot_be_read_is_refused():
    with pytest.raises(ConfigError, match=r"`builder\.destination`"):
        image_destination(config(builder={"destination": "Team/x"}))
