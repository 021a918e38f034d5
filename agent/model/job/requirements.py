"""Requirement files and dependency lists: each requirement with its line, each option known.

Facts: pip's requirements file format; dependency specifiers as `packaging` reads them.
"""

import re
import shlex
from dataclasses import dataclass
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from agent.model.errors import InvalidInputError
from agent.model.job.pyproject import PyProject, read_pyproject
from agent.model.names import nearest

#: Options of a whole file that take a value, then those that take none.
_VALUED: Final = {
    "-i": "--index-url",
    "-c": "--constraint",
    "-r": "--requirement",
    "-e": "--editable",
    "-f": "--find-links",
    "--index-url": "--index-url",
    "--pypi-url": "--index-url",
    "--extra-index-url": "--extra-index-url",
    "--constraint": "--constraint",
    "--requirement": "--requirement",
    "--editable": "--editable",
    "--find-links": "--find-links",
    "--no-binary": "--no-binary",
    "--only-binary": "--only-binary",
    "--trusted-host": "--trusted-host",
    "--use-feature": "--use-feature",
}
_FLAGS: Final = frozenset({"--no-index", "--prefer-binary", "--require-hashes", "--pre"})
#: Options that belong to one requirement.
_PER_REQUIREMENT: Final = frozenset(
    {"--hash", "--config-settings", "--config-setting", "--global-option"}
)
_COMMENT: Final = re.compile(r"(?<!\S)#.*$")
_BEFORE_OPTION: Final = re.compile(r"(?<=\s)(?=--?[A-Za-z])")
_ARCHIVES: Final = (".whl", ".zip", ".tar.gz", ".tar.bz2", ".tar.xz", ".tgz")
_SHOWN: Final = 120


@dataclass(frozen=True, slots=True)
class Dependency:
    """One requirement as it stands in a file, without its comment and its own options."""

    text: str
    path: str
    line: int
    #: `None` for a folder, an archive, a URL or a text with variables.
    requirement: Requirement | None

    @property
    def name(self) -> str | None:
        """The package's name in its canonical form, as far as the text tells."""
        return canonicalize_name(self.requirement.name) if self.requirement else None


@dataclass(frozen=True, slots=True)
class Option:
    """A line that begins with an option, by its long name."""

    name: str
    value: str | None
    line: int


@dataclass(frozen=True, slots=True)
class Requirements:
    """What one requirements file says, in its order."""

    path: str
    dependencies: tuple[Dependency, ...]
    options: tuple[Option, ...]

    @property
    def included(self) -> tuple[Option, ...]:
        """Other files that it reads, `-r` and `-c`; their paths are relative to its folder."""
        return tuple(o for o in self.options if o.name in {"--requirement", "--constraint"})

    def names(self, package: str) -> bool:
        """Whether the file itself asks for a package."""
        return any(d.name == canonicalize_name(package) for d in self.dependencies)


def read_requirements(text: str, path: str) -> Requirements:
    """Read a requirements file.

    Raises:
        InvalidInputError: an unknown option, or a line that is no requirement; names file,
            line and what stood there.
    """
    dependencies: list[Dependency] = []
    options: list[Option] = []
    for number, line in _logical_lines(text):
        if line.startswith("-"):
            options.append(_option(line, path, number))
        else:
            dependencies.append(_dependency(line, path, number))
    return Requirements(path, tuple(dependencies), tuple(options))


def project_dependencies(text: str, path: str) -> tuple[Dependency, ...]:
    """`project.dependencies` of a `pyproject.toml`; empty when it lists none.

    Raises:
        InvalidInputError: the file is not TOML, the list is none, or an entry is no requirement.
    """
    pyproject = read_pyproject(text, path)
    listed = pyproject.project.get("dependencies", [])
    where = pyproject.line_of_key("dependencies")
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        message = f"{path}, line {where}: `project.dependencies` is no list of texts."
        raise InvalidInputError(message, hint='For example: `dependencies = ["numpy>=2"]`.')
    return tuple(_listed(each, pyproject, where) for each in listed)


