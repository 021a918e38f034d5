"""Git jobs: a repository at a pinned commit, or the repository of a local checkout."""

import os
import tempfile
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from agent.config.base import SecretReference
from agent.config.execution import GitConfig, GitCredential
from agent.jobs.draft import JobDraft, check_tree, command_words
from agent.jobs.request import JobRequest
from agent.model.cause import Cause
from agent.model.errors import InvalidInputError, JobError
from agent.model.job import names
from agent.model.job.entry_point import program_of
from agent.model.job.job_file import PATCH_NAME
from agent.model.job.names import stored_remote
from agent.model.job.paths import inside
from agent.model.spec import GitSource
from agent.sources.address_policy import AddressPolicy
from agent.sources.git.checkout import apply_patch
from agent.sources.git.command import GitProgram
from agent.sources.git.errors import CorruptMirrorError
from agent.sources.git.source import GitFetcher
from agent.system.tasks import in_thread

_MAX_DIFF_BYTES: Final = 32 << 20
#: Paths of files that are left out which a remark names.
_SHOWN: Final = 5
#: The form that `git apply` takes, whatever the checkout's own configuration says. Submodules are
#: commits, which a patch cannot change.
_DIFF: Final = (
    "diff", "--patch", "--binary", "--full-index", "--no-ext-diff", "--no-textconv", "--no-color",
    "--src-prefix=a/", "--dst-prefix=b/", "--no-relative", "--unified=3", "--inter-hunk-context=0",
    "--submodule=short", "--ignore-submodules=all", "-O/dev/null",
)  # fmt: skip
_STATUS: Final = (
    "status", "--porcelain=v2", "-z", "--no-branch", "--no-show-stash", "--untracked-files=no",
    "--ignore-submodules=none", "--no-renames", "--no-column",
)  # fmt: skip
#: Contents of Git LFS are compared as the pointers that are committed for them.
_AS_AUTHOR: Final = (
    "-c",
    "core.quotePath=false",
    "-c",
    "filter.lfs.process=git-lfs filter-process",
)


class _NoLog:
    """`LogSink` that discards: what git prints matters only when it fails, in the error."""

    async def write(self, data: bytes) -> None:
        """Discard."""


