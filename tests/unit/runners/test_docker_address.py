"""Where the engine is."""

from pathlib import Path

import pytest

from agent.model.cause import Cause
from agent.model.errors import ConfigError
from agent.runners.docker.address import address_of
from agent.runners.docker.engine import Answer
from agent.runners.docker.failures import init_failure, refusal


def test_configuration_comes_before_docker_host_and_both_before_the_default() -> None:
    environment = {"DOCKER_HOST": "unix:///run/other.sock"}
    assert address_of("unix:///run/mine.sock", environment).socket == "/run/mine.sock"
    assert address_of(None, environment).socket == "/run/other.sock"
    assert address_of(None, {}).socket == "/var/run/docker.sock"


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
    address = address_of(given, environment)
    assert (address.socket, address.url) == (None, url)
    assert (address.certificates is not None) == url.startswith("https")


@pytest.mark.parametrize("given", ["ssh://host", "engine", "tcp://"])
def test_other_addresses_are_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        address_of(given, {})


def test_unreadable_certificates_are_a_configuration_error(tmp_path: Path) -> None:
    environment = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
    with pytest.raises(ConfigError, match="DOCKER_CERT_PATH"):
        address_of("tcp://engine", environment).tls()


@pytest.mark.parametrize(
    ("status", "words", "cause"),
    [
        (404, "No such image: a:b", Cause.IMAGE_NOT_FOUND),
        (404, "image x was found but does not match the specified platform", Cause.IMAGE_PLATFORM),
        (500, "write /var/lib/x: no space left on device", Cause.DISK_FULL),
        (
            400,
            'runc create failed: unable to start container process: exec: "x": not found',
            Cause.START_ENTRYPOINT,
        ),
        (400, "Minimum memory limit allowed is 6MB", Cause.POLICY_RESOURCE),
        (500, 'could not select device driver "nvidia"', Cause.START_FAILED),
        (500, "something new", Cause.START_FAILED),
    ],
)
def test_refusals_have_causes(status: int, words: str, cause: Cause) -> None:
    error = refusal("The container «x» could not be started", Answer(status, {"message": words}))
    assert error.cause is cause
    assert error.message.startswith("The container «x» could not be started: ")


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (b"[FATAL tini (7)] exec x failed: No such file or directory\n", Cause.START_ENTRYPOINT),
        (b"[FATAL tini (7)] exec x failed: Exec format error\n", Cause.IMAGE_PLATFORM),
        (b"[FATAL tini (7)] said by the job\nitself\n", None),
        (b"sh: x: not found\n", None),
        (b"", None),
    ],
)
def test_only_inits_own_single_line_is_its_failure(log: bytes, cause: Cause | None) -> None:
    failure = init_failure("job", log)
    assert (failure.cause if failure else None) is cause
