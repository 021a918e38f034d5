"""The Python version of a job, `3.11`, from the forms in which it may be written.

Order: `--runtime`, else `runtime.txt`, `.python-version`, `requires-python` of
`pyproject.toml`, in the build context and then at the root, else the Python in use.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from agent.model.errors import InvalidInputError
from agent.model.job.paths import candidates
from agent.model.job.pyproject import read_pyproject

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

ACCEPTED: Final = "Accepted: `3.11`, `3.11.4`, `python-3.11.4`, `CPython 3.11.4`."

_NUMBER = r"3\.(?P<minor>0|[1-9][0-9]?)(?:\.[0-9]{1,3})?(?:(?:a|b|rc)[0-9]{1,2})?"
_FORM: Final = re.compile(
    rf"(?:c?python[-@ ]?)?{_NUMBER}(?P<platform>(?:-[a-z0-9_]+)+)?", re.ASCII | re.IGNORECASE
)
#: What W&B's library records: the implementation's name before the version.
_RECORDED: Final = re.compile(rf"[a-z]+[- ]?{_NUMBER}", re.ASCII | re.IGNORECASE)
#: What W&B's `getEntrypoint` makes of the same.
_BROKEN_WORD: Final = re.compile(r"python[A-Za-z]+ (3\.[0-9]{1,2})(?:\.[0-9]+)?")
_MINORS: Final = range(40)
_PATCHES: Final = range(50)


@dataclass(frozen=True, slots=True)
class Runtime:
    """A minor version of Python 3, and where it was chosen, for messages."""

    python: str
    origin: str


def parse_python(text: str, where: str = "--runtime") -> str:
    """Any accepted form as `3.<minor>`; `where` begins the message.

    Raises:
        InvalidInputError: names the place, what stood there and the accepted forms.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None or (match["platform"] and not text.strip().lower().startswith("cpython-")):
        shown = text.strip()[:80]
        raise InvalidInputError(f"{where}: '{shown}' is no version of Python 3.", hint=ACCEPTED)
    return f"3.{match['minor']}"


def repaired_runtime(text: str | None) -> str | None:
    """The runtime of a stored job, with known errors of W&B corrected; `None` without one.

    Raises:
        InvalidInputError: no version of Python 3 can be found in it.
    """
    if text is None or not text.strip():
        return None
    match = _RECORDED.fullmatch(text.strip())
    return f"3.{match['minor']}" if match else parse_python(text, "The job's runtime")


def repaired_word(word: str) -> str:
    """An entry point's word; `pythonCPython 3.11` is read as `python3.11`."""
    match = _BROKEN_WORD.fullmatch(word)
    return f"python{match[1]}" if match else word


def from_file(path: str, text: str, current: str) -> Runtime | None:
    """The version that one file names; `None` when it names none.

    `current` decides where the file admits a range.

    Raises:
        InvalidInputError: malformed; names file, line and the accepted forms.
    """
    return _READERS[PurePosixPath(path).name](path, text, current)


def runtime_candidates(build_context: str = "") -> list[str]:
    """Files that may name a runtime, in order; `build_context` in shortest form."""
    return candidates(_READERS, build_context)


def choose_runtime(option: str | None, found: Iterable[tuple[str, str]], current: str) -> Runtime:
    """The runtime of a new job.

    `found` gives path and text of those `runtime_candidates` that exist, in their order; it is
    read only as far as needed. `current` is the version of the Python in use.

    Raises:
        InvalidInputError: the option or a file is malformed.
    """
    if option:
        return Runtime(parse_python(option), "--runtime")
    in_use = parse_python(current, "The Python in use")
    stated = (from_file(path, text, in_use) for path, text in found)
    return next((runtime for runtime in stated if runtime), Runtime(in_use, "the Python in use"))


def _from_runtime_txt(path: str, text: str, _current: str) -> Runtime:
    lines = _content(path, text)
    if len(lines) > 1:
        number, line = lines[1]
        message = f"{path}, line {number}: '{line[:80]}' is one line too many."
        raise InvalidInputError(message, hint=f"One version only. {ACCEPTED}")
    return _from_first(path, lines)


def _from_python_version(path: str, text: str, _current: str) -> Runtime:
    """Only the first line counts: pyenv's further lines are for other programs."""
    return _from_first(path, _content(path, text))


def _from_first(path: str, lines: list[tuple[int, str]]) -> Runtime:
    number, line = lines[0]
    where = f"{path}, line {number}"
    return Runtime(parse_python(line, where), where)


def _content(path: str, text: str) -> list[tuple[int, str]]:
    """Lines with content and their numbers; at least one."""
    numbered = enumerate(text.removeprefix("\ufeff").splitlines(), start=1)
    stripped = ((number, line.partition("#")[0].strip()) for number, line in numbered)
    lines = [(number, line) for number, line in stripped if line]
    if not lines:
        raise InvalidInputError(f"{path}, line 1: the file names no version.", hint=ACCEPTED)
    return lines


def _from_pyproject(path: str, text: str, current: str) -> Runtime | None:
    pyproject = read_pyproject(text, path)
    wanted = pyproject.project.get("requires-python")
    if wanted is None:
        return None
    where = f"{path}, line {pyproject.line_of_key('requires-python')}"
    hint = "Accepted: a range of versions, for example `>=3.11` or `>=3.10,<3.13`."
    # Imported here: it takes a tenth of a command's time to load.
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        admitted = SpecifierSet(wanted)
    except (InvalidSpecifier, TypeError, AttributeError):
        message = f"{where}: `requires-python` is {wanted!r}, which is no range of versions."
        raise InvalidInputError(message, hint=hint) from None
    python = _nearest(admitted, current)
    if python is None:
        message = f"{where}: `requires-python` is '{wanted}', which admits no Python 3."
        raise InvalidInputError(message, hint=hint)
    return Runtime(python, where)


def _nearest(admitted: "SpecifierSet", current: str) -> str | None:
    """The admitted minor version nearest to the one in use; of two equally near, the newer."""
    here = int(current.removeprefix("3."))
    for minor in sorted(_MINORS, key=lambda candidate: (abs(candidate - here), -candidate)):
        if any(admitted.contains(f"3.{minor}.{patch}") for patch in _PATCHES):
            return f"3.{minor}"
    return None


_Reader = Callable[[str, str, str], Runtime | None]
#: Files that may name a runtime, and how each is read; in the order in which they count.
_READERS: Final[Mapping[str, _Reader]] = {
    "runtime.txt": _from_runtime_txt,
    ".python-version": _from_python_version,
    "pyproject.toml": _from_pyproject,
}
