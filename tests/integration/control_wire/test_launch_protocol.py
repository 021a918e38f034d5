"""Our own agents and people, over the wire."""

import asyncio

import pytest

from tests.integration.control_wire.agents import CLAIM, Agent
from tests.integration.control_wire.wire import SPEC, open_wire

SUBMIT = """mutation ($input: SubmitLaunchItemInput!) { submitLaunchItem(input: $input) {
  id phase state priority queueName entityName projectName author stopRequested runSpec } }"""
ITEM = """query ($id: ID!) { launchItem(id: $id) { id phase state lostContact name entityName
  projectName queueName runName author priority createdAt updatedAt startedAt finishedAt
  stopRequested attempt activity agentId agentName cause message exitCode runSpec facts warnings
  attempts { number phase agentName cause message exitCode startedAt finishedAt setupLogBytes
  jobLogBytes } events { at phase attempt epoch actor text }
  explanation { cause summary remedy details } } }"""


async def _submit(caller, **more):
    data = await caller.data(SUBMIT, input={"queueName": "default", "runSpec": SPEC} | more)
    return data["submitLaunchItem"]


async def _item(caller, item):
    return (await caller.data(ITEM, id=item))["launchItem"]


async def test_an_items_whole_life(wire):
    item = await _submit(wire.ann, priority=0, idempotencyKey="once")
    assert (await _submit(wire.ann, priority=0, idempotencyKey="once"))["id"] == item["id"]
    assert (item["phase"], item["state"], item["priority"]) == ("QUEUED", "PENDING", 0)
    agent = await Agent.register(wire.ann, "ann", "default")
    assert agent.welcome["heartbeatSeconds"] == 10
    assert agent.welcome["leaseSeconds"] == 45
    assert agent.welcome["agent"]["capacity"]["gpus"] == ["0", "1"]
    (claim,) = await agent.claim()
    assert claim["itemId"] == item["id"]
    assert claim["runToken"].startswith("launchrun-")
    assert claim["layers"]["submitter"]
    assert claim["gpus"] == []
    assert [again["epoch"] for again in await agent.claim()] == [claim["epoch"]]
    assert (
        await agent.write(
            "advanceLaunchItem",
            "AdvanceLaunchItemInput",
            claim,
            phase="PREPARING",
            activity="fetching",
            facts={"commit": "abc"},
            warning="slow",
        )
        == "HELD"
    )
    assert await agent.write("permitLaunchStart", "LeaseInput", claim) == "HELD"
    advance = ("advanceLaunchItem", "AdvanceLaunchItemInput")
    assert await agent.write(*advance, claim, phase="STARTED") == "HELD"
    shown = await _item(wire.ann, item["id"])
    assert shown["phase"] == "STARTED"
    assert shown["activity"] == "fetching"
    assert shown["facts"]["commit"] == "abc"
    assert shown["warnings"] == ["slow"]
    assert shown["agentName"] == "box"
    held = await wire.ann.data(
        '{ launchAgents(entityName: "ann") { name lost draining queueNames items { id } } }'
    )
    assert held["launchAgents"] == [
        {
            "name": "box",
            "lost": False,
            "draining": False,
            "queueNames": ["default"],
            "items": [{"id": item["id"]}],
        }
    ]
    outcome = {
        "phase": "FAILED",
        "cause": "RUN_EXIT_CODE",
        "message": "exit code 3",
        "exitCode": 3,
        "facts": {"container": "c"},
    }
    finish = ("finishLaunchItem", "FinishLaunchItemInput")
    assert await agent.write(*finish, claim, **outcome) == "HELD"
    assert await agent.write(*finish, claim, **outcome) == "HELD"
    shown = await _item(wire.ann, item["id"])
    assert (shown["phase"], shown["exitCode"], shown["cause"]) == ("FAILED", 3, "RUN_EXIT_CODE")
    assert shown["explanation"]["cause"] == "RUN_EXIT_CODE"
    assert shown["attempts"][0]["exitCode"] == 3
    assert shown["events"][0]["phase"] == "QUEUED"
    retried = await wire.ann.data(
        "mutation ($id: ID!) { retryLaunchItem(id: $id) { phase attempt } }", id=item["id"]
    )
    assert retried["retryLaunchItem"] == {"phase": "QUEUED", "attempt": 2}
    assert await agent.write(*finish, claim, **outcome) == "HELD"
    other = outcome | {"phase": "SUCCEEDED", "cause": "SUCCEEDED", "exitCode": 0}
    assert await agent.write(*finish, claim, **other) == "FENCED"


