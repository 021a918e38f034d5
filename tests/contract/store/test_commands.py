"""What an agent hears at once: jobs to stop, to leave, to give way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agent.model.errors import NotFoundError
from agent.model.protocol import LeaseStatus
from tests.contract.store.world import Agent, World


@asynccontextmanager
async def heard(agent: Agent) -> AsyncIterator[None]:
    """What is done meanwhile must end a wait that nothing else would end in time."""
    seen = await agent.commands()
    waiting = asyncio.create_task(agent.commands(seen, wait=30.0))
    async with asyncio.timeout(20):
        await agent.world.somebody_waits()
        yield
        assert await waiting != seen


async def test_a_stop_of_a_held_item_is_heard(world: World) -> None:
    agent = await world.agent()
    item = await world.submit()
    claim = await agent.claim_one()
    await agent.start(claim)
    async with heard(agent):
        await world.plane.items.stop(world.me, item.id)
    assert (await agent.beat(claim)).statuses == {item.id: LeaseStatus.STOP}


@pytest.mark.parametrize("mode", ["DRAIN", "STOP"])
async def test_being_asked_to_leave_is_heard(world: World, mode) -> None:
    agent = await world.agent()
    async with heard(agent):
        await world.plane.agents.stop(world.me, agent.id, mode)
    assert (await agent.beat()).stop == mode


async def test_a_stop_after_a_drain_is_news(world: World) -> None:
    agent = await world.agent()
    await world.plane.agents.stop(world.me, agent.id, "DRAIN")
    async with heard(agent):
        await world.plane.agents.stop(world.me, agent.id, "STOP")


async def test_a_newer_session_is_heard_by_the_older_one(world: World) -> None:
    old = await world.agent(identity="i")
    async with heard(old):
        await world.agent(identity="i")
    assert (await old.beat()).current is False


async def test_what_happens_between_two_waits_is_not_missed(world: World) -> None:
    agent = await world.agent()
    first, second = await world.submit(), await world.submit()
    await agent.claim(most=2)
    seen = await agent.commands()
    await world.plane.items.stop(world.me, first.id)
    once = await agent.commands(seen, wait=30.0)
    await world.plane.items.stop(world.me, second.id)
    assert len({seen, once, await agent.commands(once, wait=30.0)}) == 3


async def test_nothing_new_is_the_same_mark_once_the_wait_is_over(world: World) -> None:
    agent, other = await world.agent("a"), await world.agent("b")
    item = await world.submit()
    await other.claim_one()
    seen = await agent.commands()
    await world.plane.items.stop(world.me, item.id)
    await world.plane.agents.stop(world.me, other.id, "STOP")
    queued = await world.submit()
    await world.plane.items.stop(world.me, queued.id)
    assert await agent.commands(seen, wait=0.01) == seen


async def test_nobody_listens_for_an_agent_that_is_not_there(world: World) -> None:
    with pytest.raises(NotFoundError):
        await world.plane.agents.commands(world.me, "nobody", "s", None)
