"""Which packages a job needs: found, and read for an installer.

Looked up in the build context, beside the script, then at the source's root, in each:
`requirements.txt`, else a lock (`uv.lock`, `pylock.toml`), else `project.dependencies` of
`pyproject.toml`; after those of the context the job's `requirements.frozen.txt`, since what a run
had installed is more than a list beside its script. Lines that install from the source itself
(`-e .`, `libs/foo`, `--find-links wheels`) are set apart, since they need the code.
"""

import re
import subprocess
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from agent.builders.unread_dependencies import unread_dependencies, unread_locks
from agent.builders.uv import uv_program
from agent.model.cause import Cause
from agent.model.errors import InvalidInputError, JobError, PolicyError
from agent.model.job.entry_point import script_of
from agent.model.job.requirements import (
    FROZEN_NAME,
    RequirementLine,
    RequirementList,
    decode,
    project_dependencies,
    read_frozen,
    read_requirement_text,
    read_requirements,
    read_source_file,
    shown,
)
from agent.ports.builder import BuildRequest
from agent.ports.url import UrlPort
from agent.system.tasks import in_thread

_MAX_LOCK_BYTES: Final = 32 * 1024 * 1024
#: Seconds for uv to export a lock, and included URLs of one job.
_EXPORT: Final = 60.0
_MAX_URLS: Final = 20

LISTED: Final = "requirements.txt"
#: Names of the files that an installer gets besides.
LOCAL: Final = "local.txt"
#: Folders of packages. uv rebuilds them when they are arguments, and takes them from its
#: cache by the time of their project file when they are in a file.
FOLDERS: Final = "folders.txt"
CONSTRAINTS: Final = "constraints.txt"
PROJECT: Final = "pyproject.toml"
UV_LOCK: Final = "uv.lock"
PYLOCK: Final = "pylock.toml"
_STATED: Final = (LISTED, UV_LOCK, PYLOCK, PROJECT)

T = TypeVar("T")
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]+")


@dataclass(frozen=True, slots=True)
class Requirements:
    """What to install."""

    #: File it comes from, relative to the root; empty when there is none.
    found_in: str
    lines: tuple[RequirementLine, ...] = ()
    constraints: tuple[RequirementLine, ...] = ()
    #: Options for uv's command line.
    options: tuple[str, ...] = ()
    #: The list is complete: its packages are installed without asking what they need.
    exact: bool = False
    #: A frozen list: what cannot be installed is left out and reported, as W&B does.
    lenient: bool = False
    #: Packages of one accelerator's own index: its name (`cu121`) → lines.
    variants: tuple[tuple[str, tuple[str, ...]], ...] = ()
    #: A whole `pylock.toml`, in place of lines.
    pylock: str = ""
    #: Sentences for the log: what is not read, or has no effect.
    remarks: tuple[str, ...] = ()
    #: URLs that are included and were not fetched, with the lines that include them.
    unread: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.found_in)

    @property
    def warnings(self) -> tuple[str, ...]:
        """For the item: what is not read where nothing else names packages."""
        if self:
            return ()
        return tuple(f"build: no packages are installed: {remark}" for remark in self.remarks)

    def named_urls(self) -> Iterator[tuple[str, str]]:
        """URLs that an installer would fetch, each with the line that names it."""
        lines = ((line.text, line.where) for line in (*self.lines, *self.constraints))
        more = ((line, self.found_in) for _, lines in self.variants for line in lines)
        for text, where in (*lines, *more, (self.pylock, self.found_in)):
            for match in _URL.finditer(text):
                yield match[0], where

    @property
    def mode(self) -> str:
        """How the installing script treats the list."""
        return "frozen" if self.lenient else "exact" if self.exact else "resolve"

    @property
    def local(self) -> bool:
        """Whether something is installed from the source itself."""
        return any(line.path for line in (*self.lines, *self.constraints))

    def files(self, root: Path, base: Path, *, editable: bool = True) -> dict[str, str]:
        """Files of the installing script, whose source tree lies at `base`."""

        def text(lines: Iterable[RequirementLine]) -> str:
            rendered = (line.render(root.resolve(), base, editable=editable) for line in lines)
            return "".join(f"{line}\n" for line in rendered)

        return {
            LISTED: text(self.before_code),
            LOCAL: text(self._after_code) if self.local else "",
            FOLDERS: text(line for line in self.lines if line.is_package_folder),
            CONSTRAINTS: text(self.constraints),
            PYLOCK: self.pylock,
        }

    @property
    def before_code(self) -> tuple[RequirementLine, ...]:
        """Lines that can be installed where the source is not yet."""
        options = (line for line in self.lines if line.text.startswith("--"))
        if any(line.path for line in (*options, *self.constraints)):
            return ()
        return tuple(line for line in self.lines if line.path is None)

    @property
    def _after_code(self) -> tuple[RequirementLine, ...]:
        return tuple(line for line in self.lines if not line.is_package_folder)

    def where(self, file: str, number: int) -> str | None:
        """Where line `number` (from 1) of an installer's file comes from in the source."""
        known = {
            LISTED: self.before_code,
            LOCAL: self._after_code,
            CONSTRAINTS: self.constraints,
        }
        lines = known.get(file, ())
        return lines[number - 1].where if 0 < number <= len(lines) else None


