"""`${name}` in resource arguments: an explicit list of names, never the agent's environment."""

import re
from collections.abc import Mapping
from typing import Any, Final

from agent.model.work import Claim

_MACRO: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def macros_of(claim: Claim) -> dict[str, str]:
    """Names that are known before there is an image."""
    return {
        "project_name": claim.project,
        "entity_name": claim.entity,
        "run_id": claim.run_name,
        "run_name": claim.name or "",
        "author": claim.author or "",
    }


def expand(value: Any, macros: Mapping[str, str]) -> Any:
    """Replace macros in every string below `value`; keys and unknown names stay."""
    if isinstance(value, str):
        return _MACRO.sub(lambda match: macros.get(match[1], match[0]), value)
    if isinstance(value, list):
        return [expand(one, macros) for one in value]
    if isinstance(value, dict):
        return {key: expand(one, macros) for key, one in value.items()}
    return value
