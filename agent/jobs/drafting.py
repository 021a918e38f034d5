"""From what is said about a job, and the files of its source, to a draft. Blocks."""

import platform
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from agent.jobs.contents import code_contents
from agent.jobs.new_job import Draft, NewJob
from agent.model.errors import InvalidInputError
from agent.model.job import entry_point as entry_points
from agent.model.job import names
from agent.model.job.frozen import frozen_text
from agent.model.job.image_reference import parse_image
from agent.model.job.paths import below, candidates, inside
from agent.model.job.pyproject import read_pyproject
from agent.model.job.runtime import Runtime, choose_runtime, runtime_candidates
from agent.model.names import did_you_mean
from agent.model.tree import walk
from agent.sources.notebook import notebook_to_script

#: What W&B's command line takes when nothing is said, word for word.
_DEFAULT_PROGRAM: Final = "main.py"
_LARGEST_TEXT: Final = 4 << 20
#: Of a source in which a near miss is looked for.
_LOOKED_AT: Final = 20_000
_OFFERED: Final = 5


def draft_image(wanted: NewJob) -> Draft:
    """A job of a ready image.

    Raises:
        InvalidInputError: no image reference, or a base image beside it.
    """
    if wanted.base_image:
        message = "--base-image is for Git and code jobs: an image job's image is run as it is."
        raise InvalidInputError(message, hint="Leave it out.")
    parse_image(wanted.path)
    named = names.image_job_name(wanted.path)
    remarks = []
    if named.alias is not None and names.version_of(named.alias) is not None:
        remarks.append(
            f"The tag `{named.alias}` is the name of a version and does not become an alias."
        )
    ignored = {
        "--runtime": wanted.runtime,
        "--entry-point": wanted.entry_point,
        "--build-context": wanted.build_context,
        "--dockerfile": wanted.dockerfile,
    }
    remarks += [
        f"{flag} is ignored: the image brings its own." for flag, said in ignored.items() if said
    ]
    return Draft(
        wanted.name or named.job, (), None, image_alias=named.alias, remarks=tuple(remarks)
    )


def draft_code(wanted: NewJob) -> Draft:
    """A job of a directory, or of a file: its directory is the source, the file what is run.

    Raises:
        InvalidInputError: names the path, link or file that cannot be used, and why.
    """
    directory, said = place_and_command(wanted)
    root = Path(directory).expanduser()
    words, remarks = command_words(said, wanted.dockerfile)
    text = said or _DEFAULT_PROGRAM
    draft = draft_tree(wanted, root, words)
    return Draft(
        name=wanted.name or names.code_job_name(directory, text),
        words=words,
        runtime=draft.python,
        frozen=frozen_text(_requirements(root, wanted)),
        code_name=names.code_artifact_name(directory, text, wanted.name),
        code=tuple(code_contents(root)),
        remarks=(*remarks, f"Python {draft.python}, by {draft.origin}."),
    )


def draft_tree(wanted: NewJob, root: Path, words: tuple[str, ...]) -> Runtime:
    """Check what is said against the files of a source, and find its Python.

    Raises:
        InvalidInputError: a path leads out of the source or to nothing; a file that names
            runtime or requirements is malformed (file, line, accepted forms).
    """
    entry_points.check_words(words)
    if wanted.base_image:
        parse_image(wanted.base_image)
    context = build_context(wanted, root)
    if wanted.dockerfile:
        _check_dockerfile(root, context, wanted.dockerfile)
    else:
        _check_program(root, context, words)
        _check_dependencies(root, context)
    found = _texts(root, runtime_candidates(context))
    return choose_runtime(wanted.runtime, found, platform.python_version())


def build_context(wanted: NewJob, root: Path) -> str:
    """The build context in its shortest form; empty for the source's root.

    Raises:
        InvalidInputError: it leads out of the source, or is no folder of it.
    """
    if not wanted.build_context:
        return ""
    context = inside(wanted.build_context, "build context")
    if _within(root, context, "build context").is_dir():
        return context
    around = root / Path(context).parent
    beside = around if around.is_dir() else root
    folders = [str(each.relative_to(root)) for each in beside.glob("*/") if each.is_dir()]
    message = f"The build context '{wanted.build_context}' is no folder of the source."
    raise InvalidInputError(message, hint=did_you_mean(context, folders, "folder"))


def command_words(said: str | None, dockerfile: str | None) -> tuple[tuple[str, ...], list[str]]:
    """The words of an entry point, and remarks; a Dockerfile may bring its own."""
    if not said and dockerfile:
        return (), ["No entry point is given: the Dockerfile's own is run."]
    remarks = []
    if not said:
        remarks.append(f"No entry point is given, `{_DEFAULT_PROGRAM}` is taken.")
    words = entry_points.split(said or _DEFAULT_PROGRAM)
    if len(words) == 1 and words[0].endswith(".py"):
        remarks.append(f"`{words[0]}` stands alone and is run by `python`.")
    notebook = entry_points.notebook_of(words)
    if notebook is not None:
        remarks.append(f"The notebook '{notebook}' is converted to a script when it is built.")
    return words, remarks