NONE: Final = Requirements("")


async def fetch_requirements(
    request: BuildRequest,
    environment: Mapping[str, str],
    threads: Executor,
    urls: UrlPort | None,
) -> Requirements:
    """As `find_requirements`, with the content of included URLs and the agent's index strategy.

    Every URL that it names was checked.

    A strategy on the command line reaches containers too, and is a part of the content key and
    of BuildKit's key for the layer. What the requirements themselves ask for has precedence.

    Raises:
        JobError: `SOURCE_INVALID`; `POLICY_SOURCE` and `SOURCE_UNREACHABLE` for a URL.
    """
    remote: dict[str, bytes] = {}
    while True:
        found = await in_thread(
            threads,
            lambda _: find_requirements(request.context, request.root, request.command, remote),
        )
        if not found.unread:
            if urls is not None:
                await _check_urls(found, urls)
            strategy = environment.get("UV_INDEX_STRATEGY")
            if strategy and "--index-strategy" not in found.options:
                options = (*found.options, "--index-strategy", strategy)
                return replace(found, options=options)
            return found
        for url, where in found.unread:
            if urls is None or len(remote) == _MAX_URLS:
                raise PolicyError(
                    Cause.POLICY_SOURCE,
                    f"{where}: '{url}' is not fetched.",
                    hint="Copy the file into the source, and include the copy.",
                )
            remote[url] = await _located(where, urls.fetch(url))


async def _check_urls(found: Requirements, urls: UrlPort) -> None:
    for url, where in found.named_urls():
        await _located(where, urls.check(url))


async def _located(where: str, work: Awaitable[T]) -> T:
    """An error names the line that caused it."""
    try:
        return await work
    except JobError as error:
        message = f"{where}: {error.message}"
        raise type(error)(error.cause, message, hint=error.hint) from None


