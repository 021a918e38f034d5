"""`pyproject.toml`: its `[project]` table, and the lines where its keys stand."""

import re
import tomllib
from dataclasses import dataclass
from typing import Any

from agent.model.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class PyProject:
    """One file: its `[project]` table, the whole, and its text, for line numbers."""

    path: str
    text: str
    project: dict[str, Any]
    whole: dict[str, Any]

    def line_of_key(self, key: str) -> int:
        """The line where a key is set; 1 when it cannot be found."""
        pattern = re.compile(rf"""\s*(?:project\.)?["']?{re.escape(key)}["']?\s*=""")
        return next((n for n, line in self._lines() if pattern.match(line)), 1)

    def line_of_text(self, text: str, after: int = 1) -> int:
        """The first line from `after` on that holds a string; `after` when none does."""
        return next((n for n, line in self._lines() if n >= after and text in line), after)

    def _lines(self) -> list[tuple[int, str]]:
        return list(enumerate(self.text.splitlines(), start=1))


def read_pyproject(text: str, path: str) -> PyProject:
    """Read a file's text.

    Raises:
        InvalidInputError: it is not TOML, or `project` is no table; names file and place.
    """
    try:
        whole = tomllib.loads(text.removeprefix("\ufeff"))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        message = f"{path} is not TOML: {error}."
        raise InvalidInputError(message, hint="Correct the file and try again.") from None
    project = whole.get("project", {})
    if not isinstance(project, dict):
        raise InvalidInputError(f"{path}: `project` is {project!r}, not a table.")
    return PyProject(path, text, project, whole)
