"""From a branch, tag or commit to a pinned commit, fetched into a bare mirror.

There is one mirror per entity and URL. It holds shallow commits under `refs/launch/`; a fetch
transfers only what is missing. Its lock is held while a job fetches into it or reads from it; the
next holder removes what a killed git left behind.
"""

import hashlib
import re
import shutil
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.names import did_you_mean
from agent.sources.git.access import Session
from agent.sources.git.command import GitProgram
from agent.sources.git.errors import CorruptMirrorError
from agent.sources.git.remote import Remote
from agent.system import cache
from agent.system.child import Consumer
from agent.system.locks import locked as file_lock
from agent.system.locks import locked_if_free
from agent.system.tasks import in_thread

_LEFTOVERS: Final = (
    "*.lock",
    "refs/launch/*.lock",
    "objects/info/*.lock",
    "objects/pack/tmp_*",
    "objects/tmp_*",
    "objects/pack/*.lock",
)
_FETCH: Final = (
    "fetch",
    "--progress",
    "--no-tags",
    "--no-write-fetch-head",
    "--no-recurse-submodules",
    "--no-auto-maintenance",
)
_EVERYTHING: Final = ("+refs/heads/*:refs/all/heads/*", "+refs/tags/*:refs/all/tags/*")
#: Messages of servers that serve only commits which a reference points at.
_NEEDS_REFERENCE: Final = ("unadvertised object", "dumb http", "does not support shallow")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SHORT: Final = re.compile(r"[0-9a-f]{4,39}")
#: What git allows in no reference.
_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.lock(/|$)|/$|\.$|^/")


@dataclass(frozen=True, slots=True)
class Mirror:
    """One mirror whose lock is held."""

    folder: Path
    program: GitProgram

    @property
    def repository(self) -> Path:
        """The bare repository."""
        return self.folder / "repository.git"

    async def commit(self, name: str) -> str | None:
        """The full id of a commit in the mirror, from a full or short id."""
        try:
            found = await self.program.local(
                "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}",
                GIT_DIR=str(self.repository),
            )  # fmt: skip
        except (JobError, CorruptMirrorError):
            return None
        return found.strip()

    async def fetch(self, session: Session, commit: str, progress: Consumer) -> None:
        """Fetch one commit without its history.

        Raises:
            JobError, CorruptMirrorError: see `agent.sources.git.errors`.
        """
        refspec = f"+{commit}:refs/launch/{commit}"
        try:
            await self._fetch(session, ("--depth=1",), (refspec,), progress)
        except JobError as error:
            if not any(reason in error.message for reason in _NEEDS_REFERENCE):
                raise
            await self.fetch_everything(session, progress)

    async def fetch_everything(self, session: Session, progress: Consumer) -> None:
        """Fetch all branches and tags with their history."""
        shallow = await self.program.local(
            "rev-parse", "--is-shallow-repository", GIT_DIR=str(self.repository)
        )
        depth = ("--unshallow",) if shallow.strip() == "true" else ()
        await self._fetch(session, depth, _EVERYTHING, progress)

    async def _fetch(
        self,
        session: Session,
        options: tuple[str, ...],
        refspecs: tuple[str, ...],
        progress: Consumer,
    ) -> None:
        where = f"--git-dir={self.repository}"
        arguments = (where, *_FETCH, *options, "--", session.remote.url, *refspecs)
        await session.run(*arguments, progress=progress)


@dataclass(frozen=True, slots=True)
class MirrorCache:
    """All mirrors of an agent."""

    root: Path
    program: GitProgram
    threads: Executor

    @asynccontextmanager
    async def locked(self, remote: Remote, entity: str) -> AsyncIterator[Mirror]:
        """The mirror of a remote, created if it does not exist, with its lock held.

        Each entity has its own, so that none reads what another one fetched.
        """
        key = hashlib.sha256(f"{entity}\n{remote.url}".encode()).hexdigest()[:40]
        async with file_lock(self._lock(key)):
            mirror = Mirror(self.root / key, self.program)
            await self._make(mirror)
            yield mirror

    async def recreate(self, mirror: Mirror) -> None:
        """Delete a damaged mirror and create it again; the caller holds its lock."""
        await in_thread(self.threads, lambda _: shutil.rmtree(mirror.folder, ignore_errors=True))
        await self._make(mirror)

    async def _make(self, mirror: Mirror) -> None:
        """Create the repository if it does not exist."""
        await in_thread(self.threads, lambda _: _tidy(mirror))
        await self.program.local(
            "init", "--quiet", "--bare", "--template=", "--", str(mirror.repository)
        )

    async def prune(self, max_age: float, max_bytes: int) -> int:
        """Remove mirrors by last use and size, except those in use; returns the bytes freed."""
        return await in_thread(self.threads, lambda _: self._prune(max_age, max_bytes))

    def _prune(self, max_age: float, max_bytes: int) -> int:
        chosen = cache.surplus(cache.entries(self.root), max_age, max_bytes, fresh=0)
        freed = 0
        for entry in chosen:
            with locked_if_free(self._lock(entry.folder.name)) as acquired:
                if acquired:
                    shutil.rmtree(entry.folder, ignore_errors=True)
                    freed += entry.size
        return freed

    def _lock(self, key: str) -> Path:
        return self.root / f"{key}.lock"


