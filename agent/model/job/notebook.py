"""A notebook as a script: its code cells in order, without IPython's own syntax."""

import ast
import json
import re
from typing import Any, Final

from agent.model.errors import InvalidInputError

#: Lines of IPython's own syntax: shell commands, magics, help.
_IPYTHON: Final = re.compile(r"(?P<indent>\s*)(?:[!%].*|\?.*|[\w.]+\?{1,2}\s*$)")
#: Cell magics whose cell is plain Python code.
_WRAPPERS: Final = frozenset({"%%time", "%%timeit", "%%capture", "%%prun"})


def notebook_to_script(text: str, name: str) -> str:
    """The script of a notebook; dropped lines become `pass`, so that no block is empty.

    Raises:
        InvalidInputError: not a notebook, or not one of Python.
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
        message = f"'{name}' is not a Jupyter notebook ({type(error).__name__}: {error})."
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
    """Whether a cell is plain Python, whose lines may begin with `%` or `!` as well."""
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True


def _line(line: str) -> str:
    match = _IPYTHON.fullmatch(line)
    return line if match is None else f"{match['indent']}pass"
