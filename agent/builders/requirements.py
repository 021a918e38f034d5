"""Which packages a job needs: found, read and flattened.

Looked up in the build context, then at the source's root, in each: `requirements.txt`, else a
lock (`uv.lock`, `pylock.toml`, `poetry.lock`), else `project.dependencies` of
`pyproject.toml`, else the job's `requirements.frozen.txt`. Included files become part of one
text, so that a layer or an environment depends on this text and on nothing else. Lines that
install from the source itself (`-e .`, `./package`) are set apart, since they need the code.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.builders import locks
from agent.model.cause import Cause
from agent.model.errors import InvalidInputError, JobError
from agent.model.job import frozen
from agent.model.job.paths import candidates
from agent.model.job.requirements import project_dependencies, read_requirements

_INCLUDE: Final = re.compile(
    r"(-r|--requirement|-c|--constraint)(?:\s+|=|(?<=-[rc]))(\S+)\s*(?:\s#.*)?"
)
_EDITABLE: Final = re.compile(r"(-e|--editable)(?:\s+|=)(.+)")
_LOCAL: Final = re.compile(r"\.{0,2}/|\.$|\.\[|file:")
_LARGEST: Final = 1024 * 1024
_LARGEST_LOCK: Final = 32 * 1024 * 1024
_DEEPEST: Final = 20


LISTED: Final = "requirements.txt"
PROJECT: Final = "pyproject.toml"
#: In the order in which they count, per folder.
_FILES: Final = (
    LISTED, locks.UV_LOCK, locks.PYLOCK, locks.POETRY_LOCK, PROJECT, frozen.FILE_NAME,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LocalPackage:
    """A package that lies in the source tree."""

    #: Absolute, inside the source.
    path: Path
    #: `[dev,test]` or empty.
    extras: str
    editable: bool


@dataclass(frozen=True, slots=True)
class Requirements:
    """What to install."""

    #: File it comes from, relative to the root.
    found_in: str
    #: One requirement or option per line.
    packages: str = ""
    constraints: str = ""
    local: tuple[LocalPackage, ...] = ()
    #: The list is complete: its packages are installed without asking what they need.
    exact: bool = False
    #: A frozen list: what cannot be installed is left out and told, as W&B does.
    lenient: bool = False
    #: Packages of one accelerator's own index: its name (`cu121`) → lines.
    variants: tuple[tuple[str, tuple[str, ...]], ...] = ()
    #: What uv takes `packages` for.
    file_name: str = LISTED

    @property
    def mode(self) -> str:
        """How the installing script treats the list."""
        return "frozen" if self.lenient else "exact" if self.exact else "resolve"

    def line(self, number: int) -> str:
        """A line of `packages`, counted from 1, for messages; empty if there is none."""
        lines = self.packages.splitlines()
        return lines[number - 1].strip() if 0 < number <= len(lines) else ""


def find_requirements(context: Path, root: Path) -> Requirements | None:
    """The requirements of a job, or `None` when it names none. Blocks.

    Raises:
        JobError: `SOURCE_INVALID` naming the file that cannot be used.
    """
    below = context.resolve().relative_to(root.resolve()).as_posix()
    for path in candidates(_FILES, "" if below == "." else below):
        file = root / path
        if not file.is_file():
            continue
        try:
            found = _READERS[file.name](file, root)
        except InvalidInputError as error:
            raise JobError(Cause.SOURCE_INVALID, error.message, hint=error.hint) from None
        except locks.LockError as error:
            raise _invalid(path, str(error)) from None
        if found is not None:
            return found
    return None


@dataclass
class _Reader:
    root: Path
    packages: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    local: list[LocalPackage] = field(default_factory=list)

    def read(self, file: Path, depth: int, *, constraining: bool) -> None:
        if depth > _DEEPEST:
            raise _invalid(shown(file, self.root), "files include each other without end")
        text = read_text(file, self.root)
        # Checked as a whole first: unknown options and lines that are none are named there.
        read_requirements(text, shown(file, self.root))
        self.lines(text, file, depth, constraining=constraining)

    def lines(self, text: str, file: Path, depth: int, *, constraining: bool) -> None:
        for line in _logical_lines(text):
            self._line(line, file, depth, constraining=constraining)

    def _line(self, line: str, file: Path, depth: int, *, constraining: bool) -> None:
        include = _INCLUDE.fullmatch(line)
        if include is not None:
            constrains = constraining or include[1] in {"-c", "--constraint"}
            self.read(self._included(include[2], file), depth + 1, constraining=constrains)
        elif (local := self._as_local(line, file)) is not None:
            self.local.append(local)
        else:
            (self.constraints if constraining else self.packages).append(line)

    def _included(self, name: str, file: Path) -> Path:
        target = file.parent / name
        if "://" in name or not _inside(target, self.root):
            raise _invalid(
                shown(file, self.root), f"it includes '{name}', which is not in the source"
            )
        if not target.is_file():
            raise _invalid(shown(file, self.root), f"it includes '{name}', which does not exist")
        return target

    def _as_local(self, line: str, file: Path) -> LocalPackage | None:
        editable = _EDITABLE.fullmatch(line)
        target = (editable[2] if editable else line).split(" #")[0].strip()
        if not _LOCAL.match(target) and " @ file:" not in target:
            return None
        path = target.rpartition("file:")[2].split(";")[0].strip()
        bare, bracket, extras = path.partition("[")
        where = file.parent / bare
        if bare.startswith("/") or not _inside(where, self.root):
            raise _invalid(shown(file, self.root), f"'{line}' points out of the source")
        return LocalPackage(where.resolve(), bracket + extras, editable is not None)

    def result(self, found_in: Path, *, exact: bool = False) -> Requirements:
        return Requirements(
            shown(found_in, self.root),
            locks.as_text(self.packages),
            locks.as_text(self.constraints),
            tuple(self.local),
            exact=exact,
        )


def _listed(file: Path, root: Path) -> Requirements:
    reader = _Reader(root)
    reader.read(file, 0, constraining=False)
    return reader.result(file)


def _of_uv(file: Path, root: Path) -> Requirements | None:
    """A lock without its project says nothing: uv needs both."""
    read_text(file, root, largest=_LARGEST_LOCK)
    if not (file.parent / PROJECT).is_file():
        return None
    read_text(file.parent / PROJECT, root)
    return _locked(locks.from_uv(file.parent), file, root)


def _of_poetry(file: Path, root: Path) -> Requirements:
    project = file.parent / PROJECT
    pyproject = read_text(project, root) if project.is_file() else None
    text = read_text(file, root, largest=_LARGEST_LOCK)
    return _locked(locks.from_poetry(text, pyproject), file, root)


def _locked(found: locks.Locked, file: Path, root: Path) -> Requirements:
    reader = _Reader(root)
    reader.lines(found.packages, file, 0, constraining=False)
    reader.lines(found.constraints, file, 0, constraining=True)
    return reader.result(file, exact=found.exact)


def _of_pylock(file: Path, root: Path) -> Requirements:
    text = read_text(file, root, largest=_LARGEST_LOCK)
    return Requirements(shown(file, root), text, file_name=locks.PYLOCK)


def _of_project(file: Path, root: Path) -> Requirements | None:
    listed = project_dependencies(read_text(file, root), shown(file, root))
    packages = locks.as_text(" ".join(each.text.split()) for each in listed)
    return Requirements(shown(file, root), packages) if packages else None


def _of_frozen(file: Path, root: Path) -> Requirements | None:
    found = frozen.read_frozen(read_text(file, root))
    if not found:
        return None
    return Requirements(
        shown(file, root),
        locks.as_text(found.plain),
        exact=True,
        lenient=True,
        variants=found.variants,
    )


_READERS: Final[dict[str, Callable[[Path, Path], Requirements | None]]] = {
    LISTED: _listed,
    locks.UV_LOCK: _of_uv,
    locks.PYLOCK: _of_pylock,
    locks.POETRY_LOCK: _of_poetry,
    PROJECT: _of_project,
    frozen.FILE_NAME: _of_frozen,
}


def read_text(file: Path, root: Path, *, largest: int = _LARGEST) -> str:
    """A text file of the source.

    Raises:
        JobError: `SOURCE_INVALID`: too large, a link out of the source, or no text.
    """
    name = os.path.relpath(file, root)
    if not _inside(file, root):
        raise _invalid(name, "it is a link out of the source")
    try:
        if file.stat().st_size > largest:
            raise _invalid(name, f"it is larger than {largest // 1024**2} MiB")
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise _invalid(name, str(reason)) from None


def shown(file: Path, root: Path) -> str:
    """A file's path for messages."""
    return file.resolve().relative_to(root.resolve()).as_posix()


def _logical_lines(text: str) -> Iterator[str]:
    """Lines joined where a backslash ends them, without comments and blank ones."""
    joined = re.sub(r"\\\r?\n", " ", text)
    for line in joined.splitlines():
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield stripped


def _inside(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())


def _invalid(name: str, why: str) -> JobError:
    return JobError(Cause.SOURCE_INVALID, f"Requirements file `{name}` cannot be used: {why}.")
