"""Makes a draft: checks a job request against its source and collects what the job will hold.

Only the id of its code artifact is missing, which the server assigns.
"""

import asyncio
import platform
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, assert_never

from agent.builders.image.ignore import Ignore, ignore_text, own_ignore
from agent.jobs.code_directory import code_contents, content_of
from agent.jobs.request import JobRequest
from agent.model.errors import AlreadyExistsError, InvalidInputError, JobError
from agent.model.job import entry_point as entry_points
from agent.model.job import job_file, names
from agent.model.job.image_reference import parse_image
from agent.model.job.names import CodeReference
from agent.model.job.notebook import notebook_to_script
from agent.model.job.paths import below, inside, resolve_inside
from agent.model.job.requirements import (
    decode,
    frozen_text,
    read_source_file,
)
from agent.model.job.runtime import Runtime, choose_runtime, runtime_candidates
from agent.model.names import did_you_mean
from agent.model.tree import is_secret, walk
from agent.remote.artifacts.contents import Content
from agent.remote.artifacts.versions import JOB

if TYPE_CHECKING:
    from agent.jobs.create import JobStore

#: What W&B's command line takes where no entry point is given.
_DEFAULT_PROGRAM: Final = "main.py"
#: Files of a source that are searched for a similar name.
_SEARCHED: Final = 20_000
_OFFERED: Final = 5
#: Files that are not stored which a remark names.
_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class JobDraft:
    """A job that is complete except for the id of its code, which the server assigns."""

    #: Of a checkout, the request for its repository.
    request: JobRequest
    name: str
    words: tuple[str, ...]
    runtime: str | None
    #: Text of `requirements.frozen.txt`.
    frozen: str = ""
    #: Name and files of its code artifact.
    code_name: str | None = None
    code: tuple[Content, ...] = ()
    #: Remote and commit.
    pinned: tuple[str, str] | None = None
    #: Uncommitted changes (`diff.patch`); sources need not be UTF-8.
    diff: bytes | None = None
    #: The image's tag.
    image_alias: str | None = None
    #: Choices that were made for the user, and why.
    remarks: tuple[str, ...] = ()

    def file(self, code_id: str | None) -> job_file.JobFile:
        """The job file; `code_id` is that of its code artifact, if it has one."""
        request = self.request
        source = self._source(code_id)
        return job_file.job_file(source, runtime=self.runtime, services=request.services)

    def contents(self, code_id: str | None) -> list[Content]:
        """The files of the job's artifact."""
        files = job_file.job_contents(self.file(code_id), self.frozen, self.diff)
        return [content_of(name, data) for name, data in files.items()]

    def _source(self, code_id: str | None) -> job_file.JobSource:
        request = self.request
        if self.pinned is None and code_id is None:
            return job_file.JobImageSource(image=request.path)
        built: dict[str, Any] = {
            "entrypoint": list(self.words),
            "notebook": entry_points.notebook_of(self.words) is not None,
            "build_context": request.build_context,
            "dockerfile": request.dockerfile,
            "base_image": request.base_image,
        }
        if code_id is not None:
            return job_file.JobArtifactSource(artifact=str(CodeReference(id=code_id)), **built)
        remote, commit = self.pinned or ("", "")
        git = job_file.Git(
            remote=remote, commit=commit, submodules=request.submodules, lfs=request.lfs or None
        )
        return job_file.JobRepoSource(git=git, **built)


async def draft_job(store: "JobStore", request: JobRequest) -> JobDraft:
    """Check a request against its source and the server; nothing is sent.

    A directory with `source="git"` becomes the job of its repository; where that cannot be, it
    becomes a code job, and a remark says why.

    Raises:
        InvalidInputError: an option, or a file of the source, cannot be used.
        AlreadyExistsError: the name is taken by an artifact of another type.
    """
    for alias in request.aliases:
        if alias != names.LATEST:
            names.checked_alias(alias)
    if request.with_diff and not (request.kind == "code" and request.source == "git"):
        message = "--diff belongs to a local checkout with --source git."
        raise InvalidInputError(message, hint="Other sources are stored as they are.")
    draft = await _draft(store, request)
    await _check_types(store, draft)
    return draft


