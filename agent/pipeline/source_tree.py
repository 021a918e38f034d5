"""Prepares a fetched source (patch, frozen requirements, notebooks); finds context, Dockerfile.

All paths stay inside the source.
"""

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from agent.model.cause import Cause
from agent.model.errors import InvalidInputError, JobError
from agent.model.job import job_file, runtime
from agent.model.job.entry_point import notebook_of, runnable, script_of
from agent.model.job.notebook import notebook_to_script
from agent.model.job.paths import inside, resolve_inside
from agent.model.job.requirements import FROZEN_NAME, read_source_file
from agent.model.spec import LaunchSpec
from agent.pipeline.dependencies import ResolveDependencies
from agent.pipeline.stored_job import StoredJob
from agent.ports.log import LogSink, write_line

_MAX_NOTEBOOK_BYTES: Final = 64 * 1024**2
#: W&B's name for a Dockerfile beside the entry point.
DOCKERFILE: Final = "Dockerfile.wandb"
_SCRIPT_AND_PROGRAM: Final = 2


@dataclass(frozen=True, slots=True)
class PreparedTree:
    """What was found while the tree was made ready."""

    #: The entry point, a converted notebook's script in place of the notebook.
    command: tuple[str, ...]
    #: For generated images and environments; `None`: the builder's default.
    python: str | None
    #: The file or option that names the Python version, for display.
    python_from: str | None = None
    #: Files that name no Python version, and why.
    remarks: tuple[str, ...] = ()


async def prepare_tree(
    root: Path,
    spec: LaunchSpec,
    stored: StoredJob | None,
    dependencies: ResolveDependencies,
    log: LogSink,
) -> PreparedTree:
    """Make a fetched tree ready for building.

    Raises:
        JobError: `SOURCE_INVALID`: a change that does not apply, or a notebook that cannot be
            read; `DISK_FULL`.
    """
    if stored is not None and stored.patch is not None:
        patch = root.parent / job_file.PATCH_NAME
        await dependencies.run_blocking(patch.write_bytes, stored.patch)
        await dependencies.sources.apply_patch(root, patch, log)
    try:
        prepared = await dependencies.run_blocking(_prepare, root, spec, stored)
    except InvalidInputError as error:
        raise JobError(Cause.SOURCE_INVALID, error.message, hint=error.hint) from None
    if prepared.command != tuple(spec.overrides.entry_point):
        await write_line(log, f"notebook converted: the job runs {' '.join(prepared.command)}")
    for remark in prepared.remarks:
        await write_line(log, remark)
    if prepared.python_from:
        await write_line(log, f"Python {prepared.python}, from {prepared.python_from}")
    return prepared


def _prepare(root: Path, spec: LaunchSpec, stored: StoredJob | None) -> PreparedTree:
    if stored is not None and stored.frozen.strip():
        _place_frozen(root, stored)
    build_context = inside(spec.build.build_context or ".", "build context")
    command = tuple(spec.overrides.entry_point)
    notebook = notebook_of(command)
    if notebook is not None:
        script = _convert(root, root / build_context, inside(notebook, "entry point's file"))
        command = tuple(script if word == notebook else word for word in command)
    version = spec.build.python or (spec.model_extra or {}).get("python_version")
    if version:
        return PreparedTree(command, runtime.parse_python(str(version), "The launch spec"))
    current = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = runtime.find_runtime(_runtime_files(root, build_context), current)
    if isinstance(found, runtime.Runtime):
        return PreparedTree(command, found.python, found.origin, found.remarks)
    return PreparedTree(command, None, remarks=tuple(found))


def _runtime_files(root: Path, build_context: str) -> Iterator[tuple[str, bytes]]:
    """Files that may name a Python version; one that cannot be read plays no part."""
    for path in runtime.runtime_candidates(build_context):
        with suppress(InvalidInputError):
            if (root / path).is_file():
                yield path, read_source_file(root / path, root)


def _place_frozen(root: Path, stored: StoredJob) -> None:
    """At the root, as W&B does; a file of that name in a code artifact is kept."""
    target = root / FROZEN_NAME
    from_git = stored.reading.job.source_type == "repo"
    if target.is_symlink() or (target.exists() and from_git):
        try:
            target.unlink()
        except OSError as error:
            message = f"'{target.name}' of the source is not a file ({error.strerror})."
            raise InvalidInputError(message) from None
    if not target.exists():
        target.write_text(stored.frozen, encoding="utf-8")


