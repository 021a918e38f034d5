"""Requirement files: the one reader, in pip's own grammar and decoding.

`pip_requirements_parser` holds pip's parsing code; it and `packaging` are imported where they are
used, since loading them takes a tenth of a command's time. A file is read together with what it
includes (`-r`, `-c`) into lists in which every line knows its file and number, local paths are
resolved inside the source, and only forms are left that uv takes.

At the end `requirements.frozen.txt`: what a job's Python had installed, and how it is put back.
W&B's library writes `name==version` lines at a run's end; its command line copies
`requirements.txt` of a directory, and writes nothing for Git and image jobs.
"""

import codecs
import functools
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urljoin, urlsplit

from agent.model.errors import InvalidInputError
from agent.model.job.pyproject import read_pyproject
from agent.model.names import nearest

_MAX_FILE_BYTES: Final = 1024 * 1024
_DEEPEST: Final = 20
_SHOWN: Final = 120
_CONDA: Final = "List packages without paths: `pip list --format=freeze > requirements.txt`."
_MARKS: Final = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_PARSER: Final = "pip_requirements_parser: error: "
#: Options of one requirement that uv does not take, by the parser's attribute.
_BUILD_OPTIONS: Final = {"global_options": "--global-option", "install_options": "--install-option"}
#: Options with values, and what separates several: URLs stand alone.
_VALUED: Final = {"index_url": None, "extra_index_urls": None, "no_binary": ",", "only_binary": ","}
#: Repositories that pip takes and uv does not.
_OTHER_SYSTEMS: Final = frozenset({"hg", "svn", "bzr"})
_FLAGS: Final = {"no_index": "--no-index", "require_hashes": "--require-hashes"}
#: Options that uv takes on its command line. As with pip, the best version of all indexes that
#: the file itself names counts.
_COMMAND_LINE: Final = {
    "pre": "--prerelease allow",
    "extra_index_urls": "--index-strategy unsafe-best-match",
}
#: Options of the whole file that change nothing here, with the remark.
_IGNORED: Final = {
    "prefer_binary": "`--prefer-binary` has no effect: uv prefers wheels of the chosen version",
    "use_features": "`--use-feature` has no effect: uv installs the packages",
    "trusted_hosts": "`--trusted-host` is ignored: the agent's `builder.ca_bundle` decides",
}


@dataclass(frozen=True, slots=True)
class RequirementLine:
    """A requirement or an option, on one line, as uv takes it."""

    #: With `{}` in place of the URL of `path`, where there is one.
    text: str
    #: `requirements.txt, line 3`.
    where: str
    #: Absolute path inside the source of a package, an archive or a folder of archives.
    path: Path | None = None
    editable: bool = False

    @property
    def is_package_folder(self) -> bool:
        """Whether it is a package that is built from a folder of the source. Blocks."""
        return self.path is not None and not self.text.startswith("--") and self.path.is_dir()

    def render(self, root: Path, base: Path, *, editable: bool = True) -> str:
        """The line for an installer that finds the source's `root` at `base`."""
        if self.path is None:
            return self.text
        url = f"file://{quote(os.path.normpath(base / self.path.relative_to(root)))}"
        return ("-e " if self.editable and editable else "") + self.text.format(url)


@dataclass(frozen=True, slots=True)
class RequirementList:
    """What a requirement file and everything that it includes ask for, in order."""

    packages: tuple[RequirementLine, ...] = ()
    constraints: tuple[RequirementLine, ...] = ()
    #: Options for uv's command line.
    options: tuple[str, ...] = ()
    #: What is ignored, in sentences for the log.
    remarks: tuple[str, ...] = ()
    #: Included URLs whose content was not given: URL and the line that includes it.
    unread: tuple[tuple[str, str], ...] = ()


def decode(data: bytes, name: str) -> str:
    """Text of a requirement file: byte order mark, `coding:` line, else UTF-8.

    Raises:
        InvalidInputError: none of them fits.
    """
    first = data.split(b"\n", 2)[:2]
    try:
        if not data.startswith(_MARKS) and not any(b"coding" in line for line in first):
            return data.decode("utf-8")
        from pip_requirements_parser import auto_decode

        return str(auto_decode(data))
    except (UnicodeError, LookupError) as error:
        message = f"{name} cannot be decoded: {error}."
        hint = "Save it as UTF-8, or name its encoding in the first line: `# coding: latin-1`."
        raise InvalidInputError(message, hint=hint) from None


