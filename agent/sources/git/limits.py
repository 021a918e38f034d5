"""Limits of what one fetch may bring: bytes of a transfer, files and bytes of a commit."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from agent.config.execution import GitConfig
from agent.model.cause import Cause
from agent.model.errors import PolicyError
from agent.model.units import format_size
from agent.sources.git.mirror import Mirror
from agent.system.tasks import cancel_task, in_thread

#: Seconds between two looks at what a transfer has written.
_LOOK_EVERY: Final = 0.5
#: Files that git itself makes: packs, indexes, locks, references.
_OWN_FILES: Final = 100

Kind = Literal["git", "lfs"]


class TooMuchError(PolicyError):
    """A repository is larger than the agent fetches."""


class Amount(NamedTuple):
    """Files and their bytes."""

    files: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """The limits of one fetch; a repository and its submodules share them."""

    config: GitConfig
    threads: Executor
    #: What each checkout has, so that one that is repeated does not count twice.
    _checked: dict[tuple[Kind, Path], Amount] = field(default_factory=dict)

    async def transfer(
        self, kind: Kind, url: str, folder: Path, run: Callable[[], Coroutine[Any, Any, object]]
    ) -> None:
        """Run a transfer that writes below `folder`; it is ended when it has brought too much.

        Raises:
            TooMuchError
        """
        before = await self._written(folder)
        task = asyncio.create_task(run(), name="git transfer")
        try:
            done = False
            while not done:
                done = bool((await asyncio.wait({task}, timeout=_LOOK_EVERY))[0])
                now = await self._written(folder)
                brought = Amount(now.files - before.files, now.size - before.size)
                files = max(0, brought.files - _OWN_FILES)
                self._check(kind, Amount(files, brought.size), f"{url}: a transfer of")
            await task
        finally:
            if not task.done():
                await cancel_task(task)

    async def commit(self, url: str, mirror: Mirror, commit: str, into: Path) -> None:
        """Check the files of a commit before any of them is written.

        The listing is read as it comes: a few trees that refer to each other list more files
        than any disk has.

        Raises:
            TooMuchError, JobError
        """
        earlier = self._others("git", into)
        files = size = 0
        rest = b""

        async def count(data: bytes) -> None:
            nonlocal files, size, rest
            *entries, rest = (rest + data).split(b"\0")
            sizes = [entry.partition(b"\t")[0].split()[-1] for entry in entries]
            files += len(sizes)
            size += sum(int(each) for each in sizes if each.isdigit())
            total = Amount(earlier.files + files, earlier.size + size)
            self._check("git", total, f"{url}: a commit of at least")

        listing = ("ls-tree", "-r", "-l", "-z", "--full-tree", commit)
        await mirror.program.read_local(count, *listing, GIT_DIR=str(mirror.repository))
        self._checked["git", into] = Amount(files, size)

    def large_files(self, url: str, sizes: Sequence[int], into: Path) -> None:
        """Check files in Git LFS; their pointers name the sizes, and other sizes are refused.

        Raises:
            TooMuchError
        """
        earlier, own = self._others("lfs", into), Amount(len(sizes), sum(sizes))
        total = Amount(earlier.files + own.files, earlier.size + own.size)
        self._check("lfs", total, f"{url} refers to")
        self._checked["lfs", into] = own

    def _check(self, kind: Kind, amount: Amount, seen: str) -> None:
        if kind == "lfs":
            name, files, size = "Git LFS", "max_lfs_files", "max_lfs_size"
            allowed = Amount(self.config.max_lfs_files, self.config.max_lfs_size)
        else:
            name, files, size = "Git", "max_files", "max_size"
            allowed = Amount(self.config.max_files, self.config.max_size)
        if amount.files > allowed.files or amount.size > allowed.size:
            raise TooMuchError(
                Cause.POLICY_SOURCE,
                f"{name}: {seen} {amount.files} files with {format_size(amount.size)}; this agent "
                f"allows {allowed.files} files with {format_size(allowed.size)}.",
                hint=f"The administrator can raise `sources.git.{files}` and `{size}`.",
            )

    def _others(self, kind: Kind, into: Path) -> Amount:
        others = (place for place in self._checked if place[0] == kind and place[1] != into)
        found = [self._checked[place] for place in others]
        return Amount(sum(each.files for each in found), sum(each.size for each in found))

    async def _written(self, folder: Path) -> Amount:
        return await in_thread(self.threads, lambda _: _files_below(folder))


def _files_below(folder: Path) -> Amount:
    """Files as they are now; those that vanish meanwhile do not count."""
    files = size = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                size += (Path(root) / name).lstat().st_size
            except FileNotFoundError:
                continue
            files += 1
    return Amount(files, size)
