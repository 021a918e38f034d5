"""Outcomes as text, for the journal."""

import json
from typing import Any, Final

from agent.model.cause import Cause
from agent.model.outcome import (
    Errored,
    Failed,
    Lost,
    Outcome,
    Preempted,
    Refused,
    Stopped,
    Succeeded,
    exit_code_of,
)

_KINDS: Final = {
    kind.__name__: kind for kind in (Succeeded, Failed, Stopped, Preempted, Lost, Refused, Errored)
}


def to_json(outcome: Outcome, facts: dict[str, Any]) -> str:
    """An outcome and the facts that are told with it."""
    return json.dumps(
        {
            "kind": type(outcome).__name__,
            "cause": outcome.cause,
            "message": outcome.message,
            "exit_code": exit_code_of(outcome),
            "facts": facts,
        }
    )


def from_json(text: str) -> tuple[Outcome, dict[str, Any]]:
    """Back again."""
    told = json.loads(text)
    kind = _KINDS[told["kind"]]
    given: dict[str, Any] = {"cause": Cause(told["cause"]), "message": told["message"]}
    if kind in {Failed, Stopped}:
        given["exit_code"] = told["exit_code"]
    return kind(**given), told["facts"]
