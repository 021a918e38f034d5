"""The Python version of a job, `3.11`, from the forms in which it may be written.

Order: `--runtime`, else `runtime.txt`, `.python-version`, `requires-python` of
`pyproject.toml`, in the build context and then at the root, else the Python in use.

The files belong to other tools (pyenv, uv, Heroku, Binder), which write more into them than
versions of Python: a file that names none is passed over with a remark, and never refused.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Final

from agent.model.errors import InvalidInputError
from agent.model.job.paths import candidates
from agent.model.job.pyproject import read_pyproject
from agent.model.job.requirements import decode

ACCEPTED: Final = "Accepted: `3.11`, `3.11.4`, `python-3.11.4`, `CPython 3.11.4`."

_NUMBER = r"3\.(?P<minor>0|[1-9][0-9]?)(?:\.[0-9]{1,3})?(?:(?:a|b|rc)[0-9]{1,2})?"
_FORM: Final = re.compile(
    rf"(?:c?python[-@ ]?)?{_NUMBER}(?P<platform>(?:-[a-z0-9_]+)+)?", re.ASCII | re.IGNORECASE
)
#: What stands around a version in the files of other tools: `3.11-dev`, `3.13t`, `3.9.9/envs/x`,
#: `3.11+freethreaded`.
_AROUND: Final = re.compile(
    rf"(?:c?python)?[-@= v]*{_NUMBER}[td]?(?:-dev|-debug|\+[a-z+]+|/envs/.*|\.[x*])?",
    re.ASCII | re.IGNORECASE,
)
#: A range of versions, as uv takes it; Python 3 in any version.
_RANGE: Final = re.compile(r"(?:c?python)?\s*([~<>=!]=?=?.*)", re.ASCII | re.IGNORECASE)
_ANY: Final = re.compile(r"(?:c?python[-@ ]?)?v?3(?:\.[x*])?", re.ASCII | re.IGNORECASE)
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
    #: Files that were passed over, and why.
    remarks: tuple[str, ...] = ()


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


def runtime_candidates(build_context: str = "") -> list[str]:
    """Files that may name a runtime, in order; `build_context` in shortest form."""
    return candidates(_READERS, build_context)


def find_runtime(found: Iterable[tuple[str, str | bytes]], current: str) -> Runtime | list[str]:
    """The version that the first of several files names, else remarks on those passed over.

    `found` gives path and content of those `runtime_candidates` that exist, in their order; it
    is read only as far as needed. `current`, a version, decides where a file admits a range.
    """
    remarks: list[str] = []
    for path, content in found:
        try:
            text = content if isinstance(content, str) else decode(content, path)
            named = _READERS[PurePosixPath(path).name](path, text, current)
        except InvalidInputError as error:
            remarks.append(f"{error.message.rstrip('.')}; it is passed over.")
            continue
        if named is not None:
            return replace(named, remarks=tuple(remarks))
    return remarks


def choose_runtime(
    option: str | None, found: Iterable[tuple[str, str | bytes]], current: str
) -> Runtime:
    """The runtime of a new job; see `find_runtime`. `current` is that of the Python in use.

    Raises:
        InvalidInputError: the option is malformed.
    """
    if option:
        return Runtime(parse_python(option), "--runtime")
    in_use = parse_python(current, "The Python in use")
    named = find_runtime(found, in_use)
    return (
        named if isinstance(named, Runtime) else Runtime(in_use, "the Python in use", tuple(named))
    )


def _from_lines(path: str, text: str, current: str) -> Runtime | None:
    """The first word that names a version of Python; pyenv's files have several."""
    words = [
        (number, word)
        for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1)
        for word in _words(line.partition("#")[0].strip())
    ]
    for number, word in words:
        where = f"{path}, line {number}"
        python = _version_in(word, current)
        if python is not None:
            return Runtime(python, where)
    if not words:
        raise InvalidInputError(f"{path} names no version of Python.")
    number, word = words[0]
    raise InvalidInputError(f"{path}, line {number}: '{word[:80]}' is no version of Python 3.")


def _words(line: str) -> list[str]:
    """A range may have blanks in it; otherwise each word is a version of its own."""
    whole = line.strip("\"'")
    if _FORM.fullmatch(whole) or _RANGE.fullmatch(whole):
        return [whole]
    return line.split()


def _version_in(word: str, current: str) -> str | None:
    try:
        return parse_python(word)
    except InvalidInputError:
        pass
    around = _AROUND.fullmatch(word)
    if around is not None:
        return f"3.{around['minor']}"
    admitted = _RANGE.fullmatch(word)
    if _ANY.fullmatch(word):
        return current
    return _nearest(admitted[1], current) if admitted else None


def _from_pyproject(path: str, text: str, current: str) -> Runtime | None:
    pyproject = read_pyproject(text, path)
    wanted = pyproject.project.get("requires-python")
    if wanted is None:
        return None
    where = f"{path}, line {pyproject.line_of_key('requires-python')}"
    python = _nearest(wanted, current) if isinstance(wanted, str) else None
    if python is None:
        message = f"{where}: `requires-python` is {wanted!r}, which admits no Python 3."
        raise InvalidInputError(message)
    return Runtime(python, where)


def _nearest(wanted: str, current: str) -> str | None:
    """The admitted minor version nearest to the one in use; of two equally near, the newer."""
    # Imported here: it takes a tenth of a command's time to load.
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        admitted = SpecifierSet(wanted)
    except InvalidSpecifier:
        return None
    here = int(current.removeprefix("3."))
    for minor in sorted(_MINORS, key=lambda candidate: (abs(candidate - here), -candidate)):
        if any(admitted.contains(f"3.{minor}.{patch}") for patch in _PATCHES):
            return f"3.{minor}"
    return None


_Reader = Callable[[str, str, str], Runtime | None]
#: Files that may name a runtime, and how each is read; in the order in which they count.
_READERS: Final[Mapping[str, _Reader]] = {
    "runtime.txt": _from_lines,
    ".python-version": _from_lines,
    "pyproject.toml": _from_pyproject,
}
