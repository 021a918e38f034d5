"""Documents, parsed and validated once: clients send few different ones, again and again."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    NoUnusedVariablesRule,
    OperationDefinitionNode,
    TypeInfo,
    TypeInfoVisitor,
    parse,
    specified_rules,
    validate,
    visit,
)

from agent.control.graphql.inputs import DropUnknownFields
from agent.control.graphql.limits import MAX_TOKENS, check_limits

#: Dropping an unknown input field may leave the variable behind it unused.
_RULES: Final = [rule for rule in specified_rules if rule is not NoUnusedVariablesRule]
_MAX_ERRORS: Final = 5
_REMEMBERED: Final = 512
#: Characters; ids and specs travel in variables, so a document has no reason to be large.
_MAX_SOURCE: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Checked:
    """A document that may be executed."""

    document: DocumentNode

    def operation(self, name: str | None) -> OperationDefinitionNode | None:
        """The operation of that name, or the only one; `None` when there is no such."""
        found = [
            node
            for node in self.document.definitions
            if isinstance(node, OperationDefinitionNode)
            and (name is None or (node.name is not None and node.name.value == name))
        ]
        return found[0] if len(found) == 1 else None


class Documents:
    """A bounded cache; documents that were refused are not remembered."""

    def __init__(self, schema: GraphQLSchema, remembered: int = _REMEMBERED) -> None:
        self._schema = schema
        self._remembered = remembered
        self._known: OrderedDict[bytes, Checked] = OrderedDict()
        #: How many texts had to be parsed.
        self.parsed = 0

    def get(self, text: str) -> Checked:
        """The checked document of a text.

        Raises:
            GraphQLError: the first thing that is wrong with it.
        """
        key = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._check(text)
            if len(self._known) > self._remembered:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return known

    def _check(self, text: str) -> Checked:
        self.parsed += 1
        document = parse(text, max_lexical_tokens=MAX_TOKENS, max_source_length=_MAX_SOURCE)
        check_limits(document)
        info = TypeInfo(self._schema)
        tolerant = visit(document, TypeInfoVisitor(info, DropUnknownFields(info)))
        errors = validate(self._schema, tolerant, _RULES, max_errors=_MAX_ERRORS)
        if errors:
            raise GraphQLError(
                errors[0].message, nodes=errors[0].nodes, extensions={"code": "INVALID_QUERY"}
            )
        return Checked(tolerant)
