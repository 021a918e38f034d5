"""Values of flags: mappings from files or texts, priorities, `key=value`."""

from pathlib import Path
from typing import Any, Final

from agent.config.document import parse_document, read_document
from agent.model.errors import InvalidInputError

Json = dict[str, Any]

PRIORITIES: Final = ("critical", "high", "medium", "low")


def mapping_from(text: str, flag: str) -> Json:
    """A mapping from a `.json` or `.yaml` file, or from JSON or YAML text.

    Raises:
        InvalidInputError: names the flag, and file and line where it is wrong.
    """
    stripped = text.strip()
    if not stripped.startswith("{") and Path(stripped).is_file():
        return read_document(Path(stripped)).data
    if not stripped.startswith("{") and ":" not in stripped:
        message = f"{flag}: there is no file {stripped}, and it is no JSON object either."
        raise InvalidInputError(message, hint="Give a path to a .json or .yaml file, or JSON.")
    return parse_document(stripped, flag).data


def priority_from(text: str) -> int:
    """0 to 3, from a name or a number.

    Raises:
        InvalidInputError: it is neither.
    """
    word = text.strip().lower()
    if word in PRIORITIES:
        return PRIORITIES.index(word)
    if word.isdigit() and int(word) < len(PRIORITIES):
        return int(word)
    message = f"'{text}' is not a priority."
    raise InvalidInputError(message, hint="Write critical, high, medium or low (or 0 to 3).")


def pairs_from(texts: tuple[str, ...], flag: str) -> dict[str, str]:
    """`key=value` texts.

    Raises:
        InvalidInputError: one has no `=` or no key.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            message = f"{flag}: '{text}' is not of the form KEY=VALUE."
            raise InvalidInputError(message)
        pairs[key.strip()] = value
    return pairs
