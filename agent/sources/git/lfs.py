"""Files in Git LFS: fetched by `git lfs` into the mirror, then written in place of their pointers.

Of the repository's configuration only the LFS server in `.lfsconfig` is used, and only if it is on
the repository's own host. That server may point to files on other hosts, as public ones do; the
address policy applies to those, and they receive no credentials. `git lfs` runs without a work
tree, so that it reads no other configuration of the repository.
"""

import re
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.model.cause import Cause
from agent.model.errors import JobError, LaunchError, PolicyError
from agent.ports.log import LogSink, write_line
from agent.sources.address_proxy import AddressProxy, address_proxy
from agent.sources.git.access import Access
from agent.sources.git.command import Settings
from agent.sources.git.limits import FetchLimits
from agent.sources.git.mirror import Mirror
from agent.sources.git.remote import Remote, parse_remote
from agent.system.tasks import in_thread

_CONFIGURATION: Final = ".lfsconfig"
_POINTER: Final = re.compile(
    rb"version https://(?:git-lfs\.github\.com|hawser\.github\.com)/spec/v1\n"
    rb"(?:ext-[^\n]*\n)*oid sha256:(?P<digest>[0-9a-f]{64})\nsize (?P<size>[0-9]+)\n?"
)
#: Pointers are shorter, by the specification.
_MAX_POINTER_BYTES: Final = 1024
#: Progress output also without a terminal; else a long transfer looks like a stalled one.
_PROGRESS: Final = ("lfs.forceprogress", "true")
#: Times, and seconds between them; by default `git lfs` repeats refusals for minutes.
_RETRIES: Final = (("lfs.transfer.maxretries", "2"), ("lfs.transfer.maxretrydelay", "1"))


@dataclass(frozen=True, slots=True)
class LargeFiles:
    """Fetches the files that a commit keeps in LFS."""

    access: Access
    limits: FetchLimits
    threads: Executor
    log: LogSink

    async def fill(
        self, mirror: Mirror, remote: Remote, commit: str, into: Path, paths: Sequence[str]
    ) -> None:
        """Replace the pointer files among `paths` by their contents.

        Raises:
            PolicyError: `POLICY_SOURCE`: the files are on another host, or at an address that is
                not allowed.
            JobError: `SOURCE_*`: they cannot be fetched; `INTERNAL`: `git lfs` is not installed.
        """
        pointers = await in_thread(self.threads, lambda _: _pointers(into, paths))
        if not pointers:
            return
        self.limits.large_files(remote.url, [size for _, size in pointers.values()], into)
        store = mirror.repository / "lfs" / "objects"
        if await in_thread(self.threads, lambda _: _missing(store, pointers)) is not None:
            await self._fetch(mirror, remote, commit)
        missing = await in_thread(self.threads, lambda _: _missing(store, pointers))
        if missing is not None:
            message = f"Git LFS: {remote.url}: the content of `{missing}` is missing."
            raise JobError(Cause.SOURCE_NOT_FOUND, message, hint="Push it with `git lfs push`.")
        await in_thread(self.threads, lambda _: _fill(store, into, pointers))
        await write_line(self.log, f"git: {len(pointers)} files come from Git LFS")

    async def _fetch(self, mirror: Mirror, remote: Remote, commit: str) -> None:
        server = await _lfs_server(mirror, remote, commit, self.access.program.config.protocols)
        arguments = (f"--git-dir={mirror.repository}", "lfs", "fetch", "launch", commit)
        await write_line(self.log, f"git: fetching files of Git LFS from {server.url}")
        async with self.access.open(server) as session, self._proxy(server) as (proxy, variables):
            asked = session.extended(_settings(remote, server), variables)
            try:
                await self.limits.transfer(
                    "lfs",
                    remote.url,
                    mirror.folder,
                    lambda: asked.run(*arguments, progress=self.log.write),
                )
            except LaunchError:
                if proxy is not None and proxy.refused is not None:
                    raise proxy.refused from None
                raise

    @asynccontextmanager
    async def _proxy(
        self, server: Remote
    ) -> AsyncIterator[tuple[AddressProxy | None, Mapping[str, str]]]:
        """An address proxy and its variables; `None` where the environment sets a proxy."""
        if self.access.proxied(server):
            yield None, {}
            return
        async with address_proxy(self.access.policy, self.threads) as (proxy, url):
            yield proxy, _proxy_variables(url, self.access.program.config.protocols)


