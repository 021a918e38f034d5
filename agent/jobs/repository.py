"""Git jobs: a repository at a pinned commit, and what a local checkout can give."""

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
from agent.jobs.drafting import command_words, draft_tree
from agent.jobs.new_job import Draft, NewJob
from agent.model.cause import Cause
from agent.model.errors import InvalidInputError, JobError
from agent.model.job import names
from agent.model.job.entry_point import program_of
from agent.model.job.job_file import PATCH_NAME
from agent.model.job.names import stored_remote
from agent.model.job.paths import inside
from agent.model.spec import GitSource
from agent.sources.git.command import GitProgram
from agent.sources.git.failures import CorruptMirrorError
from agent.sources.git.source import GitFetcher
from agent.sources.patch import apply_patch
from agent.system.threads import in_thread

_LONGEST_DIFF: Final = 32 << 20
#: Contents of Git LFS are compared as the pointers that are committed for them.
_AS_AUTHOR: Final = (
    "-c",
    "core.quotePath=false",
    "-c",
    "filter.lfs.process=git-lfs filter-process",
)


class Quiet:
    """A log that nobody reads: what git says only matters when it fails."""

    async def write(self, data: bytes) -> None:
        """Take the bytes and forget them."""


@dataclass(frozen=True, slots=True)
class Repositories:
    """How this machine reaches repositories: as the agent does, with the user's credentials."""

    config: GitConfig
    cache: Path
    environment: Mapping[str, str] = field(repr=False)
    threads: Executor

    async def draft(self, wanted: NewJob, changes: bytes = b"") -> Draft:
        """A job of a repository; its commit is pinned now.

        `changes` is a patch: the tree is looked at as the agent will see it.

        Raises:
            InvalidInputError: no such branch, tag or commit; a path that is not there; a file
                that is malformed; changes that do not apply; the server cannot be reached or
                wants other credentials.
        """
        remarks: list[str] = []
        remote = stored_remote(wanted.path)
        config = self.config
        if remote != wanted.path:
            config = _with_credential(config, wanted.path)
            remarks.append("The password in the URL is used now and not stored with the job.")
        words, said = command_words(wanted.entry_point, wanted.dockerfile)
        with tempfile.TemporaryDirectory(prefix="launch-job-") as scratch:
            into = Path(scratch) / "source"
            commit = await self._fetch(config, remote, wanted, into)
            await self._apply(changes, into)
            found = await in_thread(self.threads, lambda _: draft_tree(wanted, into, words))
        context = inside(wanted.build_context, "build context") if wanted.build_context else ""
        remarks += [*said, f"Commit {commit}; Python {found.python}, by {found.origin}."]
        return Draft(
            name=wanted.name or names.git_job_name(wanted.path, program_of(words, context)),
            words=words,
            runtime=found.python,
            pinned=(remote, commit),
            remarks=tuple(remarks),
        )

    async def _fetch(self, config: GitConfig, remote: str, wanted: NewJob, into: Path) -> str:
        git = GitFetcher(
            config, self.cache, embedded=True, threads=self.threads, environment=self.environment
        )
        # `user@` in front of an HTTPS host is fine; only passwords are refused by the source.
        # Files in LFS are left to the agent: nothing that is looked at here is that large.
        source = GitSource(url=remote, ref=wanted.git_version, submodules=wanted.submodules is True)
        await in_thread(self.threads, lambda _: into.mkdir())
        try:
            tree = await git.fetch(source, wanted.entity, into, Quiet())
        except JobError as error:
            raise InvalidInputError(error.message, hint=error.hint) from error
        return str(tree.commit)

    async def _apply(self, changes: bytes, root: Path) -> None:
        if not changes:
            return
        patch = root.parent / PATCH_NAME
        await in_thread(self.threads, lambda _: patch.write_bytes(changes))
        try:
            await apply_patch(root, patch, self.threads, Quiet())
        except JobError as error:
            raise InvalidInputError(error.message, hint=error.hint) from error


@dataclass(frozen=True, slots=True)
class Checkout:
    """A local checkout as the far end knows it."""

    remote: str
    commit: str
    #: Of the directory below the checkout's root.
    folder: str
    #: Uncommitted changes, if there are any.
    diff: bytes
    untracked: int