async def test_renewal_tells_each_lease_what_became_of_it(wire):
    item = await _submit(wire.ann)
    agent = await Agent.register(wire.ann, "ann", "default")
    (claim,) = await agent.claim()
    lease = {name: claim[name] for name in ("itemId", "attempt", "epoch")}
    stale = lease | {"itemId": "aaaaaaaaaaaa"}
    text = """mutation ($input: RenewLaunchLeasesInput!) { renewLaunchLeases(input: $input) {
      leases { itemId status } current stop } }"""
    given = {
        "agentId": agent.id,
        "session": agent.session,
        "status": "RUNNING",
        "leases": [lease, stale],
    }
    answer = (await wire.ann.data(text, input=given))["renewLaunchLeases"]
    assert {one["itemId"]: one["status"] for one in answer["leases"]} == {
        item["id"]: "HELD",
        "aaaaaaaaaaaa": "FENCED",
    }
    assert answer["current"] is True
    assert answer["stop"] is None
    await wire.ann.data(
        "mutation ($id: ID!) { stopLaunchAgent(id: $id, mode: DRAIN) { draining stopPolling } }",
        id=agent.id,
    )
    answer = (await wire.ann.data(text, input=given | {"leases": []}))["renewLaunchLeases"]
    assert answer["stop"] == "DRAIN"
    assert await wire.ann.code(text, input=given | {"status": "SLEEPING"}) == "INVALID_INPUT"


COMMANDS = """query ($a: ID!, $s: String!, $m: String, $w: Int) {
  launchCommands(agentId: $a, session: $s, seen: $m, waitSeconds: $w) }"""
BEAT = """mutation ($input: RenewLaunchLeasesInput!) { renewLaunchLeases(input: $input) {
  current } }"""


async def _commands(agent, mark=None, wait=0):
    data = await agent.caller.data(COMMANDS, a=agent.id, s=agent.session, m=mark, w=wait)
    return data["launchCommands"]


async def test_a_stop_ends_the_wait_for_orders(wire):
    item = await _submit(wire.ann)
    agent = await Agent.register(wire.ann, "ann", "default")
    await agent.claim()
    mark = await _commands(agent)
    assert await _commands(agent, mark) == mark
    waiting = asyncio.create_task(_commands(agent, mark, wait=30))
    await _connected(wire)
    await wire.ann.data(
        "mutation ($id: ID!) { stopLaunchItem(id: $id) { stopRequested } }", id=item["id"]
    )
    async with asyncio.timeout(20):
        assert await waiting != mark
    assert await wire.ann.code(COMMANDS, a="nope", s="s") == "NOT_FOUND"


async def test_an_agent_that_leaves_ends_its_wait_for_orders(wire):
    agent = await Agent.register(wire.ann, "ann", "default")
    waiting = asyncio.create_task(_commands(agent, await _commands(agent), wait=30))
    handler = await _connected(wire)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(10):
        while handler._running:
            await asyncio.sleep(0.01)


async def test_a_server_that_stops_answers_those_who_wait_for_orders(tmp_path):
    async with open_wire(tmp_path) as wire:
        agent = await Agent.register(wire.ann, "ann", "default")
        mark = await _commands(agent)
        waiting = asyncio.create_task(_commands(agent, mark, wait=30))
        await _connected(wire)
        async with asyncio.timeout(10):
            await wire.server.stop()
            assert await waiting == mark


async def test_a_claim_that_leaves_a_resource_out_does_not_get_its_jobs(wire):
    await _submit(wire.ann)
    agent = await Agent.register(wire.ann, "ann", "default")
    for resources, number in ((["local-container"], 0), ([], 0), (["local-process"], 1)):
        given = agent.claim_input("r", resources=resources)
        assert len((await wire.ann.data(CLAIM, input=given))["claimLaunchItems"]) == number


