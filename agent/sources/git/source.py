"""The git source from a description to a folder of files; reads top to bottom."""

import asyncio
import shutil
from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

from agent.config.execution import GitConfig
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.spec import GitSource
from agent.model.units import format_duration
from agent.model.work import SourceTree
from agent.ports.log import LogSink, say
from agent.sources.git.access import Access, Session
from agent.sources.git.addresses import AddressPolicy, Resolver, system_resolver
from agent.sources.git.checkout import checkout, refuse_leaving_links, submodules
from agent.sources.git.command import GitProgram
from agent.sources.git.credentials import remove_leftovers
from agent.sources.git.failures import CorruptMirrorError
from agent.sources.git.lfs import LargeFiles
from agent.sources.git.mirror import Mirror, MirrorCache
from agent.sources.git.refs import (
    Pin,
    check_ref,
    is_full_commit,
    is_short_commit,
    not_found,
    parse_listing,
    patterns,
    pick,
)
from agent.sources.git.remote import Remote, parse_remote
from agent.system.threads import in_thread

_DEEPEST_SUBMODULE: Final = 8


class GitFetcher:
    """`SourcePort` for git repositories.

    `cache` is a folder of its own for mirrors. `embedded` says that the control plane is
    this machine's own, which decides about private addresses where nothing is configured.
    """

    def __init__(
        self,
        config: GitConfig,
        cache: Path,
        *,
        embedded: bool,
        threads: Executor,
        environment: Mapping[str, str],
        resolver: Resolver = system_resolver,
    ) -> None:
        self._config = config
        self._threads = threads
        program = GitProgram(config, environment)
        policy = AddressPolicy(config.private_hosts, embedded, resolver)
        private = cache / "private"
        self._access = Access(program, policy, private, threads)
        self._mirrors = MirrorCache(cache / "mirrors", program, threads)
        remove_leftovers(private)

    async def fetch(self, source: GitSource, entity: str, into: Path, log: LogSink) -> SourceTree:
        """See `SourcePort`."""
        remote = parse_remote(source.url, self._config.protocols)
        check_ref(remote.url, source.ref)
        large = LargeFiles(self._access, self._threads, log) if source.lfs else None
        job = _Fetch(self._access, self._mirrors, self._threads, entity, log, large)
        try:
            async with asyncio.timeout(self._config.timeout or None):
                commit = await job.repository(remote, source.ref, into)
                if source.submodules:
                    await job.submodules(remote, commit, into, 0)
        except TimeoutError:
            raise JobError(
                Cause.SOURCE_UNREACHABLE,
                f"Git: {remote.url} was not fetched within "
                f"{format_duration(self._config.timeout)} (`sources.git.timeout`).",
            ) from None
        await refuse_leaving_links(remote.url, into, self._threads)
        return SourceTree(root=into, identity=f"git+{remote.url}@{commit}", commit=commit)

    async def prune(self, max_age: float, max_bytes: int) -> int:
        """Remove mirrors (age in seconds); give the bytes freed."""
        return await self._mirrors.prune(max_age, max_bytes)


