"""A BuildKit of its own, apart from any engine: `buildkitd` on a socket and on TLS.

Debian packages it in no suite, so it is built here once. Its steps run in this machine's
network, where the registries of the tests are; those on loopback it speaks to in plain HTTP.
"""

import os
import re
import shutil
import socket
import tempfile
from pathlib import Path

from . import certificates, debian, paths
from .certificates import Certificate
from .engine import docker
from .errors import ServiceError
from .go_programs import GoProgram
from .mounts import unmount_below
from .process import Daemon, accepts, free_port, run
from .state import BuildkitFacts

# Of the age of Debian's buildx.
PROGRAM = GoProgram(
    "github.com/moby/buildkit/cmd/buildkitd", "v0.13.2", "github.com/moby/buildkit/version.Version"
)
_START_SECONDS = 60
_STOP_SECONDS = 30
_KEPT_BYTES = 2_000_000_000


def up(recorded: BuildkitFacts | None) -> BuildkitFacts:
    """Start it unless it runs; what it has cached is used again."""
    if recorded and alive(recorded):
        return recorded
    if os.geteuid() != 0:
        message = (
            "buildkitd must run as root; use sudo, or name the other services to be brought up"
        )
        raise ServiceError(message)
    if not shutil.which("runc"):
        debian.install("runc")
    program = shutil.which(PROGRAM.name) or PROGRAM.ensure()
    _stop()
    directory = _directory()
    directory.mkdir(parents=True, exist_ok=True)
    server, client = certificates.make_mutual(directory)
    port = free_port(_port(recorded.tls_address) if recorded else 0)
    daemon().start([program, *_options(port, server)])
    daemon().wait_ready(lambda: _listens() and accepts(port), _START_SECONDS)
    return BuildkitFacts(
        address=f"unix://{_socket()}",
        tls_address=f"tcp://127.0.0.1:{port}",
        client_certificates=str(_client_folder(client)),
        version=run([program, "--version"]).split()[2],
    )


def down(recorded: BuildkitFacts | None) -> None:
    """Stop it and remove its cache; the program itself stays."""
    del recorded
    _stop()
    shutil.rmtree(_directory(), ignore_errors=True)


def alive(recorded: BuildkitFacts) -> bool:
    """Tell whether it runs and takes connections."""
    return daemon().pid() is not None and _listens() and accepts(_port(recorded.tls_address))


def push_image(host: str, name: str, base: str) -> None:
    """Make an image that runs `buildkitd` in a pod, on one with a shell, and push it."""
    program, runc = PROGRAM.ensure(), shutil.which("runc")
    if runc is None:
        message = "there is no runc; bring the service `buildkit` up first"
        raise ServiceError(message)
    libraries = re.findall(r"(/\S+) \(0x", run(["ldd", runc]))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copy(program, folder / "buildkitd")
        for file in (runc, *libraries):
            target = folder / "root" / file.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        (folder / "Dockerfile").write_text(
            f"FROM {base}\nCOPY root /\nCOPY buildkitd /bin/\nENV PATH=/bin:/usr/bin:/usr/sbin\n"
            'ENTRYPOINT ["buildkitd"]\n'
        )
        docker(host, "build", "--quiet", "--tag", name, folder)
    docker(host, "push", "--quiet", name)


def daemon() -> Daemon:
    """Return its process."""
    return Daemon(PROGRAM.name, _directory())


def _options(port: int, server: Certificate) -> list[str]:
    configuration = _directory() / "buildkitd.toml"
    configuration.write_text(
        f"[worker.oci]\n  gc = true\n  gckeepstorage = {_KEPT_BYTES}\n"
        "[worker.containerd]\n  enabled = false\n"
    )
    return [
        f"--config={configuration}",
        f"--root={_directory() / 'data'}",
        f"--addr=unix://{_socket()}",
        f"--addr=tcp://127.0.0.1:{port}",
        f"--tlscacert={server.authority}",
        f"--tlscert={server.chain}",
        f"--tlskey={server.key}",
        "--oci-worker-net=host",
    ]


def _client_folder(client: Certificate) -> Path:
    """Put the client's files together under the names that buildx's drivers look for."""
    folder = _directory() / "client"
    folder.mkdir(exist_ok=True)
    shutil.copy(client.authority, folder / "ca.pem")
    shutil.copy(client.chain, folder / "cert.pem")
    shutil.copy(client.key, folder / "key.pem")
    return folder


def _stop() -> None:
    daemon().stop(timeout=_STOP_SECONDS)
    unmount_below(_directory())


def _listens() -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(_socket()))
        except OSError:
            return False
    return True


def _directory() -> Path:
    return paths.data_directory("buildkit")


def _socket() -> Path:
    return _directory() / "buildkitd.sock"


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