def read_requirements(
    file: Path, root: Path, context: Path, remote: Mapping[str, bytes] | None = None
) -> RequirementList:
    """Read a requirement file of the source, with what it includes. Blocks.

    Paths are relative to the file that names them, else to `context`, where pip would be
    started. `remote` has the content of included URLs as far as it was fetched.

    Raises:
        InvalidInputError: what cannot be used; names file, line and remedy.
    """
    reader = _Reader(root.resolve(), context.resolve(), remote or {})
    reader.read_file(file, 0, constraining=False, where=None)
    return reader.result()


def read_requirement_text(text: str, file: Path, root: Path, context: Path) -> RequirementList:
    """The same for a text that stands for `file`. Blocks."""
    reader = _Reader(root.resolve(), context.resolve(), {})
    reader.read_text(text, shown(file, root), file.parent, 0, constraining=False)
    return reader.result()


def project_dependencies(text: str, path: str) -> tuple[RequirementLine, ...]:
    """`project.dependencies` of a `pyproject.toml`; empty when it lists none.

    Raises:
        InvalidInputError: the file is not TOML, the list is none, or an entry is no requirement.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    pyproject = read_pyproject(text, path)
    listed = pyproject.project.get("dependencies", [])
    where = pyproject.line_of_key("dependencies")
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        message = f"{path}, line {where}: `project.dependencies` is no list of texts."
        raise InvalidInputError(message, hint='For example: `dependencies = ["numpy>=2"]`.')
    found = []
    for each in listed:
        place = f"{path}, line {pyproject.line_of_text(each, where)}"
        try:
            Requirement(each)
        except InvalidRequirement as error:
            raise _no_requirement(each, place, str(error)) from None
        found.append(RequirementLine(" ".join(each.split()), place))
    return tuple(found)


def shown(file: Path, root: Path) -> str:
    """A file's path for messages."""
    return os.path.relpath(file.resolve(), root.resolve())


def read_source_file(file: Path, root: Path, *, largest: int = _MAX_FILE_BYTES) -> bytes:
    """The content of a file of the source. Blocks.

    Raises:
        InvalidInputError: too large, a link out of the source, or unreadable.
    """
    name = os.path.relpath(file, root)
    if not _inside(file, root):
        raise InvalidInputError(f"{name} is a link out of the source.", hint="Copy it there.")
    try:
        if file.stat().st_size > largest:
            limit = largest // 1024**2
            raise InvalidInputError(f"{name} is larger than {limit} MiB.", hint="Shorten it.")
        return file.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{name} cannot be read: {error.strerror}.") from None


