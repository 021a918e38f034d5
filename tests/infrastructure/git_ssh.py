"""The SSH side of the Git service: sshd on loopback, one key, Git's commands only."""

import getpass
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from . import debian, paths
from .process import Daemon, accepts, free_port, run, succeeds

_START_SECONDS = 20
_SSHD = Path("/usr/sbin/sshd")
_PRIVILEGE_SEPARATION = Path("/run/sshd")
# Newer servers lock an address out after failed logins, which tests of bad keys cause.
_NO_PENALTIES = "PerSourcePenalties=no"

_FORCED_COMMAND = r"""#!/bin/sh
# The login may fetch and push below the repositories' directory and do nothing else.
case $SSH_ORIGINAL_COMMAND in
    *..*) echo "that path is refused" >&2; exit 1 ;;
    "git-upload-pack '/"*"'") command=git-upload-pack ;;
    "git-receive-pack '/"*"'") command=git-receive-pack ;;
    *) echo "only git fetch and git push are served here" >&2; exit 1 ;;
esac
path=${SSH_ORIGINAL_COMMAND#* \'}
exec "$command" @ROOT@"${path%\'}"
"""


@dataclass(frozen=True)
class SshServer:
    """Where the server listens and what a client needs to be let in."""

    origin: str
    key: Path
    known_host: str
    known_hosts: Path


def start(directory: Path, repositories: Path, preferred_port: int) -> SshServer:
    """Start sshd with new keys; return when it accepts."""
    if not _SSHD.exists():
        debian.install("openssh-server", "openssh-client")
    directory.mkdir(parents=True)
    if os.geteuid() == 0:
        _PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
    port = free_port(preferred_port)
    key = _make_key(directory / "user")
    host_key = _make_key(directory / "host")
    _authorize(directory, repositories, key)
    configuration = directory / "sshd_config"
    configuration.write_text(_configuration(port, directory, host_key))
    options = ["-o", _NO_PENALTIES]
    if not succeeds([_SSHD, "-t", "-f", configuration, *options]):
        options = []
    daemon().start([_SSHD, "-D", "-e", "-f", configuration, *options])
    daemon().wait_ready(lambda: accepts(port), _START_SECONDS)
    kind, public = host_key.with_suffix(".pub").read_text().split()[:2]
    known_host = f"[127.0.0.1]:{port} {kind} {public}"
    known_hosts = directory / "known_hosts"
    known_hosts.write_text(known_host + "\n")
    return SshServer(f"ssh://{getpass.getuser()}@127.0.0.1:{port}", key, known_host, known_hosts)


def daemon() -> Daemon:
    """Return the server's process."""
    return Daemon("git-ssh", paths.data_directory("git-ssh"))


def _make_key(path: Path) -> Path:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "launch-tests", "-f", path])
    return path


def _authorize(directory: Path, repositories: Path, key: Path) -> None:
    command = directory / "serve"
    command.write_text(_FORCED_COMMAND.replace("@ROOT@", shlex.quote(str(repositories))))
    command.chmod(0o755)
    public = key.with_suffix(".pub").read_text()
    (directory / "authorized_keys").write_text(f'restrict,command="{command}" {public}')


def _configuration(port: int, directory: Path, host_key: Path) -> str:
    settings = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": host_key,
        "AuthorizedKeysFile": directory / "authorized_keys",
        "PermitRootLogin": "forced-commands-only",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "UsePAM": "no",
        "StrictModes": "no",
        "AcceptEnv": "GIT_PROTOCOL",
        "MaxStartups": "100",
        "PidFile": "none",
        "UseDNS": "no",
    }
    return "".join(f"{name} {value}\n" for name, value in settings.items())
