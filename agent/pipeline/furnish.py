"""What a job adds to its source once that is fetched: changes, frozen requirements, scripts."""

import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from agent.model.cause import Cause
from agent.model.errors import InvalidInputError, JobError
from agent.model.job import frozen, job_file, runtime
from agent.model.job.entry_point import notebook_of
from agent.model.job.paths import inside as path_inside
from agent.model.spec import LaunchSpec
from agent.pipeline.dependencies import ResolveDependencies
from agent.pipeline.stored import StoredJob
from agent.ports.log import LogSink, say
from agent.sources.notebook import notebook_to_script
from agent.sources.patch import apply_patch

_LARGEST_NOTEBOOK: Final = 64 * 1024**2
_LARGEST_RUNTIME: Final = 1024**2


@dataclass(frozen=True, slots=True)
class Furnished:
    """What turned out while the tree was made ready."""

    #: The entry point, a converted notebook's script in place of the notebook.
    command: tuple[str, ...]
    #: Of generated images and environments; `None` leaves it to the builder.
    python: str | None
    #: Which file or option decided about Python, for people.
    python_from: str | None = None


async def furnish(
    root: Path,
    spec: LaunchSpec,
    stored: StoredJob | None,
    dependencies: ResolveDependencies,
    log: LogSink,
) -> Furnished:
    """Make a fetched tree ready for building.

    Raises:
        JobError: `SOURCE_INVALID`: a change that does not apply, a notebook or a runtime file
            that cannot be read; `DISK_FULL`.
    """
    if stored is not None and stored.patch is not None:
        patch = root.parent / job_file.PATCH_NAME
        await dependencies.in_thread(patch.write_bytes, stored.patch)
        await apply_patch(root, patch, dependencies.executor, log)
    try:
        furnished = await dependencies.in_thread(_furnish, root, spec, stored)
    except InvalidInputError as error:
        raise JobError(Cause.SOURCE_INVALID, error.message, hint=error.hint) from None
    if furnished.command != tuple(spec.overrides.entry_point):
        await say(log, f"notebook converted: the job runs {' '.join(furnished.command)}")
    if furnished.python_from:
        await say(log, f"Python {furnished.python}, as {furnished.python_from} says")
    return furnished


def _furnish(root: Path, spec: LaunchSpec, stored: StoredJob | None) -> Furnished:
    if stored is not None and stored.frozen.strip():
        _place_frozen(root, stored)
    build_context = path_inside(spec.build.build_context or ".", "build context")
    command = tuple(spec.overrides.entry_point)
    notebook = notebook_of(command)
    if notebook is not None:
        script = _convert(root, root / build_context, path_inside(notebook, "entry point's file"))
        command = tuple(script if word == notebook else word for word in command)
    said = spec.build.python or (spec.model_extra or {}).get("python_version")
    if said:
        return Furnished(command, runtime.parse_python(str(said), "The launch spec"))
    found = _detected(root, build_context)
    return Furnished(command, found.python, found.origin) if found else Furnished(command, None)


def _place_frozen(root: Path, stored: StoredJob) -> None:
    """As W&B does: at the root; what a code artifact brings of that name stays."""
    target = root / frozen.FILE_NAME
    from_git = stored.reading.job.source_type == "repo"
    if target.is_symlink() or (target.exists() and from_git):
        _remove(target)
    if not target.exists():
        target.write_text(stored.frozen, encoding="utf-8")


def _remove(target: Path) -> None:
    try:
        target.unlink()
    except OSError as error:
        message = f"'{target.name}' of the source is no file ({error.strerror})."
        raise InvalidInputError(message) from None


def _convert(root: Path, context: Path, notebook: str) -> str:
    """Write the script beside the notebook; return its path relative to the context."""
    file = context / notebook
    text = _read(root, file, notebook, _LARGEST_NOTEBOOK)
    if text is None:
        message = f"The entry point names '{notebook}', which does not exist in the source."
        raise InvalidInputError(message, hint="Check --entry-point.")
    script = PurePosixPath(notebook).with_suffix(".py")
    if (context / script).exists() or (context / script).is_symlink():
        script = script.with_name(f"{script.stem}_notebook.py")
    with (context / script).open("x", encoding="utf-8") as out:
        out.write(notebook_to_script(text, notebook))
    return script.as_posix()


def _detected(root: Path, build_context: str) -> runtime.Runtime | None:
    """What a file of the source says about Python."""
    current = f"{sys.version_info.major}.{sys.version_info.minor}"
    for path in runtime.runtime_candidates(build_context):
        text = _read(root, root / path, path, _LARGEST_RUNTIME)
        found = None if text is None else runtime.from_file(path, text, current)
        if found is not None:
            return found
    return None


def _read(root: Path, file: Path, shown: str, largest: int) -> str | None:
    """A text file of the source; `None` when there is none."""
    if not file.is_file():
        return None
    if not file.resolve().is_relative_to(root.resolve()):
        raise InvalidInputError(f"'{shown}' is a link out of the source.")
    if file.stat().st_size > largest:
        raise InvalidInputError(f"'{shown}' is larger than {largest} bytes.")
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"'{shown}' cannot be read: {error}.") from None
