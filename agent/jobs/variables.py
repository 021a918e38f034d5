"""Values of a queue's template variables: texts of `--set-var`, typed as the queue says."""

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agent.model.errors import InvalidInputError, NotFoundError
from agent.model.names import did_you_mean

if TYPE_CHECKING:
    from agent.remote.console import Console

Json = dict[str, Any]


async def typed_variables(console: "Console", queue: str, given: Mapping[str, str]) -> Json:
    """Texts of `--set-var` as the types that the queue's template declares."""
    known = {each["name"]: each for each in (await console.queue(queue))["templateVariables"]}
    typed: Json = {}
    for name, text in given.items():
        if name not in known:
            message = f"The queue `{queue}` has no template variable `{name}`."
            raise NotFoundError(message, hint=did_you_mean(name, known, "variable"))
        typed[name] = _typed(name, text, str(schema_of(known[name]).get("type", "string")))
    return typed


def schema_of(variable: Mapping[str, Any]) -> Json:
    """The schema of one of the wire's variables, which sends it as JSON text."""
    given = variable["schema"]
    parsed: Json = json.loads(given) if isinstance(given, str) else dict(given)
    return parsed


def _typed(name: str, text: str, kind: str) -> object:
    try:
        match kind:
            case "integer":
                return int(text)
            case "number":
                return _finite(float(text))
            case "boolean":
                return {"true": True, "false": False}[text.lower()]
            case _:
                return text
    except (ValueError, KeyError):
        article = "an" if kind == "integer" else "a"
        message = f"--set-var {name}: '{text}' is not {article} {kind}."
        raise InvalidInputError(message) from None


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError(number)
    return number
