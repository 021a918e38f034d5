"""YAML files with the line of every key, so that errors can point at it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from agent.model.errors import ConfigError

KeyPath = tuple[str | int, ...]
_MERGE_TAG: Final = "tag:yaml.org,2002:merge"
#: What a text is meant to be (JSON is read as the YAML that it is), and what breaks it.
_KINDS: Final = {
    False: ("YAML", "indentation, quotes and colons"),
    True: ("JSON", "brackets, quotes and commas"),
}


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file; `lines` counts from 1."""

    name: str
    data: dict[str, Any]
    lines: dict[KeyPath, int]

    def place(self, path: KeyPath) -> str:
        """`file:line` of a key, or of the nearest key around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return f"{self.name}:{self.lines[path[:length]]}"
        return self.name


def read_document(path: Path) -> Document:
    """Read and parse a file; an empty one is an empty mapping.

    Raises:
        ConfigError: it cannot be read, is not YAML, or is no mapping of texts; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        message = f"The file {path} cannot be read: {reason}."
        raise ConfigError(message) from None
    return parse_document(text, str(path))


def parse_document(text: str, name: str) -> Document:
    """Parse a text; `name` is what errors call it.

    Raises:
        ConfigError: as `read_document`.
    """
    try:
        return _parse(text, name)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        kind, marks = _KINDS[name.endswith(".json") or text.lstrip().startswith("{")]
        message = f"{name}:{line}: not valid {kind}: {error.problem or error}."
        raise ConfigError(message, hint=f"Check {marks} there and in the line before.") from None
    except RecursionError:
        message = f"{name}: not valid here: an alias that contains itself."
        raise ConfigError(message) from None
    except yaml.YAMLError as error:
        message = f"{name}: not valid YAML: {error}."
        raise ConfigError(message) from None


def _parse(text: str, name: str) -> Document:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Document(name, {}, {})
        if not isinstance(node, yaml.MappingNode):
            message = f"{name}:{node.start_mark.line + 1}: expected `key: value` lines."
            raise ConfigError(message)
        lines = dict(_lines(loader, node, (), name))
        data: dict[str, Any] = loader.construct_document(node)
    finally:
        loader.dispose()
    return Document(name, data, lines)


def _lines(
    loader: yaml.SafeLoader, node: yaml.Node, path: KeyPath, name: str
) -> Iterator[tuple[KeyPath, int]]:
    match node:
        case yaml.MappingNode():
            yield from _mapping_lines(loader, node, path, name)
        case yaml.SequenceNode():
            for index, item in enumerate(node.value):
                yield (*path, index), item.start_mark.line + 1
                yield from _lines(loader, item, (*path, index), name)


def _mapping_lines(
    loader: yaml.SafeLoader, node: yaml.MappingNode, path: KeyPath, name: str
) -> Iterator[tuple[KeyPath, int]]:
    seen: set[str] = set()
    for key_node, value_node in node.value:
        if key_node.tag == _MERGE_TAG:
            continue
        key = loader.construct_object(key_node)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            message = f"{name}:{line}: the key {key!r} is not a text."
            raise ConfigError(message, hint="Put it in quotes.")
        if key in seen:
            message = f"{name}:{line}: the key `{key}` is there twice."
            raise ConfigError(message, hint="Remove one of them.")
        seen.add(key)
        yield (*path, key), line
        yield from _lines(loader, value_node, (*path, key), name)
