"""Paths inside a job's source: kept inside, and where files are looked for."""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Final

from agent.model.errors import InvalidInputError

#: Also a home folder, and Windows' forms.
_ABSOLUTE: Final = re.compile(r"[/~\\]|[A-Za-z]:")
_INSIDE: Final = "Write it relative to the source, for example `jobs/hello`."


def inside(path: str, what: str) -> str:
    """A relative path in its shortest form; the source's root itself is the empty text.

    `what` names the path in messages. Links are not followed: see `resolve_inside`.

    Raises:
        InvalidInputError: absolute, leading upward, or no path at all.
    """
    if not path.strip() or "\0" in path:
        raise InvalidInputError(f"The {what} {path!r} is not a path.", hint=_INSIDE)
    shortest = PurePosixPath(path).as_posix()
    if any(_ABSOLUTE.match(form) for form in (path, shortest)):
        raise InvalidInputError(f"The {what} '{path}' is an absolute path.", hint=_INSIDE)
    if leads_upward(path):
        message = f"The {what} '{path}' leads out of the source by `..`."
        raise InvalidInputError(message, hint=_INSIDE)
    return "" if shortest == "." else shortest


def resolve_inside(root: Path, path: str, what: str) -> Path:
    """`path` below `root`, links followed.

    Raises:
        InvalidInputError: it leads out of `root`, or is no path.
    """
    base = root.resolve()
    target = (base / path).resolve() if "\0" not in path else None
    if target is None or not target.is_relative_to(base):
        message = f"The {what} '{path}' leads out of the source."
        raise InvalidInputError(message, hint="Name a path inside the source.")
    return target


def artifact_path(path: str) -> str:
    """The path of a file that lies in an artifact, in its shortest form.

    It is a name on this machine, where only `/` separates: a backslash, `~` or a colon in it are
    ordinary characters, which occur in names.

    Raises:
        InvalidInputError: absolute, leading upward, or no path at all.
    """
    parts = path.split("/")
    shortest = PurePosixPath(path).as_posix()
    if not path or "\0" in path or shortest == ".":
        raise InvalidInputError(f"The path {path!r} is not a path.")
    if path.startswith("/") or ".." in parts:
        raise InvalidInputError(f"The path '{path}' leads out of the artifact.")
    return shortest


def leads_upward(path: str) -> bool:
    """Whether `..` is one of the path's parts, by either kind of slash."""
    return ".." in path.replace("\\", "/").split("/")


def below(folder: str, path: str) -> str:
    """`path` below `folder`, both in shortest form."""
    return (PurePosixPath(folder) / path).as_posix() if path else folder


def candidates(names: Iterable[str], build_context: str = "") -> list[str]:
    """Paths to read, in order of precedence: the build context's, then the root's.

    The folder is more important than the kind of file: the root of a monorepo counts for
    folders without such files.
    """
    wanted = list(names)
    folders = dict.fromkeys((build_context, ""))
    return [below(folder, name) for folder in folders for name in wanted]
