"""What a resolver is given of its request."""

import asyncio
from dataclasses import dataclass, field

from graphql import GraphQLResolveInfo

from agent.control.metrics import Metrics
from agent.control.services.plane import Plane
from agent.control.services.policy import Principal


@dataclass(frozen=True, slots=True)
class Context:
    """One request."""

    plane: Plane
    principal: Principal
    metrics: Metrics
    #: Set when nobody waits for the answer any more: the client left, or the server stops.
    unwanted: asyncio.Event = field(default_factory=asyncio.Event)


def context_of(info: GraphQLResolveInfo) -> Context:
    """The request's context, typed."""
    context: Context = info.context
    return context
