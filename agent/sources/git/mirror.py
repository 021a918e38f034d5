"""Bare mirrors that jobs fetch commits into and read from.

There is one mirror per entity and URL. It holds shallow commits under `refs/launch/`; a fetch
transfers only what is missing. Its lock is held while a job fetches into it or reads from it; the
next holder removes what a killed git left behind.
"""

import hashlib
import shutil
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.model.errors import JobError
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
