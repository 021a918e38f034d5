"""`POST /graphql`: from the body of a request to its response."""

import asyncio
import json
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from inspect import isawaitable, iscoroutine
from typing import Any, Final, cast

import graphql
from aiohttp import web
from graphql import (
    DocumentNode,
    ExecutionResult,
    FieldNode,
    GraphQLError,
    GraphQLSchema,
    OperationDefinitionNode,
    execute,
)
from graphql.execution import AsyncWorkFinishedInfo, ExecutionHooks

from agent.control.bodies import read_json
from agent.control.files.signed_urls import SignedUrls
from agent.control.graphql.context import Context, Rows
from agent.control.graphql.documents import Documents, declared_variables, operation_of
from agent.control.middleware.errors import log_and_mask
from agent.control.request_data import (
    CONFIG,
    CONTENTS,
    METRICS,
    PLANE,
    RUN_FILES,
    RUN_STREAMS,
    STOPPING,
    WAITED,
    base_url,
    principal_of,
)
from agent.control.store.write_batches import OverloadedError
from agent.model.errors import InvalidInputError, LaunchError

#: Errors of one response; the others say the same of other rows.
_MAX_ERRORS: Final = 50

#: Validity of URLs that a run is given: they outlive its token, and clients use them at once.
_RUN_LINK_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True)
class GraphQLRequest:
    """What a client sent; an empty operation name counts as none."""

    query: str
    variables: Mapping[str, Any]
    operation_name: str | None

    @classmethod
    def parse(cls, body: Any) -> "GraphQLRequest":
        """From a decoded JSON body.

        Raises:
            InvalidInputError: not an object with a string `query` and an object `variables`.
        """
        if not isinstance(body, dict):
            raise InvalidInputError("The body must be one JSON object; batches are not accepted.")
        query, variables = body.get("query"), body.get("variables") or {}
        name = body.get("operationName") or None
        if not isinstance(query, str):
            raise InvalidInputError("The body has no string `query`.")
        if not isinstance(variables, dict):
            raise InvalidInputError("`variables` must be an object.")
        if not isinstance(name, str | None):
            raise InvalidInputError("`operationName` must be a string.")
        return cls(query, variables, name)


class _Execution(graphql.Executor[Any]):
    """Takes lists of rows as they are, and closes the coroutines that it never awaited.

    Completing each row alone costs more than reading it. An error in a field that cannot be null
    cancels its siblings, before they begin or in the middle: a cancelled wrapper that had not
    begun leaves the coroutine inside it behind, about which Python warns.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._coroutines: list[Coroutine[Any, Any, Any]] = []

    def complete_awaitable_value(
        self, return_type: Any, field: Any, info: Any, path: Any, result: Any, position: Any
    ) -> Any:
        """Complete the value that a resolver's awaitable gives."""
        self._keep(result)
        return self._keep(
            super().complete_awaitable_value(return_type, field, info, path, result, position)
        )

    def execute_fields(self, *args: Any) -> Any:
        """The fields of one object."""
        return self._keep(super().execute_fields(*args))

    def complete_list_value(
        self, return_type: Any, field: Any, info: Any, path: Any, result: Any, position: Any
    ) -> Any:
        """The list itself, or what the library makes of it."""
        if isinstance(result, Rows):
            return result
        return self._keep(
            super().complete_list_value(return_type, field, info, path, result, position)
        )

    def _keep(self, value: Any) -> Any:
        if iscoroutine(value):
            self._coroutines.append(value)
        return value

    def close_coroutines(self) -> None:
        """Those that ended are left as they are."""
        for each in self._coroutines:
            each.close()


def _close_coroutines_of(finished: AsyncWorkFinishedInfo) -> None:
    cast("_Execution", finished.executor).close_coroutines()


_HOOKS: Final = ExecutionHooks(async_work_finished=_close_coroutines_of)


