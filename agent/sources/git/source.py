"""The git source: from a `GitSource` to a folder with its files."""

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
from agent.ports.log import LogSink, write_line
from agent.sources.address_policy import AddressPolicy
from agent.sources.git.access import Access, Session, remove_leftover_credentials
from agent.sources.git.checkout import checkout, submodules
from agent.sources.git.command import GitProgram
from agent.sources.git.errors import CorruptMirrorError
from agent.sources.git.lfs import LargeFiles
from agent.sources.git.limits import FetchLimits, TooMuchError
from agent.sources.git.mirror import Mirror, MirrorCache
from agent.sources.git.refs import (
    Pin,
    check_ref,
    is_full_commit,
    is_short_commit,
    parse_refs,
    pick_commit,
    ref_not_found,
    ref_patterns,
)
from agent.sources.git.remote import Remote, parse_remote
from agent.system.tasks import in_thread

_DEEPEST_SUBMODULE: Final = 8


class GitFetcher:
    """`SourcePort` for git repositories.

    `cache` is a folder for mirrors only.
    """

    def __init__(
        self,
        config: GitConfig,
        cache: Path,
        *,
        policy: AddressPolicy,
        threads: Executor,
        environment: Mapping[str, str],
    ) -> None:
        self._config = config
        self._threads = threads
        program = GitProgram(config, environment)
        private = cache / "private"
        self._access = Access(program, policy, private, threads)
        self._mirrors = MirrorCache(cache / "mirrors", program, threads)
        remove_leftover_credentials(private)

    async def fetch(self, source: GitSource, entity: str, into: Path, log: LogSink) -> SourceTree:
        """See `SourcePort`."""
        remote = parse_remote(source.url, self._config.protocols)
        check_ref(remote.url, source.ref)
        limits = FetchLimits(self._config, self._threads)
        large = LargeFiles(self._access, limits, self._threads, log) if source.lfs else None
        job = _Fetch(self._access, self._mirrors, limits, self._threads, entity, log, large)
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
        return SourceTree(root=into, identity=f"git+{remote.url}@{commit}", commit=commit)

    async def prune(self, max_age: float, max_bytes: int) -> int:
        """Remove mirrors (age in seconds); returns the bytes freed."""
        return await self._mirrors.prune(max_age, max_bytes)


class _Fetch:
    """One call of `fetch`: a repository and its submodules."""

    def __init__(
        self,
        access: Access,
        mirrors: MirrorCache,
        limits: FetchLimits,
        threads: Executor,
        entity: str,
        log: LogSink,
        large: LargeFiles | None,
    ) -> None:
        self._access = access
        self._mirrors = mirrors
        self._limits = limits
        self._threads = threads
        self._entity = entity
        self._log = log
        #: `None`: pointers of Git LFS are not replaced.
        self._large = large

    async def repository(self, remote: Remote, ref: str | None, into: Path) -> str:
        """Pin, fetch and check out; returns the commit. A damaged mirror is recreated once."""
        async with self._mirrors.locked(remote, self._entity) as mirror:
            try:
                return await self._check_out(mirror, remote, ref, into)
            except TooMuchError:
                await self._mirrors.recreate(mirror)
                raise
            except CorruptMirrorError as error:
                await write_line(
                    self._log, f"git: the mirror of {remote.url} is damaged and is created again"
                )
                await self._mirrors.recreate(mirror)
                await in_thread(self._threads, lambda _: _empty(into))
                return await self._again(mirror, remote, ref, into, error)

    async def _again(
        self, mirror: Mirror, remote: Remote, ref: str | None, into: Path, first: Exception
    ) -> str:
        try:
            return await self._check_out(mirror, remote, ref, into)
        except CorruptMirrorError:
            raise JobError(
                Cause.SOURCE_INVALID, f"Git: {remote.url}: the repository is damaged: {first}."
            ) from None

    async def _check_out(self, mirror: Mirror, remote: Remote, ref: str | None, into: Path) -> str:
        pin = await self._pin_in_mirror(mirror, ref)
        if pin is None:
            async with self._access.open(remote) as session:
                pin = await self._fetched(mirror, session, ref)
        await write_line(self._log, f"git: {remote.url} is at commit {pin.commit} ({pin.found_as})")
        await self._limits.commit(remote.url, mirror, pin.commit, into)
        paths = await checkout(mirror, pin.commit, into, self._threads)
        if paths and self._large is not None:
            await self._large.fill(mirror, remote, pin.commit, into, paths)
        elif paths:
            await write_line(
                self._log, "git: files in Git LFS are not fetched: the job sees their pointers"
            )
        return pin.commit

    async def _pin_in_mirror(self, mirror: Mirror, ref: str | None) -> Pin | None:
        """A full commit id that the mirror has needs no request to the server."""
        if ref is None or not is_full_commit(ref):
            return None
        commit = await mirror.commit(ref.lower())
        return Pin(commit, "commit, in the mirror") if commit else None

    async def _fetched(self, mirror: Mirror, session: Session, ref: str | None) -> Pin:
        url = session.remote.url
        pin = Pin(ref.lower(), "commit") if ref and is_full_commit(ref) else None
        if pin is None:
            output = await session.run("ls-remote", "--symref", "--", url, *ref_patterns(ref))
            pin = pick_commit(parse_refs(output), ref) or await self._pin_unlisted(
                mirror, session, ref
            )
        if await mirror.commit(pin.commit) is None:
            wanted = pin.commit
            await self._limits.transfer(
                "git", url, mirror.folder, lambda: mirror.fetch(session, wanted, self._log.write)
            )
        commit = await mirror.commit(pin.commit)
        if commit is None:
            raise JobError(
                Cause.SOURCE_NOT_FOUND, f"Git: {url}: '{ref or 'HEAD'}' does not name a commit."
            )
        return Pin(commit, pin.found_as)

    async def _pin_unlisted(self, mirror: Mirror, session: Session, ref: str | None) -> Pin:
        """Look up a short commit id, for which the history is needed; refuse anything else."""
        url = session.remote.url
        refs = parse_refs(await session.run("ls-remote", "--symref", "--", url))
        if ref is None or not refs.objects or not is_short_commit(ref):
            raise ref_not_found(url, ref, refs)
        short = ref.lower()
        tips = {commit for commit in refs.objects.values() if commit.startswith(short)}
        if len(tips) == 1:
            return Pin(tips.pop(), "commit")
        await self._limits.transfer(
            "git", url, mirror.folder, lambda: mirror.fetch_everything(session, self._log.write)
        )
        found = await mirror.commit(short)
        if found is None:
            raise ref_not_found(url, ref, refs)
        return Pin(found, "commit")

    async def submodules(self, remote: Remote, commit: str, into: Path, depth: int) -> None:
        """Fetch the submodules, each under the same rules as the repository."""
        async with self._mirrors.locked(remote, self._entity) as mirror:
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
    """Remove the files of an incomplete checkout."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
