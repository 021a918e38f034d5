"""`/api/admin`: programs make and delete users and teams with an administrator's key."""

import secrets

import pytest

from agent.control.services.runs import RunChange
from agent.control.store.accounts import Role
from agent.model.errors import NotFoundError
from tests.integration.control_wire.agents import Agent
from tests.integration.control_wire.uploading import Upload
from tests.integration.control_wire.wire import SPEC

USERS = "/api/admin/users"
ENTITIES = "/api/admin/entities"
VIEWER = "{ viewer { username entity email admin teams { edges { node { name } } } } }"
TEAM = "query ($name: String!) { entity(name: $name) { isTeam entityType members { name admin } } }"
MODEL_REGISTRY = (
    'query ($e: String!) { project(name: "model-registry", entityName: $e) '
    "{ name runQueues { id } } }"
)
SUBMIT = "mutation ($i: SubmitLaunchItemInput!) { submitLaunchItem(input: $i) { id } }"
STOP = "mutation ($i: ID!) { stopLaunchItem(id: $i) { id } }"


async def post(caller, path, body, method="POST"):
    headers = {"Authorization": f"Bearer {caller.key}"}
    async with caller.wire.nobody.request(method, path, json=body, headers=headers) as answer:
        return answer.status, await answer.json() if answer.status != 204 else None


async def make(wire, name, **more):
    status, body = await post(wire.ann, USERS, {"name": name, **more})
    assert status == 201, body
    return wire.caller(body["key"])


async def test_a_user_is_made_with_a_key_and_is_a_team_of_one(wire):
    status, body = await post(wire.ann, USERS, {"name": "bob", "email": "b@example.org"})
    assert status == 201
    assert body["user"].items() >= {
        "name": "bob", "entity": "bob", "email": "b@example.org", "admin": False,
    }.items()  # fmt: skip
    bob = wire.caller(body["key"])
    viewer = (await bob.data(VIEWER))["viewer"]
    assert viewer == {
        "username": "bob",
        "entity": "bob",
        "email": "b@example.org",
        "admin": False,
        "teams": {"edges": [{"node": {"name": "bob"}}]},
    }
    assert (await bob.data(TEAM, name="bob"))["entity"] == {
        "isTeam": False,
        "entityType": "user",
        "members": [{"name": "bob", "admin": True}],
    }
    registry = (await bob.data(MODEL_REGISTRY, e="bob"))["project"]
    assert registry == {"name": "model-registry", "runQueues": []}


@pytest.mark.parametrize("length", [40, 41, 86, 256])
async def test_a_key_that_the_administrator_chose_works(wire, length):
    key = "local-" + secrets.token_urlsafe(length)[: length - 8] + "-_"
    bob = await make(wire, "b" * 64, api_key=key)
    assert bob.key == key
    assert (await bob.data(VIEWER))["viewer"]["username"] == "b" * 64


@pytest.mark.parametrize(
    "key", ["k" * 39, "k" * 257, "k" * 39 + "é", "k" * 39 + " ", "launchrun-" + "k" * 40]
)
async def test_a_key_that_clients_refuse_makes_no_user(wire, key):
    status, body = await post(wire.ann, USERS, {"name": "bob", "api_key": key})
    assert (status, body["errors"][0]["extensions"]["code"]) == (400, "INVALID_INPUT")
    assert key not in str(body)
    assert (await post(wire.ann, USERS, {"name": "bob"}))[0] == 201


async def test_neither_a_name_nor_a_key_is_given_twice(wire):
    key = secrets.token_hex(20)
    await make(wire, "bob", api_key=key)
    assert (await post(wire.ann, USERS, {"name": "bob"}))[0] == 409
    assert (await post(wire.ann, USERS, {"name": "eve", "api_key": key}))[0] == 409
    assert (await post(wire.ann, ENTITIES, {"name": "bob"}))[0] == 409
    assert (await post(wire.ann, USERS, {"name": "eve"}))[0] == 201


async def test_the_chosen_key_is_in_no_log(wire):
    key = secrets.token_hex(20)
    await make(wire, "bob", api_key=key)
    audit = await wire.server.services.audit.list(wire.admin)
    assert "user.provision" in {record.action for record in audit.rows}
    assert key not in str(audit.rows)


