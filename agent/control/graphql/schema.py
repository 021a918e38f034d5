"""The schema file and its resolvers, joined."""

import re
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from typing import Any, Final

from ariadne import ObjectType, make_executable_schema
from graphql import GraphQLObjectType, GraphQLSchema

from agent.control.graphql import (
    accounts,
    agents,
    artifact_uploads,
    artifacts,
    collections,
    items,
    jobs,
    leases,
    projects,
    queues,
    runs,
    viewer,
    wandb,
)
from agent.control.graphql.context import Args, Context, Info, context_of
from agent.control.graphql.policies import FIELDS, admit
from agent.control.graphql.scalars import SCALARS

RootResolver = Callable[[Context, Args], Awaitable[Any]]

_MODULES: Final = (
    viewer,
    accounts,
    projects,
    queues,
    items,
    agents,
    leases,
    runs,
    wandb,
    collections,
    artifacts,
    artifact_uploads,
    jobs,
)
_WORDS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def build_schema() -> GraphQLSchema:
    """The executable schema; names are camel case on the wire and snake case here.

    Raises:
        RuntimeError: a field of Query or Mutation lacks its resolver or its policy.
    """
    roots = {
        "Query": _merged(module.QUERIES for module in _MODULES),
        "Mutation": _merged(module.MUTATIONS for module in _MODULES),
    }
    bindables = [_root(name, resolvers) for name, resolvers in roots.items()]
    types = [bindable for module in _MODULES for bindable in module.TYPES]
    text = (files("agent.control.graphql") / "schema.graphql").read_text(encoding="utf-8")
    schema = make_executable_schema(
        text, *bindables, *types, *SCALARS, convert_names_case=lambda name, *_: snake_case(name)
    )
    _check_complete(schema, roots)
    return schema


def snake_case(name: str) -> str:
    """`queueIDs` → `queue_ids`."""
    return _WORDS.sub("_", name).lower()


def _merged(parts: Any) -> dict[str, RootResolver]:
    return {name: resolver for part in parts for name, resolver in part.items()}


def _root(type_name: str, resolvers: Mapping[str, RootResolver]) -> ObjectType:
    bindable = ObjectType(type_name)
    for name, resolver in resolvers.items():
        bindable.set_field(name, _guarded(f"{type_name}.{name}", resolver))
    return bindable


def _guarded(field: str, resolver: RootResolver) -> Callable[..., Awaitable[Any]]:
    async def resolve(_root: object, info: Info, **args: Any) -> Any:
        context = context_of(info)
        admit(field, context.principal)
        return await resolver(context, args.get("input", args))

    return resolve


def _check_complete(schema: GraphQLSchema, roots: Mapping[str, Mapping[str, Any]]) -> None:
    for type_name, resolvers in roots.items():
        kind = schema.type_map[type_name]
        names = kind.fields if isinstance(kind, GraphQLObjectType) else {}
        for name in names:
            field = f"{type_name}.{name}"
            if name not in resolvers or field not in FIELDS:
                raise RuntimeError(f"{field} needs a resolver and a policy.")