class _Fetch:
    """One call of `fetch`: the repository, and the repositories inside it."""

    def __init__(
        self,
        access: Access,
        mirrors: MirrorCache,
        threads: Executor,
        entity: str,
        log: LogSink,
        large: LargeFiles | None,
    ) -> None:
        self._access = access
        self._mirrors = mirrors
        self._threads = threads
        self._entity = entity
        self._log = log
        #: `None`: files in Git LFS stay pointers.
        self._large = large

    async def repository(self, remote: Remote, ref: str | None, into: Path) -> str:
        """Pin, fetch and check out; give the commit. A damaged mirror is made anew once."""
        async with self._mirrors.held(remote, self._entity) as mirror:
            try:
                return await self._into(mirror, remote, ref, into)
            except CorruptMirrorError as error:
                await say(self._log, f"git: the mirror of {remote.url} is damaged, making it anew")
                await self._mirrors.renew(mirror)
                await in_thread(self._threads, lambda _: _empty(into))
                return await self._again(mirror, remote, ref, into, error)

    async def _again(
        self, mirror: Mirror, remote: Remote, ref: str | None, into: Path, first: Exception
    ) -> str:
        try:
            return await self._into(mirror, remote, ref, into)
        except CorruptMirrorError:
            raise JobError(
                Cause.SOURCE_INVALID, f"Git: {remote.url}: the repository is damaged: {first}."
            ) from None

    async def _into(self, mirror: Mirror, remote: Remote, ref: str | None, into: Path) -> str:
        pin = await self._pin_here(mirror, ref)
        if pin is None:
            async with self._access.open(remote) as session:
                pin = await self._fetched(mirror, session, ref)
        await say(self._log, f"git: {remote.url} is at commit {pin.commit} ({pin.found_as})")
        paths = await checkout(mirror, pin.commit, into, self._threads)
        if paths and self._large is not None:
            await self._large.put(mirror, remote, pin.commit, into, paths)
        elif paths:
            await say(
                self._log, "git: files in Git LFS are not fetched: the job sees their pointers"
            )
        return pin.commit

    async def _pin_here(self, mirror: Mirror, ref: str | None) -> Pin | None:
        """A complete commit never moves: if it is here, the server need not be asked."""
        if ref is None or not is_full_commit(ref):
            return None
        commit = await mirror.commit(ref.lower())
        return Pin(commit, "commit, in the mirror") if commit else None

    async def _fetched(self, mirror: Mirror, session: Session, ref: str | None) -> Pin:
        url = session.remote.url
        pin = Pin(ref.lower(), "commit") if ref and is_full_commit(ref) else None
        if pin is None:
            output = await session.run("ls-remote", "--symref", "--", url, *patterns(ref))
            pin = pick(parse_listing(output), ref) or await self._rarer(mirror, session, ref)
        if await mirror.commit(pin.commit) is None:
            await mirror.fetch(session, pin.commit, self._log.write)
        commit = await mirror.commit(pin.commit)
        if commit is None:
            raise JobError(
                Cause.SOURCE_NOT_FOUND, f"Git: {url}: '{ref or 'HEAD'}' does not name a commit."
            )
        return Pin(commit, pin.found_as)

    async def _rarer(self, mirror: Mirror, session: Session, ref: str | None) -> Pin:
        """The beginning of a commit needs the history; anything else is not there."""
        url = session.remote.url
        listing = parse_listing(await session.run("ls-remote", "--symref", "--", url))
        if ref is None or not listing.refs or not is_short_commit(ref):
            raise not_found(url, ref, listing)
        short = ref.lower()
        tips = {commit for commit in listing.refs.values() if commit.startswith(short)}
        if len(tips) == 1:
            return Pin(tips.pop(), "commit")
        await mirror.fetch_everything(session, self._log.write)
        found = await mirror.commit(short)
        if found is None:
            raise not_found(url, ref, listing)
        return Pin(found, "commit")

    async def submodules(self, remote: Remote, commit: str, into: Path, depth: int) -> None:
        """Fetch what lies inside, each under the same rules as a repository of its own."""
        async with self._mirrors.held(remote, self._entity) as mirror:
            inside = await submodules(mirror, commit, remote)
        if inside and depth >= _DEEPEST_SUBMODULE:
            raise JobError(
                Cause.SOURCE_INVALID,
                f"Git: {remote.url}: submodules lie deeper than {_DEEPEST_SUBMODULE} levels.",
            )
        for each in inside:
            inner = parse_remote(each.url, self._access.program.config.protocols)
            target = into / each.path
            await self.repository(inner, each.commit, target)
            await self.submodules(inner, each.commit, target, depth + 1)


def _empty(folder: Path) -> None:
    """Remove everything in a folder that a broken checkout began to fill."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