class Executor:
    """Executes requests against the schema."""

    def __init__(self, schema: GraphQLSchema) -> None:
        self._schema = schema
        self.documents = Documents(schema)

    async def run(self, request: GraphQLRequest, context: Context | None) -> dict[str, Any]:
        """`data` and `errors` of the response; never raises for what the client sent.

        Raises:
            OverloadedError: nothing was begun, so that the whole request can be repeated.
        """
        try:
            document = self.documents.get(request.query)
            operation = operation_of(document, request.operation_name)
            variables = declared_variables(self._schema, operation, request.variables)
        except GraphQLError as error:
            return {"errors": [formatted(error)]}
        if context is not None:
            context.limit(operation.operation)
        result = await self.execute(
            document, context, variable_values=variables, operation_name=request.operation_name
        )
        if _is_single(operation):
            for each in result.errors or ():
                if isinstance(each.original_error, OverloadedError):
                    raise each.original_error
        errors = [formatted(error) for error in (result.errors or ())[:_MAX_ERRORS]]
        if context is not None and context.too_large:
            return {"errors": errors}
        return {"data": result.data, "errors": errors} if errors else {"data": result.data}

    async def execute(
        self, document: DocumentNode, context: Context | None, **options: Any
    ) -> ExecutionResult:
        """The result of a document that was checked; `options` as graphql-core's `execute`."""
        executing = execute(
            self._schema,
            document,
            context_value=context,
            executor_class=_Execution,
            hooks=_HOOKS,
            **options,
        )
        return await executing if isawaitable(executing) else executing


def _is_single(operation: OperationDefinitionNode) -> bool:
    """Whether it asks for one root field: of several, others may have been done."""
    selections = operation.selection_set.selections
    return len(selections) == 1 and isinstance(selections[0], FieldNode)


def formatted(error: GraphQLError) -> dict[str, Any]:
    """One entry of `errors`: our own errors with code and hint, all others masked."""
    entry: dict[str, Any] = {"message": error.message}
    if error.path:
        entry["path"] = error.path
    entry["extensions"] = {"code": "INVALID_INPUT"} | (error.extensions or {})
    match error.original_error:
        case None | GraphQLError():
            pass
        case LaunchError() as ours:
            entry["message"] = ours.message
            entry["extensions"] = {"code": ours.code} | ({"hint": ours.hint} if ours.hint else {})
        case unexpected:
            entry["message"] = log_and_mask(unexpected, field=".".join(map(str, error.path or ())))
            entry["extensions"] = {"code": "SERVER_ERROR"}
    return entry


class GraphQLHandler:
    """Handles the GraphQL requests of one app."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._running: set[asyncio.Task[dict[str, Any]]] = set()

    async def __call__(self, request: web.Request) -> web.Response:
        """Status 200 whatever the result, once the body has been understood as a request."""
        graphql_request = GraphQLRequest.parse(
            await read_json(request, request.app[CONFIG].max_body)
        )
        app, principal = request.app, principal_of(request)
        idempotency_key = request.headers.get("Idempotency-Key")
        if idempotency_key is not None:
            principal = replace(principal, idempotency_key=idempotency_key)
        lifetime = app[CONFIG].signed_url_lifetime
        if principal.run is not None:
            lifetime = min(lifetime, _RUN_LINK_SECONDS)
        context = Context(
            app[PLANE],
            principal,
            app[METRICS],
            contents=app[CONTENTS],
            run_files=app[RUN_FILES],
            signed_urls=SignedUrls(app[PLANE].keys, base_url(request), lifetime),
            run_streams=app[RUN_STREAMS],
            max_manifest=app[CONFIG].max_manifest,
            max_answer=app[CONFIG].max_answer,
        )
        try:
            response = await self._run(graphql_request, context, app[STOPPING])
        finally:
            if context.waited:
                request[WAITED] = True
        for error in response.get("errors", ()):
            context.metrics.errors.labels(error["extensions"]["code"]).inc()
        # NaN and Infinity pass, as W&B's clients write and read them.
        text = json.dumps(response, separators=(",", ":"), ensure_ascii=False)
        # Halves of characters, which an older client may have stored, are written as escapes are.
        body = text.encode(errors="backslashreplace")
        return web.Response(body=body, content_type="application/json", charset="utf-8")

    async def _run(
        self, request: GraphQLRequest, context: Context, stopping: asyncio.Event
    ) -> dict[str, Any]:
        """Execute in a task of its own, which is never cancelled.

        A client that disconnects cancels this handler, and cancelling a resolver in the middle
        of a transaction would leave the database to clean up. So `unwanted` is set,
        which ends a long poll, and the execution is awaited to its end.
        """
        execution = asyncio.create_task(self._executor.run(request, context))
        self._running.add(execution)
        execution.add_done_callback(self._running.discard)
        stop = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait((execution, stop), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            if not execution.done():
                context.unwanted.set()
                await asyncio.wait((execution,))
        return execution.result()
