"""How large a document may be, checked on its tree before anything is executed."""

from dataclasses import dataclass
from typing import Final

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
)

#: Introspection of older clients nests 13 deep.
MAX_DEPTH: Final = 15
MAX_ALIASES: Final = 30
#: Lexical tokens; the largest document that a client is known to send has about 700.
MAX_TOKENS: Final = 4000
#: Fields after fragments have been unfolded, and operations of one document.
MAX_FIELDS: Final = 2000
MAX_OPERATIONS: Final = 10
MAX_PAGE: Final = 5000


@dataclass(frozen=True, slots=True)
class _Weight:
    depth: int = 0
    aliases: int = 0
    fields: int = 0


def check_limits(document: DocumentNode) -> None:
    """Refuse a document that is too deep, too wide, or unfolds to too much.

    Raises:
        GraphQLError: names the limit.
    """
    scale = _Scale(document)
    operations = [
        node for node in document.definitions if isinstance(node, OperationDefinitionNode)
    ]
    _refuse(len(operations), MAX_OPERATIONS, "operations")
    for operation in operations:
        weight = scale.weigh(operation.selection_set)
        _refuse(weight.depth, MAX_DEPTH, "levels deep")
        _refuse(weight.aliases, MAX_ALIASES, "aliases")
        _refuse(weight.fields, MAX_FIELDS, "fields")


def check_page(first: int | None) -> int:
    """The page size to use.

    Raises:
        GraphQLError: below 0 or above the limit.
    """
    if first is None:
        return 100
    if not 0 <= first <= MAX_PAGE:
        message = f"`first: {first}`: a page holds between 0 and {MAX_PAGE} entries."
        raise GraphQLError(message, extensions={"code": "INVALID_INPUT"})
    return first


def _refuse(seen: int, limit: int, what: str) -> None:
    if seen > limit:
        message = f"The document is too large: more than {limit} {what}."
        raise GraphQLError(message, extensions={"code": "QUERY_TOO_LARGE"})


class _Scale:
    """Weighs selections; each fragment once, however often it is spread."""

    def __init__(self, document: DocumentNode) -> None:
        self._fragments = {
            node.name.value: node
            for node in document.definitions
            if isinstance(node, FragmentDefinitionNode)
        }
        self._known: dict[str, _Weight] = {}

    def weigh(self, selections: SelectionSetNode | None) -> _Weight:
        if selections is None:
            return _Weight()
        parts = [self._one(selection) for selection in selections.selections]
        return _Weight(
            max((part.depth for part in parts), default=0),
            sum(part.aliases for part in parts),
            sum(part.fields for part in parts),
        )

    def _one(self, node: object) -> _Weight:
        match node:
            case FieldNode():
                inner = self.weigh(node.selection_set)
                aliased = inner.aliases + (node.alias is not None)
                return _Weight(inner.depth + 1, aliased, inner.fields + 1)
            case InlineFragmentNode():
                return self.weigh(node.selection_set)
            case FragmentSpreadNode():
                return self._spread(node.name.value)
            case _:
                return _Weight()

    def _spread(self, name: str) -> _Weight:
        if name not in self._known:
            # A fragment that spreads itself weighs nothing here; validation refuses it.
            self._known[name] = _Weight()
            fragment = self._fragments.get(name)
            self._known[name] = self.weigh(fragment.selection_set if fragment else None)
        return self._known[name]
