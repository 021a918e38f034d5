"""GraphQL documents: parsed, checked against limits and schema, and cached.

Unknown input fields are dropped instead of refused, except in inputs that the schema calls
`@strict`: each release of W&B's clients sends some more, and to refuse them would fail the whole
mutation, which some clients do not even notice.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from graphql import (
    REMOVE,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    NoUnusedVariablesRule,
    ObjectFieldNode,
    OperationDefinitionNode,
    SelectionSetNode,
    StringValueNode,
    TypeInfo,
    TypeInfoVisitor,
    Visitor,
    VisitorAction,
    get_named_type,
    parse,
    specified_rules,
    type_from_ast,
    validate,
    visit,
)

from agent.model.errors import InvalidInputError
from agent.model.json_values import check_value

#: Introspection by older clients nests 13 deep.
MAX_DEPTH: Final = 15
MAX_ALIASES: Final = 30
#: Lexical tokens; the largest document that a client is known to send has about 700.
MAX_TOKENS: Final = 4000
#: Fields after fragments have been expanded, and operations of one document.
MAX_FIELDS: Final = 2000
MAX_OPERATIONS: Final = 10
#: Characters; ids and specs travel in variables, so a document has no reason to be large.
_MAX_SOURCE: Final = 256 * 1024
_MAX_ERRORS: Final = 5
_DIGITS: Final = 20
_CACHE_SIZE: Final = 512
#: Dropping an unknown input field may leave the variable behind it unused.
_RULES: Final = [rule for rule in specified_rules if rule is not NoUnusedVariablesRule]


class Documents:
    """A bounded cache of checked documents; refused ones are not cached."""

    def __init__(self, schema: GraphQLSchema, cache_size: int = _CACHE_SIZE) -> None:
        self._schema = schema
        self._cache_size = cache_size
        self._cache: OrderedDict[bytes, DocumentNode] = OrderedDict()
        #: Number of texts that were parsed.
        self.parsed = 0

    def get(self, text: str) -> DocumentNode:
        """The checked document of a text.

        Raises:
            GraphQLError: the first thing that is wrong with it.
        """
        key = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
        document = self._cache.get(key)
        if document is None:
            document = self._cache[key] = self._check(text)
            if len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return document

    def _check(self, text: str) -> DocumentNode:
        self.parsed += 1
        document = parse(text, max_lexical_tokens=MAX_TOKENS, max_source_length=_MAX_SOURCE)
        _check_limits(document)
        visit(document, _CheckLiterals())
        info = TypeInfo(self._schema)
        tolerant: DocumentNode = visit(document, TypeInfoVisitor(info, _DropUnknownFields(info)))
        errors = validate(self._schema, tolerant, _RULES, max_errors=_MAX_ERRORS)
        if errors:
            raise GraphQLError(
                errors[0].message, nodes=errors[0].nodes, extensions={"code": "INVALID_QUERY"}
            )
        return tolerant


def operation_of(document: DocumentNode, name: str | None) -> OperationDefinitionNode:
    """The operation of that name, or the only one for `None`.

    Raises:
        GraphQLError: there is no such, or more than one.
    """
    found = [
        node
        for node in document.definitions
        if isinstance(node, OperationDefinitionNode)
        and (name is None or (node.name is not None and node.name.value == name))
    ]
    if len(found) != 1:
        raise GraphQLError(f"The document has no single operation '{name or ''}'.")
    return found[0]


class _CheckLiterals(Visitor):
    """Refuses what cannot be stored, as the decoding of variables does."""

    def enter_string_value(self, node: StringValueNode, *_args: Any) -> VisitorAction:
        _check_literal(node.value)
        return None

    def enter_int_value(self, node: IntValueNode, *_args: Any) -> VisitorAction:
        _check_literal(int(node.value) if len(node.value) <= _DIGITS else 10**_DIGITS)
        return None


def _check_literal(value: str | int) -> None:
    try:
        check_value(value, "The document")
    except InvalidInputError as error:
        raise GraphQLError(error.message) from None


class _DropUnknownFields(Visitor):
    """Removes unknown fields of input objects that are written in the document."""

    def __init__(self, info: TypeInfo) -> None:
        super().__init__()
        self._info = info

    def enter_object_field(self, node: ObjectFieldNode, *_args: Any) -> VisitorAction:
        parent = self._info.get_parent_input_type()
        named = get_named_type(parent) if parent is not None else None
        if not isinstance(named, GraphQLInputObjectType) or _is_strict(named):
            return None
        return None if node.name.value in named.fields else REMOVE


def declared_variables(
    schema: GraphQLSchema, operation: OperationDefinitionNode, values: Mapping[str, Any]
) -> dict[str, Any]:
    """The variables that the operation declares, without unknown input fields."""
    kept: dict[str, Any] = {}
    for definition in operation.variable_definitions or ():
        name = definition.variable.name.value
        if name in values:
            kind = type_from_ast(schema, definition.type)
            kept[name] = _known_fields(kind, values[name])  # type: ignore[arg-type]
    return kept


def _is_strict(kind: GraphQLInputObjectType) -> bool:
    directives = (kind.ast_node and kind.ast_node.directives) or ()
    return any(each.name.value == "strict" for each in directives)


def _known_fields(kind: GraphQLInputType | None, value: Any) -> Any:
    match kind:
        case GraphQLNonNull(of_type=inner):
            return _known_fields(inner, value)
        case GraphQLList(of_type=inner) if isinstance(value, list):
            return [_known_fields(inner, entry) for entry in value]
        case GraphQLList(of_type=inner):
            return _known_fields(inner, value)
        case GraphQLInputObjectType(fields=fields) if isinstance(value, dict):
            if _is_strict(kind):
                return value
            return {
                name: _known_fields(fields[name].type, entry)
                for name, entry in value.items()
                if name in fields
            }
        case _:
            return value


@dataclass(frozen=True, slots=True)
class _Size:
    """Of a selection, with fragments expanded."""

    depth: int = 0
    aliases: int = 0
    fields: int = 0


def _check_limits(document: DocumentNode) -> None:
    """Refuse a document that is too deep or has too many fields, before it is validated.

    Raises:
        GraphQLError: names the limit.
    """
    sizes = _Sizes(document)
    operations = [
        node for node in document.definitions if isinstance(node, OperationDefinitionNode)
    ]
    _check_limit(len(operations), MAX_OPERATIONS, "operations")
    for operation in operations:
        size = sizes.of(operation.selection_set)
        _check_limit(size.depth, MAX_DEPTH, "levels deep")
        _check_limit(size.aliases, MAX_ALIASES, "aliases")
        _check_limit(size.fields, MAX_FIELDS, "fields")


def _check_limit(seen: int, limit: int, what: str) -> None:
    if seen > limit:
        message = f"The document is too large: more than {limit} {what}."
        raise GraphQLError(message, extensions={"code": "QUERY_TOO_LARGE"})


class _Sizes:
    """Measures selections; each fragment once, however often it is spread."""

    def __init__(self, document: DocumentNode) -> None:
        self._fragments = {
            node.name.value: node
            for node in document.definitions
            if isinstance(node, FragmentDefinitionNode)
        }
        self._known: dict[str, _Size] = {}

    def of(self, selections: SelectionSetNode | None) -> _Size:
        if selections is None:
            return _Size()
        parts = [self._of_node(selection) for selection in selections.selections]
        return _Size(
            max((part.depth for part in parts), default=0),
            sum(part.aliases for part in parts),
            sum(part.fields for part in parts),
        )

    def _of_node(self, node: object) -> _Size:
        match node:
            case FieldNode():
                inner = self.of(node.selection_set)
                aliases = inner.aliases + (node.alias is not None)
                return _Size(inner.depth + 1, aliases, inner.fields + 1)
            case InlineFragmentNode():
                return self.of(node.selection_set)
            case FragmentSpreadNode():
                return self._of_fragment(node.name.value)
            case _:
                return _Size()

    def _of_fragment(self, name: str) -> _Size:
        if name not in self._known:
            # A fragment that spreads itself counts as empty here; validation refuses it.
            self._known[name] = _Size()
            fragment = self._fragments.get(name)
            self._known[name] = self.of(fragment.selection_set if fragment else None)
        return self._known[name]
