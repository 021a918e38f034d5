"""`.dockerignore` as BuildKit applies it: which files of a context are sent.

Source: Docker's documentation. Patterns are relative to the context, later ones win, `!`
includes again, and everything below an excluded folder is excluded with it. The content key
covers exactly the files that these rules include.
"""

import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.model.tree import EXCLUDED_NAMES, SECRET_NAMES

#: Characters that mean something in a pattern.
_SPECIAL = re.compile(r"[*?\[\]\\!]")


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    includes: bool


class Ignore:
    """The rules of one ignore file."""

    def __init__(self, text: str) -> None:
        self._rules = tuple(_rules(text))
        self._plain = not any(rule.includes for rule in self._rules)

    def excludes(self, path: str) -> bool:
        """Whether a path (relative, `/` between parts) is not sent."""
        places = [path] if self._plain else list(_with_parents(path))
        excluded = False
        for rule in self._rules:
            if any(rule.pattern.fullmatch(place) for place in places):
                excluded = not rule.includes
        return excluded

    def prunes(self, folder: str) -> bool:
        """Whether nothing below an excluded folder can be included again."""
        return self._plain and self.excludes(folder)


def own_ignore(context: Path, dockerfile: Path | None) -> str:
    """The job's rules: those beside its Dockerfile override those of the context. Blocks."""
    beside = [] if dockerfile is None else [dockerfile.with_name(f"{dockerfile.name}.dockerignore")]
    for file in (*beside, context / ".dockerignore"):
        if file.is_file() and file.resolve().is_relative_to(context.resolve()):
            return file.read_text(encoding="utf-8", errors="replace")
    return ""


def ignore_text(own: str, folders: Iterable[str] = ()) -> str:
    """The ignore file in effect: secrets, the job's own rules, then what is never code.

    `folders` are paths of the context that are excluded for what they contain.
    """
    lines = [f"**/{name}" for name in SECRET_NAMES]
    never = [f"**/{name}" for name in sorted(EXCLUDED_NAMES)]
    # BuildKit's patterns cannot have a line break.
    never += ["/" + _SPECIAL.sub(r"\\\g<0>", each) for each in folders if "\n" not in each]
    return "\n".join([*lines, *([own.rstrip("\n")] if own.strip() else []), *never]) + "\n"


def withheld(context: Path, text: str) -> tuple[str, ...]:
    """Secret files directly in a context that these rules exclude. Blocks."""
    rules = Ignore(text)
    return tuple(
        name for name in SECRET_NAMES if rules.excludes(name) and (context / name).exists()
    )


def _rules(text: str) -> Iterator[_Rule]:
    for line in text.removeprefix("\ufeff").splitlines():
        if line.startswith("#"):
            continue
        pattern = line.strip()
        includes = pattern.startswith("!")
        pattern = pattern.removeprefix("!").strip()
        if not pattern:
            continue
        cleaned = posixpath.normpath(pattern).lstrip("/")
        if cleaned in {"", "."}:
            continue
        try:
            yield _Rule(re.compile(_expression(cleaned), re.DOTALL), includes)
        except re.error:
            continue  # BuildKit refuses the file, with a message of its own


def _expression(pattern: str) -> str:
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        taken, expression = _next(pattern, at)
        parts.append(expression)
        at += taken
    return "".join(parts)


def _next(pattern: str, at: int) -> tuple[int, str]:
    """How many characters the next part has, and what it matches."""
    rest = pattern[at:]
    if rest.startswith("**"):
        length = 3 if rest.startswith("**/") else 2
        return length, ".*" if len(rest) == length else "(?:.*/)?"
    match rest[0]:
        case "*":
            return 1, "[^/]*"
        case "?":
            return 1, "[^/]"
        case "\\" if len(rest) > 1:
            return 2, re.escape(rest[1])
        case "[" if (end := rest.find("]", 2)) > 0:
            return end + 1, rest[: end + 1].replace("\\", "\\\\")
        case other:
            return 1, re.escape(other)


def _with_parents(path: str) -> Iterable[str]:
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