def _settings(remote: Remote, server: Remote) -> Settings:
    names = (("remote.launch.url", remote.url), ("lfs.url", server.url))
    # No custom transfer program, whatever the server proposes.
    plain = server.protocol in {"http", "https"}
    only = (("lfs.basictransfersonly", "true"),) if plain else ()
    return (_PROGRESS, *_RETRIES, *names, *only)


def _proxy_variables(url: str, protocols: tuple[str, ...]) -> dict[str, str]:
    """Variables that set the proxy; not for plain HTTP where that is allowed."""
    names = ["HTTPS_PROXY", "https_proxy"]
    names += [] if "http" in protocols else ["HTTP_PROXY", "http_proxy"]
    return dict.fromkeys(names, url) | {"NO_PROXY": "", "no_proxy": ""}


async def _lfs_server(
    mirror: Mirror, remote: Remote, commit: str, protocols: tuple[str, ...]
) -> Remote:
    """The LFS server: that of `.lfsconfig`, else the repository's own."""
    named = await _named(mirror, commit)
    if named is None:
        if remote.protocol in {"ssh", "file"}:
            return remote
        base = remote.url.rstrip("/")
        return parse_remote(f"{base.removesuffix('.git')}.git/info/lfs", protocols)
    server = parse_remote(named, protocols)
    same_port = server.protocol != remote.protocol or server.port == remote.port
    if not remote.host or server.host != remote.host or not same_port:
        message = (
            f"Git LFS: `{_CONFIGURATION}` of {remote.url} keeps files at {server.url}, which is "
            "another server; only the repository's own is used."
        )
        hint = f"Keep them on the repository's server, or remove `lfs.url` from `{_CONFIGURATION}`."
        raise PolicyError(Cause.POLICY_SOURCE, message, hint=hint)
    return server


async def _named(mirror: Mirror, commit: str) -> str | None:
    """The LFS server in the commit's `.lfsconfig`, if there is one."""
    where = {"GIT_DIR": str(mirror.repository)}
    listed = await mirror.program.local(
        "ls-tree", "--name-only", commit, "--", _CONFIGURATION, **where
    )
    if not listed.strip():
        return None
    blob = f"--blob={commit}:{_CONFIGURATION}"
    text = await mirror.program.local("config", blob, "--null", "--list", **where)
    values = dict(entry.partition("\n")[::2] for entry in text.split("\0"))
    return values.get("lfs.url") or values.get("remote.origin.lfsurl")


def _pointers(into: Path, paths: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Digest and size by path; other files were committed with their contents."""
    found = {}
    for path in paths:
        file = into / path
        if file.is_symlink() or not file.is_file() or file.stat().st_size >= _MAX_POINTER_BYTES:
            continue
        match = _POINTER.fullmatch(file.read_bytes())
        if match is not None:
            found[path] = (match["digest"].decode(), int(match["size"]))
    return found


def _missing(store: Path, pointers: dict[str, tuple[str, int]]) -> str | None:
    """The first path whose content is not in the store."""
    for path, (digest, size) in pointers.items():
        content = _content(store, digest)
        if size and not (content.is_file() and content.stat().st_size == size):
            return path
    return None


def _fill(store: Path, into: Path, pointers: dict[str, tuple[str, int]]) -> None:
    for path, (digest, size) in pointers.items():
        if size:
            # Overwritten, not replaced, so that the file keeps its mode.
            shutil.copyfile(_content(store, digest), into / path)
        else:
            (into / path).write_bytes(b"")


def _content(store: Path, digest: str) -> Path:
    return store / digest[:2] / digest[2:4] / digest
