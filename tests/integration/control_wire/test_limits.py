"""Limits of what one request may cost the server, over the wire."""

import pytest

from tests.integration.control_wire.wire import SPEC, open_wire

SUBMIT = """mutation ($input: SubmitLaunchItemInput!) {
  submitLaunchItem(input: $input) { id }
}"""


async def submit(caller, spec):
    made = await caller.data(SUBMIT, input={"queueName": "default", "runSpec": spec})
    return made["submitLaunchItem"]["id"]


@pytest.fixture
async def small(tmp_path):
    """A server whose answers may have 100 KiB."""
    async with open_wire(tmp_path / "data", max_answer=100 * 1024) as opened:
        yield opened


async def test_an_answer_that_repeats_a_document_is_refused_as_a_whole(small):
    spec = SPEC | {"overrides": {"run_config": {"text": "x" * 10_000}}}
    item = await submit(small.ann, spec)
    once = await small.ann.data("query Q($id: ID!) { launchItem(id: $id) { runSpec } }", id=item)
    assert once["launchItem"]["runSpec"]["overrides"]["run_config"]["text"] == "x" * 10_000
    fields = " ".join(f"f{number}: runSpec" for number in range(20))
    answer = await small.ann.ask(
        f"query Q($id: ID!) {{ launchItem(id: $id) {{ id {fields} }} }}", id=item
    )
    assert "data" not in answer
    (error,) = answer["errors"]
    assert error["extensions"]["code"] == "TOO_LARGE"
    assert "smaller pages" in error["extensions"]["hint"]


async def test_a_list_is_refused_by_its_bytes_and_given_in_smaller_pages(small):
    spec = SPEC | {"overrides": {"run_config": {"text": "x" * 10_000}}}
    for _ in range(30):
        await submit(small.ann, spec)
    query = "query Q($n: Int) { launchItems(first: $n) { edges { node { id } } } }"
    assert await small.ann.code(query, n=30) == "TOO_LARGE"
    assert len((await small.ann.data(query, n=5))["launchItems"]["edges"]) == 5


async def test_a_shared_document_counts_for_each_row_that_shows_it(small):
    text = "x" * 20_000
    queue = small.server.services.queues
    await queue.save(
        small.admin, "ann", "default", resource="local-process",
        config={"resource_args": {"local-process": {"text": text}}},
    )  # fmt: skip
    repeated = " ".join(f"q{n}: launchQueues {{ config }}" for n in range(8))
    assert await small.ann.code(f"{{ {repeated} }}") == "TOO_LARGE"
