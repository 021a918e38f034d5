"""What a server offers is read from its feature list, never from its host name."""

from typing import Final

from agent.model.errors import (
    AuthenticationError,
    LaunchError,
    PermissionDeniedError,
    ServerError,
    UnreachableError,
)
from agent.remote.client import GraphQLClient
from agent.remote.documents import FEATURES

LEASES: Final = "LAUNCH_LEASES"
COMMANDS: Final = "LAUNCH_COMMANDS"
CLAIM_RESOURCES: Final = "LAUNCH_CLAIM_RESOURCES"
CONDITIONS: Final = "LAUNCH_CONDITIONS"
CONTENT_BATCHES: Final = "LAUNCH_CONTENT_BATCHES"


async def features(client: GraphQLClient) -> frozenset[str]:
    """Names of what is switched on; empty for a server without such a list.

    Raises:
        UnreachableError, AuthenticationError, PermissionDeniedError: as any call.
    """
    try:
        data = await client.execute(FEATURES)
    except (UnreachableError, AuthenticationError, PermissionDeniedError):
        raise
    except LaunchError:
        # A server without `serverInfo.features` refuses the document.
        return frozenset()
    listed = (data.get("serverInfo") or {}).get("features") or []
    return frozenset(one["name"] for one in listed if one and one.get("isEnabled"))


async def require_leases(client: GraphQLClient) -> frozenset[str]:
    """All features; servers whose dialect this agent does not speak yet are refused.

    Raises:
        ServerError: the server has no leases.
    """
    found = await features(client)
    if LEASES not in found:
        message = f"{client.endpoint.url} speaks W&B's own dialect only (no {LEASES})."
        hint = "This agent serves our control plane; support for W&B's servers comes later."
        raise ServerError(message, hint=hint)
    return found
