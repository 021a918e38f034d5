"""From a body to an answer: shapes, errors, masking."""

import asyncio
import gc

import pytest
from ariadne import MutationType, ObjectType, QueryType, make_executable_schema
from structlog.testing import capture_logs

from agent.control.graphql.handler import Executor, GraphQLRequest
from agent.model.errors import InvalidInputError, NotFoundError


class Broken:
    async def fail(self, *_args):
        secret = "postgresql://user:hunter2@db"
        raise RuntimeError(secret)


@pytest.fixture
def executor():
    query, mutation = QueryType(), MutationType()
    query.set_field("plain", lambda *_: "yes")
    query.set_field("broken", Broken().fail)

    @query.field("missing")
    async def missing(*_args):
        raise NotFoundError("There is no queue 'gpu'.", hint="Did you mean 'gpus'?")

    return Executor(
        make_executable_schema(
            "type Query { plain(n: Int): String, broken: String, missing: String } "
            "type Mutation { plain: String }",
            query,
            mutation,
        )
    )


def _request(query: str, **variables):
    return GraphQLRequest(query, variables, None)


async def test_an_answer_has_data(executor):
    assert await executor.run(_request("{ plain }"), None) == {"data": {"plain": "yes"}}


async def test_our_errors_carry_code_and_hint(executor):
    answer = await executor.run(_request("{ missing plain }"), None)
    assert answer["data"] == {"missing": None, "plain": "yes"}
    assert answer["errors"] == [
        {
            "message": "There is no queue 'gpu'.",
            "path": ["missing"],
            "extensions": {"code": "NOT_FOUND", "hint": "Did you mean 'gpus'?"},
        }
    ]


async def test_other_errors_are_masked_and_logged_under_their_reference(executor):
    with capture_logs() as logged:
        answer = await executor.run(_request("{ broken }"), None)
    error = answer["errors"][0]
    assert error["extensions"] == {"code": "SERVER_ERROR"}
    assert "hunter2" not in str(answer)
    assert error["message"] == f"internal error, reference {logged[0]['reference']}"
    assert logged[0]["field"] == "broken"


async def test_a_document_that_is_wrong_has_no_data(executor):
    answer = await executor.run(_request("{ nothing }"), None)
    assert list(answer) == ["errors"]
    assert answer["errors"][0]["extensions"]["code"] == "INVALID_QUERY"


async def test_a_value_of_the_wrong_type_is_named(executor):
    answer = await executor.run(_request("query ($n: Int) { plain(n: $n) }", n="x"), None)
    assert "$n" in answer["errors"][0]["message"]
    assert answer["errors"][0]["extensions"]["code"] == "INVALID_INPUT"


async def test_the_operation_must_be_clear(executor):
    text = "query A { plain } query B { plain }"
    assert "errors" in await executor.run(GraphQLRequest(text, {}, None), None)
    assert "errors" in await executor.run(GraphQLRequest(text, {}, "C"), None)
    assert await executor.run(GraphQLRequest(text, {}, "B"), None) == {"data": {"plain": "yes"}}


def test_an_empty_operation_name_is_none():
    body = {"query": "{ plain }", "operationName": "", "variables": None}
    assert GraphQLRequest.parse(body) == GraphQLRequest("{ plain }", {}, None)


@pytest.mark.parametrize(
    "body",
    [
        [],
        None,
        "text",
        [{"query": "{ plain }"}],
        {},
        {"query": 1},
        {"query": "{ plain }", "variables": [1]},
        {"query": "{ plain }", "operationName": 7},
    ],
)
def test_bodies_of_another_shape_are_refused(body):
    with pytest.raises(InvalidInputError):
        GraphQLRequest.parse(body)


@pytest.mark.parametrize("turns", range(6))
async def test_an_error_leaves_no_coroutine_of_its_siblings_behind(turns):
    """Siblings that were cancelled before they began: pytest fails for what was never awaited."""
    query, parent, child = QueryType(), ObjectType("Parent"), ObjectType("Child")
    query.set_field("parent", lambda *_: {})

    @parent.field("broken")
    async def broken(*_args):
        await asyncio.sleep(0)
        raise NotFoundError("There is no run 'a'.", hint="It was deleted.")

    @parent.field("children")
    async def children(*_args):
        for _ in range(turns):
            await asyncio.sleep(0)
        return [{}, {}]

    @child.field("value")
    @child.field("other")
    async def value(*_args):
        return 1

    executor = Executor(
        make_executable_schema(
            "type Query { parent: Parent } "
            "type Parent { broken: Int! children: [Child!]! } "
            "type Child { value: Int! other: Int! }",
            *(query, parent, child),
        )
    )
    text = "{ parent { broken children { value other } } }"
    answer = await executor.run(_request(text), None)
    assert [each["path"] for each in answer["errors"]] == [["parent", "broken"]]
    gc.collect()