def find_requirements(
    context: Path,
    root: Path,
    command: Sequence[str] = (),
    remote: Mapping[str, bytes] | None = None,
) -> Requirements:
    """The requirements of a job; `NONE` or remarks on what is not read. Blocks.

    `command` runs the job's script; a list beside it counts where the build context has none.

    Raises:
        JobError: `SOURCE_INVALID`, naming file, line and remedy.
    """
    top = context.resolve()
    script = _script(top, command)
    beside = top if script is None else script.parent
    places = dict.fromkeys(
        file
        for folder, names in (
            (top, (*_STATED, FROZEN_NAME)),
            (beside, _STATED),
            (root.resolve(), (*_STATED, FROZEN_NAME)),
        )
        for file in (folder / name for name in names)
    )
    try:
        for file in places:
            found = _read(file, root, context, remote or {}) if file.is_file() else None
            if found:
                locks = unread_locks(file.parent, root.resolve()) if file.name == PROJECT else ()
                return replace(found, remarks=(*locks, *found.remarks))
    except InvalidInputError as error:
        raise JobError(Cause.SOURCE_INVALID, error.message, hint=error.hint) from None
    remarks = [
        remark
        for folder in dict.fromkeys((top, beside, root.resolve()))
        for remark in unread_dependencies(
            folder, script if folder == beside else None, root.resolve()
        )
    ]
    return Requirements("", remarks=tuple(remarks))


def _script(context: Path, command: Sequence[str]) -> Path | None:
    """The script that a command runs, where it lies in the context."""
    named = script_of(command)
    if named is None or named.startswith("/"):
        return None
    script = (context / named).resolve()
    return script if script.is_relative_to(context) and script.is_file() else None


def _read(
    file: Path, root: Path, context: Path, remote: Mapping[str, bytes]
) -> Requirements | None:
    """What one file says; `None` when it says nothing about packages."""
    name = shown(file, root)
    match file.name:
        case "requirements.txt":
            return _made(name, read_requirements(file, root, context, remote))
        case "uv.lock":
            # A lock without its project says nothing: uv needs both.
            read_source_file(file, root, largest=_MAX_LOCK_BYTES)
            if not (file.parent / PROJECT).is_file():
                return None
            read_source_file(file.parent / PROJECT, root)
            exported = read_requirement_text(_export_uv_lock(file, name), file, root, file.parent)
            return replace(_made(name, exported), exact=True)
        case "pylock.toml":
            text = _text(file, root, largest=_MAX_LOCK_BYTES)
            return Requirements(name, pylock=text)
        case "pyproject.toml":
            listed = project_dependencies(_text(file, root), name)
            return Requirements(name, listed) if listed else None
        case _:
            found = read_frozen(_text(file, root))
            lines = tuple(RequirementLine(line, name) for line in found.plain)
            made = Requirements(name, lines, exact=True, lenient=True, variants=found.variants)
            return made if found else None


def _made(name: str, found: RequirementList) -> Requirements:
    return Requirements(
        name,
        found.packages,
        found.constraints,
        options=found.options,
        remarks=found.remarks,
        unread=found.unread,
    )


def _text(file: Path, root: Path, *, largest: int | None = None) -> str:
    data = read_source_file(file, root, **({} if largest is None else {"largest": largest}))
    return decode(data, shown(file, root))


def _export_uv_lock(lock: Path, name: str) -> str:
    """The project's own dependencies, with hashes, by uv as the lock stands.

    Nothing of the source is run: without network, cache or configuration.

    Raises:
        InvalidInputError: uv cannot read it.
    """
    folder = lock.parent
    argv = [
        str(uv_program()), "export", "--frozen", "--offline", "--no-cache", "--no-config",
        "--no-python-downloads", "--no-dev", "--no-emit-project", "--no-header", "--no-annotate",
        "--format", "requirements-txt", "--project", str(folder),
    ]  # fmt: skip
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}
    hint = "Update it with `uv lock`, or export it: `uv export -o requirements.txt`."
    try:
        done = subprocess.run(
            argv, cwd=folder, env=env, capture_output=True, text=True, check=False,
            timeout=_EXPORT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        message = f"{name} cannot be used: uv did not read it within {_EXPORT:g} s."
        raise InvalidInputError(message, hint=hint) from None
    if done.returncode != 0:
        reason = " ".join(done.stderr.split())[:400].removeprefix("error: ").rstrip(".")
        message = f"{name} cannot be used: {reason or 'uv cannot read it'}."
        raise InvalidInputError(message, hint=hint)
    return done.stdout
