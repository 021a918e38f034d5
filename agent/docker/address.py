"""The engine's address: configuration, `DOCKER_HOST` and the variables for TLS."""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from agent.model.errors import ConfigError

if TYPE_CHECKING:
    import aiohttp

DEFAULT: Final = "unix:///var/run/docker.sock"
_PLAIN_PORT: Final = 2375
_TLS_PORT: Final = 2376


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """An engine's address and its TLS settings."""

    #: As given: `unix:///…`, `tcp://host:port`.
    given: str
    #: Of a Unix socket.
    socket: str | None
    #: Prefix of request URLs.
    url: str
    #: Folder with `ca.pem`, `cert.pem`, `key.pem`, for TLS.
    certificates: Path | None = None
    #: Whether the server's certificate is checked.
    verify: bool = True

    def tls(self) -> ssl.SSLContext | None:
        """For TLS; blocks (reads files).

        Raises:
            ConfigError: a certificate cannot be read.
        """
        folder = self.certificates
        if folder is None:
            return None
        try:
            context = ssl.create_default_context(cafile=folder / "ca.pem")
            context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        except (OSError, ssl.SSLError) as error:
            message = f"DOCKER_CERT_PATH: the certificates in {folder} cannot be used: {error}."
            raise ConfigError(message) from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def session(self) -> "aiohttp.ClientSession":
        """A session for it, without a limit of connections. Blocks: reads certificates.

        Raises:
            ConfigError: see `tls`.
        """
        import aiohttp

        if self.socket is not None:
            return aiohttp.ClientSession(connector=aiohttp.UnixConnector(self.socket, limit=0))
        connector = aiohttp.TCPConnector(limit=0, ssl=self.tls() or True)
        return aiohttp.ClientSession(connector=connector)


def engine_address(
    configured: str | None, environment: Mapping[str, str] = os.environ
) -> EngineAddress:
    """The configured address, else `DOCKER_HOST`, else the default socket.

    Raises:
        ConfigError: an address of a kind that cannot be used.
    """
    given = configured or environment.get("DOCKER_HOST") or DEFAULT
    parts = urlsplit(given)
    match parts.scheme:
        case "unix":
            return EngineAddress(given, parts.path, "http://engine")
        case "tcp" | "http" | "https" if parts.hostname:
            return _network_address(given, environment)
        case _:
            message = f"The engine's address '{given}' cannot be used."
            raise ConfigError(message, hint="Give unix:///path or tcp://host:port.")


def _network_address(given: str, environment: Mapping[str, str]) -> EngineAddress:
    parts = urlsplit(given)
    verify = environment.get("DOCKER_TLS_VERIFY", "")
    folder = environment.get("DOCKER_CERT_PATH")
    secure = parts.scheme == "https" or bool(verify)
    if secure and not folder:
        folder = str(Path("~/.docker").expanduser())
    port = parts.port or (_TLS_PORT if secure else _PLAIN_PORT)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return EngineAddress(
        given,
        None,
        f"{'https' if secure else 'http'}://{host}:{port}",
        Path(folder) if secure and folder else None,
        verify=bool(verify),
    )
