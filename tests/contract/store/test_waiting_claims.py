"""Claims that wait: who gets what comes, and what the others cost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agent.control.services import claims, waiting_claims
from agent.control.services.notifications import Subscription
from agent.control.services.waiting_claims import WaitingClaims
from agent.control.store.items import ClaimRecord
from agent.model.capacity import Capacity
from agent.model.errors import FencedError
from tests.contract.store.world import Agent, World

Claiming = asyncio.Task[tuple[ClaimRecord, ...]]


@asynccontextmanager
async def waiting(*agents: Agent, before: int = 0, **how) -> AsyncIterator[list[Claiming]]:
    """These agents wait, in this order, after so many others."""
    tasks: list[Claiming] = []
    for number, agent in enumerate(agents, before + 1):
        tasks.append(asyncio.create_task(agent.claim(wait=30.0, **how)))
        # Each listens to two topics.
        await agents[0].world.somebody_waits(2 * number)
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def got(claiming: Claiming) -> str:
    """The item that a claim gets."""
    async with asyncio.timeout(20):
        (claim,) = await asyncio.shield(claiming)
    return claim.lease.item_id


async def test_who_waited_first_gets_what_comes_first(world: World) -> None:
    agents = [await world.agent(f"agent-{number}") for number in range(3)]
    async with waiting(*agents) as tasks:
        for task in tasks:
            item = await world.submit()
            assert await got(task) == item.id
            assert sum(one.done() for one in tasks) == tasks.index(task) + 1


async def test_several_items_go_to_several_who_wait(world: World) -> None:
    agents = [await world.agent(f"agent-{number}") for number in range(4)]
    async with waiting(*agents) as tasks:
        items = [item.id for item in await asyncio.gather(*(world.submit() for _ in range(4)))]
        assert sorted([await got(task) for task in tasks]) == sorted(items)


async def test_one_item_costs_one_look_however_many_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    def counted(tx, context, principal, request, *, waited):
        looks.append(request.agent_id)
        return claims.claim_now(tx, context, principal, request, waited=waited)

    agents = [await world.agent(f"agent-{number}") for number in range(12)]
    async with waiting(*agents) as tasks:
        monkeypatch.setattr(waiting_claims, "claim_now", counted)
        await world.submit()
        await got(tasks[0])
        assert looks == [agents[0].id]
        # What fits none of them, all being alike, is looked at for one of them.
        await world.submit({"resources": {"gpus": 1}})
        await world.submit()
        await got(tasks[1])
    # PostgreSQL sends a replica its own notifications as well: each look may come twice.
    assert len(looks) <= len(agents) // 2


async def test_what_does_not_fit_the_first_goes_to_the_next_that_it_fits(world: World) -> None:
    small, other, large = [await world.agent(name) for name in ("small", "other", "large")]
    room = Capacity(slots=1, cpus=1.0)
    async with (
        waiting(small, other, free=room) as (first, second),
        waiting(large, before=2, free=Capacity(slots=1, cpus=8.0)) as (third,),
    ):
        item = await world.submit({"resources": {"cpus": 4}})
        assert await got(third) == item.id
        assert not first.done()
        assert not second.done()


async def test_agents_that_registered_other_resources_are_looked_at_as_well(world: World) -> None:
    await world.queue("processes", resource="local-process")
    here = await world.agent("here", queues=("processes",))
    there = await world.agent("there", queues=("processes",), resources=("local-process",))
    async with waiting(here, there) as (first, second):
        item = await world.submit(queue="processes")
        assert await got(second) == item.id
        assert not first.done()


async def test_an_agent_that_is_to_stop_gets_nothing_and_holds_up_nobody(world: World) -> None:
    leaving, staying = await world.agent("leaving"), await world.agent("staying")
    async with waiting(leaving, staying) as (first, second):
        await world.plane.agents.stop(world.me, leaving.id, "DRAIN")
        item = await world.submit()
        assert await got(second) == item.id
        assert not first.done()


async def test_a_superseded_session_hears_so_and_the_next_gets_the_item(world: World) -> None:
    old, other = await world.agent("one"), await world.agent("other")
    async with waiting(old, other) as (first, second):
        await world.agent("one")
        item = await world.submit()
        assert await got(second) == item.id
        with pytest.raises(FencedError):
            await first


async def test_a_notification_that_was_lost_costs_a_slow_poll(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_claims, "_SLOW_POLL", 0.05)
    agent = await world.agent()
    async with waiting(agent) as (task,):
        monkeypatch.setattr(world.plane.notifications, "publish", lambda topics: None)
        monkeypatch.setattr(world.plane.database, "_publish", lambda topics: None, raising=False)
        writer = getattr(world.plane.database, "_writing", None)
        if writer is not None:
            monkeypatch.setattr(writer, "_publish", lambda topics: None)
        item = await world.submit()
        async with asyncio.timeout(20):
            (claim,) = await task
    assert claim.lease.item_id == item.id


async def test_who_serves_a_queue_that_was_paused_at_its_first_search_gets_what_comes_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One match has both queues, and nothing in that of the first in line fits anybody."""
    queues = [await world.queue(name) for name in ("first", "second")]
    pause = world.plane.queues.pause
    await pause(world.me, None, "first", paused=True)
    one = await world.agent("one", queues=("second",))
    both = await world.agent("both", queues=("first", "second"))
    async with waiting(one, both) as (other, claiming):
        with monkeypatch.context() as patched:
            patched.setattr(WaitingClaims, "search_soon", lambda self, queue_ids: None)
            await world.submit({"resources": {"gpus": 1}}, queue="second")
            item = await world.submit(queue="first")
            await pause(world.me, None, "first", paused=False)
        world.plane.leases._waiting.search_soon([queue.id for queue in queues])
        assert await got(claiming) == item.id
        assert not other.done()


@pytest.mark.parametrize("match", [1, 2, 3])
async def test_a_claim_whose_time_ends_hears_of_all_that_a_match_leases_to_it(
    world: World, monkeypatch: pytest.MonkeyPatch, match: int
) -> None:
    """1. Its time ends in a match. 2. That one ends, and others begin at once. 3. An item comes.

    The first match leases it to this claim; it stays queued if it comes in a later one.
    """
    agent = await world.agent()
    await world.submit()
    await agent.claim_one()
    lease, rounds, over = WaitingClaims._lease_first_come, [], asyncio.Event()

    async def slow(self, queue_ids, waiting):
        rounds.append(len(waiting))
        if len(rounds) == 1:
            await over.wait()
        if len(rounds) == match:
            await world.submit()
        result = await lease(self, queue_ids, waiting)
        if len(rounds) < 3:
            self.search_soon(queue_ids)
        return result

    wait = Subscription.wait

    async def ended(self, seconds: float) -> bool:
        """The time of the claim ends while the first match is under way."""
        while not rounds:
            await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(over.set)
        return False

    monkeypatch.setattr(WaitingClaims, "_lease_first_come", slow)
    monkeypatch.setattr(Subscription, "wait", ended)
    got = await agent.claim("last", wait=30.0)
    monkeypatch.setattr(Subscription, "wait", wait)
    task = world.plane.leases._waiting._task
    assert task is not None
    await task
    held = await world.plane.items.held_by(world.me, agent.id)
    assert len(held) == 1 + len(got)
    assert len(got) == (match == 1)
