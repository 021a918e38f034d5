"""Parses user-written JSON and YAML, and records line numbers for messages.

JSON is read by a JSON parser. YAML follows the core schema of YAML 1.2: `1e-4` is a number,
`010` is ten, `yes`, `no`, `on` and `off` are strings, and so are dates and `1:30`. What JSON
cannot hold (keys that are not strings, infinities, binary data, sets) is refused.

PyYAML scans and composes; its resolvers, which are those of YAML 1.1, are replaced.
"""

import codecs
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from agent.model.errors import ConfigError

KeyPath = tuple[str | int, ...]

#: Byte order marks, as shells of Windows write them into redirected output.
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_TAG: Final = "tag:yaml.org,2002:"
#: An alias of an alias of an alias … can make a short text very large.
_MAX_NODES: Final = 200_000
#: Tags that have a form in JSON, by the kind of node.
_TAGS: Final[dict[type[yaml.Node], set[str]]] = {
    yaml.ScalarNode: {"str", "merge", "null", "bool", "int", "float"},
    yaml.MappingNode: {"map"},
    yaml.SequenceNode: {"seq"},
}
_JSON_LEXEME: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:\n]|[^\s{}\[\],:"]+')
#: Tag, form and first characters of each kind of plain scalar; anything else is a string.
_CORE_SCHEMA: Final = (
    ("null", r"null|Null|NULL|~|", ["", *"~nN"]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", [*"-+.0123456789"]),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", [*"-+."]),
    # Not of the core schema; every tool reads it.
    ("merge", r"<<", ["<"]),
)


class _Loader(yaml.SafeLoader):
    """Composes nodes; the resolvers of YAML 1.1 are left out."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 -- filled below, once, by PyYAML's own method


class _Dumper(yaml.SafeDumper):
    """Quotes every string that YAML 1.1 or 1.2 would read as something else."""


for _name, _form, _first in _CORE_SCHEMA:
    for _target in (_Loader, _Dumper):
        _target.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_form})\Z"), _first)


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file; `lines` counts from 1."""

    name: str
    data: dict[str, Any]
    lines: dict[KeyPath, int]

    def location(self, path: KeyPath) -> str:
        """`file:line` of a key, or of the nearest key around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return f"{self.name}:{self.lines[path[:length]]}"
        return self.name


class _SyntaxError(ConfigError):
    """Syntax error: the text cannot be parsed as JSON or YAML."""


def read_document(path: Path) -> Document:
    """Read and parse a file; an empty one is an empty mapping.

    Raises:
        ConfigError: it cannot be read, is neither JSON nor YAML, is no mapping, or holds what
            JSON cannot; names file, line and key.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-16" if data.startswith(_UTF_16) else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = (
            error.strerror if isinstance(error, OSError) else "it is no text in UTF-8 or UTF-16"
        )
        message = f"The file {path} cannot be read: {reason}."
        raise ConfigError(message) from None
    return parse_document(text, str(path))


def parse_document(text: str, name: str) -> Document:
    """Parse a text; `name` is what messages call it, and one ending in `.json` admits JSON only.

    Raises:
        ConfigError: as `read_document`.
    """
    if not text.strip():
        return Document(name, {}, {})
    must_be_json = name.endswith(".json")
    may_be_json = must_be_json or text.lstrip().startswith("{")
    try:
        data, lines = (_read_json if may_be_json else _read_yaml)(text, name)
    except _SyntaxError as not_json:
        if must_be_json or not may_be_json:
            raise
        try:
            # A flow mapping of YAML: `{memory: 2g}`.
            data, lines = _read_yaml(text, name)
        except _SyntaxError:
            raise not_json from None
        _refuse_comments_of_javascript(name, lines)
    if data is None:
        return Document(name, {}, {})
    if not isinstance(data, dict):
        expected = "an object `{…}`" if must_be_json else "`key: value` lines"
        raise ConfigError(f"{name}:1: expected {expected}.")
    return Document(name, data, lines)


def _refuse_comments_of_javascript(name: str, lines: dict[KeyPath, int]) -> None:
    """In a flow mapping of YAML such a comment is a key."""
    for path, line in lines.items():
        if str(path[-1]).startswith(("//", "/*")):
            reason = f"`{str(path[-1])[:40]}` is no comment"
            raise _error(name, line, (), reason, "JSON has no comments; in YAML they begin by `#`.")


