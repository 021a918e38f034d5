"""Limits of what one request may cost the server, over the wire."""

import asyncio

import aiohttp
import pytest

from agent.control.store import write_batches
from tests.integration.control_wire.agents import Agent
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


@pytest.fixture
async def strict(tmp_path):
    """A server that allows 20 requests at once, and then one a second."""
    async with open_wire(tmp_path / "data", request_burst=20, requests_per_second=1) as opened:
        yield opened


VIEWER = {"query": "{ viewer { id } }"}


async def test_ten_times_the_limit_from_one_key_leaves_the_others_served(strict):
    bob = await strict.user("bob")
    asks = (strict.ann.status("POST", "/graphql", json=VIEWER) for _ in range(200))
    flood = await asyncio.gather(*asks)
    served = [await bob.status("POST", "/graphql", json=VIEWER) for _ in range(20)]
    assert flood.count(200) >= 20
    assert flood.count(429) >= 100
    assert served == [200] * 20


async def test_a_refusal_does_not_close_the_connection(strict):
    """A client that writes its request meanwhile would see an error instead of the answer."""
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(connector=connector, headers=strict.ann.headers) as session:
        codes = []
        for _ in range(40):
            async with session.post(f"{strict.server.url}/graphql", json=VIEWER) as answer:
                codes.append(answer.status)
                assert "close" not in answer.headers.get("Connection", "")
                await answer.read()
    assert codes.count(429) >= 5


async def test_a_refusal_says_when_to_come_back(strict):
    status = 200
    while status == 200:
        async with strict.ann.request("POST", "/graphql", json=VIEWER) as answer:
            status, after, body = answer.status, answer.headers.get("Retry-After"), answer.json()
            error = (await body).get("errors", [{}])[0]
    assert (status, after) == (429, "1")
    assert error["extensions"]["code"] == "TOO_MANY_REQUESTS"
    assert error["message"] == "Too many requests with this key."


async def test_an_agent_key_is_not_slowed_by_its_owners_scripts(strict):
    robot = await strict.agent_key("ann")
    for _ in range(40):
        await strict.ann.status("POST", "/graphql", json=VIEWER)
    for _ in range(20):
        assert await robot.status("POST", "/graphql", json=VIEWER) == 200


async def test_no_header_makes_a_key_two(strict):
    """Whoever calls itself an agent is counted with the key that it sends."""
    for _ in range(40):
        await strict.ann.status("POST", "/graphql", json=VIEWER)
    headers = {"User-Agent": "launch-agent/1"}
    codes = [
        await strict.ann.status("POST", "/graphql", json=VIEWER, headers=headers) for _ in range(20)
    ]
    assert codes.count(429) >= 10


async def test_an_address_without_a_key_has_a_bucket_too(strict):
    codes = [await strict.nobody.status("GET", "/login") for _ in range(60)]
    assert codes[:20] == [200] * 20
    assert codes.count(429) >= 20
    assert await strict.ann.status("POST", "/graphql", json=VIEWER) == 200


async def test_new_work_is_refused_before_it_piles_up_and_what_runs_goes_on(small, monkeypatch):
    robot = await small.agent_key("ann")
    agent = await Agent.register(robot, "ann", "default")
    await submit(small.ann, SPEC)
    (claim,) = await agent.claim()
    monkeypatch.setattr(write_batches, "_MOST_WAITING", 0)
    body = {"query": SUBMIT, "variables": {"input": {"queueName": "default", "runSpec": SPEC}}}
    async with small.ann.request("POST", "/graphql", json=body) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        refusal = await answer.json()
    assert refusal["errors"][0]["extensions"]["code"] == "OVERLOADED"
    twice = (
        "mutation ($input: SubmitLaunchItemInput!) {"
        + "".join(f"{name}: submitLaunchItem(input: $input) {{ id }} " for name in ("one", "two"))
        + "}"
    )
    # The first of several may have been done: they are not to be repeated together.
    async with small.ann.request("POST", "/graphql", json={**body, "query": twice}) as answer:
        assert answer.status == 200
    lease = agent.lease(claim)
    permit = "mutation ($i: LeaseInput!) { permitLaunchStart(input: $i) { status } }"
    assert (await robot.data(permit, i=lease))["permitLaunchStart"]["status"] == "HELD"
    del lease["agentId"]
    renewal = {"agentId": agent.id, "session": agent.session, "status": "RUNNING"}
    document = "mutation ($i: RenewLaunchLeasesInput!) { renewLaunchLeases(input: $i) { current } }"
    renewed = await robot.data(document, i={**renewal, "leases": [lease]})
    assert renewed["renewLaunchLeases"]["current"]
    monkeypatch.undo()
    await submit(small.ann, SPEC)
