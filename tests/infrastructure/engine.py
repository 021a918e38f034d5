"""A Docker engine started by hand: no init system, no service, a directory of its own."""

import http.client
import json
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ServiceError
from .mounts import unmount_below
from .process import Daemon, run

_START_SECONDS = 60
# The engine stops its containers first, each of which may take its own ten seconds.
_STOP_SECONDS = 90


@dataclass(frozen=True)
class Engine:
    """One dockerd with its data and log under `directory` and its sockets under `run`.

    Several may run side by side when all but one are `isolated`: these have a network of their
    own, without a way out, as two engines would take the default bridge away from each other.
    """

    directory: Path
    run: Path
    socket: Path
    isolated: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What its daemon.json holds."""

    @property
    def daemon(self) -> Daemon:
        """The process of this engine."""
        return Daemon("dockerd", self.directory)

    @property
    def own_pid_file(self) -> Path:
        """The pid file that dockerd itself keeps."""
        return self.run / "dockerd.pid"

    @property
    def host(self) -> str:
        """The engine's address as DOCKER_HOST takes it."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start the engine and return when it answers."""
        self.run.mkdir(parents=True, exist_ok=True)
        # A killed engine that nobody has reaped yet would pass for a running one.
        self.own_pid_file.unlink(missing_ok=True)
        isolation = ["unshare", "--net"] if self.isolated else []
        self.directory.mkdir(parents=True, exist_ok=True)
        self._configuration.write_text(json.dumps(self.settings))
        self.daemon.start([*isolation, "dockerd", *self._options()])
        self.daemon.wait_ready(lambda: answers(self.host), _START_SECONDS)

    def stop(self) -> bool:
        """End the engine and with it its containers; tell whether it ran."""
        ran = self.daemon.stop(timeout=_STOP_SECONDS)
        for left in (self.run, self.directory):
            unmount_below(left)
        return ran

    @property
    def _configuration(self) -> Path:
        return self.directory / "daemon.json"

    def _options(self) -> list[str]:
        options = [
            f"--config-file={self._configuration}",
            f"--host={self.host}",
            f"--data-root={self.directory / 'data'}",
            f"--exec-root={self.run / 'exec'}",
            f"--pidfile={self.own_pid_file}",
        ]
        mtu = _uplink_mtu()
        if mtu and not self.isolated:
            # Networks made later do not take --mtu; a larger one than the uplink's loses packets.
            options += [f"--mtu={mtu}"]
            options += [f"--default-network-opt=bridge=com.docker.network.driver.mtu={mtu}"]
        return options


def answers(host: str) -> bool:
    """Tell whether an engine answers at this address."""
    if not host.startswith("unix://"):
        return _version(host) is not None
    connection = _Unix(Path(host.removeprefix("unix://")))
    try:
        connection.request("GET", "/_ping")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def docker(host: str, *arguments: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Run the docker client against one engine and return its output."""
    return run(["docker", *arguments], env={**(env or {}), "DOCKER_HOST": host})


def _version(host: str) -> str | None:
    try:
        return docker(host, "version", "--format", "{{.Server.Version}}")
    except ServiceError:
        return None


def _uplink_mtu() -> int | None:
    """Return the MTU of the interface that has the default IPv4 route, if there is one."""
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        interface, destination, _gateway, flags = line.split()[:4]
        up = int(flags, 16) & 1
        if up and struct.unpack("<I", bytes.fromhex(destination))[0] == 0:
            return int(Path("/sys/class/net", os.fspath(interface), "mtu").read_text())
    return None


class _Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
