"""Access to a remote: the address policy, pinned addresses, and credentials.

A host name is resolved once, every one of its addresses is checked, and git connects to exactly
these, so that another answer of the name server changes nothing.

Configured credentials reach git through a credential helper, not through argv, URL or environment.
The helper is set for one host, so that no other host receives the answer, also not from `git lfs`,
whose server may redirect it. It prints a file that only the agent's user can read, in a folder
that exists while the command runs.
"""

import ipaddress
import os
import shlex
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from agent.config.execution import GitConfig, GitCredential
from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from agent.sources.git.command import GitProgram, Settings, ca_settings, ssh_command
from agent.sources.git.remote import Remote
from agent.system.child import Consumer
from agent.system.tasks import in_thread

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], list[str]]

#: Metadata services of clouds outside the link-local range.
_METADATA: Final = frozenset({"fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"})
#: IPv6 networks whose last 32 bits are an IPv4 address: NAT64, its local form, and SIIT.
_EMBEDS_IPV4: Final = tuple(
    ipaddress.ip_network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96")
)
_FOLDER_PREFIX: Final = "credential-"


def system_resolver(host: str, port: int) -> list[str]:
    """All addresses of a host, resolved as the machine does it. Blocks.

    Raises:
        OSError: the name cannot be resolved.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """Which addresses may be connected to: public ones, and private ones on the list."""

    #: Networks, host names, `.suffix`es, or `*`; `None` means all if `embedded`, else none.
    private_hosts: tuple[str, ...] | None
    #: The control plane is embedded: the user is the administrator.
    embedded: bool
    resolver: Resolver = system_resolver

    async def addresses(self, remote: Remote, threads: Executor) -> tuple[str, ...]:
        """Resolve a remote's host, check every address, and return them.

        Raises:
            PolicyError: `POLICY_SOURCE`: one of the addresses is not allowed.
            JobError: `SOURCE_UNREACHABLE`: the name cannot be resolved.
        """
        self._refuse_unusual_form(remote)
        try:
            found = await in_thread(threads, lambda _: self.resolver(remote.host, remote.port))
        except OSError as error:
            raise JobError(
                Cause.SOURCE_UNREACHABLE,
                f"Host '{remote.host}' of {remote.url} cannot be resolved ({error.strerror}).",
                hint="Check its spelling and the agent's name server.",
            ) from None
        parsed = [ipaddress.ip_address(text.partition("%")[0]) for text in found]
        for address in parsed:
            self._check(remote, address)
        return tuple(str(address) for address in parsed)

    def _refuse_unusual_form(self, remote: Remote) -> None:
        """Refuse addresses such as `0x7f.1` and `2130706433`, which hide what they are."""
        try:
            ipaddress.ip_address(remote.host)
        except ValueError:
            pass
        else:
            return
        try:
            socket.inet_aton(remote.host)
        except OSError:
            return
        raise _refused(remote, remote.host, "write the address in its usual form")

    def _check(self, remote: Remote, address: Address) -> None:
        inner = _inner(address)
        if str(inner) in _METADATA or inner.is_link_local:
            raise _refused(remote, address, "link-local and metadata addresses are never allowed")
        if inner.is_unspecified or inner.is_multicast or _is_broadcast(inner):
            raise _refused(remote, address, "it is not the address of a single host")
        if not inner.is_global and not self._listed(remote.host, inner):
            raise _refused(
                remote,
                address,
                "private addresses are allowed by `sources.git.private_hosts` only",
            )

    def _listed(self, host: str, address: Address) -> bool:
        if self.private_hosts is None:
            return self.embedded
        return any(_matches(entry, host, address) for entry in self.private_hosts)


def _inner(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one: mapped, compatible, 6to4, translated."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    low = int(address) & 0xFFFFFFFF
    compatible = int(address) >> 32 == 0 and low > 1
    translated = any(address in network for network in _EMBEDS_IPV4)
    return ipaddress.IPv4Address(low) if compatible or translated else address


def _is_broadcast(address: Address) -> bool:
    return address.version == 4 and address.is_reserved  # noqa: PLR2004 -- 240.0.0.0/4


def _matches(entry: str, host: str, address: Address) -> bool:
    wanted = entry.strip().lower()
    if wanted in {"*", host}:
        return True
    if wanted.startswith((".", "*.")):
        return host.endswith(wanted.removeprefix("*"))
    try:
        return address in ipaddress.ip_network(wanted, strict=False)
    except ValueError:
        return False


def _refused(remote: Remote, address: object, why: str) -> PolicyError:
    return PolicyError(
        Cause.POLICY_SOURCE,
        f"Git URL '{remote.url}' leads to {address}, which is not allowed: {why}.",
    )


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
            return await self.policy.addresses(remote, self.threads)
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
    exempt = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    return remote.protocol != "ssh" and given and not _exempt(remote.host, exempt)


def _exempt(host: str, listed: str) -> bool:
    names = [name.strip().lower().lstrip("*").lstrip(".") for name in listed.split(",")]
    return "*" in listed.split(",") or any(
        name and (host == name or host.endswith(f".{name}")) for name in names
    )


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
