"""`launch-agent --check-config`: every value that would count, and where it was written."""

import os
from collections.abc import Iterator
from typing import Any

from pydantic import SecretStr

from agent.cli.output import print_table
from agent.config.agent import AgentConfig
from agent.config.base import Model
from agent.config.document import KeyPath, dotted
from agent.config.load import Loaded
from agent.config.messages import missing_inputs
from agent.config.schema import annotation_at, describe, values_of
from agent.config.server import EmbeddedServer, RemoteServer
from agent.model.redact import MASK, Redactor
from agent.model.units import format_size
from agent.runners.docker.arguments import allowance


def print_config(loaded: Loaded, choice: RemoteServer | EmbeddedServer) -> None:
    """Print the file that was read, the server that was chosen, and all values.

    Raises:
        ConfigError: what only a runner can tell of its options.
    """
    allowance(loaded.config.runners.local_container.allow)
    print(f"file:    {loaded.file or 'none'}")
    if isinstance(choice, RemoteServer):
        print(f"server:  {choice.url} (from {choice.origin}), key {MASK}")
    else:
        print(f"server:  embedded ({choice.origin})")
    print()
    rows = [
        (dotted(path), _shown(path, value), loaded.origin(path))
        for path, value in _leaves((), loaded.config)
    ]
    print_table(("KEY", "VALUE", "FROM"), rows, "")
    for warning in (*loaded.warnings, *missing_inputs(loaded.config, os.environ)):
        print(f"note:    {warning}")


def _leaves(path: KeyPath, value: Any) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, Model):
        for key, inner in values_of(value):
            yield from _leaves((*path, key), inner)
    elif isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves((*path, key), item)
    elif isinstance(value, tuple) and value and isinstance(value[0], Model):
        for index, item in enumerate(value):
            yield from _leaves((*path, index), item)
    else:
        yield path, value


def _shown(path: KeyPath, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, tuple):
        return "[" + ", ".join(_shown((*path, 0), item) for item in value) + "]"
    return Redactor().text(_scalar(describe(annotation_at(AgentConfig, path)), value))


def _scalar(form: str, value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case float() if "duration" in form:
            return _duration(value)
        case int() if "a size" in form:
            return format_size(value)
        case _:
            return str(value)


def _duration(seconds: float) -> str:
    """In the largest unit that divides it."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"
