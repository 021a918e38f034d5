"""Hides what is secret by its name or its form, for texts that people read."""

import re
from collections.abc import Mapping
from typing import Any, Final

from agent.model.redact import MASK, Redactor

_SECRET: Final = re.compile(r"(?i)(key|token|secret|passw|credential)")
_PAIR: Final = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)=.*", re.DOTALL)


def masked(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without its secrets."""
    return {name: masked_value(value, name) for name, value in environment.items()}


def masked_value(value: Any, name: str = "") -> Any:
    """A value without secrets; `name` is the last part of its path."""
    if isinstance(value, dict):
        return {key: masked_value(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [masked_value(inner, name) for inner in value]
    if not isinstance(value, str):
        return value
    pair = _PAIR.fullmatch(value)
    if pair is not None and _SECRET.search(pair["name"]):
        return f"{pair['name']}={MASK}"
    return MASK if _SECRET.search(name) else Redactor().text(value)
