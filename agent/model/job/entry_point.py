"""Entry points: the words of a command, the script they run, what is refused or remarked.

A stored entry point keeps the words as the user wrote them, as W&B's client does; `runnable`
makes the command that is started.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final

from agent.model.errors import InvalidInputError
from agent.model.job.paths import below, inside, leads_upward

#: Suffix of a script that may stand alone → the program that runs it.
INTERPRETERS: Final = {".py": "python", ".ipynb": "python", ".sh": "bash"}

_SUFFIXES: Final = frozenset({*INTERPRETERS, ".bash", ".R", ".jl", ".js", ".pl", ".rb"})
#: After these comes a module's name or the program's text, not a file of the source.
_NOT_A_FILE: Final = frozenset({"-m", "--module", "-c", "-lc", "-ec"})
_INTERPRETER_NAMES: Final = ("python", "bash", "sh", "Rscript", "julia", "node", "perl", "ruby")


def split(text: str) -> tuple[str, ...]:
    """The words of an entry point as a shell would split them; nothing is expanded.

    Raises:
        InvalidInputError: no word, a quote that does not end, or a NUL byte.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        message = f"The entry point '{text}' cannot be split into words: {error}."
        raise InvalidInputError(message, hint="Check its quotes.") from None
    if not words or not words[0] or "\0" in text:
        message = f"The entry point {text!r} names no program."
        raise InvalidInputError(message, hint="For example: `python main.py`.")
    return words


def for_file(name: str) -> str:
    """The entry point of a job that was made from one file.

    Raises:
        InvalidInputError: it is unknown what runs files of this kind.
    """
    interpreter = INTERPRETERS.get(PurePosixPath(name).suffix)
    if interpreter is None:
        message = f"It is unknown how to start '{name}'."
        raise InvalidInputError(message, hint="Name the command by --entry-point.")
    return shlex.join((interpreter, name))


def script_of(words: Sequence[str]) -> str | None:
    """The file that the words run; `None` for a module or an installed program.

    An absolute path is one of the image.

    The first word that looks like a script counts, else what follows an interpreter, else a
    first word that is a path.
    """
    named = words[: next((n for n, word in enumerate(words) if word in _NOT_A_FILE), len(words))]
    for word in named:
        if PurePosixPath(word).suffix in _SUFFIXES and not word.startswith("-"):
            return word
    if len(named) < len(words) or not words:
        return None
    interpreted = PurePosixPath(words[0]).name.startswith(_INTERPRETER_NAMES)
    if interpreted and len(words) > 1 and not words[1].startswith("-"):
        return words[1]
    relative = "/" in words[0] and not words[0].startswith("/")
    return words[0] if relative and not interpreted else None


def program_of(words: Sequence[str], build_context: str = "") -> str:
    """The script relative to the source's root, for a Git job's name; empty when there is none.

    Raises:
        InvalidInputError: the script lies outside the source.
    """
    script = script_of(words)
    if not script or script.startswith("/"):
        return ""
    return below(build_context, inside(script, "entry point's file"))


def notebook_of(words: Sequence[str]) -> str | None:
    """The notebook that an entry point names, which must be converted before it can run."""
    script = script_of(words)
    return script if script and script.endswith(".ipynb") else None


def runnable(words: Sequence[str]) -> tuple[str, ...]:
    """The command to start: a script that stands alone gets the program that runs it."""
    if not words:
        return ()
    interpreter = INTERPRETERS.get(PurePosixPath(words[0]).suffix)
    return (interpreter, *words) if interpreter else tuple(words)


#: What only a shell understands, as words or within one.
_OPERATORS: Final = frozenset({"|", "||", "&", "&&", ";", ">", ">>", "<", "<<", "2>", "2>&1", "&>"})
_SPECIAL_IN_QUOTES: Final = re.compile(r'["$`\\!]')
_IN_A_WORD: Final = re.compile(r"\$\{?\w|\$\(|`|^[0-9&]?>>?.|.;$|^~/")
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_]\w*=")
_BUILT_IN: Final = frozenset({"cd", "export", "source", ".", "set", "ulimit", "umask", "alias"})
_SHELLS: Final = ("bash", "sh", "dash", "zsh", "ksh", "ash")


def shell_remark(words: Sequence[str]) -> str | None:
    """A remark where words mean something to a shell only; `None` where none does."""
    if not words or PurePosixPath(words[0]).name in _SHELLS:
        return None
    if _ASSIGNMENT.match(words[0]) or words[0] in _BUILT_IN:
        found = words[0]
    else:
        found = next(filter(_is_for_shell, words), "")
    if not found:
        return None
    whole = " ".join(word if _is_for_shell(word) else shlex.quote(word) for word in words)
    quoted = f"'{whole}'"
    if "'" in whole:
        quoted = '"…"' if _SPECIAL_IN_QUOTES.search(whole) else f'"{whole}"'
    return (
        f"No shell runs the entry point: '{found}' is passed on as it is. To have one, write "
        f"`bash -c {quoted}`."
    )


def _is_for_shell(word: str) -> bool:
    return word in _OPERATORS or _IN_A_WORD.search(word) is not None


def check_words(words: Sequence[str], *, own_image: bool = False) -> None:
    """Refuse what leads out of the source: a file outside it, and `..` in any word.

    An absolute path is fine for a program of the image (`/bin/bash`) and for arguments. With
    `own_image`, a Dockerfile or base image of the job's own, the script may have one too, and
    arguments may have `..`.

    Raises:
        InvalidInputError: names the word.
    """
    for word in () if own_image else words:
        if leads_upward(word.rpartition("=")[2]):
            message = f"The entry point's word '{word}' leads out of the source by `..`."
            hint = "Paths are relative to the build context; what lies outside is not there."
            raise InvalidInputError(message, hint=hint)
    script = script_of(words)
    if script is not None and not (own_image and script.startswith("/")):
        inside(script, "entry point's file")