async def draft_checkout(
    repositories: Repositories, wanted: NewJob, *, with_diff: bool
) -> tuple[Draft, NewJob] | str:
    """A Git job of a local checkout and what it was made from, or why it can be none.

    Raises:
        InvalidInputError: as `Repositories.draft`, once the checkout itself is in order.
    """
    found = await look_at(repositories, wanted.path)
    if not isinstance(found, Checkout):
        return found
    if found.diff and not with_diff:
        return "it has uncommitted changes (commit them, or add --diff to take them along)"
    if len(found.diff) > _LONGEST_DIFF:
        return "its uncommitted changes are larger than 32 MiB"
    asked = replace(
        wanted,
        kind="git",
        path=found.remote,
        git_version=found.commit,
        build_context=wanted.build_context or found.folder or None,
    )
    why_not = await _why_not_fetchable(repositories, asked, found)
    if why_not is not None:
        return why_not
    draft = await repositories.draft(asked, found.diff)
    remarks = list(draft.remarks)
    if found.diff:
        remarks.append("Uncommitted changes are stored as `diff.patch` and applied when built.")
    if found.untracked:
        many = found.untracked
        told = "1 untracked file is" if many == 1 else f"{many} untracked files are"
        remarks.append(f"{told} not part of the job.")
    return replace(draft, diff=found.diff or None, remarks=tuple(remarks)), asked


async def look_at(repositories: Repositories, directory: str) -> Checkout | str:
    """What a directory is a checkout of, or why it is none that others could fetch."""
    program = GitProgram(repositories.config, repositories.environment)
    where = await in_thread(repositories.threads, lambda _: str(Path(directory).expanduser()))

    async def ask(*arguments: str) -> str | None:
        try:
            return await program.local("-C", where, *arguments)
        except (JobError, CorruptMirrorError):
            return None

    top = await ask("rev-parse", "--show-toplevel", "--show-prefix")
    if top is None:
        return "it is no checkout of a Git repository"
    commit = await ask("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if commit is None:
        return "its repository has no commit yet"
    remotes = (await ask("remote") or "").split()
    if not remotes:
        return "its repository has no remote"
    chosen = "origin" if "origin" in remotes else remotes[0]
    # Not `remote get-url`, which refuses an address with a password in it.
    remote = await ask("config", "--get", f"remote.{chosen}.url")
    with tempfile.TemporaryDirectory(prefix="launch-job-") as scratch:
        patch = Path(scratch) / PATCH_NAME
        changed = await ask(*_AS_AUTHOR, "diff", "--no-ext-diff", "--no-color",
                            "--no-textconv", "--binary", f"--output={patch}", "HEAD", "--"
                            )  # fmt: skip
        if changed is None:
            return "its uncommitted changes cannot be read"
        diff = await in_thread(repositories.threads, lambda _: _read(patch))
    others = await ask("ls-files", "--others", "--exclude-standard", "-z")
    return Checkout(
        remote=(remote or "").strip(),
        commit=commit.strip(),
        folder="/".join(top.splitlines()[1:2]).strip("/"),
        diff=diff,
        untracked=(others or "").count("\0"),
    )


def _read(patch: Path) -> bytes:
    """As much as is looked at; git writes no file where nothing changed."""
    if not patch.exists():
        return b""
    with patch.open("rb") as file:
        return file.read(_LONGEST_DIFF + 1)


async def _why_not_fetchable(
    repositories: Repositories, asked: NewJob, found: Checkout
) -> str | None:
    """Why an agent could not fetch the commit; that the far end is away is the caller's error."""
    remote = stored_remote(found.remote)
    config = repositories.config
    git = GitFetcher(
        config if remote == found.remote else _with_credential(config, found.remote),
        repositories.cache,
        embedded=True,
        threads=repositories.threads,
        environment=repositories.environment,
    )
    with tempfile.TemporaryDirectory(prefix="launch-job-") as scratch:
        try:
            source = GitSource(url=remote, ref=found.commit)
            await git.fetch(source, asked.entity, Path(scratch), Quiet())
        except JobError as error:
            match error.cause:
                case Cause.SOURCE_NOT_FOUND:
                    return f"its commit {found.commit[:12]} is not at {remote} (push it)"
                case Cause.SOURCE_INVALID | Cause.POLICY_SOURCE:
                    return error.message.rstrip(".")
                case _:
                    raise InvalidInputError(error.message, hint=error.hint) from error
    return None


def _with_credential(config: GitConfig, url: str) -> GitConfig:
    """The configuration with the user and password of this very URL."""
    parts = urlsplit(url)
    given = GitCredential(
        url=stored_remote(url),
        username=unquote(parts.username or ""),
        password=SecretReference(value=SecretStr(unquote(parts.password or ""))),
    )
    return config.model_copy(update={"credentials": (*config.credentials, given)})