def _tidy(mirror: Mirror) -> None:
    """Remove lock files and partial packs, which under our lock can only be left over."""
    mirror.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    cache.mark_used(mirror.folder)
    for pattern in _LEFTOVERS:
        for leftover in mirror.repository.glob(pattern):
            leftover.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Pin:
    """A commit, and how it was found: `branch main`, `tag v1.2`, `commit`."""

    commit: str
    found_as: str


@dataclass(frozen=True, slots=True)
class RemoteRefs:
    """The output of `git ls-remote --symref`."""

    #: Full reference name to object; peeled tags end in `^{}`.
    objects: dict[str, str]
    #: Branch that HEAD points at.
    default: str | None

    @property
    def names(self) -> list[str]:
        """Branches and tags, in their short form."""
        heads = (re.sub(r"^refs/(heads|tags)/", "", ref) for ref in self.objects)
        return sorted({name for name in heads if not name.endswith("^{}") and name != "HEAD"})


def parse_refs(output: str) -> RemoteRefs:
    """Read the output of `git ls-remote --symref`."""
    objects: dict[str, str] = {}
    default = None
    for line in output.splitlines():
        value, _, name = line.partition("\t")
        if not value.startswith("ref: "):
            objects[name] = value
        elif name == "HEAD":
            default = value.removeprefix("ref: ").removeprefix("refs/heads/")
    return RemoteRefs(objects, default)


def check_ref(url: str, ref: str | None) -> None:
    """Refuse what cannot be a reference, such as an option.

    Raises:
        JobError: `SOURCE_INVALID`.
    """
    if ref is None:
        return
    if not ref or ref.startswith("-") or _FORBIDDEN.search(ref):
        raise JobError(
            Cause.SOURCE_INVALID,
            f"Git: {url}: '{ref}' cannot be a branch, tag or commit.",
            hint="Write its name as `git branch`, `git tag` or `git log` shows it.",
        )


def is_full_commit(ref: str | None) -> bool:
    """Whether it is a full commit id."""
    return ref is not None and _COMMIT.fullmatch(ref.lower()) is not None


def is_short_commit(ref: str | None) -> bool:
    """Whether it may be the beginning of a commit id."""
    return ref is not None and _SHORT.fullmatch(ref.lower()) is not None


def ref_patterns(ref: str | None) -> tuple[str, ...]:
    """Patterns for `git ls-remote`, so that the server sends few references."""
    if ref is None:
        return ("HEAD",)
    if ref.startswith("refs/"):
        return (ref, f"{ref}^{{}}")
    plain = ref.removeprefix("origin/")
    kinds = ("heads", "tags")
    names = dict.fromkeys((ref, plain))
    return tuple(
        f"refs/{kind}/{name}{peeled}" for name in names for kind in kinds for peeled in ("", "^{}")
    )


def pick_commit(refs: RemoteRefs, ref: str | None) -> Pin | None:
    """The commit of a reference: branch, then tag (as W&B's agent and `git clone` do).

    A leading `origin/`, as W&B's jobs may have it, is ignored where no reference has that name.
    """
    if ref is None:
        commit = refs.objects.get("HEAD")
        return Pin(commit, f"default branch {refs.default or ''}".strip()) if commit else None
    if ref.startswith("refs/"):
        return _named(refs, ref, ref)
    for name in dict.fromkeys((ref, ref.removeprefix("origin/"))):
        found = _named(refs, f"refs/heads/{name}", f"branch {name}") or _named(
            refs, f"refs/tags/{name}", f"tag {name}"
        )
        if found is not None:
            return found
    return None


def ref_not_found(url: str, ref: str | None, refs: RemoteRefs) -> JobError:
    """The error for a reference that does not exist, with a similar one."""
    if not refs.objects:
        return JobError(
            Cause.SOURCE_NOT_FOUND, f"Git: {url}: the repository is empty; it has no commit yet."
        )
    if ref is None:
        return JobError(
            Cause.SOURCE_NOT_FOUND,
            f"Git: {url}: the repository has no default branch.",
            hint="Name a branch, tag or commit with `-g`.",
        )
    return JobError(
        Cause.SOURCE_NOT_FOUND,
        f"Git: {url}: there is no branch, tag or commit '{ref}'.",
        hint=did_you_mean(ref, refs.names, "branch"),
    )


def _named(refs: RemoteRefs, ref: str, found_as: str) -> Pin | None:
    commit = refs.objects.get(f"{ref}^{{}}") or refs.objects.get(ref)
    return Pin(commit, found_as) if commit else None
