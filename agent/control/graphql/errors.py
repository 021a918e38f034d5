"""Errors as clients may see them: ours with code and hint, all others masked."""

from typing import Any

from graphql import GraphQLError

from agent.control.middleware.errors import masked
from agent.model.errors import LaunchError


def formatted(error: GraphQLError) -> dict[str, Any]:
    """One entry of the answer's `errors`."""
    entry: dict[str, Any] = {"message": error.message}
    if error.path:
        entry["path"] = error.path
    entry["extensions"] = {"code": "INVALID_INPUT"} | (error.extensions or {})
    match error.original_error:
        case None | GraphQLError():
            pass
        case LaunchError() as ours:
            entry["message"] = ours.message
            entry["extensions"] = {"code": ours.code} | ({"hint": ours.hint} if ours.hint else {})
        case unexpected:
            entry["message"] = masked(unexpected, field=".".join(map(str, error.path or ())))
            entry["extensions"] = {"code": "SERVER_ERROR"}
    return entry
