"""The HTTPS side of the Git service."""

import base64
import json
import secrets
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from . import certificates, paths
from .https_git_server import Settings
from .process import Daemon, accepts, free_port

_START_SECONDS = 20
_USERNAME = "launch"


@dataclass(frozen=True)
class HttpsServer:
    """Where the server listens and what a client needs to be let in."""

    origin: str
    username: str
    password: str
    authority: Path
    access_log: Path

    @property
    def login(self) -> dict[str, str]:
        """The header of a request that is let in."""
        login = f"{self.username}:{self.password}".encode()
        return {"Authorization": f"Basic {base64.b64encode(login).decode()}"}


def start(directory: Path, repositories: Path, preferred_port: int) -> HttpsServer:
    """Start the server with a new certificate and password; return when it accepts."""
    directory.mkdir(parents=True)
    certificate = certificates.make(directory)
    settings = Settings(
        port=free_port(preferred_port),
        repositories=str(repositories),
        certificate=str(certificate.chain),
        key=str(certificate.key),
        username=_USERNAME,
        password=secrets.token_urlsafe(18),
        access_log=str(directory / "access.log"),
    )
    Path(settings.access_log).touch()
    told = directory / "settings.json"
    told.touch(mode=0o600)
    told.write_text(json.dumps(asdict(settings)))
    program = Path(__file__).with_name("https_git_server.py")
    daemon().start([sys.executable, "-P", program, told])
    daemon().wait_ready(lambda: accepts(settings.port), _START_SECONDS)
    return HttpsServer(
        origin=f"https://127.0.0.1:{settings.port}",
        username=settings.username,
        password=settings.password,
        authority=certificate.authority,
        access_log=Path(settings.access_log),
    )


def daemon() -> Daemon:
    """Return the server's process."""
    return Daemon("git-https", paths.data_directory("git-https"))
