"""The `@policy` of each field and type in schema.graphql, and its enforcement."""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from inspect import isawaitable
from operator import attrgetter
from typing import Any, Final

from graphql import (
    GraphQLField,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLSchema,
    Node,
    default_field_resolver,
    get_named_type,
    get_nullable_type,
    is_abstract_type,
    is_list_type,
)

from agent.control.auth.policy import Action, CredentialKind, may_ever
from agent.control.graphql.context import Context, Info, context_of
from agent.control.store.accounts import EntityRecord
from agent.control.store.collections import CollectionRecord
from agent.control.store.projects import ProjectRecord
from agent.control.store.runs import RunRecord
from agent.control.store.sweeps import SweepRecord
from agent.model.errors import NotFoundError, PermissionDeniedError

ROOTS: Final = ("Query", "Mutation")
FieldPolicies = dict[str, tuple[GraphQLField, Action | None]]


def enforce_policies(schema: GraphQLSchema, policies: FieldPolicies) -> None:
    """Wrap resolvers so that each field follows its policy; `policies` is from `field_policies`."""
    places = object_places(schema)
    for path, (field, action) in policies.items():
        named = get_named_type(field.type)
        if named.name in places or is_abstract_type(named):
            _hide_foreign_objects(field, places)
        # Objects of READ are hidden as such: their many fields need no check of their own.
        own = path.split(".")[0] in ROOTS or _argument(field.ast_node, "action")
        if own or action is not Action.READ:
            _refuse_kinds(path, field, action)


def field_policies(schema: GraphQLSchema) -> FieldPolicies:
    """Every field of every object type, as `Type.field`, with its `@policy` in the schema.

    The action is `None` for AUTHENTICATED.

    Raises:
        RuntimeError: a field has no policy.
    """
    found: FieldPolicies = {}
    for kind in schema.type_map.values():
        if not isinstance(kind, GraphQLObjectType) or kind.name.startswith("__"):
            continue
        inherited = None if kind.name in ROOTS else _argument(kind.ast_node, "action")
        for name, field in kind.fields.items():
            policy = _argument(field.ast_node, "action") or inherited
            if policy is None:
                raise RuntimeError(f"{kind.name}.{name} has no @policy in schema.graphql.")
            action = None if policy == "AUTHENTICATED" else Action[policy]
            found[f"{kind.name}.{name}"] = (field, action)
    return found


def _argument(node: Node | None, name: str) -> str | None:
    """An argument of a field's or a type's own `@policy`."""
    for directive in getattr(node, "directives", None) or ():
        if directive.name.value == "policy":
            given = {one.name.value: str(one.value.value) for one in directive.arguments}
            return given.get(name)
    return None


@dataclass(frozen=True, slots=True)
class ObjectPlace:
    """Where the objects of a type have the entity that they belong to."""

    #: An attribute, or `.` for the object itself.
    of: str
    action: Action

    def shown(self, context: Context, found: Any) -> bool:
        """Whether the caller may read the entity, and project, of an object."""
        place = found if self.of == "." else attrgetter(self.of)(found)
        policy, principal = context.plane.policy, context.principal
        match place:
            case EntityRecord(name=name):
                return policy.sees_entity_or_project(principal, name)
            case ProjectRecord(entity=entity, name=name):
                return policy.sees_entity_or_project(principal, entity, name)
            case (
                RunRecord(entity=entity, project=project)
                | SweepRecord(entity=entity, project=project)
            ):
                return policy.reads_project(principal, entity, project)
            case CollectionRecord() if self.action is Action.READ_PROJECT:
                where = (place.entity, place.project, place.name)
                return policy.reads_artifact(principal, *where)
            case _:
                return policy.allows(principal, place.entity, self.action)


def object_places(schema: GraphQLSchema) -> dict[str, ObjectPlace]:
    """The types whose `@policy` says where an object has its entity."""
    found = {}
    for name, kind in schema.type_map.items():
        of, action = _argument(kind.ast_node, "of"), _argument(kind.ast_node, "action")
        if of is not None and action is not None:
            found[name] = ObjectPlace(of, Action[action])
    return found


def _hide_foreign_objects(field: GraphQLField, places: Mapping[str, ObjectPlace]) -> None:
    """Let a field give only objects that the caller may read, whatever its resolver found.

    Services look at rights first; this is for what a resolver or a record carries along.
    """
    resolver, named = field.resolve or default_field_resolver, get_named_type(field.type)
    is_list = is_list_type(get_nullable_type(field.type))
    optional = not isinstance(field.type, GraphQLNonNull)

    def is_shown(found: Any, info: Info) -> bool:
        name: Any = named.name
        if is_abstract_type(named):
            name = named.resolve_type(found, info, named) if named.resolve_type else None
        place = places.get(name)
        return place is None or place.shown(context_of(info), found)

    def checked(found: Any, info: Info) -> Any:
        if found is None:
            return None
        if is_list:
            return [each for each in found if each is None or is_shown(each, info)]
        if is_shown(found, info):
            return found
        if optional:
            return None
        raise NotFoundError("This object does not exist, or this key may not read it.")

    async def later(awaited: Awaitable[Any], info: Info) -> Any:
        return checked(await awaited, info)

    def resolve(source: Any, info: Info, **args: Any) -> Any:
        found = resolver(source, info, **args)
        return later(found, info) if isawaitable(found) else checked(found, info)

    field.resolve = resolve


def _refuse_kinds(path: str, field: GraphQLField, action: Action | None) -> None:
    """Refuse credentials of kinds that can never do this, before the field is resolved."""
    kinds = frozenset(kind for kind in CredentialKind if action is None or may_ever(kind, action))
    if kinds == frozenset(CredentialKind) or action is None:
        return
    resolver, what = field.resolve or default_field_resolver, action.value

    def resolve(source: Any, info: Info, **args: Any) -> Any:
        principal = context_of(info).principal
        if principal.kind not in kinds:
            message = f"{principal.name} may not {what}: `{path}` is not for {principal.kind} keys."
            raise PermissionDeniedError(message, hint="Use a user's key.")
        return resolver(source, info, **args)

    field.resolve = resolve