async def test_what_is_wrong_with_an_agent_is_shown_and_explains_what_waits(wire):
    item = await _submit(wire.ann)
    agent = await Agent.register(wire.ann, "ann", "default")
    shown = {"kind": "ENGINE_UNREACHABLE", "message": "no answer.", "resource": "local-process"}
    given = {"agentId": agent.id, "session": agent.session, "status": "POLLING", "leases": []}
    newer = {"kind": "MOON_IN_THE_WAY", "message": "a word that comes with a later agent"}
    long = {"kind": "DISK_LOW", "message": "x" * 10_000}
    told = {"conditions": [newer, shown, long]}
    assert (await wire.ann.data(BEAT, input=given | told))["renewLaunchLeases"]["current"]
    fields = "{ launchAgents { conditions { kind message resource } } }"
    (seen,) = (await wire.ann.data(fields))["launchAgents"]
    assert seen["conditions"][0] == shown
    assert [one["kind"] for one in seen["conditions"]] == ["ENGINE_UNREACHABLE", "DISK_LOW"]
    assert len(seen["conditions"][1]["message"]) == 500
    assert (await _item(wire.ann, item["id"]))["explanation"]["cause"] == "SCHEDULE_ENGINE"
    await wire.ann.data(BEAT, input=given)
    (seen,) = (await wire.ann.data(fields))["launchAgents"]
    assert seen["conditions"] == []


async def test_an_item_is_handed_back(wire):
    item = await _submit(wire.ann)
    agent = await Agent.register(wire.ann, "ann", "default")
    (claim,) = await agent.claim()
    release = ("releaseLaunchItem", "ReleaseLaunchItemInput")
    assert await agent.write(*release, claim, reason="leaving") == "HELD"
    assert (await _item(wire.ann, item["id"]))["phase"] == "QUEUED"


async def test_a_waiting_claim_gets_what_is_submitted_meanwhile(wire):
    agent = await Agent.register(wire.ann, "ann", "default")
    waiting = asyncio.create_task(agent.claim(wait=30))
    await _connected(wire)
    item = await _submit(wire.ann)
    async with asyncio.timeout(10):
        (claim,) = await waiting
    assert claim["itemId"] == item["id"]


async def _connected(wire):
    """Until the server executes a long poll."""
    handler = next(
        route.handler.__self__
        for route in wire.server.app.router.routes()
        if route.resource.canonical == "/graphql"
    )
    async with asyncio.timeout(10):
        while not handler._running:
            await asyncio.sleep(0.01)
    return handler


async def test_a_client_that_leaves_ends_its_long_poll(wire):
    agent = await Agent.register(wire.ann, "ann", "default")
    waiting = asyncio.create_task(agent.claim(wait=30))
    handler = await _connected(wire)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(5):
        while handler._running:
            await asyncio.sleep(0.01)


async def test_a_server_that_stops_answers_long_polls_at_once(tmp_path):
    async with open_wire(tmp_path) as wire:
        agent = await Agent.register(wire.ann, "ann", "default")
        waiting = asyncio.create_task(agent.claim(wait=30))
        await _connected(wire)
        async with asyncio.timeout(5):
            await wire.server.stop()
            assert await waiting == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"max": 0}, "INVALID_INPUT"),
        ({"agentId": "nope"}, "NOT_FOUND"),
        ({"queueNames": ["other"]}, "NOT_FOUND"),
        ({"session": "older"}, "FENCED"),
    ],
)
async def test_a_claim_that_cannot_be_is_told_why(wire, change, code):
    agent = await Agent.register(wire.ann, "ann", "default")
    assert await wire.ann.code(CLAIM, input=agent.claim_input("r", **change)) == code


async def test_an_unknown_cause_is_refused(wire):
    await _submit(wire.ann)
    agent = await Agent.register(wire.ann, "ann", "default")
    (claim,) = await agent.claim()
    text = "mutation ($i: FinishLaunchItemInput!) { finishLaunchItem(input: $i) { status } }"
    given = agent.lease(claim) | {"phase": "FAILED", "cause": "BAD_LUCK", "message": "m"}
    answer = await wire.ann.ask(text, i=given)
    assert "BAD_LUCK" in answer["errors"][0]["message"]


async def test_people_change_their_items(wire):
    await wire.ann.data(
        'mutation { saveLaunchQueue(input: {name: "gpu", resource: "local-container", config: '
        "{resource_args: {}}, templateVariables: {}, externalLinks: {links: []}}) { name } }"
    )
    item = (await _submit(wire.ann))["id"]
    change = "mutation ($id: ID!) {{ {} {{ priority queueName phase }} }}"
    moved = await wire.ann.data(change.format('moveLaunchItem(id: $id, queueName: "gpu")'), id=item)
    assert moved["moveLaunchItem"]["queueName"] == "gpu"
    urgent = await wire.ann.data(
        change.format("setLaunchItemPriority(id: $id, priority: 1)"), id=item
    )
    assert urgent["setLaunchItemPriority"]["priority"] == 1
    stopped = await wire.ann.data(change.format("stopLaunchItem(id: $id)"), id=item)
    assert stopped["stopLaunchItem"]["phase"] == "STOPPED"
    assert await wire.ann.code(change.format("stopLaunchItem(id: $id)"), id="nope") == "NOT_FOUND"
    assert (await wire.ann.data(ITEM, id="nope"))["launchItem"] is None


