"""A notebook as a script: its code cells in order, without what only IPython understands."""

import ast
import json
import re
from typing import Any, Final

from agent.model.errors import InvalidInputError

#: Lines that IPython takes: shell commands, magics, questions.
_FOREIGN: Final = re.compile(r"(?P<indent>\s*)(?:[!%].*|\?.*|[\w.]+\?{1,2}\s*$)")
#: Cell magics that only watch the code below them.
_WRAPPERS: Final = frozenset({"%%time", "%%timeit", "%%capture", "%%prun"})


def notebook_to_script(text: str, name: str) -> str:
    """The script that a notebook stands for; dropped lines become `pass`, so blocks stay whole.

    Raises:
        InvalidInputError: it is no notebook, or its language is another than Python.
    """
    cells = _cells(text, name)
    code = [_source(cell) for cell in cells if cell.get("cell_type") == "code"]
    scripts = [script for source in code if (script := _python(source)).strip()]
    return "\n\n".join(script.rstrip("\n") for script in scripts) + "\n"


def _cells(text: str, name: str) -> list[dict[str, Any]]:
    try:
        document = json.loads(text)
        cells = document["cells"]
        language = document.get("metadata", {}).get("kernelspec", {}).get("language", "python")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f"'{name}' is no Jupyter notebook ({type(error).__name__}: {error})."
        raise InvalidInputError(message, hint="Save it in format 4, or give a script.") from None
    if language.lower() != "python":
        message = f"'{name}' is written in {language}; only notebooks in Python are converted."
        raise InvalidInputError(message)
    return [cell for cell in cells if isinstance(cell, dict)]


def _source(cell: dict[str, Any]) -> str:
    source = cell.get("source", "")
    return "".join(source) if isinstance(source, list) else str(source)


def _python(source: str) -> str:
    first = source.lstrip().partition("\n")[0].split(" ")[0].strip()
    if first.startswith("%%"):
        if first not in _WRAPPERS:
            return ""
        source = source.lstrip().partition("\n")[2]
    if _is_python(source):
        return source
    return "\n".join(_line(line) for line in source.splitlines())


def _is_python(source: str) -> bool:
    """Plain Python stays as it is, since `%` and `!` may begin its lines too."""
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True


def _line(line: str) -> str:
    match = _FOREIGN.fullmatch(line)
    return line if match is None else f"{match['indent']}pass"