@dataclass
class _Reader:
    root: Path
    context: Path
    remote: Mapping[str, bytes]
    packages: list[RequirementLine] = field(default_factory=list)
    constraints: list[RequirementLine] = field(default_factory=list)
    options: dict[str, None] = field(default_factory=dict)
    remarks: dict[str, None] = field(default_factory=dict)
    unread: list[tuple[str, str]] = field(default_factory=list)

    def result(self) -> RequirementList:
        return RequirementList(
            tuple(self.packages),
            tuple(self.constraints),
            tuple(word for option in self.options for word in option.split()),
            tuple(self.remarks),
            tuple(self.unread),
        )

    def read_file(self, file: Path, depth: int, *, constraining: bool, where: str | None) -> None:
        if depth > _DEEPEST:
            raise InvalidInputError(
                f"{where}: requirement files include each other without end.",
                hint="Remove one of the `-r` or `-c` lines.",
            )
        name = os.path.relpath(file, self.root)
        text = decode(read_source_file(file, self.root), name)
        self.read_text(text, name, file.parent, depth, constraining=constraining)

    def read_text(
        self, text: str, name: str, folder: Path | str, depth: int, *, constraining: bool
    ) -> None:
        """`folder` is where relative names begin: a path, or the URL of a fetched file."""
        if "\0" in text:
            number = text.count("\n", 0, text.index("\0")) + 1
            message = f"{name}, line {number}: it has a null character."
            raise InvalidInputError(message, hint="Save the file as UTF-8.")
        found = _parsed(text)
        lines = [*found.requirements, *found.options, *found.invalid_lines]
        for line in sorted(lines, key=lambda each: each.line_number):
            where = f"{name}, line {line.line_number}"
            if hasattr(line, "error_message"):
                self._add_unparsed(line, where, constraining=constraining)
            elif hasattr(line, "link"):
                made = self._requirement(line, where, folder)
                (self.constraints if constraining else self.packages).append(made)
            else:
                self._add_options(line.options, where, folder, depth, constraining=constraining)

    def _add_unparsed(self, line: Any, where: str, *, constraining: bool) -> None:
        text = line.requirement_line.line
        if "${" in text and not text.startswith("-"):
            # Only the installer knows its environment.
            (self.constraints if constraining else self.packages).append(
                RequirementLine(text, where)
            )
            return
        reason = line.error_message.removeprefix(_PARSER)
        unknown = re.fullmatch(r"no such option: (\S+)", reason)
        if unknown is not None:
            raise _unknown_option(unknown[1], where)
        if reason.startswith("Invalid requirement"):
            raise _no_requirement(text, where, reason.partition(": : ")[2] or reason)
        if _PARSER in line.error_message:
            message = f"{where}: '{text[:_SHOWN]}': {reason.rstrip('.')}."
            raise InvalidInputError(message, hint="Give the option one value.")
        raise _no_requirement(text, where, reason)

    def _requirement(self, line: Any, where: str, folder: Path | str) -> RequirementLine:
        text = line.requirement_line.line
        for attribute, option in _BUILD_OPTIONS.items():
            if getattr(line, attribute, None):
                message = f"{where}: '{text[:_SHOWN]}': uv does not take `{option}`."
                raise InvalidInputError(message, hint=f"Remove `{option}` from the line.")
        if line.link is None:
            return RequirementLine(text, where)
        name, _, target = line.link.url.rpartition(" @ ")
        name = line.name if getattr(line, "is_name_at_url", False) else name
        if target.startswith('"') and target.endswith('"'):
            target = target[1:-1]
        system, _, rest = target.partition("+")
        if rest and system in _OTHER_SYSTEMS:
            message = f"{where}: '{text[:_SHOWN]}': of repositories, uv takes those of git only."
            raise InvalidInputError(message, hint="Install it in a Dockerfile of the job's own.")
        scheme = urlsplit(target).scheme if "://" in target or target.startswith("file:") else ""
        if scheme not in {"", "file"}:
            # uv takes no editable Git requirement; a copy of the commit is the same here.
            return RequirementLine(target if line.is_editable else text, where)
        path = self._local(_path_of(target.partition("#egg=")[0]), where, text, folder)
        extras = f"[{','.join(sorted(line.extras))}]" if line.extras else ""
        marker = f" ; {line.marker}" if line.marker else ""
        hashes = "".join(f" --hash={each}" for each in line.hash_options)
        form = f"{name}{extras} @ {{}}" if name else f"{{}}{extras}"
        return RequirementLine(f"{form}{marker}{hashes}", where, path, editable=line.is_editable)

    def _local(self, target: str, where: str, text: str, folder: Path | str) -> Path:
        quoted = f"{where}: '{text[:_SHOWN]}'"
        if os.path.isabs(target):  # noqa: PTH117
            message = f"{quoted} is a path on the machine where the list was made."
            raise InvalidInputError(message, hint=_CONDA)
        if isinstance(folder, str):
            message = f"{quoted}: a file that was fetched cannot name a path."
            raise InvalidInputError(message, hint="Put the line into a file of the source.")
        for base in dict.fromkeys((folder, self.context)):
            path = (base / target).resolve()
            if not path.is_relative_to(self.root):
                message = f"{quoted} leads out of the source."
                raise InvalidInputError(message, hint="Copy the package into the source.")
            if path.exists():
                return path
        message = f"{quoted}: '{target}' does not exist in the source."
        raise InvalidInputError(message, hint="Correct the path, or add the file to the source.")

    def _add_options(
        self,
        options: Mapping[str, Any],
        where: str,
        folder: Path | str,
        depth: int,
        *,
        constraining: bool,
    ) -> None:
        lines = self.constraints if constraining else self.packages
        for name, value in options.items():
            option = f"--{name.removesuffix('s').replace('_', '-')}"
            if name in {"requirements", "constraints"}:
                constrains = constraining or name == "constraints"
                for each in value:
                    self._include(each, where, folder, depth + 1, constraining=constrains)
            elif name == "find_links":
                lines += [self._find_links(each, where, folder) for each in value]
            elif name in _VALUED:
                values = [value] if isinstance(value, str) else value
                names = [each for listed in values for each in listed.split(_VALUED[name])]
                lines += [RequirementLine(f"{option} {each}", where) for each in names]
            elif name in _FLAGS:
                lines.append(RequirementLine(_FLAGS[name], where))
            elif name in _IGNORED:
                self.remarks[f"{where}: {_IGNORED[name]}"] = None
            elif name != "pre":
                raise _unknown_option(option, where)
            if name in _COMMAND_LINE:
                self.options[_COMMAND_LINE[name]] = None

    def _find_links(self, target: str, where: str, folder: Path | str) -> RequirementLine:
        if urlsplit(target).scheme in {"http", "https"}:
            return RequirementLine(f"--find-links {target}", where)
        path = self._local(_path_of(target), where, f"--find-links {target}", folder)
        return RequirementLine("--find-links {}", where, path)

    def _include(
        self, name: str, where: str, folder: Path | str, depth: int, *, constraining: bool
    ) -> None:
        url = urljoin(folder, name) if isinstance(folder, str) else name
        if urlsplit(url).scheme in {"http", "https"}:
            self._include_url(url, where, depth, constraining=constraining)
            return
        target = self.root if isinstance(folder, str) else folder / _path_of(name)
        if isinstance(folder, str) or not _inside(target, self.root):
            message = f"{where}: it includes '{name}', which is not in the source."
            raise InvalidInputError(message, hint="Copy the file into the source.")
        if not target.is_file():
            message = f"{where}: it includes '{name}', which does not exist."
            raise InvalidInputError(message, hint="Correct the path, or add the file.")
        self.read_file(target, depth, constraining=constraining, where=where)

    def _include_url(self, url: str, where: str, depth: int, *, constraining: bool) -> None:
        if depth > _DEEPEST:
            raise InvalidInputError(f"{where}: requirement files include each other without end.")
        data = self.remote.get(url)
        if data is None:
            self.unread.append((url, where))
            return
        self.read_text(decode(data, url), url, url, depth, constraining=constraining)


