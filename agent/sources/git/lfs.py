"""Files in Git LFS: fetched by `git lfs` into the mirror, then put where their pointers are.

The repository has no say in how: its `.lfsconfig` counts for one thing only, the place of the
files, and only within the repository's own host. The files themselves may come from where
that server points, as public hosts keep them at stores of others; such addresses are judged
as all are, and no credential of ours goes there. The program that fetches is told of no work
tree, so it looks at none of the repository's configuration; nothing else of it runs.
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
from agent.ports.log import LogSink, say
from agent.sources.git.access import Access
from agent.sources.git.command import Settings
from agent.sources.git.guard import Guard, guarded
from agent.sources.git.mirror import Mirror
from agent.sources.git.remote import Remote, parse_remote
from agent.system.threads import in_thread

_CONFIGURATION: Final = ".lfsconfig"
_POINTER: Final = re.compile(
    rb"version https://(?:git-lfs\.github\.com|hawser\.github\.com)/spec/v1\n"
    rb"(?:ext-[^\n]*\n)*oid sha256:(?P<digest>[0-9a-f]{64})\nsize (?P<size>[0-9]+)\n?"
)
#: Longer files are no pointers; the specification says so.
_LONGEST_POINTER: Final = 1024
#: Without a terminal `git lfs` would be silent, and be taken for hanging.
_TALKATIVE: Final = ("lfs.forceprogress", "true")
#: Times, and seconds between them; by default a refusal would be repeated for minutes.
_PATIENCE: Final = (("lfs.transfer.maxretries", "2"), ("lfs.transfer.maxretrydelay", "1"))


@dataclass(frozen=True, slots=True)
class LargeFiles:
    """Fetches what one commit keeps in LFS."""

    access: Access
    threads: Executor
    log: LogSink

    async def put(
        self, mirror: Mirror, remote: Remote, commit: str, into: Path, paths: Sequence[str]
    ) -> None:
        """Replace pointers, at those of `paths` that hold one, by the contents.

        Raises:
            PolicyError: `POLICY_SOURCE`: the files are kept at another host, or at an address
                that is not allowed.
            JobError: `SOURCE_*`: they cannot be fetched; `INTERNAL`: no `git lfs` here.
        """
        pointers = await in_thread(self.threads, lambda _: _pointers(into, paths))
        if not pointers:
            return
        store = mirror.repository / "lfs" / "objects"
        if await in_thread(self.threads, lambda _: _missing(store, pointers)) is not None:
            await self._fetch(mirror, remote, commit)
        missing = await in_thread(self.threads, lambda _: _missing(store, pointers))
        if missing is not None:
            message = f"Git LFS: {remote.url}: the content of `{missing}` is not there."
            raise JobError(Cause.SOURCE_NOT_FOUND, message, hint="Push it with `git lfs push`.")
        await in_thread(self.threads, lambda _: _fill(store, into, pointers))
        await say(self.log, f"git: {len(pointers)} files come from Git LFS")

    async def _fetch(self, mirror: Mirror, remote: Remote, commit: str) -> None:
        place = await _place(mirror, remote, commit, self.access.program.config.protocols)
        arguments = (f"--git-dir={mirror.repository}", "lfs", "fetch", "launch", commit)
        await say(self.log, f"git: fetching files of Git LFS from {place.url}")
        async with self.access.open(place) as session, self._guarded(place) as (guard, variables):
            asked = session.having(_settings(remote, place), variables)
            try:
                await asked.run(*arguments, progress=self.log.write)
            except LaunchError:
                if guard is not None and guard.refused is not None:
                    raise guard.refused from None
                raise

    @asynccontextmanager
    async def _guarded(
        self, place: Remote
    ) -> AsyncIterator[tuple[Guard | None, Mapping[str, str]]]:
        """Variables for the program; with no guard where the environment has its own proxy."""
        if self.access.proxied(place):
            yield None, {}
            return
        async with guarded(self.access.policy, self.threads) as (guard, url):
            yield guard, _through(url, self.access.program.config.protocols)


def _settings(remote: Remote, place: Remote) -> Settings:
    names = (("remote.launch.url", remote.url), ("lfs.url", place.url))
    # Whatever a web server proposes, nothing but a download is done.
    plain = place.protocol in {"http", "https"}
    only = (("lfs.basictransfersonly", "true"),) if plain else ()
    return (_TALKATIVE, *_PATIENCE, *names, *only)


def _through(url: str, protocols: tuple[str, ...]) -> dict[str, str]:
    """Variables that lead through the guard; plain HTTP goes past it where it is allowed."""
    names = ["HTTPS_PROXY", "https_proxy"]
    names += [] if "http" in protocols else ["HTTP_PROXY", "http_proxy"]
    return dict.fromkeys(names, url) | {"NO_PROXY": "", "no_proxy": ""}


async def _place(mirror: Mirror, remote: Remote, commit: str, protocols: tuple[str, ...]) -> Remote:
    """Where the files are: as `.lfsconfig` says, else beside the repository."""
    named = await _named(mirror, commit)
    if named is None:
        if remote.protocol in {"ssh", "file"}:
            return remote
        base = remote.url.rstrip("/")
        return parse_remote(f"{base.removesuffix('.git')}.git/info/lfs", protocols)
    place = parse_remote(named, protocols)
    same_port = place.protocol != remote.protocol or place.port == remote.port
    if not remote.host or place.host != remote.host or not same_port:
        message = (
            f"Git LFS: `{_CONFIGURATION}` of {remote.url} keeps files at {place.url}, which is "
            "another server, and no other is asked."
        )
        hint = f"Keep them at the repository's own, or take `lfs.url` out of `{_CONFIGURATION}`."
        raise PolicyError(Cause.POLICY_SOURCE, message, hint=hint)
    return place


async def _named(mirror: Mirror, commit: str) -> str | None:
    """The place that the commit's `.lfsconfig` names, if there is one."""
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
    """Digest and size by path; files that are no pointers were committed as they are."""
    found = {}
    for path in paths:
        file = into / path
        if file.is_symlink() or not file.is_file() or file.stat().st_size >= _LONGEST_POINTER:
            continue
        match = _POINTER.fullmatch(file.read_bytes())
        if match is not None:
            found[path] = (match["digest"].decode(), int(match["size"]))
    return found


def _missing(store: Path, pointers: dict[str, tuple[str, int]]) -> str | None:
    """The first path whose content is not here."""
    for path, (digest, size) in pointers.items():
        content = _content(store, digest)
        if size and not (content.is_file() and content.stat().st_size == size):
            return path
    return None


def _fill(store: Path, into: Path, pointers: dict[str, tuple[str, int]]) -> None:
    for path, (digest, size) in pointers.items():
        if size:
            # Into the file that is there, which keeps its mode.
            shutil.copyfile(_content(store, digest), into / path)
        else:
            (into / path).write_bytes(b"")


def _content(store: Path, digest: str) -> Path:
    return store / digest[:2] / digest[2:4] / digest