async def _draft(store: "JobStore", request: JobRequest) -> JobDraft:
    match request.kind:
        case "image":
            return draft_image(request)
        case "git":
            return await store.repositories().draft(request)
        case "code":
            return await _draft_directory(store, request)
        case _:
            assert_never(request.kind)


async def _draft_directory(store: "JobStore", request: JobRequest) -> JobDraft:
    remark = f"'{request.path}' becomes a code job."
    if request.source == "git":
        directory, command = await asyncio.to_thread(directory_and_command, request)
        placed = replace(request, path=directory, entry_point=command)
        found = await store.repositories().draft_checkout(placed)
        if not isinstance(found, str):
            remote = names.stored_remote(found.request.path)
            note = f"'{request.path}' becomes a Git job of {remote}."
            return replace(found, remarks=(note, *found.remarks))
        remark = f"'{request.path}' becomes a code job, not a Git job: {found}."
    draft = await asyncio.to_thread(draft_code, request)
    return replace(draft, remarks=(remark, *draft.remarks))


async def _check_types(store: "JobStore", draft: JobDraft) -> None:
    """W&B's servers would mix artifacts of two types in one collection."""
    request = draft.request
    kinds = {draft.name: JOB, **({draft.code_name: "code"} if draft.code_name else {})}
    found = await asyncio.gather(
        *(store.artifacts.type_of(request.entity, request.project, name) for name in kinds)
    )
    for (name, kind), existing in zip(kinds.items(), found, strict=True):
        if existing not in {None, kind}:
            message = (
                f"The name '{name}' is taken in {request.entity}/{request.project} by an artifact "
                f"of type `{existing}`; a {kind} artifact cannot have it, too."
            )
            raise AlreadyExistsError(message, hint="Choose another name by --name.")


def draft_image(request: JobRequest) -> JobDraft:
    """A job of a ready image.

    Raises:
        InvalidInputError: no image reference, or a base image beside it.
    """
    if request.base_image:
        message = "--base-image is for Git and code jobs: an image job's image is run as it is."
        raise InvalidInputError(message, hint="Leave it out.")
    parse_image(request.path)
    named = names.image_job_name(request.path)
    remarks = []
    if named.alias is not None and names.version_of(named.alias) is not None:
        remarks.append(
            f"The tag `{named.alias}` is the name of a version and does not become an alias."
        )
    ignored = {
        "--runtime": request.runtime,
        "--entry-point": request.entry_point,
        "--build-context": request.build_context,
        "--dockerfile": request.dockerfile,
    }
    remarks += [
        f"{flag} is ignored: the image brings its own." for flag, given in ignored.items() if given
    ]
    return JobDraft(
        request,
        request.name or named.job,
        (),
        None,
        image_alias=named.alias,
        remarks=tuple(remarks),
    )


def draft_code(request: JobRequest) -> JobDraft:
    """A job of a directory, or of a file: its directory is the source, the file what is run.

    Raises:
        InvalidInputError: names the path, link or file that cannot be used, and why.
    """
    directory, command = directory_and_command(request)
    root = Path(directory).expanduser()
    words, remarks = command_words(command, request.dockerfile)
    text = command or _DEFAULT_PROGRAM
    runtime, found = check_tree(request, root, words)
    contents, not_stored = _contents(root, build_context(request, root), request.dockerfile)
    return JobDraft(
        request=request,
        name=request.name or names.code_job_name(directory, text),
        words=words,
        runtime=runtime.python,
        frozen=frozen_text(_requirements(root, request)),
        code_name=names.code_artifact_name(directory, text, request.name),
        code=contents,
        remarks=(*remarks, *found, *not_stored),
    )


