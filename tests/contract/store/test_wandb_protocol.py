"""Pop, acknowledge, fail, as unmodified agents of W&B's do."""

import asyncio

import pytest

from agent.control.services.runs import RunChange, storage_id
from agent.control.store.agents import AgentProtocol
from agent.model.cause import Cause
from agent.model.errors import InvalidInputError, NotFoundError
from agent.model.phase import Phase
from tests.contract.store.world import World


class Stock:
    """An agent of W&B's."""

    def __init__(self, world: World, agent_id: str) -> None:
        self.world, self.id = world, agent_id

    async def pop(self, queue: str = "default"):
        return await self.world.plane.wandb.pop(self.world.me, "ann", queue, self.id)

    async def ack(self, item_id: str, run: str = "run00001") -> bool:
        return await self.world.plane.wandb.acknowledge(self.world.me, item_id, run)

    async def fail(self, item_id: str, stage: str = "run", files: list[str] | None = None) -> bool:
        return await self.world.plane.wandb.fail(self.world.me, item_id, "bad", stage, files)

    async def update(self, status: str | None = "POLLING") -> bool:
        return await self.world.plane.wandb.update_agent(self.world.me, self.id, status)


async def stock(world: World) -> Stock:
    queue = await world.plane.queues.save(world.me, "ann", "default", resource="local-container")
    made = await world.plane.wandb.create_agent(
        world.me, "ann", [queue.id], "host", config={"max_jobs": 1}, version="wandb@0.31.0"
    )
    assert (made.protocol, made.queue_ids) == (AgentProtocol.WANDB, (queue.id,))
    return Stock(world, made.id)


async def test_an_acknowledgement_counts_as_the_permit(world: World) -> None:
    agent = await stock(world)
    item = await world.submit()
    popped = await agent.pop()
    assert popped is not None
    assert (popped.item_id, popped.run_spec["entity"]) == (item.id, "ann")
    assert (await world.item(item)).state == "LEASED"
    assert await agent.pop() is None
    assert await agent.ack(item.id)
    held = await world.item(item)
    assert (held.phase, held.state, held.run_name) == (Phase.PERMITTED, "CLAIMED", "run00001")
    assert await agent.ack(item.id)
    assert not await agent.ack(item.id, "run00002")
    await world.history(item)


async def test_what_was_popped_and_not_acknowledged_comes_back(world: World) -> None:
    agent = await stock(world)
    item = await world.submit()
    for _ in range(5):  # on purpose: agents let leases lapse at their scheduler limit
        assert await agent.pop() is not None
        await world.pass_time(59)
        assert (await world.item(item)).state == "LEASED"
        await world.pass_time(2)
        assert (await world.item(item)).state == "PENDING"


async def test_an_acknowledgement_after_the_lease_is_refused(world: World) -> None:
    agent = await stock(world)
    item = await world.submit()
    await agent.pop()
    await world.pass_time(61, reap=False)
    assert not await agent.ack(item.id)
    await world.pass_time(0)
    assert not await agent.ack(item.id)
    assert not await agent.ack("unknown")


async def test_two_agents_popping_at_once_get_different_items(world: World) -> None:
    agents = [await stock(world) for _ in range(4)]
    items = {(await world.submit()).id for _ in range(4)}
    popped = await asyncio.gather(*(agent.pop() for agent in agents))
    assert {one.item_id for one in popped if one} == items


async def test_a_paused_queue_and_an_agent_that_shall_leave_get_nothing(world: World) -> None:
    agent = await stock(world)
    await world.submit()
    await world.plane.queues.pause(world.me, None, "default", paused=True)
    assert await agent.pop() is None
    await world.plane.queues.pause(world.me, None, "default", paused=False)
    await world.plane.agents.stop(world.me, agent.id, "STOP")
    assert await agent.pop() is None
    shown = await world.plane.wandb.poll(world.me, agent.id)
    assert shown is not None
    assert shown.stop == "STOP"


@pytest.mark.parametrize(
    ("stage", "cause"), [("build", Cause.BUILD_FAILED), ("run", Cause.START_FAILED)]
)
async def test_a_failure_ends_the_item(world: World, stage: str, cause: Cause) -> None:
    agent = await stock(world)
    item = await world.submit()
    assert not await agent.fail(item.id)
    await agent.pop()
    await agent.ack(item.id)
    assert await agent.fail(item.id, stage, ["error.log"])
    assert await agent.fail(item.id, stage)
    ended = await world.item(item)
    assert (ended.phase, ended.state, ended.cause) == (Phase.ERRORED, "FAILED", cause)
    assert ended.facts == {"files": ["error.log"]}
    assert not await agent.fail("unknown")


async def test_a_failure_before_the_acknowledgement_counts_too(world: World) -> None:
    agent = await stock(world)
    item = await world.submit()
    await agent.pop()
    assert await agent.fail(item.id, "agent")
    assert (await world.item(item)).cause is Cause.INTERNAL


async def test_warnings_are_kept(world: World) -> None:
    agent = await stock(world)
    item = await world.submit()
    warn = world.plane.wandb.warn
    assert not await warn(world.me, item.id, "pod pending", "Kubernetes")
    await agent.pop()
    assert await warn(world.me, item.id, "pod pending", "Kubernetes", ["a"])
    assert (await world.item(item)).warnings == ("Kubernetes: pod pending a",)


