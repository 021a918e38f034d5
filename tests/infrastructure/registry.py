"""Two image registries on loopback: one open, one that wants a login."""

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from . import debian, paths
from .process import Daemon, accepts, free_port, run
from .state import RegistryFacts

_START_SECONDS = 30
_USERNAME = "launch"


@dataclass(frozen=True)
class _Registry:
    """One registry process, its storage and its configuration."""

    name: str

    @property
    def directory(self) -> Path:
        return paths.data_directory(self.name)

    @property
    def daemon(self) -> Daemon:
        return Daemon(self.name, self.directory)

    def start(self, preferred: int, *, login: str = "") -> str:
        """Start the registry; `login` is a line of an htpasswd file. Return host:port."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        port = free_port(preferred)
        text = _configuration(port, self.directory / "storage")
        if login:
            passwords = self.directory / "htpasswd"
            passwords.write_text(login)
            text += f"auth:\n  htpasswd:\n    realm: launch-tests\n    path: {passwords}\n"
        configuration = self.directory / "config.yml"
        configuration.write_text(text)
        self.daemon.start(["docker-registry", "serve", configuration])
        self.daemon.wait_ready(lambda: accepts(port), _START_SECONDS)
        return f"127.0.0.1:{port}"


_OPEN = _Registry("registry")
_PRIVATE = _Registry("registry-private")


def up(recorded: RegistryFacts | None) -> RegistryFacts:
    """Start both registries, empty, unless they run."""
    if recorded and alive(recorded):
        return recorded
    debian.install("docker-registry")
    _stop()
    password = secrets.token_urlsafe(18)
    return RegistryFacts(
        address=_OPEN.start(_port(recorded.address) if recorded else 0),
        private_address=_PRIVATE.start(
            _port(recorded.private_address) if recorded else 0, login=_login(password)
        ),
        username=_USERNAME,
        password=password,
    )


def down(recorded: RegistryFacts | None) -> None:
    """Stop both and remove what was pushed to them."""
    del recorded
    _stop()


def _stop() -> None:
    for registry in (_OPEN, _PRIVATE):
        registry.daemon.stop()
        shutil.rmtree(registry.directory, ignore_errors=True)


def alive(recorded: RegistryFacts) -> bool:
    """Tell whether both run and accept connections."""
    return all(
        registry.daemon.pid() is not None and accepts(_port(address))
        for registry, address in ((_OPEN, recorded.address), (_PRIVATE, recorded.private_address))
    )


def _configuration(port: int, storage: Path) -> str:
    return (
        "version: 0.1\n"
        "log:\n  level: info\n"
        f"storage:\n  filesystem:\n    rootdirectory: {storage}\n  delete:\n    enabled: true\n"
        f"http:\n  addr: 127.0.0.1:{port}\n"
    )


def _login(password: str) -> str:
    """Return the htpasswd line; the registry knows bcrypt only, which the C library has."""
    alphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    # 22 characters hold 132 bits, the salt has 128: the last character must be one of four.
    salt = "".join(secrets.choice(alphabet) for _ in range(21)) + secrets.choice(".Oeu")
    program = "my ($word, $salt) = <STDIN>; chomp($word, $salt); print crypt($word, $salt)"
    hashed = run(["perl", "-e", program], stdin=f"{password}\n$2b$05${salt}\n")
    return f"{_USERNAME}:{hashed}\n"


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