def _contents(
    root: Path, context: str, dockerfile: str | None
) -> tuple[tuple[Content, ...], list[str]]:
    """The files to store, and remarks on what is not stored."""
    folder = root / context
    rules = Ignore(ignore_text(own_ignore(folder, folder / dockerfile if dockerfile else None)))

    def includes(path: str) -> bool:
        inner = _below_context(path, context)
        return inner is not None and not rules.excludes(inner)

    contents = code_contents(root, includes)
    remarks = [f"Not stored: {_listed(contents.left_out)}."] if contents.left_out else []
    withheld = contents.withheld
    if withheld:
        inner_paths = (_below_context(path, context) for path in withheld if is_secret(path))
        inner = next(filter(None, inner_paths), None)
        advice = f"; to include one, add `!{inner}` to .dockerignore" if inner else ""
        looks = "Not stored because they look like secrets"
        remarks.append(f"{looks}: {_listed(withheld)}{advice}.")
    return tuple(contents.stored), remarks


def _listed(paths: list[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more


def _below_context(path: str, context: str) -> str | None:
    """A path of the source relative to the build context; `None` outside of it."""
    prefix = f"{context}/" if context else ""
    return path.removeprefix(prefix) if path.startswith(prefix) else None


def check_tree(
    request: JobRequest, root: Path, words: tuple[str, ...]
) -> tuple[Runtime, list[str]]:
    """Check a request against the files of its source; its Python version, and remarks.

    Raises:
        InvalidInputError: a path leads out of the source or to nothing; a file that names
            requirements is malformed (file, line, accepted forms).
    """
    own_image = bool(request.dockerfile or request.base_image)
    entry_points.check_words(words, own_image=own_image)
    if request.base_image:
        parse_image(request.base_image)
    context = build_context(request, root)
    remarks: list[str] = []
    if request.dockerfile:
        _check_dockerfile(root, context, request.dockerfile)
    else:
        _check_program(root, context, words)
        remarks = _check_dependencies(root, context, words)
    found = _contents_of(root, runtime_candidates(context))
    runtime = choose_runtime(request.runtime, found, platform.python_version())
    chosen = f"Python {runtime.python}, by {runtime.origin}."
    return runtime, [*runtime.remarks, chosen, *remarks]


def build_context(request: JobRequest, root: Path) -> str:
    """The build context in its shortest form; empty for the source's root.

    Raises:
        InvalidInputError: it leads out of the source, or is not a folder of it.
    """
    if not request.build_context:
        return ""
    context = inside(request.build_context, "build context")
    if resolve_inside(root, context, "build context").is_dir():
        return context
    around = root / Path(context).parent
    beside = around if around.is_dir() else root
    folders = [str(each.relative_to(root)) for each in beside.glob("*/") if each.is_dir()]
    message = f"The build context '{request.build_context}' is not a folder of the source."
    raise InvalidInputError(message, hint=did_you_mean(context, folders, "folder"))


def command_words(command: str | None, dockerfile: str | None) -> tuple[tuple[str, ...], list[str]]:
    """The words of an entry point, and remarks; a Dockerfile may bring its own."""
    if not command and dockerfile:
        return (), ["No entry point is given: the Dockerfile's own is run."]
    remarks = []
    if not command:
        remarks.append(f"No entry point is given: `{_DEFAULT_PROGRAM}` is run.")
    words = entry_points.split(command or _DEFAULT_PROGRAM)
    if len(words) == 1 and words[0].endswith(".py"):
        remarks.append(f"`{words[0]}` is run by `python`.")
    shell = entry_points.shell_remark(words)
    remarks += [shell] if shell else []
    notebook = entry_points.notebook_of(words)
    if notebook is not None:
        remarks.append(f"The notebook '{notebook}' is converted to a script when it is built.")
    return words, remarks


def directory_and_command(request: JobRequest) -> tuple[str, str | None]:
    """The directory as it was written, and the entry point, also from a file's name.

    Raises:
        InvalidInputError: no such directory or file, or a file that cannot be run by itself.
    """
    path = Path(request.path).expanduser()
    if not request.path.strip():
        message = "The path is empty, which would mean the current directory."
        raise InvalidInputError(message, hint="Write `.` if that is meant.")
    if path.is_dir():
        return request.path, request.entry_point or None
    if not path.is_file():
        raise _no_such_path(request.path, path)
    return str(Path(request.path).parent), request.entry_point or entry_points.for_file(path.name)


def _no_such_path(shown: str, path: Path) -> InvalidInputError:
    if path.exists():
        return InvalidInputError(f"'{shown}' is a device, pipe or socket, and holds no code.")
    message = f"'{shown}' is neither a directory nor a file here."
    parent = path.parent
    known = [each.name for each in parent.iterdir()] if parent.is_dir() else []
    return InvalidInputError(message, hint=did_you_mean(path.name, known, "file"))


def _check_dockerfile(root: Path, context: str, dockerfile: str) -> None:
    path = below(context, inside(dockerfile, "Dockerfile"))
    if resolve_inside(root, path, "Dockerfile").is_file():
        return
    folder = root / context
    known = [str(each.relative_to(folder)) for each in folder.glob("Dockerfile*")]
    known += [str(each.relative_to(folder)) for each in folder.glob("*.Dockerfile")]
    message = f"There is no Dockerfile '{dockerfile}' in the build context '{context or '.'}'."
    raise InvalidInputError(message, hint=did_you_mean(dockerfile, known, "Dockerfile"))


def _check_program(root: Path, context: str, words: tuple[str, ...]) -> None:
    script = entry_points.script_of(words)
    if script is None or script.startswith("/"):
        return
    path = inside(script, "entry point's file")
    # Only in the build context: that is the folder that the job runs in.
    folder = root / context
    resolve_inside(root, below(context, path), "entry point's file")
    if (folder / path).exists():
        if path.endswith(".ipynb"):
            _check_notebook(folder / path, script)
        return
    found = [str(each.relative_to(folder)) for each in _of_kind(folder, Path(path).suffix)]
    # Files of the same name, else of the same kind.
    known = [each for each in found if Path(each).name == Path(path).name][:_OFFERED] or found
    where = f"build context '{context}'" if context else "source"
    message = f"The entry point's file '{script}' is not in the {where}."
    hint = did_you_mean(path, known, "file of its kind")
    raise InvalidInputError(message, hint=hint)


def _check_notebook(file: Path, shown: str) -> None:
    """Convert it already now: else a notebook that cannot be converted fails at the build."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"The notebook '{shown}' is not UTF-8 text: {error}.") from None
    notebook_to_script(text, shown)


def _of_kind(folder: Path, suffix: str) -> list[Path]:
    """Files with a suffix among the first of a folder; for suggestions only."""
    seen = (Path(each) for each in islice(walk(folder), _SEARCHED))
    return [each for each in seen if each.suffix == suffix and each.is_file()]


def _check_dependencies(root: Path, context: str, words: tuple[str, ...]) -> list[str]:
    """Read what a generated image would install, before anything is sent; remarks."""
    # Imported here: it reads the configuration's models, and not every command needs them.
    from agent.builders.requirements import find_requirements

    try:
        found = find_requirements(root / context, root, words)
    except JobError as error:
        raise InvalidInputError(error.message, hint=error.hint) from None
    start = "" if found else "No packages are installed: "
    return [f"{start}{remark}." for remark in found.remarks]


def _requirements(root: Path, request: JobRequest) -> str | None:
    """Not a list beside the script: a frozen list goes before it, and is installed otherwise."""
    for folder in dict.fromkeys((build_context(request, root), "")):
        path = below(folder, "requirements.txt")
        if (root / path).is_file():
            try:
                return decode(read_source_file(root / path, root), path)
            except InvalidInputError:
                # A Dockerfile of the job's own decides what is installed.
                if request.dockerfile:
                    return None
                raise
    return None


def _contents_of(root: Path, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Path and content of those files that can be read; others play no part."""
    for path in paths:
        with suppress(InvalidInputError):
            if (root / path).is_file():
                yield path, read_source_file(root / path, root)