async def test_the_first_write_of_the_run_means_that_it_started(world: World) -> None:
    agent = await stock(world)
    item = await world.submit()
    await agent.pop()
    await agent.ack(item.id)
    place = {"entity": "ann", "project": "default", "name": "run00001"}
    await world.plane.runs.upsert(world.me, RunChange(state="pending"), **place)
    assert (await world.item(item)).phase is Phase.PERMITTED
    run, inserted = await world.plane.runs.upsert(world.me, RunChange(host="h"), **place)
    assert (run.item_id, inserted) == (item.id, False)
    assert (await world.item(item)).phase is Phase.STARTED
    await world.run_ended(world.me, "ann", "default", "run00001", 0)
    assert (await world.item(item)).phase is Phase.SUCCEEDED
    await world.history(item)


@pytest.mark.parametrize(("stopped", "phase"), [(False, Phase.FAILED), (True, Phase.STOPPED)])
async def test_the_end_of_the_run_ends_the_item(world: World, stopped: bool, phase: Phase) -> None:
    agent = await stock(world)
    item = await world.submit()
    await agent.pop()
    await agent.ack(item.id)
    place = {"entity": "ann", "project": "default", "name": "run00001"}
    run, _ = await world.plane.runs.upsert(world.me, RunChange(), **place)
    if stopped:
        assert await world.plane.runs.stop(world.me, storage_id(run))
        assert (await world.item(item)).stop_requested
    assert await world.plane.runs.set_state(world.me, run.id, "failed")
    assert (await world.item(item)).phase is phase


async def test_an_item_that_was_popped_without_an_agent_can_be_stopped(world: World) -> None:
    await stock(world)
    item = await world.submit()
    popped = await world.plane.wandb.pop(world.me, "ann", "default", None)
    assert popped is not None
    await world.plane.items.stop(world.me, item.id)
    assert (await world.item(item)).stop_requested


async def test_stopping_the_item_stops_the_run_that_its_agent_watches(world: World) -> None:
    agent = await stock(world)
    item = await world.submit()
    await agent.pop()
    await agent.ack(item.id)
    await world.plane.items.stop(world.me, item.id)
    place = ("ann", "default", "run00001")
    made, _ = await world.plane.runs.upsert(
        world.me, RunChange(), entity=place[0], project=place[1], name=place[2]
    )
    assert made.stopped
    other = await world.submit()
    await agent.pop()
    await agent.ack(other.id, "run00002")
    await world.plane.runs.upsert(
        world.me, RunChange(), entity="ann", project="default", name="run00002"
    )
    await world.plane.items.stop(world.me, other.id)
    run = await world.plane.runs.get(world.me, "ann", "default", "run00002")
    assert run is not None
    assert run.stopped
    assert await agent.fail(other.id)
    assert (await world.item(other)).phase is Phase.STOPPED


async def test_an_agent_that_is_heard_of_keeps_contact_with_its_jobs(world: World) -> None:
    agent = await stock(world)
    item = await world.submit()
    await agent.pop()
    await agent.ack(item.id)
    await world.pass_time(46)
    assert (await world.item(item)).lost_contact
    assert await agent.update("RUNNING")
    assert not (await world.item(item)).lost_contact
    for _ in range(20):
        await world.pass_time(40)
        await world.plane.wandb.poll(world.me, agent.id)
    assert (await world.item(item)).phase is Phase.PERMITTED
    await world.pass_time(46)
    place = {"entity": "ann", "project": "default", "name": "run00001"}
    await world.plane.runs.upsert(world.me, RunChange(), **place)
    await world.plane.runs.upsert(world.me, RunChange(), **place)
    assert not (await world.item(item)).lost_contact
    await world.pass_time(46)
    await world.pass_time(601)
    assert (await world.item(item)).phase is Phase.LOST


async def test_a_goodbye_hands_back_what_was_popped(world: World) -> None:
    agent = await stock(world)
    item = await world.submit()
    await agent.pop()
    assert await agent.update("KILLED")
    assert (await world.item(item)).phase is Phase.QUEUED
    assert await agent.update(None)
    with pytest.raises(InvalidInputError):
        await agent.update("DANCING")


async def test_a_pop_may_name_no_agent(world: World) -> None:
    item = await world.submit()
    popped = await world.plane.wandb.pop(world.me, "ann", "default", None)
    assert popped is not None
    assert await world.plane.wandb.acknowledge(world.me, item.id, "run00001")
    await world.pass_time(10_000)
    assert (await world.item(item)).phase is Phase.PERMITTED


async def test_our_agents_items_are_not_to_be_acknowledged(world: World) -> None:
    agent = await world.agent()
    item = await world.submit()
    await agent.claim_one()
    other = Stock(world, agent.id)
    assert not await other.ack(item.id)
    assert not await other.fail(item.id)


async def test_unknown_agents_and_queues(world: World) -> None:
    agent = await stock(world)
    assert not await Stock(world, "nobody").update()
    assert await world.plane.wandb.poll(world.me, "nobody") is None
    with pytest.raises(NotFoundError):
        await agent.pop("unknown")
    with pytest.raises(InvalidInputError):
        await world.plane.wandb.create_agent(world.me, "ann", [], "host")
    with pytest.raises(NotFoundError):
        await world.plane.wandb.create_agent(world.me, "ann", ["unknown"], "host")


async def test_polling_for_our_agent_is_no_sign_of_life(world: World) -> None:
    agent = await world.agent()
    await world.pass_time(46)
    shown = await world.plane.wandb.poll(world.me, agent.id)
    assert shown is not None
    assert shown.lost
