"""The Docker engine: the one that answers already, else Debian's, started here."""

import os
import shutil
from pathlib import Path

from . import base_image, debian, paths, shell_image
from .engine import Engine, answers, docker
from .errors import ServiceError
from .process import succeeds
from .state import DockerFacts

_DEFAULT_SOCKET = Path("/var/run/docker.sock")
_RUN = Path("/run/launch-agent-tests/docker")


def up(recorded: DockerFacts | None) -> DockerFacts:
    """Find or start an engine and make its images."""
    del recorded
    host, started_here = _engine()
    _ensure_clients()
    base_image.ensure(host)
    shell_image.ensure(host)
    return DockerFacts(
        host=host,
        started_here=started_here,
        version=docker(host, "version", "--format", "{{.Server.Version}}"),
        base_image=base_image.NAME,
        shell_image=shell_image.NAME,
        foreign_image=shell_image.FOREIGN_NAME,
    )


def down(recorded: DockerFacts | None) -> None:
    """Stop the engine if it was started here; its images and build cache stay on disk."""
    del recorded
    _own().stop()


def alive(recorded: DockerFacts) -> bool:
    """Tell whether the engine answers."""
    return answers(recorded.host)


def _engine() -> tuple[str, bool]:
    own = _own()
    given = os.environ.get("DOCKER_HOST")
    if given and given != own.host:
        if not answers(given):
            message = f"no Docker engine answers at DOCKER_HOST={given}; start it, or unset it"
            raise ServiceError(message)
        return given, False
    if answers(own.host):
        return own.host, own.daemon.pid() is not None
    if not shutil.which("dockerd"):
        debian.install("docker.io", "docker-cli", "docker-buildx", "iptables", "ca-certificates")
    own.start()
    return own.host, True


def _ensure_clients() -> None:
    """Install a client where there is none; any client finds the plugin where Debian puts it."""
    if not succeeds(["docker", "--version"]):
        debian.install("docker-cli")
    if not succeeds(["docker", "buildx", "version"]):
        debian.install("docker-buildx")
    if not succeeds(["docker", "compose", "version"]):
        debian.install("docker-compose")


def _own() -> Engine:
    return Engine(paths.data_directory("docker"), _RUN, _DEFAULT_SOCKET)
