"""Tolerance for newer clients: input fields that we do not know are dropped, not refused.

Each release of the clients sends some more, and a strict executor would refuse the whole
mutation, which some of them do not even notice.
"""

from collections.abc import Mapping
from typing import Any

from graphql import (
    REMOVE,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLSchema,
    ObjectFieldNode,
    OperationDefinitionNode,
    TypeInfo,
    Visitor,
    VisitorAction,
    get_named_type,
    type_from_ast,
)


class DropUnknownFields(Visitor):
    """Removes unknown fields of input objects that stand in the document itself."""

    def __init__(self, info: TypeInfo) -> None:
        super().__init__()
        self._info = info

    def enter_object_field(self, node: ObjectFieldNode, *_args: Any) -> VisitorAction:
        """Compare with the type of the object around the field."""
        parent = self._info.get_parent_input_type()
        named = get_named_type(parent) if parent is not None else None
        if isinstance(named, GraphQLInputObjectType) and node.name.value not in named.fields:
            return REMOVE
        return None


def declared_only(
    schema: GraphQLSchema, operation: OperationDefinitionNode, values: Mapping[str, Any]
) -> dict[str, Any]:
    """The values of variables that the operation declares, without unknown input fields."""
    kept: dict[str, Any] = {}
    for definition in operation.variable_definitions or ():
        name = definition.variable.name.value
        if name in values:
            kind = type_from_ast(schema, definition.type)
            kept[name] = _known_fields(kind, values[name])  # type: ignore[arg-type]
    return kept


def _known_fields(kind: GraphQLInputType | None, value: Any) -> Any:
    match kind:
        case GraphQLNonNull(of_type=inner):
            return _known_fields(inner, value)
        case GraphQLList(of_type=inner) if isinstance(value, list):
            return [_known_fields(inner, entry) for entry in value]
        case GraphQLList(of_type=inner):
            return _known_fields(inner, value)
        case GraphQLInputObjectType(fields=fields) if isinstance(value, dict):
            return {
                name: _known_fields(fields[name].type, entry)
                for name, entry in value.items()
                if name in fields
            }
        case _:
            return value