@functools.lru_cache(maxsize=8)
def _parsed(text: str) -> Any:
    """The parser's lines, not to be changed. Pip's parser reads files only, 0.5 ms per line.

    A build asks for the same text when its key is made and when it installs.
    """
    from pip_requirements_parser import RequirementsFile

    with tempfile.NamedTemporaryFile(prefix="launch-requirements-") as file:
        file.write(text.encode("utf-8-sig"))
        file.flush()
        return RequirementsFile.from_file(file.name)


def _path_of(target: str) -> str:
    if not target.startswith("file:"):
        return target
    return unquote(target.removeprefix("file:").removeprefix("//"))


def _inside(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())


def _unknown_option(name: str, where: str) -> InvalidInputError:
    if name.startswith("--config-setting"):
        return InvalidInputError(
            f"{where}: uv takes no `{name}` for one requirement.",
            hint="Remove it, or install the package in a Dockerfile of the job's own.",
        )
    from pip_requirements_parser import build_parser

    known = {str(option.get_opt_string()) for option in build_parser().option_list}
    match = nearest(name, known)
    hint = f"Did you mean `{match}`?" if match else f"Known: {', '.join(sorted(known))}."
    return InvalidInputError(f"{where}: unknown option `{name}`.", hint=hint)


def _no_requirement(text: str, where: str, reason: str) -> InvalidInputError:
    first = reason.splitlines()[0].rstrip(".") if reason.strip() else "it cannot be read"
    message = f"{where}: '{text[:_SHOWN]}' is no requirement: {first}."
    return InvalidInputError(message, hint="For example: `numpy>=2,<3`.")


# ------------------------------------------------------------------ requirements.frozen.txt

FROZEN_NAME: Final = "requirements.frozen.txt"

_DEVELOPMENT: Final = re.compile(r"wandb==[^\s;]*\.dev[0-9]+(?:[\s;].*)?")
#: Builds of PyTorch and its companions for one accelerator: `2.4.0+cu121`, `2.4.0+cpu`.
_VARIANT: Final = re.compile(r"torch(?:vision|audio)?==[0-9.]+\+(?P<variant>cu[0-9]{2,3}|cpu).*")


@dataclass(frozen=True, slots=True)
class Frozen:
    """A frozen list by how each part is installed; dependencies are not resolved."""

    plain: tuple[str, ...]
    #: Accelerator's name (`cu121`, `cpu`) → packages that only its own index has.
    variants: tuple[tuple[str, tuple[str, ...]], ...]

    def __bool__(self) -> bool:
        return bool(self.plain or self.variants)


def frozen_text(requirements: str | None) -> str:
    """The file's content for a directory whose `requirements.txt` has this text, if any.

    Byte by byte what W&B's command line writes: lines joined, no newline at the end.
    """
    return "\n".join((requirements or "").splitlines())


def read_frozen(text: str) -> Frozen:
    """Read a frozen list; options and comments are left out.

    A development build of `wandb` is in no index; the newest release replaces it.
    """
    plain: list[str] = []
    variants: dict[str, list[str]] = {}
    for line in text.splitlines():
        stated = line.partition("#")[0].strip()
        if not stated or stated.startswith("-"):
            continue
        variant = _VARIANT.fullmatch(stated)
        if variant is not None:
            variants.setdefault(variant["variant"], []).append(stated)
        else:
            plain.append("wandb" if _DEVELOPMENT.fullmatch(stated) else stated)
    return Frozen(tuple(plain), tuple((key, tuple(found)) for key, found in variants.items()))
