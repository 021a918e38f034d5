"""From the body of a request to its answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any

from graphql import ExecutionResult, GraphQLError, GraphQLSchema, execute

from agent.control.graphql.documents import Documents
from agent.control.graphql.errors import formatted
from agent.control.graphql.inputs import declared_only
from agent.model.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class GraphQLRequest:
    """What a client sent; an empty operation name counts as none."""

    query: str
    variables: Mapping[str, Any]
    operation_name: str | None

    @classmethod
    def of(cls, body: Any) -> "GraphQLRequest":
        """Read a decoded body.

        Raises:
            InvalidInputError: not an object with a text `query` and an object `variables`.
        """
        if not isinstance(body, dict):
            raise InvalidInputError("The body must be one JSON object; batches are not taken.")
        query, variables = body.get("query"), body.get("variables") or {}
        name = body.get("operationName") or None
        if not isinstance(query, str):
            raise InvalidInputError("The body has no text `query`.")
        if not isinstance(variables, dict):
            raise InvalidInputError("`variables` must be an object.")
        if not isinstance(name, str | None):
            raise InvalidInputError("`operationName` must be a text.")
        return cls(query, variables, name)


class Executor:
    """Executes requests against the schema; its documents are cached."""

    def __init__(self, schema: GraphQLSchema) -> None:
        self._schema = schema
        self.documents = Documents(schema)

    async def run(self, request: GraphQLRequest, context: Any) -> dict[str, Any]:
        """The answer, as `data` and `errors`; never raises for what the client sent."""
        try:
            checked = self.documents.get(request.query)
            operation = checked.operation(request.operation_name)
            if operation is None:
                message = f"The document has no single operation '{request.operation_name or ''}'."
                raise GraphQLError(message)
            variables = declared_only(self._schema, operation, request.variables)
        except GraphQLError as error:
            return {"errors": [formatted(error)]}
        result = execute(
            self._schema,
            checked.document,
            context_value=context,
            variable_values=variables,
            operation_name=request.operation_name,
        )
        return _answer(await result if isawaitable(result) else result)


def _answer(result: ExecutionResult) -> dict[str, Any]:
    answer: dict[str, Any] = {"data": result.data}
    if result.errors:
        answer["errors"] = [formatted(error) for error in result.errors]
    return answer
