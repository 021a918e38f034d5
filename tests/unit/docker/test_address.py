"""Where the engine is."""

from pathlib import Path

import pytest

from agent.docker.address import engine_address
from agent.model.errors import ConfigError


def test_configuration_comes_before_docker_host_and_both_before_the_default() -> None:
    environment = {"DOCKER_HOST": "unix:///run/other.sock"}
    assert engine_address("unix:///run/mine.sock", environment).socket == "/run/mine.sock"
    assert engine_address(None, environment).socket == "/run/other.sock"
    assert engine_address(None, {}).socket == "/var/run/docker.sock"


@pytest.mark.parametrize(
    ("given", "environment", "url"),
    [
        ("tcp://127.0.0.1", {}, "http://127.0.0.1:2375"),
        ("tcp://[::1]:99", {}, "http://[::1]:99"),
        ("tcp://engine", {"DOCKER_TLS_VERIFY": "1"}, "https://engine:2376"),
        ("https://engine:1", {"DOCKER_CERT_PATH": "/certs"}, "https://engine:1"),
    ],
)
def test_network_addresses(given: str, environment: dict[str, str], url: str) -> None:
    address = engine_address(given, environment)
    assert (address.socket, address.url) == (None, url)
    assert (address.certificates is not None) == url.startswith("https")


@pytest.mark.parametrize("given", ["ssh://host", "engine", "tcp://"])
def test_other_addresses_are_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        engine_address(given, {})


def test_unreadable_certificates_are_a_configuration_error(tmp_path: Path) -> None:
    environment = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
    with pytest.raises(ConfigError, match="DOCKER_CERT_PATH"):
        engine_address("tcp://engine", environment).tls()