def parse_value(text: str) -> Any:
    """One value as YAML reads it; a text that is not YAML is a string."""
    try:
        return _read_yaml(text, "value")[0]
    except ConfigError:
        return text


def parse_json(text: str) -> Any:
    """A JSON value; a key twice, a constant such as NaN, or too large a number is refused.

    Raises:
        ValueError: says what is wrong, for users.
    """
    try:
        parsed = json.loads(text)
        _json_lines(text, "line")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ConfigError as error:
        raise ValueError(error.message.replace("line:", "line ", 1).rstrip(".")) from None
    return parsed


def format_yaml(data: Any) -> str:
    """JSON data as YAML, which every reader of YAML 1.1 and 1.2 reads alike."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def dotted(path: KeyPath) -> str:
    """`runners.local-container.host`, `queues[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _error(
    name: str, line: int, path: KeyPath, reason: str, hint: str | None = None
) -> ConfigError:
    key = f" `{dotted(path)}`:" if path else ""
    return ConfigError(f"{name}:{line}:{key} {reason}.", hint=hint)


def _check_text(text: str, name: str, line: int, path: KeyPath) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        reason = "it holds a lone surrogate (invalid Unicode)"
        raise _error(name, line, path, reason) from None


# ------------------------------------------------------------------ JSON


def _read_json(text: str, name: str) -> tuple[Any, dict[KeyPath, int]]:
    try:
        return json.loads(text), _json_lines(text, name)
    except json.JSONDecodeError as error:
        message = f"{name}:{error.lineno}: not valid JSON: {error.msg}."
        hint = "Check brackets, quotes and commas there and before."
        raise _SyntaxError(message, hint=hint) from None
    except RecursionError:
        raise ConfigError(f"{name}: not valid JSON: nested too deeply.") from None
    except ValueError:
        raise ConfigError(f"{name}: not valid JSON: a number is too long.") from None


def _json_lines(text: str, name: str) -> dict[KeyPath, int]:
    """The line of every key and item of valid JSON.

    Raises:
        ConfigError: a key occurs twice, or a value is not JSON.
    """
    lines: dict[KeyPath, int] = {}
    for path, line, lexeme in _json_lexemes(text):
        if not lexeme and path in lines:
            reason = f"the key `{path[-1]}` occurs twice"
            raise _error(name, line, path[:-1], reason, "Remove one.")
        if lexeme in {"NaN", "Infinity", "-Infinity"}:
            raise _error(name, line, path, f"`{lexeme}` is not a JSON value")
        if lexeme[:1] in set("-0123456789") and math.isinf(float(lexeme)):
            raise _error(name, line, path, f"the number `{lexeme[:40]}` is too large")
        if "\\u" in text:
            key = str(path[-1]) if path else ""
            _check_text(json.loads(lexeme) if lexeme[:1] == '"' else key, name, line, path)
        lines.setdefault(path, line)
    return lines


def _json_lexemes(text: str) -> Iterator[tuple[KeyPath, int, str]]:
    """Path, line and lexeme of every key (lexeme empty) and every value of valid JSON."""
    parents: list[str] = []
    path: list[str | int] = []
    line, key_is_next = 1, False
    for lexeme in _JSON_LEXEME.findall(text):
        if lexeme == "\n":
            line += 1
        elif lexeme in {"}", "]"}:
            parents.pop()
            path.pop()
            key_is_next = False
        elif lexeme == ",":
            key_is_next = parents[-1] == "{"
            last = path[-1]
            path[-1] = last + 1 if isinstance(last, int) else last
        elif key_is_next:
            path[-1] = json.loads(lexeme)
            key_is_next = False
            yield tuple(path), line, ""
        elif lexeme != ":":
            yield tuple(path), line, lexeme
            if lexeme in {"{", "["}:
                key_is_next = lexeme == "{"
                parents.append(lexeme)
                path.append("" if key_is_next else 0)


# ------------------------------------------------------------------ YAML


def _read_yaml(text: str, name: str) -> tuple[Any, dict[KeyPath, int]]:
    try:
        node = _Loader(text).get_single_node()
        reader = _YamlReader(name)
        return None if node is None else reader.value(node, ()), reader.lines
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        message = f"{name}:{line}: not valid YAML: {error.problem or error}."
        hint = "Check indentation, quotes and colons there and in the line before."
        raise _SyntaxError(message, hint=hint) from None
    except RecursionError:
        raise ConfigError(f"{name}: not valid YAML: nested too deeply.") from None
    except yaml.YAMLError as error:
        raise _SyntaxError(f"{name}: not valid YAML: {error}.") from None


@dataclass(slots=True)
class _YamlReader:
    """Makes JSON values of composed nodes, and notes the line of every key."""

    name: str
    lines: dict[KeyPath, int] = field(default_factory=dict)
    #: Ids of the nodes that contain the current one.
    _parents: set[int] = field(default_factory=set)
    _count: int = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        """The value of a node.

        Raises:
            ConfigError: it has no form in JSON.
        """
        self._count += 1
        if self._count > _MAX_NODES:
            raise self._error(node, path, "its aliases make it too large")
        if id(node) in self._parents:
            raise self._error(node, path, "an alias that contains itself")
        if node.tag.removeprefix(_TAG) not in _TAGS[type(node)]:
            tag = node.tag.replace(_TAG, "!!")
            raise self._error(node, path, f"values of the tag `{tag}` have no form in JSON")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self._parents.add(id(node))
        mapping = isinstance(node, yaml.MappingNode)
        value = self._mapping(node, path) if mapping else self._sequence(node, path)
        self._parents.remove(id(node))
        return value

    def _sequence(self, node: yaml.Node, path: KeyPath) -> list[Any]:
        items = []
        for index, item in enumerate(node.value):
            self.lines.setdefault((*path, index), item.start_mark.line + 1)
            items.append(self.value(item, (*path, index)))
        return items

    def _mapping(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        keys: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                several = isinstance(value_node, yaml.SequenceNode)
                merged += value_node.value if several else [value_node]
                continue
            key = self._key(key_node, path)
            if key in keys:
                raise self._error(key_node, path, f"the key `{key}` occurs twice", "Remove one.")
            self.lines[*path, key] = key_node.start_mark.line + 1
            keys[key] = self.value(value_node, (*path, key))
        return self._inherited(merged, path) | keys if merged else keys

    def _inherited(self, merged: list[yaml.Node], path: KeyPath) -> dict[str, Any]:
        """Keys of `<<`; of several mappings the first wins."""
        lines, inherited = dict(self.lines), dict[str, Any]()
        for source in reversed(merged):
            if not isinstance(source, yaml.MappingNode):
                raise self._error(source, path, "`<<` takes a mapping or a list of mappings")
            inherited |= self.value(source, path)
        self.lines |= lines
        return inherited

    def _key(self, node: yaml.Node, path: KeyPath) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, path, "a key that is a list or a mapping", "Keys are strings.")
        if node.tag != f"{_TAG}str":
            reason = f"the key {node.value} is not a string"
            raise self._error(node, path, reason, "Put it in quotes.")
        _check_text(node.value, self.name, node.start_mark.line + 1, path)
        return str(node.value)

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        text = node.value
        try:
            match node.tag.removeprefix(_TAG):
                case "null":
                    return None
                case "bool":
                    return {"true": True, "false": False}[text.lower()]
                case "int":
                    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
                case "float":
                    number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
                    if math.isfinite(number):
                        return number
                    hint = "Put it in quotes, if a string is meant."
                    raise self._error(node, path, f"`{text[:40]}` is not a number in JSON", hint)
                case _:
                    _check_text(text, self.name, node.start_mark.line + 1, path)
                    return text
        except (KeyError, ValueError):
            kind = node.tag.removeprefix(_TAG)
            reason = f"`{text[:40]}` is not a valid {kind}, or has too many digits"
            raise self._error(node, path, reason) from None

    def _error(
        self, node: yaml.Node, path: KeyPath, reason: str, hint: str | None = None
    ) -> ConfigError:
        return _error(self.name, node.start_mark.line + 1, path, reason, hint)
