"""Access to a remote: checked and pinned addresses, SSH command, and credentials.

A host name is resolved once, every one of its addresses is checked, and git connects to exactly
these, so that another answer of the name server changes nothing.

Configured credentials reach git through a credential helper, not through argv, URL or environment.
The helper is set for one host, so that no other host receives the answer, also not from `git lfs`,
whose server may redirect it. It prints a file that only the agent's user can read, in a folder
that exists while the command runs.
"""

import os
import shlex
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from agent.config.execution import GitConfig, GitCredential
from agent.model.errors import JobError, PolicyError
from agent.sources.address_policy import AddressPolicy
from agent.sources.git.command import GitProgram, Settings, ca_settings
from agent.sources.git.remote import Remote
from agent.system.child import Consumer
from agent.system.network import bypasses_proxy
from agent.system.tasks import in_thread

_FOLDER_PREFIX: Final = "credential-"


@dataclass(frozen=True, slots=True)
class Session:
    """Git commands against one remote, with its pinned addresses and its credentials."""

    program: GitProgram
    remote: Remote
    settings: Settings = field(repr=False)
    variables: Mapping[str, str] = field(repr=False)

    def extended(self, settings: Settings, variables: Mapping[str, str]) -> "Session":
        """The session with further settings and variables."""
        return replace(
            self,
            settings=(*self.settings, *settings),
            variables={**self.variables, **variables},
        )

    async def run(self, *arguments: str, progress: Consumer | None = None) -> str:
        """Run a git command that connects to the remote; see `GitProgram.remote`."""
        return await self.program.remote(
            self.remote.url,
            arguments,
            settings=self.settings,
            variables=self.variables,
            progress=progress,
        )


@dataclass(frozen=True, slots=True)
class Access:
    """Opens sessions, under the administrator's address policy."""

    program: GitProgram
    policy: AddressPolicy
    #: Folder of short-lived credential files.
    private: Path
    threads: Executor

    @asynccontextmanager
    async def open(self, remote: Remote) -> AsyncIterator[Session]:
        """Check the remote's addresses, and provide its credentials while the context lasts.

        Raises:
            PolicyError: an address is not allowed.
            JobError: the host cannot be resolved.
            ConfigError: a configured secret cannot be read.
        """
        config, environment = self.program.config, self.program.environment
        settings = (*ca_settings(config, environment), *_username(remote))
        variables: dict[str, str] = {}
        addresses = await self._addresses(remote)
        if remote.protocol == "ssh":
            variables["GIT_SSH_COMMAND"] = ssh_command(
                config, remote.host, remote.port, addresses[0]
            )
            variables["GIT_SSH_VARIANT"] = "ssh"
        elif addresses:
            settings = (*settings, ("http.curloptResolve", _pinned(remote, addresses)))
        credential = matching_credential(config, remote)
        with ExitStack() as stack:
            if credential is not None:
                context = credential_helper(credential, environment, self.private)
                found = await in_thread(self.threads, lambda _: stack.enter_context(context))
                settings = (*settings, *found)
            yield Session(self.program, remote, settings, variables)

    async def _addresses(self, remote: Remote) -> tuple[str, ...]:
        if remote.protocol == "file":
            return ()
        try:
            return await self.policy.checked_addresses(remote, self.threads)
        except PolicyError:
            raise
        except JobError:
            # With a proxy, the name may be one that only the proxy can resolve.
            if self.proxied(remote):
                return ()
            raise

    def proxied(self, remote: Remote) -> bool:
        """Whether the environment sets a proxy for this remote."""
        return _proxied(remote, self.program.environment)


def _username(remote: Remote) -> Settings:
    """The user of `https://user@host/`; a password in the URL was refused."""
    if remote.user and remote.protocol in {"http", "https"}:
        return (("credential.username", remote.user),)
    return ()


def _pinned(remote: Remote, addresses: tuple[str, ...]) -> str:
    shown = (f"[{each}]" if ":" in each else each for each in addresses)
    host = f"[{remote.host}]" if ":" in remote.host else remote.host
    return f"{host}:{remote.port}:{','.join(shown)}"


def _proxied(remote: Remote, environment: Mapping[str, str]) -> bool:
    names = (f"{remote.protocol}_proxy", "all_proxy")
    given = any(environment.get(name) or environment.get(name.upper()) for name in names)
    return remote.protocol != "ssh" and given and not bypasses_proxy(remote.host, environment)


def matching_credential(config: GitConfig, remote: Remote) -> GitCredential | None:
    """The credential with the longest prefix of the remote's URL; HTTP(S) only."""
    if remote.protocol not in {"http", "https"}:
        return None
    found = [each for each in config.credentials if _covers(each.url, remote)]
    return max(found, key=lambda each: len(each.url), default=None)


@contextmanager
def credential_helper(
    credential: GitCredential, environ: Mapping[str, str], folder: Path
) -> Iterator[tuple[tuple[str, str], ...]]:
    """Settings that make git use the credential for its host, while the context lasts.

    Raises:
        ConfigError: the secret's variable or file does not exist.
    """
    password = credential.password.read(environ).get_secret_value()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    private = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=folder))
    try:
        answer = private / "answer"
        _write_private(answer, f"username={credential.username}\npassword={password}\n")
        parts = urlsplit(credential.url)
        program = f'!f() {{ test "$1" != get || cat {shlex.quote(str(answer))}; }}; f'
        # An empty value discards the user's helpers: the administrator's credential is used.
        yield (
            ("credential.helper", ""),
            (f"credential.{parts.scheme}://{parts.netloc.rpartition('@')[2]}.helper", program),
        )
    finally:
        shutil.rmtree(private, ignore_errors=True)


def remove_leftover_credentials(folder: Path) -> None:
    """Remove folders that a killed agent left; call before the first fetch."""
    for private in folder.glob(f"{_FOLDER_PREFIX}*"):
        shutil.rmtree(private, ignore_errors=True)


def _covers(prefix: str, remote: Remote) -> bool:
    """Same protocol, host and port, and a path that is the same or below."""
    parts = urlsplit(prefix)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    same = (parts.scheme, (parts.hostname or "").lower(), port)
    if same != (remote.protocol, remote.host, remote.port):
        return False
    base = parts.path.rstrip("/")
    return base in {"", remote.path} or remote.path.startswith(f"{base}/")


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def ssh_command(config: GitConfig, host: str, port: int, address: str) -> str:
    """`GIT_SSH_COMMAND`: no prompts, known hosts only, one address, no forwarding."""
    # ssh looks up the host key by exactly this alias, so it includes a port.
    alias = host if port == 22 else f"[{host}]:{port}"  # noqa: PLR2004
    timeout = max(1, int(config.stall_timeout or 30))
    options = [
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "UpdateHostKeys=no",
        f"HostName={address}",
        f"HostKeyAlias={alias}",
        f"ConnectTimeout={timeout}",
        f"ServerAliveInterval={timeout}",
        "ServerAliveCountMax=1",
        "ControlMaster=no",
        "ControlPath=none",
        "ForwardAgent=no",
        "ForwardX11=no",
        "ClearAllForwardings=yes",
        "PermitLocalCommand=no",
    ]
    if config.known_hosts is not None:
        options.append(f'UserKnownHostsFile="{config.known_hosts}"')
    if config.ssh_key is not None:
        options += [f'IdentityFile="{config.ssh_key}"', "IdentitiesOnly=yes"]
    return shlex.join(["ssh", *(word for option in options for word in ("-o", option))])