@dataclass(frozen=True, slots=True)
class Repositories:
    """Access to repositories: with the agent's configuration and the user's credentials."""

    config: GitConfig
    cache: Path
    environment: Mapping[str, str] = field(repr=False)
    threads: Executor

    async def draft(self, request: JobRequest, changes: bytes = b"") -> JobDraft:
        """A job of a repository; its commit is pinned now.

        `changes` is a patch, applied before the files are checked, as the agent does it.

        Raises:
            InvalidInputError: no such branch, tag or commit; a path that is not there; a file
                that is malformed; changes that do not apply; the server cannot be reached or
                wants other credentials.
        """
        remarks: list[str] = []
        remote = stored_remote(request.path)
        if remote != request.path:
            remarks.append("The password in the URL is used now and not stored with the job.")
        words, notes = command_words(request.entry_point, request.dockerfile)
        # Files in LFS are left to the agent: no file that is checked here is that large.
        source = GitSource(
            url=remote, ref=request.git_version, submodules=request.submodules is True
        )
        with tempfile.TemporaryDirectory(prefix="launch-job-") as scratch:
            into = Path(scratch) / "source"
            await in_thread(self.threads, lambda _: into.mkdir())
            try:
                tree = await self._fetcher(request.path).fetch(
                    source, request.entity, into, _NoLog()
                )
                await self._apply(changes, into)
            except JobError as error:
                raise InvalidInputError(error.message, hint=error.hint) from error
            runtime, found = await in_thread(
                self.threads, lambda _: check_tree(request, into, words)
            )
        context = inside(request.build_context, "build context") if request.build_context else ""
        remarks += [*notes, f"Commit {tree.commit}.", *found]
        return JobDraft(
            request=request,
            name=request.name or names.git_job_name(request.path, program_of(words, context)),
            words=words,
            runtime=runtime.python,
            pinned=(remote, str(tree.commit)),
            remarks=tuple(remarks),
        )

    async def _apply(self, changes: bytes, root: Path) -> None:
        if changes:
            patch = root.parent / PATCH_NAME
            await in_thread(self.threads, lambda _: patch.write_bytes(changes))
            await apply_patch(root, patch, _NoLog())

    def _fetcher(self, url: str) -> GitFetcher:
        """Fetches with the user and password that a URL has, if it has them."""
        config = self.config
        if stored_remote(url) != url:
            parts = urlsplit(url)
            credential = GitCredential(
                url=stored_remote(url),
                username=unquote(parts.username or ""),
                password=SecretReference(value=SecretStr(unquote(parts.password or ""))),
            )
            config = config.model_copy(update={"credentials": (*config.credentials, credential)})
        policy = AddressPolicy(None, embedded=True)  # the user's own machine and repository
        return GitFetcher(
            config, self.cache, policy=policy, threads=self.threads, environment=self.environment
        )

    async def draft_checkout(self, request: JobRequest) -> JobDraft | str:
        """A Git job of the repository that a directory is a checkout of, or why there is none.

        Raises:
            InvalidInputError: as `draft`, once the checkout itself is in order.
        """
        checkout = await self._read_checkout(request.path)
        if isinstance(checkout, str):
            return checkout
        if checkout.diff and not request.with_diff:
            return "it has uncommitted changes (commit them, or add --diff to include them)"
        if len(checkout.diff) > _MAX_DIFF_BYTES:
            return "its uncommitted changes are larger than 32 MiB"
        asked = replace(
            request,
            kind="git",
            path=checkout.remote,
            git_version=checkout.commit,
            build_context=request.build_context or checkout.folder or None,
        )
        reason = await self._why_not_fetchable(asked, checkout)
        if reason is not None:
            return reason
        draft = await self.draft(asked, checkout.diff)
        remarks = list(draft.remarks)
        if checkout.diff:
            remarks.append("Uncommitted changes are stored as `diff.patch` and applied when built.")
        remarks += checkout.left_out
        return replace(draft, diff=checkout.diff or None, remarks=tuple(remarks))

    async def _read_checkout(self, directory: str) -> "_Checkout | str":
        """The remote and commit of a checkout, or why it cannot be fetched from elsewhere."""
        program = GitProgram(self.config, self.environment)
        where = await in_thread(self.threads, lambda _: str(Path(directory).expanduser()))

        async def git(*arguments: str) -> str | None:
            try:
                return await program.local("-C", where, *arguments)
            except (JobError, CorruptMirrorError):
                return None

        place = await git("rev-parse", "--show-toplevel", "--show-prefix")
        if place is None:
            return "it is no checkout of a Git repository"
        commit = await git("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        if commit is None:
            return "its repository has no commit yet"
        remotes = (await git("remote") or "").split()
        if not remotes:
            return "its repository has no remote"
        chosen = "origin" if "origin" in remotes else remotes[0]
        # Not `remote get-url`, which refuses an address with a password in it.
        remote = await git("config", "--get", f"remote.{chosen}.url")
        with tempfile.TemporaryDirectory(prefix="launch-job-") as scratch:
            patch = Path(scratch) / PATCH_NAME
            changed = await git(*_AS_AUTHOR, *_DIFF, f"--output={patch}", "HEAD", "--", ":/")
            if changed is None:
                return "its uncommitted changes cannot be read"
            diff = await in_thread(self.threads, lambda _: _read(patch))
        others = await git(
            "ls-files", "--others", "--exclude-standard", "--full-name", "-z", "--", ":/"
        )
        flagged = await git("ls-files", "--full-name", "-v", "-z", "--", ":/")
        status = await git(*_AS_AUTHOR, *_STATUS)
        top = Path(place.splitlines()[0])
        hidden = await in_thread(self.threads, lambda _: _hidden(top, flagged or ""))
        return _Checkout(
            remote=(remote or "").strip(),
            commit=commit.strip(),
            folder="/".join(place.splitlines()[1:2]).strip("/"),
            diff=diff,
            left_out=(
                *_counted((others or "").split("\0")[:-1], "untracked and not part of the job"),
                *_counted(
                    hidden,
                    "hidden from git (assume-unchanged, skip-worktree): changes in "
                    "them are not part of the job",
                ),
                *(
                    f"Changes in the submodule '{path}' are not part of the job: commit and push "
                    "them there, and commit the submodule here."
                    for path in _changed_submodules(status or "")
                ),
            ),
        )

    async def _why_not_fetchable(self, request: JobRequest, checkout: "_Checkout") -> str | None:
        """Why an agent could not fetch the commit.

        Raises:
            InvalidInputError: unknown, since the server cannot be reached.
        """
        remote = stored_remote(checkout.remote)
        source = GitSource(url=remote, ref=checkout.commit)
        with tempfile.TemporaryDirectory(prefix="launch-job-") as scratch:
            try:
                fetcher = self._fetcher(checkout.remote)
                await fetcher.fetch(source, request.entity, Path(scratch), _NoLog())
            except JobError as error:
                match error.cause:
                    case Cause.SOURCE_NOT_FOUND:
                        return f"its commit {checkout.commit[:12]} is not at {remote} (push it)"
                    case Cause.SOURCE_INVALID | Cause.POLICY_SOURCE:
                        return error.message.rstrip(".")
                    case _:
                        raise InvalidInputError(error.message, hint=error.hint) from error
        return None


@dataclass(frozen=True, slots=True)
class _Checkout:
    remote: str
    commit: str
    #: Of the directory below the checkout's root.
    folder: str
    #: Uncommitted changes; empty when there are none.
    diff: bytes
    #: What of the author's work is not part of the job, in sentences.
    left_out: tuple[str, ...]


def _read(patch: Path) -> bytes:
    """A patch up to the size that is refused; git writes no file where nothing changed."""
    if not patch.exists():
        return b""
    with patch.open("rb") as file:
        return file.read(_MAX_DIFF_BYTES + 1)


def _hidden(top: Path, flagged: str) -> list[str]:
    """Files that exist and that git does not compare, of `git ls-files -v -z`. Blocks."""
    entries = (entry.partition(" ") for entry in flagged.split("\0") if entry)
    return [
        path
        for tag, _, path in entries
        if (tag == "S" or tag.islower()) and os.path.lexists(top / path)
    ]


def _changed_submodules(status: str) -> list[str]:
    """Paths of `git status --porcelain=v2 -z` whose third field says `S…`."""
    fields = (entry.split(" ", 8) for entry in status.split("\0") if entry.startswith("1 "))
    return [field[8] for field in fields if field[2].startswith("S")]


def _counted(paths: list[str], what: str) -> list[str]:
    if not paths:
        return []
    shown = ", ".join(paths[:_SHOWN]) + (", …" if len(paths) > _SHOWN else "")
    files = "1 file is" if len(paths) == 1 else f"{len(paths)} files are"
    return [f"{files} {what}: {shown}."]
