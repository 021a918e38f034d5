"""Which packages a job needs: found, read and flattened.

Looked up in the build context, then at the source's root: `requirements.txt`, else
`project.dependencies` of `pyproject.toml`. Included files become part of one text, so that
a layer or an environment depends on this text and on nothing else. Lines that install from
the source itself (`-e .`, `./package`) are set apart, since they need the code.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agent.model.cause import Cause
from agent.model.errors import JobError

_INCLUDE: Final = re.compile(
    r"(-r|--requirement|-c|--constraint)(?:\s+|=|(?<=-[rc]))(\S+)\s*(?:\s#.*)?"
)
_EDITABLE: Final = re.compile(r"(-e|--editable)(?:\s+|=)(.+)")
_LOCAL: Final = re.compile(r"\.{0,2}/|\.$|\.\[|file:")
_LARGEST: Final = 1024 * 1024
_DEEPEST: Final = 20


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

    def line(self, number: int) -> str:
        """A line of `packages`, counted from 1, for messages; empty if there is none."""
        lines = self.packages.splitlines()
        return lines[number - 1].strip() if 0 < number <= len(lines) else ""


def find_requirements(context: Path, root: Path) -> Requirements | None:
    """The requirements of a job, or `None` when it names none. Blocks.

    Raises:
        JobError: `SOURCE_INVALID` naming the file that cannot be used.
    """
    for folder in dict.fromkeys((context, root)):
        listed = folder / "requirements.txt"
        if listed.is_file():
            return _from_text_files(listed, root)
        project = folder / "pyproject.toml"
        if project.is_file() and (dependencies := _dependencies(project, root)):
            found = project.relative_to(root).as_posix()
            return Requirements(found, "".join(f"{line}\n" for line in dependencies))
    return None


@dataclass
class _Reader:
    root: Path
    packages: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    local: list[LocalPackage] = field(default_factory=list)

    def read(self, file: Path, depth: int, *, constraining: bool) -> None:
        if depth > _DEEPEST:
            raise _invalid(self._name(file), "files include each other without end")
        for line in _logical_lines(self._text(file)):
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
            raise _invalid(self._name(file), f"it includes «{name}», which is not in the source")
        if not target.is_file():
            raise _invalid(self._name(file), f"it includes «{name}», which does not exist")
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
            raise _invalid(self._name(file), f"«{line}» points out of the source")
        return LocalPackage(where.resolve(), bracket + extras, editable is not None)

    def _text(self, file: Path) -> str:
        try:
            if file.stat().st_size > _LARGEST:
                raise _invalid(self._name(file), "it is larger than 1 MiB")
            return file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise _invalid(self._name(file), str(reason)) from None

    def _name(self, file: Path) -> str:
        return file.resolve().relative_to(self.root.resolve()).as_posix()


def _from_text_files(listed: Path, root: Path) -> Requirements:
    if not _inside(listed, root):
        raise _invalid(listed.name, "it is a link out of the source")
    reader = _Reader(root)
    reader.read(listed, 0, constraining=False)
    return Requirements(
        listed.relative_to(root).as_posix(),
        "".join(f"{line}\n" for line in reader.packages),
        "".join(f"{line}\n" for line in reader.constraints),
        tuple(reader.local),
    )


def _logical_lines(text: str) -> Iterator[str]:
    """Lines joined where a backslash ends them, without comments and blank ones."""
    joined = re.sub(r"\\\r?\n", " ", text)
    for line in joined.splitlines():
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield stripped


def _dependencies(file: Path, root: Path) -> list[str]:
    name = file.relative_to(root).as_posix()
    if not _inside(file, root):
        raise _invalid(name, "it is a link out of the source")
    try:
        document: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise _invalid(name, f"it is not valid TOML ({error})") from None
    project = document.get("project", {})
    listed = project.get("dependencies", []) if isinstance(project, dict) else []
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise _invalid(name, "`project.dependencies` is not a list of strings")
    return [" ".join(each.split()) for each in listed]


def _inside(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())


def _invalid(name: str, why: str) -> JobError:
    return JobError(Cause.SOURCE_INVALID, f"Requirements file `{name}` cannot be used: {why}.")