def _convert(root: Path, context: Path, notebook: str) -> str:
    """Write the script beside the notebook; return its path relative to the context."""
    file = context / notebook
    text = _read(root, file, notebook, _MAX_NOTEBOOK_BYTES)
    if text is None:
        message = f"The entry point names '{notebook}', which does not exist in the source."
        raise InvalidInputError(message, hint="Check --entry-point.")
    script = PurePosixPath(notebook).with_suffix(".py")
    if (context / script).exists() or (context / script).is_symlink():
        script = script.with_name(f"{script.stem}_notebook.py")
    with (context / script).open("x", encoding="utf-8") as out:
        out.write(notebook_to_script(text, notebook))
    return script.as_posix()


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


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths relative to the source's root; the Dockerfile relative to the context."""

    context: str
    dockerfile: str | None
    command: tuple[str, ...]


def layout_of(
    root: Path, spec: LaunchSpec, *, containers: bool, command: tuple[str, ...] | None = None
) -> Layout:
    """Find and check the paths that the spec names. Blocks (reads the file system).

    Without `containers` Dockerfiles are ignored. `command` replaces the spec's entry point if
    that was changed; a script without an interpreter gets one.

    Raises:
        JobError: `SOURCE_INVALID` for a path that leaves the source, `SOURCE_NOT_FOUND` for
            one that does not exist, `START_ENTRYPOINT` for a script that does not.
    """
    context = _inside(root, spec.build.build_context or ".", "build context")
    if not context.is_dir():
        message = f"The build context '{spec.build.build_context}' is not a folder of the source."
        raise JobError(Cause.SOURCE_NOT_FOUND, message)
    relative = context.relative_to(root.resolve()).as_posix()
    words = tuple(spec.overrides.entry_point) if command is None else command
    layout = Layout(relative, None, runnable(words))
    named = spec.overrides.dockerfile or spec.build.dockerfile
    if not containers or named is None:
        beside = _beside_entry_point(context, layout) if containers else None
        return beside or _with_script(context, layout)
    dockerfile = _inside(context, named, "Dockerfile")
    if not dockerfile.is_file():
        message = f"The Dockerfile '{named}' does not exist in the build context."
        raise JobError(Cause.SOURCE_NOT_FOUND, message)
    return replace(layout, dockerfile=dockerfile.relative_to(context).as_posix())


def _inside(root: Path, path: str, what: str) -> Path:
    try:
        return resolve_inside(root, path, what)
    except InvalidInputError as error:
        raise JobError(Cause.SOURCE_INVALID, error.message, hint=error.hint) from None


def _beside_entry_point(context: Path, layout: Layout) -> Layout | None:
    """W&B's rule: the folder of `Dockerfile.wandb` beside the script becomes the context."""
    script = _own_script(layout.command)
    if script is None:
        return None
    folder = _inside(context, str(PurePosixPath(script).parent), "entry point")
    if not (folder / DOCKERFILE).is_file():
        return None
    _inside(folder, DOCKERFILE, "Dockerfile")  # it is read: no link may lead out
    below = (PurePosixPath(layout.context) / folder.relative_to(context).as_posix()).as_posix()
    command = layout.command
    if len(command) == _SCRIPT_AND_PROGRAM:
        command = (command[0], PurePosixPath(script).name)
    return Layout(below, DOCKERFILE, command)


def _with_script(context: Path, layout: Layout) -> Layout:
    script = _own_script(layout.command)
    if script is None or not layout.command[0].startswith("python"):
        return layout
    if not script.endswith(".py") or _inside(context, script, "entry point").exists():
        return layout
    message = f"The entry point names '{script}', which does not exist in the source."
    raise JobError(Cause.START_ENTRYPOINT, message, hint="Check --entry-point.")


def _own_script(command: tuple[str, ...]) -> str | None:
    """The file of the source that a command runs; an absolute path is one of the image."""
    script = script_of(command)
    return None if script is None or script.startswith("/") else script
