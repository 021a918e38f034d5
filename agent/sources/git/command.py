"""Runs the `git` program so that neither the repository nor its server runs anything here.

The environment has only the variables listed here. Of the user's own configuration, credential
helpers, proxies and certificates are read once per fetch and passed on as values; the rest of it
(rewritten URLs, filters, hooks, monitors, aliases) has no effect. All settings are passed in the
environment, not in argv, since a header may be a secret.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.config.execution import GitConfig
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.sources.git.errors import failure, stalled
from agent.system.child import Command, Consumer, SilentError, Tail, run

#: Variables that git, curl, ssh and credential helpers need from the agent's environment.
_INHERITED: Final = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "TMPDIR",
        "SSH_AUTH_SOCK",
        "XDG_CONFIG_HOME",
        "XDG_CACHE_HOME",
        "XDG_RUNTIME_DIR",
        "DBUS_SESSION_BUS_ADDRESS",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
        "SSL_CERT_DIR",
    }
)
_CA_VARIABLES: Final = ("GIT_SSL_CAINFO", "SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
#: Keys that are taken from the user's own configuration.
_USER_KEYS: Final = re.compile(
    r"credential\..*|http\.(.*\.)?(proxy|proxyauthmethod|sslcainfo|sslcapath|sslcert|sslkey"
    r"|extraheader|cookiefile)",
    re.IGNORECASE,
)
_HARDENED: Final = (
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("core.symlinks", "true"),
    ("core.askPass", ""),
    ("submodule.recurse", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("protocol.version", "2"),
    ("http.followRedirects", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("transfer.credentialsInUrl", "die"),
    ("fetch.writeCommitGraph", "false"),
    ("fetch.unpackLimit", "1"),
    ("filter.lfs.smudge", ""),
    ("filter.lfs.process", ""),
    ("filter.lfs.required", "false"),
)

Settings = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class GitProgram:
    """The `git` program, with an agent's configuration and environment."""

    config: GitConfig
    environment: Mapping[str, str] = field(repr=False)

    async def local(self, *arguments: str, **more: str) -> str:
        """Run a command that uses local files only; returns its output.

        `more` are environment variables, such as `GIT_DIR`.

        Raises:
            JobError: see `failure`.
            CorruptMirrorError: the mirror is damaged.
        """
        return await self._run("the mirror", arguments, self._offline(more), None, None)

    async def read_local(self, consumer: Consumer, *arguments: str, **more: str) -> None:
        """As `local`; the output is passed on as it comes, and an error of `consumer` ends it."""
        env = self._offline(more)
        await self._run("the mirror", arguments, env, None, None, then=consumer)

    def _offline(self, more: Mapping[str, str]) -> dict[str, str]:
        return self._environment((), more) | {
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ALLOW_PROTOCOL": "none",
        }

    async def remote(
        self,
        url: str,
        arguments: Sequence[str],
        *,
        settings: Settings,
        variables: Mapping[str, str],
        progress: Consumer | None = None,
    ) -> str:
        """Run a command that connects to a server; returns its output.

        Raises:
            JobError: see `failure`, and `SOURCE_UNREACHABLE` when the server stalls.
            CorruptMirrorError: the mirror is damaged.
        """
        from_user = await self._user_settings()
        env = self._environment((*from_user, *settings), variables) | {
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ALLOW_PROTOCOL": ":".join(self.config.protocols),
        }
        return await self._run(url, arguments, env, progress, self.config.stall_timeout or None)

    async def _user_settings(self) -> Settings:
        """The settings of `_USER_KEYS` in the user's system and global configuration."""
        env = {key: self.environment[key] for key in ("PATH", "HOME", "XDG_CONFIG_HOME")
               if key in self.environment}  # fmt: skip
        listing = ("config", "--includes", "--show-scope", "--null", "--list")
        raw = await self._run("the user's configuration", listing, env, None, None, cwd=Path("/"))
        fields = raw.split("\0")
        pairs = zip(fields[::2], fields[1::2], strict=False)
        return tuple(
            (key, value)
            for scope, entry in pairs
            for key, _, value in [entry.partition("\n")]
            if scope in {"system", "global"} and _USER_KEYS.fullmatch(key)
        )

    def _environment(self, settings: Settings, more: Mapping[str, str]) -> dict[str, str]:
        kept = {key: value for key, value in self.environment.items() if key in _INHERITED}
        hardened = (*settings, *_HARDENED)
        numbered = {
            f"GIT_CONFIG_{part}_{index}": text
            for index, pair in enumerate(hardened)
            for part, text in zip(("KEY", "VALUE"), pair, strict=True)
        }
        return {
            **kept,
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            # Empty, so that git runs neither core.askPass nor SSH_ASKPASS.
            "GIT_ASKPASS": "",
            "SSH_ASKPASS": "",
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_CONFIG_COUNT": str(len(hardened)),
            **numbered,
            **more,
        }

    async def _run(
        self,
        url: str,
        arguments: Iterable[str],
        env: Mapping[str, str],
        progress: Consumer | None,
        idle: float | None,
        cwd: Path | None = None,
        then: Consumer | None = None,
    ) -> str:
        output, errors = Tail(64 * 1024 * 1024, then), Tail(then=progress)
        command = Command(("git", *arguments), env, cwd, idle)
        try:
            code = await run(command, output, errors)
        except SilentError:
            raise stalled(url, idle or 0) from None
        except FileNotFoundError:
            raise JobError(
                Cause.INTERNAL,
                "The program `git` is not installed on the agent's machine.",
                hint="Install it there: it fetches the sources of Git jobs.",
            ) from None
        if code != 0:
            raise failure(url, errors.text)
        return output.text


def ca_settings(config: GitConfig, environment: Mapping[str, str]) -> Settings:
    """The certificate authorities for HTTPS: of the configuration, else of the environment."""
    given = (environment.get(name) for name in _CA_VARIABLES)
    bundle = str(config.ca_bundle) if config.ca_bundle else next(filter(None, given), None)
    return (("http.sslCAInfo", bundle),) if bundle else ()