def place_and_command(wanted: NewJob) -> tuple[str, str | None]:
    """The directory as it was written, and the entry point, also from a file's name.

    Raises:
        InvalidInputError: there is no such directory or file, or nobody knows how to run it.
    """
    path = Path(wanted.path).expanduser()
    if not wanted.path.strip():
        message = "The path is empty, which would mean the current directory."
        raise InvalidInputError(message, hint="Write `.` if that is meant.")
    if path.is_dir():
        return wanted.path, wanted.entry_point or None
    if not path.is_file():
        raise _no_place(wanted.path, path)
    return str(Path(wanted.path).parent), wanted.entry_point or entry_points.for_file(path.name)


def _no_place(said: str, path: Path) -> InvalidInputError:
    if path.exists():
        return InvalidInputError(f"'{said}' is a device, pipe or socket, and holds no code.")
    message = f"'{said}' is neither a directory nor a file here."
    parent = path.parent
    known = [each.name for each in parent.iterdir()] if parent.is_dir() else []
    return InvalidInputError(message, hint=did_you_mean(path.name, known, "file"))


def _within(root: Path, path: str, what: str) -> Path:
    """A path of the source; also its links stay there."""
    whole = root / path
    if not whole.resolve().is_relative_to(root.resolve()):
        message = f"The {what} '{path}' leads out of the source by a link."
        raise InvalidInputError(message, hint="Name what lies inside the source.")
    return whole


def _check_dockerfile(root: Path, context: str, dockerfile: str) -> None:
    path = below(context, inside(dockerfile, "Dockerfile"))
    if _within(root, path, "Dockerfile").is_file():
        return
    folder = root / context
    known = [str(each.relative_to(folder)) for each in folder.glob("Dockerfile*")]
    known += [str(each.relative_to(folder)) for each in folder.glob("*.Dockerfile")]
    message = f"There is no Dockerfile '{dockerfile}' in the build context '{context or '.'}'."
    raise InvalidInputError(message, hint=did_you_mean(dockerfile, known, "Dockerfile"))


def _check_program(root: Path, context: str, words: tuple[str, ...]) -> None:
    script = entry_points.script_of(words)
    if script is None:
        return
    path = inside(script, "entry point's file")
    # There alone: it is the folder that the job runs in.
    folder = root / context
    if (folder / path).exists():
        if path.endswith(".ipynb"):
            _check_notebook(folder / path, script)
        return
    found = [str(each.relative_to(folder)) for each in _of_kind(folder, Path(path).suffix)]
    # Of its name anywhere, else of its kind.
    known = [each for each in found if Path(each).name == Path(path).name][:_OFFERED] or found
    where = f"build context '{context}'" if context else "source"
    message = f"The entry point's file '{script}' is not in the {where}."
    hint = did_you_mean(path, known, "file of its kind")
    raise InvalidInputError(message, hint=hint)


def _check_notebook(file: Path, shown: str) -> None:
    """Convert it now: what cannot be would only fail once it is built."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"The notebook '{shown}' is no UTF-8 text: {error}.") from None
    notebook_to_script(text, shown)


def _of_kind(folder: Path, suffix: str) -> list[Path]:
    """Files of a kind, wherever they lie; only a message depends on it."""
    seen = (Path(each) for each in islice(walk(folder), _LOOKED_AT))
    return [each for each in seen if each.suffix == suffix and each.is_file()]


def _check_dependencies(root: Path, context: str) -> None:
    """The file that the generated Dockerfile would install, read before anything is sent."""
    for path, text in _texts(root, candidates(("requirements.txt", "pyproject.toml"), context)):
        # Its grammar takes a tenth of the command's time to load; many directories have neither.
        from agent.model.job.requirements import project_dependencies, read_requirements

        if path.endswith("requirements.txt"):
            read_requirements(text, path)
            return
        if read_pyproject(text, path).project.get("dependencies"):
            project_dependencies(text, path)
            return


def _requirements(root: Path, wanted: NewJob) -> str | None:
    context = build_context(wanted, root)
    found = _texts(root, candidates(("requirements.txt",), context))
    return next((text for _, text in found), None)


def _texts(root: Path, paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Path and text of those that exist; links out of the source are none."""
    for path in paths:
        whole = root / path
        if not whole.is_file() or not whole.resolve().is_relative_to(root.resolve()):
            continue
        try:
            if whole.stat().st_size > _LARGEST_TEXT:
                raise InvalidInputError(f"{path} is larger than 4 MiB, which no such file is.")
            yield path, whole.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInputError(f"{path} cannot be read: {error}.") from None
