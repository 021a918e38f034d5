"""The executable schema: schema.graphql, its resolvers and its policies."""

import re
from collections.abc import Awaitable, Callable
from importlib.resources import files
from inspect import isawaitable
from typing import Any, Final

from ariadne import ObjectType, make_executable_schema
from graphql import GraphQLField, GraphQLSchema, default_field_resolver, get_named_type

from agent.control.graphql import (
    accounts,
    agents,
    artifact_uploads,
    artifacts,
    items,
    jobs,
    leases,
    projects,
    queues,
    runs,
    sweeps,
    wandb,
)
from agent.control.graphql.context import Info, RootResolver, RootResolvers, context_of
from agent.control.graphql.field_policies import ROOTS, enforce_policies, field_policies
from agent.control.graphql.scalars import SCALARS

#: Each has resolvers of root fields in `QUERIES` and `MUTATIONS`, and of other types in `TYPES`.
_MODULES: Final = (
    accounts,
    projects,
    queues,
    items,
    agents,
    leases,
    runs,
    sweeps,
    wandb,
    artifacts,
    artifact_uploads,
    jobs,
)
#: Types whose values can be large.
_MEASURED: Final = frozenset({"String", "ID", "JSON", "JSONString"})
_WORD_START: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def build_schema() -> GraphQLSchema:
    """The executable schema; names are camel case on the wire and snake case in Python.

    Raises:
        RuntimeError: a field has no policy, or one of Query or Mutation no resolver.
    """
    text = (files("agent.control.graphql") / "schema.graphql").read_text(encoding="utf-8")
    types = [bindable for module in _MODULES for bindable in module.TYPES]
    queries = {name: each for module in _MODULES for name, each in module.QUERIES.items()}
    mutations = {name: each for module in _MODULES for name, each in module.MUTATIONS.items()}
    schema = make_executable_schema(
        text,
        _root("Query", queries),
        _root("Mutation", mutations),
        *types,
        *SCALARS,
        convert_names_case=lambda name, *_: snake_case(name),
    )
    policies = field_policies(schema)
    for path in policies:
        type_name, name = path.split(".")
        if type_name in ROOTS and name not in (queries if type_name == "Query" else mutations):
            raise RuntimeError(f"{path} has no resolver.")
    enforce_policies(schema, policies)
    for field, _ in policies.values():
        if get_named_type(field.type).name in _MEASURED:
            _measure(field)
    return schema


def snake_case(name: str) -> str:
    """`queueIDs` → `queue_ids`."""
    return _WORD_START.sub("_", name).lower()


def _root(type_name: str, resolvers: RootResolvers) -> ObjectType:
    bindable = ObjectType(type_name)
    for name, resolver in resolvers.items():
        bindable.set_field(name, _with_context(resolver))
    return bindable


def _with_context(resolver: RootResolver) -> Callable[..., Awaitable[Any]]:
    def resolve(_root: object, info: Info, **args: Any) -> Awaitable[Any]:
        return resolver(context_of(info), args.get("input", args))

    return resolve


def _measure(field: GraphQLField) -> None:
    """Count the bytes of a field's values, before they are made into an answer."""
    resolver = field.resolve or default_field_resolver

    def resolve(source: Any, info: Info, **args: Any) -> Any:
        value = resolver(source, info, **args)
        if isawaitable(value):
            return _measured(info, value)
        context_of(info).count(value)
        return value

    field.resolve = resolve


async def _measured(info: Info, pending: Awaitable[Any]) -> Any:
    value = await pending
    context_of(info).count(value)
    return value
