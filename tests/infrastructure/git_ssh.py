"""The SSH side of the Git service: sshd on loopback, one key, Git's commands only."""

import getpass
import json
import os
import shlex
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import debian, paths
from .process import Daemon, accepts, free_port, run, succeeds

_START_SECONDS = 20
_SSHD = Path("/usr/sbin/sshd")
_PRIVILEGE_SEPARATION = Path("/run/sshd")
# Newer servers lock an address out after failed logins, which tests of bad keys cause.
_NO_PENALTIES = "PerSourcePenalties=no"
# `user@host:path` has no room for a port, so the server also wants the usual one somewhere.
_SSH_PORT = 22
_LAST_OF_SPARE = 60

_FORCED_COMMAND = r"""#!/bin/sh
# The login may fetch and push below the repositories' directory, and ask where LFS is, and do
# nothing else. Paths may lack the first slash; as at public hosts, nobody has a home folder.
case $SSH_ORIGINAL_COMMAND in
    *..*|*\'~*) echo "that path is refused" >&2; exit 1 ;;
    "git-lfs-authenticate "*" download") exec cat @DIRECTORY@/lfs.json ;;
    "git-upload-pack '"*"'") command=git-upload-pack ;;
    "git-receive-pack '"*"'") command=git-receive-pack ;;
    *) echo "only git fetch and git push are served here" >&2; exit 1 ;;
esac
path=${SSH_ORIGINAL_COMMAND#* \'}
path=${path#/}
exec "$command" @ROOT@/"${path%\'}"
"""


@dataclass(frozen=True)
class SshServer:
    """Where the server listens and what a client needs to be let in."""

    origin: str
    scp_host: str
    """`user@host` at the usual port; empty where no address has it free."""
    key: Path
    known_host: str
    known_hosts: Path


def start(
    directory: Path, repositories: Path, preferred_port: int, lfs: Mapping[str, object]
) -> SshServer:
    """Start sshd with new keys; return when it accepts. `lfs` says where files of LFS are."""
    if not _SSHD.exists():
        debian.install("openssh-server", "openssh-client")
    directory.mkdir(parents=True)
    if os.geteuid() == 0:
        _PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
    port = free_port(preferred_port)
    key = _make_key(directory / "user")
    host_key = _make_key(directory / "host")
    _authorize(directory, repositories, key)
    (directory / "lfs.json").write_text(json.dumps(lfs))
    usual = _spare_address()
    listening = [f"127.0.0.1:{port}", *([f"{usual}:{_SSH_PORT}"] if usual else [])]
    configuration = directory / "sshd_config"
    configuration.write_text(_configuration(listening, directory, host_key))
    options = ["-o", _NO_PENALTIES]
    if not succeeds([_SSHD, "-t", "-f", configuration, *options]):
        options = []
    daemon().start([_SSHD, "-D", "-e", "-f", configuration, *options])
    daemon().wait_ready(lambda: accepts(port), _START_SECONDS)
    kind, public = host_key.with_suffix(".pub").read_text().split()[:2]
    known_host = f"[127.0.0.1]:{port} {kind} {public}"
    known_hosts = directory / "known_hosts"
    at_usual = f"{usual} {kind} {public}\n" if usual else ""
    known_hosts.write_text(f"{known_host}\n{at_usual}")
    user = getpass.getuser()
    return SshServer(
        origin=f"ssh://{user}@127.0.0.1:{port}",
        scp_host=f"{user}@{usual}" if usual else "",
        key=key,
        known_host=known_host,
        known_hosts=known_hosts,
    )


def daemon() -> Daemon:
    """Return the server's process."""
    return Daemon("git-ssh", paths.data_directory("git-ssh"))


def _make_key(path: Path) -> Path:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "launch-tests", "-f", path])
    return path


def _authorize(directory: Path, repositories: Path, key: Path) -> None:
    command = directory / "serve"
    places = {"@ROOT@": repositories, "@DIRECTORY@": directory}
    script = _FORCED_COMMAND
    for name, place in places.items():
        script = script.replace(name, shlex.quote(str(place)))
    command.write_text(script)
    command.chmod(0o755)
    public = key.with_suffix(".pub").read_text()
    (directory / "authorized_keys").write_text(f'restrict,command="{command}" {public}')


def _spare_address() -> str:
    """A loopback address whose port 22 is free; empty where there is none, or not for us."""
    for last in range(_SSH_PORT, _LAST_OF_SPARE):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((f"127.0.0.{last}", _SSH_PORT))
            except OSError:
                continue
            return f"127.0.0.{last}"
    return ""


def _configuration(listening: Iterable[str], directory: Path, host_key: Path) -> str:
    settings = {
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
    lines = [("ListenAddress", address) for address in listening] + list(settings.items())
    return "".join(f"{name} {value}\n" for name, value in lines)