def _listed(text: str, pyproject: PyProject, after: int) -> Dependency:
    line = pyproject.line_of_text(text, after)
    try:
        return Dependency(text, pyproject.path, line, Requirement(text))
    except InvalidRequirement as error:
        raise _no_requirement(text, pyproject.path, line, error) from None


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Lines with their numbers: continued ones joined, comments and empty ones left out."""
    lines: list[tuple[int, str]] = []
    begun: list[str] = []
    first = 0
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        first = first if begun else number
        comment = line.lstrip().startswith("#")
        if line.endswith("\\") and not comment:
            begun.append(line[:-1])
            continue
        lines.append((first, "".join([*begun, "" if begun and comment else line])))
        begun = []
    if begun:
        lines.append((first, "".join(begun)))
    stripped = ((number, _COMMENT.sub("", line).strip()) for number, line in lines)
    return [(number, line) for number, line in stripped if line]


def _option(line: str, path: str, number: int) -> Option:
    name, value = _name_and_value(line, path, number)
    if name in _FLAGS and value is None:
        return Option(name, None, number)
    if name in _VALUED and value:
        return Option(_VALUED[name], value, number)
    where = f"{path}, line {number}"
    if name in _FLAGS:
        raise InvalidInputError(f"{where}: the option `{name}` takes no value (seen: '{value}').")
    if name in _VALUED:
        raise InvalidInputError(f"{where}: the option `{name}` lacks its value.")
    raise _unknown_option(name, where, {*_FLAGS, *_VALUED})


def _name_and_value(line: str, path: str, number: int) -> tuple[str, str | None]:
    """`--name=value`, `--name value`, `-n value` or `-nvalue`, taken apart."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        message = f"{path}, line {number}: '{line[:_SHOWN]}': {error}."
        raise InvalidInputError(message, hint="Check the quotes.") from None
    head, rest = words[0], " ".join(words[1:])
    if head.startswith("--"):
        name, equals, attached = head.partition("=")
        value = " ".join(filter(None, (attached, rest))) if equals else rest
        return name, value or None
    return head[:2], (head[2:] or rest) or None


def _unknown_option(name: str, where: str, known: set[str] | frozenset[str]) -> InvalidInputError:
    match = nearest(name, known)
    hint = f"Did you mean `{match}`?" if match else f"Known: {', '.join(sorted(known))}."
    return InvalidInputError(f"{where}: unknown option `{name}`.", hint=hint)


def _dependency(line: str, path: str, number: int) -> Dependency:
    text, *options = (part.strip() for part in _BEFORE_OPTION.split(line))
    for option in options:
        name = option.split("=", maxsplit=1)[0].split(maxsplit=1)[0]
        if name not in _PER_REQUIREMENT:
            raise _unknown_option(name, f"{path}, line {number}", _PER_REQUIREMENT)
    try:
        return Dependency(text, path, number, Requirement(text))
    except InvalidRequirement as error:
        if _is_location(text):
            return Dependency(text, path, number, None)
        raise _no_requirement(text, path, number, error) from None


def _is_location(text: str) -> bool:
    """A folder, an archive, a URL, or a text whose variables only the installer knows."""
    bare = text.split(";", maxsplit=1)[0].strip().split("[", maxsplit=1)[0]
    return (
        "://" in text
        or "${" in text
        or "/" in bare
        or bare in {".", ".."}
        or (bare.endswith(_ARCHIVES))
    )


def _no_requirement(
    text: str, path: str, line: int, error: InvalidRequirement
) -> InvalidInputError:
    reason = str(error).splitlines()[0].rstrip(".")
    message = f"{path}, line {line}: '{text[:_SHOWN]}' is no requirement: {reason}."
    return InvalidInputError(message, hint="For example: `numpy>=2,<3`.")