@pytest.mark.parametrize(
    "body",
    [{}, [], {"name": 5}, {"name": "bob", "role": "king"}, {"name": "Bob"}, {"name": "b" * 65},
     {"name": "bob", "admin": "yes"}],
)  # fmt: skip
async def test_a_body_that_is_wrong_says_where(wire, body):
    status, answer = await post(wire.ann, USERS, body)
    assert status == 400
    assert answer["errors"][0]["message"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", USERS, {"name": "eve", "admin": True}),
        ("POST", ENTITIES, {"name": "eve", "members": ["bob"]}),
        ("DELETE", USERS, {"name": "ann"}),
        ("DELETE", f"{ENTITIES}/team", {}),
    ],
)
async def test_only_administrators_may(wire, method, path, body):
    await wire.team("team")
    bob = await make(wire, "bob")
    robot = await wire.agent_key("ann")
    for caller in (bob, robot):
        assert (await post(caller, path, body, method))[0] == 403
    assert await wire.nobody.status(method, path, json=body) == 401
    names = {one.name for one in await wire.server.services.accounts.entities(wire.admin)}
    assert names == {"ann", "bob", "team"}
    assert (await bob.data(VIEWER))["viewer"]["admin"] is False


async def test_a_team_has_its_members_at_once(wire):
    bob, eve = await make(wire, "bob"), await make(wire, "eve")
    members = ["bob", {"name": "eve", "role": "admin"}]
    status, body = await post(wire.ann, ENTITIES, {"name": "team", "members": members})
    assert status == 201
    assert body["entity"]["members"] == [
        {"name": "bob", "role": "member"}, {"name": "eve", "role": "admin"},
    ]  # fmt: skip
    for caller in (bob, eve):
        assert (await caller.data(MODEL_REGISTRY, e="team"))["project"] is not None
    assert (await eve.data(TEAM, name="team"))["entity"]["members"] == [
        {"name": "bob", "admin": False}, {"name": "eve", "admin": True},
    ]  # fmt: skip
    status, _ = await post(wire.ann, ENTITIES, {"name": "other", "members": ["nobody"]})
    assert status == 404
    assert (await post(wire.ann, ENTITIES, {"name": "other"}))[0] == 201


async def test_a_deleted_user_has_no_key_no_team_and_nothing_left(wire):
    bob = await make(wire, "bob")
    await wire.team("team", bob=Role.MEMBER)
    services = wire.server.services
    principal = await services.accounts.authenticate(bob.key)
    await services.runs.upsert(principal, RunChange(), entity="bob", project="p", name="r1")
    await services.queues.save(principal, "bob", "q", resource="local-process")
    assert await post(wire.ann, f"{USERS}/bob", {}, "DELETE") == (204, None)
    assert await bob.status("POST", "/graphql", json={"query": VIEWER}) == 401
    assert [one.user for one in await services.accounts.members(wire.admin, "team")] == ["ann"]
    with pytest.raises(NotFoundError):
        await services.accounts.entity(wire.admin, "bob")
    again = await make(wire, "bob")
    found = await services.accounts.authenticate(again.key)
    assert await services.runs.get(found, "bob", "p", "r1") is None
    assert await services.queues.list(found, "bob") == ()
    assert [one.name for one in await services.accounts.entities(found)] == ["bob"]


async def test_a_team_is_deleted_with_what_it_has(wire):
    await wire.team("team")
    await services_queue(wire)
    await Upload(wire.ann, "c", {"a": b"a"}).whole()
    item = await submit(wire)
    assert (await post(wire.ann, ENTITIES, {"name": "team"}, "DELETE"))[0] == 409
    await wire.ann.data(STOP, i=item)
    agent = await Agent.register(await wire.agent_key("team"), "team", "q")
    assert await agent.claim(wait=0) == []
    assert (await post(wire.ann, ENTITIES, {"name": "team"}, "DELETE"))[0] == 204
    assert (await wire.ann.data(TEAM, name="team"))["entity"] is None
    assert (await wire.ann.data(TEAM, name="ann"))["entity"] is not None
    assert (await post(wire.ann, ENTITIES, {"name": "team"}, "DELETE"))[0] == 404


async def test_a_user_is_no_team_and_nobody_deletes_itself(wire):
    await make(wire, "bob")
    await wire.team("team")
    assert (await post(wire.ann, ENTITIES, {"name": "bob"}, "DELETE"))[0] == 404
    assert (await post(wire.ann, USERS, {"name": "team"}, "DELETE"))[0] == 404
    assert (await post(wire.ann, USERS, {"name": "ann"}, "DELETE"))[0] == 409


async def services_queue(wire):
    await wire.server.services.queues.save(wire.admin, "team", "q", resource="local-process")


async def submit(wire):
    wanted = {"entityName": "team", "queueName": "q", "runSpec": SPEC}
    return (await wire.ann.data(SUBMIT, i=wanted))["submitLaunchItem"]["id"]
