"""What keeps agents from claiming: kept with them, and told to those who wait."""

from agent.control.services.notifications import topic_entity
from agent.model.cause import Cause
from agent.model.protocol import Condition, ConditionKind
from tests.contract.store.world import Agent, World

DISK = Condition(ConditionKind.DISK_LOW, "1.0 GiB are free, and 2.0 GiB must stay free.")
ENGINE = Condition(ConditionKind.ENGINE_UNREACHABLE, "no answer within 10 s.", "local-container")


async def _kept(agent: Agent) -> tuple[Condition, ...]:
    record = await agent.world.plane.agents.get(agent.world.me, agent.id)
    assert record is not None
    return record.conditions


async def test_the_last_heartbeat_says_what_is_wrong(world: World) -> None:
    agent = await world.agent()
    assert await _kept(agent) == ()
    await agent.beat(conditions=(DISK, ENGINE))
    assert await _kept(agent) == (DISK, ENGINE)
    await agent.beat(conditions=(ENGINE,))
    assert await _kept(agent) == (ENGINE,)
    await agent.beat()
    assert await _kept(agent) == ()
    await agent.beat(conditions=(DISK,), status="KILLED")
    assert await _kept(agent) == ()


async def test_a_new_process_begins_without_conditions(world: World) -> None:
    old = await world.agent(identity="i")
    await old.beat(conditions=(DISK,))
    new = await world.agent(identity="i")
    assert new.welcome.agent.conditions == ()
    await old.beat(conditions=(DISK,))
    assert await _kept(new) == ()


async def test_pages_hear_of_a_change(world: World) -> None:
    agent = await world.agent()
    with world.plane.notifications.subscribe([topic_entity("ann")]) as subscription:
        await agent.beat(conditions=(DISK,))
        assert await subscription.wait(10)
        await agent.beat()
        assert await subscription.wait(10)


async def test_a_waiting_item_is_explained_by_them(world: World) -> None:
    agent = await world.agent()
    item = await world.submit()
    for condition, cause in ((DISK, Cause.SCHEDULE_DISK), (ENGINE, Cause.SCHEDULE_ENGINE)):
        await agent.beat(conditions=(condition,))
        told = await world.plane.items.explain(world.me, item.id)
        assert told.cause is cause
        assert told.details == (f"Agent alpha cannot claim it now: {condition.message}",)
    await agent.beat()
    told = await world.plane.items.explain(world.me, item.id)
    assert told.cause is Cause.SCHEDULE_WAITING
