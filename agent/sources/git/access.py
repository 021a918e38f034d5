"""Everything one remote needs to be talked to: judged addresses, pinned; credentials."""

from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.model.errors import JobError, PolicyError
from agent.sources.git.addresses import AddressPolicy
from agent.sources.git.command import GitProgram, Settings, ca_settings, ssh_command
from agent.sources.git.credentials import helper, matching
from agent.sources.git.remote import Remote
from agent.system.child import Consumer
from agent.system.threads import in_thread


@dataclass(frozen=True, slots=True)
class Session:
    """Commands against one remote."""

    program: GitProgram
    remote: Remote
    settings: Settings = field(repr=False)
    variables: Mapping[str, str] = field(repr=False)

    def having(self, settings: Settings, variables: Mapping[str, str]) -> "Session":
        """The same with more settings and variables."""
        return replace(
            self,
            settings=(*self.settings, *settings),
            variables={**self.variables, **variables},
        )

    async def run(self, *arguments: str, progress: Consumer | None = None) -> str:
        """Run a git command that talks to the remote; see `GitProgram.remote`."""
        return await self.program.remote(
            self.remote.url,
            arguments,
            settings=self.settings,
            variables=self.variables,
            progress=progress,
        )


@dataclass(frozen=True, slots=True)
class Access:
    """Opens sessions within the administrator's rules."""

    program: GitProgram
    policy: AddressPolicy
    #: For the short-lived files of credentials.
    private: Path
    threads: Executor

    @asynccontextmanager
    async def open(self, remote: Remote) -> AsyncIterator[Session]:
        """Judge the remote's addresses, and lay credentials ready while the context lasts.

        Raises:
            PolicyError: an address is not allowed.
            JobError: the host is not known.
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
        credential = matching(config, remote)
        with ExitStack() as stack:
            if credential is not None:
                context = helper(credential, environment, self.private)
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
            # Behind a proxy the name may be the proxy's to resolve.
            if self.proxied(remote):
                return ()
            raise

    def proxied(self, remote: Remote) -> bool:
        """Whether the environment leads to this remote through a proxy."""
        return _proxied(remote, self.program.environment)


def _username(remote: Remote) -> Settings:
    """The user of `https://user@host/`; a name only, since passwords are refused."""
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
