"""Bare mirrors, one per entity and URL, that make the second fetch small.

A mirror holds shallow commits under `refs/launch/`; a fetch tells the server what is there
and gets the difference. One lock per mirror, held while anybody fetches into it or reads
from it; what a killed git left behind is removed by the next holder.
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
from agent.sources.git.failures import CorruptMirrorError
from agent.sources.git.remote import Remote
from agent.system import cache
from agent.system.child import Consumer
from agent.system.locks import locked, locked_if_free
from agent.system.threads import in_thread

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
#: What servers say that give out only what a reference points at.
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
        """The full commit of a complete or short one that is here."""
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
            JobError: see `agent.sources.git.failures`.
            CorruptMirrorError: start anew.
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
    async def held(self, remote: Remote, entity: str) -> AsyncIterator[Mirror]:
        """The mirror of a remote, made if need be, with its lock.

        The entity is part of its name: what one fetched is no other's to find.
        """
        key = hashlib.sha256(f"{entity}\n{remote.url}".encode()).hexdigest()[:40]
        async with locked(self._lock(key)):
            mirror = Mirror(self.root / key, self.program)
            await self._make(mirror)
            yield mirror

    async def renew(self, mirror: Mirror) -> None:
        """Throw a damaged mirror away and make it anew; the caller holds its lock."""
        await in_thread(self.threads, lambda _: shutil.rmtree(mirror.folder, ignore_errors=True))
        await self._make(mirror)

    async def _make(self, mirror: Mirror) -> None:
        """A repository that git can fetch into; one that is there stays."""
        await in_thread(self.threads, lambda _: _tidy(mirror))
        await self.program.local(
            "init", "--quiet", "--bare", "--template=", "--", str(mirror.repository)
        )

    async def prune(self, max_age: float, max_bytes: int) -> int:
        """Remove mirrors by last use and size, never one that is held; give the bytes freed."""
        return await in_thread(self.threads, lambda _: self._prune(max_age, max_bytes))

    def _prune(self, max_age: float, max_bytes: int) -> int:
        chosen = cache.surplus(cache.entries(self.root), max_age, max_bytes, fresh=0)
        freed = 0
        for entry in chosen:
            with locked_if_free(self._lock(entry.folder.name)) as ours:
                if ours:
                    shutil.rmtree(entry.folder, ignore_errors=True)
                    freed += entry.size
        return freed

    def _lock(self, key: str) -> Path:
        return self.root / f"{key}.lock"


def _tidy(mirror: Mirror) -> None:
    """Under the lock nobody else works here: locks and halves of packs are leftovers."""
    mirror.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    cache.mark_used(mirror.folder)
    for pattern in _LEFTOVERS:
        for leftover in mirror.repository.glob(pattern):
            leftover.unlink(missing_ok=True)
