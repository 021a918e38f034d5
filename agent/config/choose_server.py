"""Which control plane: address and key are one pair and come from one place.

In this order: flags; `LAUNCH_SERVER` with `LAUNCH_API_KEY`; `WANDB_BASE_URL` with
`WANDB_API_KEY`; the configuration file; the control plane embedded in a `launch-agent` of this
machine. A `WANDB_API_KEY` alone belongs to W&B's hosted service and is sent nowhere else.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from agent.config.base import read_secret_file
from agent.config.load import Loaded
from agent.config.local_files import read_embedded, saved_key
from agent.config.wandb import HOSTED_URL, stored_key
from agent.model.errors import AuthenticationError, ConfigError


@dataclass(frozen=True, slots=True)
class RemoteServer:
    """A control plane at an address."""

    url: str
    api_key: SecretStr
    ca_bundle: Path | None
    #: Where the pair was found, for messages.
    origin: str


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """A control plane inside the agent's own process."""

    origin: str


@dataclass(frozen=True, slots=True)
class ServerFlags:
    """Options of the command line."""

    url: str | None = None
    api_key_file: Path | None = None
    embedded: bool = False


def choose_for_agent(
    environ: Mapping[str, str], loaded: Loaded, flags: ServerFlags
) -> RemoteServer | EmbeddedServer:
    """The control plane that an agent serves.

    Raises:
        AuthenticationError: there is an address without a key.
        ConfigError: flags contradict each other, or the key's file cannot be read.
    """
    if flags.embedded and flags.url:
        message = "--embedded and --server exclude each other."
        raise ConfigError(message, hint="Leave out one of them.")
    if flags.embedded:
        return EmbeddedServer("--embedded")
    named = next(_named(environ, loaded, flags), None)
    if named is not None:
        return named
    if loaded.wandb_shape:
        return _hosted(environ, loaded)
    return EmbeddedServer("no server is named")


def choose_for_commands(
    environ: Mapping[str, str], loaded: Loaded, flags: ServerFlags
) -> RemoteServer:
    """The control plane that commands talk to.

    A running embedded one is preferred to W&B's hosted service, which a configuration file
    names only by its shape.

    Raises:
        AuthenticationError: there is an address without a key.
        ConfigError: no server is named and no embedded control plane runs.
    """
    named = next(_named(environ, loaded, flags), None)
    if named is not None:
        return named
    embedded = read_embedded(loaded.config.state_dir)
    if embedded is not None:
        origin = f"the control plane embedded in launch-agent, process {embedded.pid}"
        return RemoteServer(embedded.url, SecretStr(embedded.api_key), None, origin)
    if loaded.wandb_shape:
        return _hosted(environ, loaded)
    message = (
        "No control plane is known: no server is named by --server, LAUNCH_SERVER, "
        f"WANDB_BASE_URL or a configuration file, and no launch-agent with an embedded one runs "
        f"(looked in {loaded.config.state_dir})."
    )
    raise ConfigError(message, hint="Start one with `launch-agent --queue default`.")


def _named(
    environ: Mapping[str, str], loaded: Loaded, flags: ServerFlags
) -> Iterator[RemoteServer]:
    """Servers that are named, in order of precedence."""
    if flags.url:
        key = read_secret_file(flags.api_key_file) if flags.api_key_file else None
        yield _remote(environ, loaded, flags.url, key or _known_key(environ, flags.url), "--server")
    if environ.get("LAUNCH_SERVER"):
        url = environ["LAUNCH_SERVER"]
        yield _remote(environ, loaded, url, _known_key(environ, url), "LAUNCH_SERVER")
    if environ.get("WANDB_BASE_URL"):
        url = environ["WANDB_BASE_URL"]
        key = _secret(environ, "WANDB_API_KEY") or stored_key(url, environ)
        yield _remote(environ, loaded, url, key, "WANDB_BASE_URL")
    server = loaded.config.server
    if server is not None:
        origin = loaded.origin(("server", "url"))
        key = server.read_key() or _known_key(environ, server.url)
        yield _remote(environ, loaded, server.url, key, origin)


def _remote(
    environ: Mapping[str, str], loaded: Loaded, url: str, key: SecretStr | None, origin: str
) -> RemoteServer:
    if not url.startswith(("http://", "https://")):
        message = f"The server address '{url}' from {origin} is not an http or https address."
        raise ConfigError(message, hint="Write it as https://launch.example.org.")
    key = key or _embedded_key(loaded, url)
    if key is None or not key.get_secret_value():
        message = f"There is no API key for the server {url} (named by {origin})."
        raise AuthenticationError(message, hint=_key_hint(origin, url))
    server = loaded.config.server
    bundle = server.ca_bundle if server and same_server(server.url, url) else None
    given = environ.get("LAUNCH_CA_BUNDLE")
    return RemoteServer(url.rstrip("/"), key, Path(given) if given else bundle, origin)


def _key_hint(origin: str, url: str) -> str:
    match origin:
        case "LAUNCH_SERVER":
            return f"Set LAUNCH_API_KEY, or run `launch login {url}`."
        case "WANDB_BASE_URL":
            return "Set WANDB_API_KEY, or run `wandb login`."
        case "--server":
            return f"Run `launch login {url}`, or give --api-key-file."
        case _:
            return f"Set `server.api_key_file` in the file, or run `launch login {url}`."


def _hosted(environ: Mapping[str, str], loaded: Loaded) -> RemoteServer:
    """W&B's hosted service, with the key that W&B's own clients would use for it."""
    key = _secret(environ, "WANDB_API_KEY") or stored_key(HOSTED_URL, environ)
    if key is None:
        message = (
            f"The configuration file {loaded.file} has the shape of W&B's, which means W&B's "
            f"hosted service at {HOSTED_URL}, and there is no API key for it."
        )
        hint = "Set WANDB_API_KEY, name a server with --server, or use --embedded."
        raise AuthenticationError(message, hint=hint)
    return RemoteServer(HOSTED_URL, key, None, f"{loaded.file}, a configuration file of W&B's")


def _known_key(environ: Mapping[str, str], url: str) -> SecretStr | None:
    """The key for this address.

    LAUNCH_API_KEY if LAUNCH_SERVER is the same, else the one that `launch login` stored.
    """
    if environ.get("LAUNCH_API_KEY") and same_server(environ.get("LAUNCH_SERVER", ""), url):
        return _secret(environ, "LAUNCH_API_KEY")
    return saved_key(environ, url)


def _embedded_key(loaded: Loaded, url: str) -> SecretStr | None:
    embedded = read_embedded(loaded.config.state_dir)
    return SecretStr(embedded.api_key) if embedded and same_server(embedded.url, url) else None


def same_server(one: str, other: str) -> bool:
    """Whether two addresses are the same but for a slash at the end and letters' case."""
    return one.rstrip("/").lower() == other.rstrip("/").lower()


def _secret(environ: Mapping[str, str], name: str) -> SecretStr | None:
    return SecretStr(environ[name]) if environ.get(name) else None