async def test_queues_are_saved_paused_counted_and_removed(wire):
    saved = await wire.ann.data(
        """mutation ($input: SaveLaunchQueueInput!) { saveLaunchQueue(input: $input) {
          id name entityName resource config paused createdAt prioritizationMode
          templateVariables { name schema description } } }""",
        input={
            "name": "gpu",
            "resource": "local-process",
            "config": {"resource_args": {"local-process": {"env": ["N={{n}}"]}}},
            "templateVariables": {"n": {"schema": {"type": "integer"}, "description": "count"}},
            "mode": "CREATE",
        },
    )
    assert saved["saveLaunchQueue"]["templateVariables"] == [
        {"name": "n", "schema": '{"type":"integer"}', "description": "count"}
    ]
    pause = 'mutation ($p: Boolean!) { pauseLaunchQueue(name: "default", paused: $p) { paused } }'
    assert (await wire.ann.data(pause, p=True))["pauseLaunchQueue"]["paused"] is True
    await _submit(wire.ann)
    listed = await wire.ann.data(
        "{ launchQueues { name paused resource counts { phase count } agents { name } "
        "runQueueItems { edges { node { id } } } } }"
    )
    queues = {queue["name"]: queue for queue in listed["launchQueues"]}
    assert queues["default"]["counts"] == [{"phase": "QUEUED", "count": 1}]
    remove = "mutation ($n: String!, $f: Boolean) { deleteLaunchQueue(name: $n, force: $f) }"
    assert await wire.ann.code(remove, n="default") == "CONFLICT"
    assert (await wire.ann.data(remove, n="default", f=True))["deleteLaunchQueue"] is True
    assert (await wire.ann.data(remove, n="gpu"))["deleteLaunchQueue"] is True


async def test_items_are_listed_in_pages(wire):
    ids = [(await _submit(wire.ann))["id"] for _ in range(5)]
    text = """query ($after: String, $first: Int) { launchItems(queueName: "default",
      phases: [QUEUED], after: $after, first: $first) { totalCount edges { node { id } cursor }
      pageInfo { endCursor hasNextPage } } }"""
    seen, after = [], None
    for _ in range(3):
        page = (await wire.ann.data(text, first=2, after=after))["launchItems"]
        assert page["totalCount"] == 5
        seen += [edge["node"]["id"] for edge in page["edges"]]
        after = page["pageInfo"]["endCursor"]
    assert page["pageInfo"]["hasNextPage"] is False
    assert seen == ids[::-1]
    assert await wire.ann.code(text, first=5001) == "INVALID_INPUT"


async def test_a_document_that_needs_too_many_look_ups_is_refused(wire):
    for _ in range(40):
        await _submit(wire.ann)
    fields = " ".join(f"e{n}: explanation {{ cause }}" for n in range(26))
    code = await wire.ann.code(f"{{ launchItems {{ edges {{ node {{ {fields} }} }} }} }}")
    assert code == "INVALID_INPUT"


@pytest.mark.parametrize("spec", [[1], "text", 7])
async def test_a_spec_that_is_no_object_is_refused(wire, spec):
    given = {"queueName": "default", "runSpec": spec}
    assert await wire.ann.code(SUBMIT, input=given) == "INVALID_INPUT"


async def test_a_dry_run_shows_what_would_be_queued(wire):
    query = """query ($input: LaunchDryRunInput!) { launchDryRun(input: $input) { entityName
      projectName queueName priority resource cpus memory gpus runSpec layers warnings } }"""
    wanted = {"queueName": "default", "runSpec": SPEC | {"resources": {"memory": "1g"}}}
    shown = (await wire.ann.data(query, input=wanted))["launchDryRun"]
    assert (shown["entityName"], shown["queueName"], shown["priority"]) == ("ann", "default", 2)
    assert (shown["memory"], shown["gpus"], shown["cpus"]) == (1024**3, 0, None)
    assert shown["runSpec"]["entity"] == "ann"
    assert shown["layers"]["submitter"] == wanted["runSpec"]
    items = (await wire.ann.data("{ launchItems { totalCount } }"))["launchItems"]
    assert items == {"totalCount": 0}
