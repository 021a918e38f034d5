"""Entry points: the words of a command, the script they run, and what is refused.

A stored entry point keeps the words as the user wrote them, as W&B's client does; `runnable`
makes the command that is started.
"""

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
    """The file of the source that the words run; `None` for a module or an installed program.

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
    return words[0] if "/" in words[0] and not interpreted else None


def program_of(words: Sequence[str], build_context: str = "") -> str:
    """The script relative to the source's root, for a Git job's name; empty when there is none.

    Raises:
        InvalidInputError: the script lies outside the source.
    """
    script = script_of(words)
    return below(build_context, inside(script, "entry point's file")) if script else ""


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


def check_words(words: Sequence[str]) -> None:
    """Refuse what leads out of the source: a file outside it, and `..` in any word.

    An absolute path is fine for a program of the image (`/bin/bash`) and for arguments.

    Raises:
        InvalidInputError: names the word.
    """
    for word in words:
        if leads_upward(word.rpartition("=")[2]):
            message = f"The entry point's word '{word}' leads out of the source by `..`."
            hint = "Paths are relative to the build context; what lies outside is not there."
            raise InvalidInputError(message, hint=hint)
    script = script_of(words)
    if script is not None:
        inside(script, "entry point's file")
