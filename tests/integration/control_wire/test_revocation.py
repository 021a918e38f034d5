"""What answers for long ends soon after key, session or role of its reader are taken away."""

import asyncio

import pytest

from agent.control.files import log_routes
from agent.control.request_data import COOKIE
from agent.control.store.accounts import Role
from agent.control.web import events
from tests.integration.control_wire.agents import Agent
from tests.integration.control_wire.wire import SPEC

SUBMIT = "mutation ($i: SubmitLaunchItemInput!) { submitLaunchItem(input: $i) { id } }"


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    """Rights are looked at again after a moment, so that no test waits for seconds."""
    monkeypatch.setattr(log_routes, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(events, "_RIGHTS_SECONDS", 0.05)


def test_rights_are_looked_at_again_within_ten_seconds(monkeypatch):
    monkeypatch.undo()
    # One second more for the cache of principals in another replica.
    assert log_routes._POLL_SECONDS + 1 < 10
    assert events._RIGHTS_SECONDS + 1 < 10


async def _running_item(wire) -> str:
    """An item of `team` that runs, with a first line of log."""
    await wire.server.services.queues.save(wire.admin, "team", "q", resource="local-process")
    made = await wire.ann.data(SUBMIT, i={"entityName": "team", "queueName": "q", "runSpec": SPEC})
    robot = await wire.agent_key("team")
    agent = await Agent.register(robot, "team", "q")
    (claim,) = await agent.claim()
    path = f"/launch/items/{claim['itemId']}/attempts/1/logs/job?epoch={claim['epoch']}&offset=0"
    assert await robot.status("POST", path, data=b"first\n") == 200
    return made["submitLaunchItem"]["id"]


async def _revoke_key(wire, bob) -> None:
    found = await wire.server.services.accounts.authenticate(bob.key)
    await wire.server.services.accounts.revoke_key(wire.admin, found.key_id)


async def _disable(wire, bob) -> None:
    await wire.server.services.accounts.disable_user(wire.admin, "bob")


async def _leave(wire, bob) -> None:
    await wire.server.services.accounts.set_member(wire.admin, "team", "bob", None)


@pytest.mark.parametrize("take", [_revoke_key, _disable, _leave])
async def test_a_followed_log_ends_with_its_readers_rights(wire, take):
    bob = await wire.user("bob")
    await wire.team("team", bob=Role.VIEWER)
    item = await _running_item(wire)
    path = f"/launch/items/{item}/attempts/1/logs/job?follow=1"
    async with asyncio.timeout(60), bob.request("GET", path) as answer:
        assert await answer.content.readline() == b"first\n"
        await take(wire, bob)
        assert await answer.content.read() == b""


@pytest.mark.parametrize("take", [_revoke_key, _disable, _leave])
@pytest.mark.parametrize("query", ["entity=team", ""])
async def test_events_end_with_their_readers_rights(wire, take, query):
    bob = await wire.user("bob")
    await wire.team("team", bob=Role.VIEWER)
    async with asyncio.timeout(60), bob.request("GET", f"/launch/events?{query}") as answer:
        assert await answer.content.readline() == b"retry: 1000\n"
        await take(wire, bob)
        await answer.content.read()


async def test_events_end_with_a_sign_out(wire):
    accounts = wire.server.services.accounts
    token = await accounts.sign_in(wire.admin)
    cookie = {"Cookie": f"{wire.server.app[COOKIE]}={token}"}
    path = "/launch/events?entity=ann"
    async with (
        asyncio.timeout(60),
        wire.nobody.request("GET", path, headers=cookie) as answer,
    ):
        assert await answer.content.readline() == b"retry: 1000\n"
        await accounts.sign_out(token)
        await answer.content.read()


async def test_commands_are_not_told_to_a_key_that_was_revoked_meanwhile(wire):
    robot = await wire.agent_key("ann")
    agent = await Agent.register(robot, "ann", "default")
    text = """query ($a: ID!, $s: String!, $seen: String) {
      launchCommands(agentId: $a, session: $s, seen: $seen, waitSeconds: 20) }"""
    named = {"a": agent.id, "s": agent.session}
    seen = (await robot.data(text, **named))["launchCommands"]
    waiting = asyncio.create_task(robot.ask(text, **named, seen=seen))
    subscriptions = wire.server.services.notifications._subscriptions
    async with asyncio.timeout(30):
        while not any(one.waiting for each in subscriptions.values() for one in each):
            await asyncio.sleep(0.01)
        await _revoke_key(wire, robot)
        await wire.server.services.agents.stop(wire.admin, agent.id, "DRAIN")
        answer = await waiting
    assert answer["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
