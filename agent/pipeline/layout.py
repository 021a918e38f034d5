"""Which folder of a source is built, with which Dockerfile; all paths stay inside the source."""

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.job.entry_point import runnable, script_of
from agent.model.spec import LaunchSpec

#: W&B's name for a Dockerfile that lies beside the entry point.
DOCKERFILE: Final = "Dockerfile.wandb"
_SCRIPT_AND_PROGRAM: Final = 2


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths relative to the source's root; the Dockerfile relative to the context."""

    context: str
    dockerfile: str | None
    command: tuple[str, ...]


def layout_of(
    root: Path, spec: LaunchSpec, *, containers: bool, command: tuple[str, ...] | None = None
) -> Layout:
    """Find and check what the spec names. Blocks (looks at files).

    Without `containers` no Dockerfile is looked for. `command` stands for the spec's own
    entry point where that was changed; a script that stands alone gets its interpreter.

    Raises:
        JobError: `SOURCE_INVALID` for a path that leaves the source, `SOURCE_NOT_FOUND` for
            one that does not exist, `START_ENTRYPOINT` for a script that does not.
    """
    context = inside(root, spec.build.build_context or ".", "build context")
    if not context.is_dir():
        message = f"The build context '{spec.build.build_context}' is no folder of the source."
        raise JobError(Cause.SOURCE_NOT_FOUND, message)
    relative = context.relative_to(root.resolve()).as_posix()
    words = tuple(spec.overrides.entry_point) if command is None else command
    layout = Layout(relative, None, runnable(words))
    if not containers:
        return _with_script(context, layout)
    asked = spec.overrides.dockerfile or spec.build.dockerfile
    if asked is None:
        beside = _beside_entry_point(context, layout)
        return beside or _with_script(context, layout)
    dockerfile = inside(context, asked, "Dockerfile")
    if not dockerfile.is_file():
        message = f"The Dockerfile '{asked}' does not exist in the build context."
        raise JobError(Cause.SOURCE_NOT_FOUND, message)
    return replace(layout, dockerfile=dockerfile.relative_to(context).as_posix())


def inside(root: Path, path: str, what: str) -> Path:
    """`path` below `root`, links followed.

    Raises:
        JobError: `SOURCE_INVALID`: it leads outside.
    """
    base = root.resolve()
    target = (base / path).resolve() if "\0" not in path else None
    if target is None or not target.is_relative_to(base):
        message = f"The {what} '{path}' lies outside the source."
        raise JobError(Cause.SOURCE_INVALID, message, hint="Name a path inside it.")
    return target


def _beside_entry_point(context: Path, layout: Layout) -> Layout | None:
    """W&B's rule: the folder of `Dockerfile.wandb` beside the script becomes the context."""
    script = _own_script(layout.command)
    if script is None:
        return None
    folder = inside(context, str(PurePosixPath(script).parent), "entry point")
    if not (folder / DOCKERFILE).is_file():
        return None
    below = (PurePosixPath(layout.context) / folder.relative_to(context).as_posix()).as_posix()
    command = layout.command
    if len(command) == _SCRIPT_AND_PROGRAM:
        command = (command[0], PurePosixPath(script).name)
    return Layout(below, DOCKERFILE, command)


def _with_script(context: Path, layout: Layout) -> Layout:
    script = _own_script(layout.command)
    if script is None or not layout.command[0].startswith("python"):
        return layout
    if not script.endswith(".py") or inside(context, script, "entry point").exists():
        return layout
    message = f"The entry point names '{script}', which does not exist in the source."
    raise JobError(Cause.START_ENTRYPOINT, message, hint="Check --entry-point.")


def _own_script(command: tuple[str, ...]) -> str | None:
    """The file of the source that a command runs; an absolute path is the image's."""
    script = script_of(command)
    return None if script is None or script.startswith("/") else script
