"""Sessions, names, adoption, and being asked to leave."""

import asyncio

import pytest

from agent.control.store.items import ClaimRecord
from agent.model.cause import Cause
from agent.model.errors import ConflictError, InvalidInputError, NotFoundError
from agent.model.phase import Phase
from agent.model.protocol import LeaseStatus
from tests.contract.store.world import Agent, World


async def test_a_new_process_of_the_same_installation_gets_back_what_it_held(world: World) -> None:
    old = await world.agent(identity="i")
    for _ in range(2):
        await world.submit()
    running, prepared = await old.claim(most=2)
    await old.start(running)
    new = await world.agent(identity="i")
    assert new.id == old.id
    held = {claim.lease.item_id: claim for claim in new.welcome.held}
    adopted = held[running.lease.item_id]
    assert (adopted.phase, adopted.lease.epoch) == (Phase.STARTED, running.lease.epoch + 1)
    assert adopted.run_token == running.run_token
    assert held[prepared.lease.item_id].phase is Phase.LEASED
    assert await old.finish(running) is LeaseStatus.FENCED
    beat = await old.beat(running)
    assert (beat.current, beat.statuses) == (False, {running.lease.item_id: LeaseStatus.FENCED})
    assert await new.finish(adopted) is LeaseStatus.HELD
    await world.history(running.lease.item_id)


async def test_an_adopted_permit_stays_good_for_its_new_epoch(world: World) -> None:
    old = await world.agent(identity="i")
    item = await world.submit()
    claim = await old.claim_one()
    await old.permit(claim)
    new = await world.agent(identity="i")
    (adopted,) = new.welcome.held
    assert await new.permit(adopted) is LeaseStatus.HELD
    assert await old.permit(claim) is LeaseStatus.FENCED
    assert (await world.history(item)).count(Phase.PREPARING) == 1


async def test_two_live_agents_of_one_name_are_a_conflict_that_says_where(world: World) -> None:
    await world.agent("alpha", identity="one")
    with pytest.raises(ConflictError, match=r"'alpha' is alive, on alpha\.example.*heartbeat"):
        await world.agent("alpha", identity="two")


async def test_the_name_of_a_lost_agent_may_be_taken_over(world: World) -> None:
    old = await world.agent("alpha", identity="one")
    item = await world.submit()
    await old.start(await old.claim_one())
    await world.pass_time(46)
    new = await world.agent("alpha", identity="two")
    assert new.id != old.id
    assert new.welcome.held == ()
    assert (await world.item(item)).agent_id == old.id


async def test_the_name_of_an_agent_that_said_goodbye_is_free(world: World) -> None:
    old = await world.agent("alpha", identity="one")
    await old.beat(status="KILLED")
    assert (await world.agent("alpha", identity="two")).id != old.id


async def test_another_agent_of_the_backend_adopts_what_a_lost_one_left_running(
    world: World,
) -> None:
    old = await world.agent("old", backend="engine")
    running, _ = await world.submit(priority=0), await world.submit()
    started, _ = await old.claim(most=2)
    await old.start(started)
    live = await world.agent("live", backend="engine")
    assert live.welcome.held == ()
    await world.pass_time(46, reap=False)
    new = await world.agent("new", backend="engine")
    assert [claim.lease.item_id for claim in new.welcome.held] == [running.id]
    assert await new.finish(new.welcome.held[0]) is LeaseStatus.HELD


@pytest.mark.parametrize("end", ["silence", "in order"])
async def test_an_agent_that_lives_adopts_what_another_of_its_backend_leaves(
    world: World, end: str
) -> None:
    """Also one that was there before: replicas, and rolling updates of them."""
    old = await world.agent("old", backend="engine")
    running, _ = await world.submit(priority=0), await world.submit()
    started, _ = await old.claim(most=2)
    await old.start(started)
    live = await world.agent("live", backend="engine")
    elsewhere = await world.agent("elsewhere", backend="another engine")
    assert not (await live.beat()).adoptable
    assert await live.adopt() == ()
    if end == "silence":
        await world.pass_time(46, reap=False)
    else:
        await old.beat(started, status="KILLED")
    assert not (await elsewhere.beat()).adoptable
    assert not (await live.beat(status="DRAINING")).adoptable
    assert (await live.beat()).adoptable
    (adopted,) = await live.adopt()
    assert (adopted.lease.item_id, adopted.phase) == (running.id, Phase.STARTED)
    assert adopted.lease.epoch == started.lease.epoch + 1
    assert adopted.run_token == started.run_token
    assert not (await live.beat(adopted)).adoptable
    assert (await live.adopt(), await elsewhere.adopt()) == ((), ())
    assert await old.finish(started) is LeaseStatus.FENCED
    assert await live.finish(adopted) is LeaseStatus.HELD


async def running_on_engine(world: World) -> tuple[Agent, ClaimRecord]:
    """An agent of the backend `engine`, and the item that it has started."""
    agent = await world.agent("old", backend="engine")
    await world.submit()
    started = await agent.claim_one()
    await agent.start(started)
    return agent, started


async def test_an_adoption_whose_answer_was_lost_is_made_up_for(world: World) -> None:
    old, started = await running_on_engine(world)
    live = await world.agent("live", backend="engine")
    await old.beat(started, status="KILLED")
    (lost,) = await live.adopt()
    assert not (await live.beat()).adoptable
    await world.pass_time(46, reap=False)
    assert (await live.beat()).adoptable
    (again,) = await live.adopt()
    assert await live.finish(lost) is LeaseStatus.FENCED
    assert await live.finish(again) is LeaseStatus.HELD


async def test_a_superseded_session_adopts_nothing(world: World) -> None:
    old, started = await running_on_engine(world)
    live = await world.agent("live", backend="engine")
    await world.agent("live", backend="engine")
    await old.beat(started, status="KILLED")
    assert not (await live.beat()).adoptable
    assert await live.adopt() == ()


async def test_queues_must_exist_and_be_named(world: World) -> None:
    await world.queue("training")
    with pytest.raises(NotFoundError, match="Did you mean `training`"):
        await world.agent(queues=("trainin",))
    for wrong in (
        {"queues": ()},
        {"resources": ()},
        {"name": ""},
        {"identity": ""},
        {"identity": "i" * 513},
        {"session": "s" * 513},
        {"backend_id": "b" * 513},
    ):
        with pytest.raises(InvalidInputError):
            await world.agent(**wrong)


async def test_an_agent_learns_with_its_heartbeat_that_it_shall_leave(world: World) -> None:
    agent = await world.agent()
    await world.submit()
    asked = await world.plane.agents.stop(world.me, agent.id, "DRAIN")
    assert asked.stop == "DRAIN"
    assert await agent.claim() == ()
    assert (await agent.beat()).stop == "DRAIN"
    again = await world.agent(identity="installation-alpha", session=agent.session)
    assert again.welcome.agent.stop == "DRAIN"
    fresh = await world.agent(identity="installation-alpha")
    assert fresh.welcome.agent.stop is None
    with pytest.raises(NotFoundError):
        await world.plane.agents.stop(world.me, "nobody", "STOP")


async def test_agents_are_listed_by_queue_newest_heartbeat_first(world: World) -> None:
    queue = await world.queue("other")
    first, second = await world.agent("a"), await world.agent("b", queues=("default", "other"))
    await world.pass_time(1)
    await first.beat()
    listed = await world.plane.agents.list(world.me)
    assert [one.id for one in listed] == [first.id, second.id]
    assert listed[1].queue_names == ("default", "other")
    serving = await world.plane.agents.list(world.me, queue_id=queue.id)
    assert [one.id for one in serving] == [second.id]
    assert await world.plane.agents.get(world.me, "nobody") is None


async def test_a_renamed_installation_stays_the_same_agent(world: World) -> None:
    first = await world.agent("before", identity="i")
    second = await world.agent("after", identity="i")
    assert first.id == second.id
    assert [one.name for one in await world.plane.agents.list(world.me)] == ["after"]


async def test_of_two_that_take_a_name_at_once_one_gets_it(world: World) -> None:
    await world.queue("default")
    both = await asyncio.gather(
        world.agent("alpha", identity="one"),
        world.agent("alpha", identity="two"),
        return_exceptions=True,
    )
    assert sorted(type(one).__name__ for one in both) == ["Agent", "ConflictError"]


async def test_three_deaths_of_its_holder_before_the_permit_quarantine_an_item(
    world: World,
) -> None:
    """No lease expires: the agent is restarted within seconds each time."""
    agent = await world.agent(identity="i")
    poison, neighbour = await world.submit({"retries": 3}), await world.submit()
    held = {claim.lease.item_id: claim for claim in await agent.claim(most=2)}
    await agent.start(held[neighbour.id])
    for losses in (1, 2):
        await agent.advance(held[poison.id], Phase.PREPARING)
        agent = await world.agent(identity="i")
        held = {claim.lease.item_id: claim for claim in agent.welcome.held}
        assert held[poison.id].lease_losses == losses
        assert held[neighbour.id].lease_losses == 0
    agent = await world.agent(identity="i")
    assert [claim.lease.item_id for claim in agent.welcome.held] == [neighbour.id]
    ended = await world.item(poison)
    assert (ended.phase, ended.cause) == (Phase.ERRORED, Cause.QUARANTINED)
    assert await agent.finish(held[poison.id]) is LeaseStatus.FENCED
    assert await agent.claim() == ()
    assert await agent.finish(agent.welcome.held[0]) is LeaseStatus.HELD
    await world.history(poison)


async def test_expired_leases_and_deaths_count_together(world: World) -> None:
    agent = await world.agent(identity="i")
    item = await world.submit()
    await agent.claim_one()
    await world.pass_time(46)
    await agent.claim_one()
    agent = await world.agent(identity="i")
    assert agent.welcome.held[0].lease_losses == 2
    await world.pass_time(46)
    assert (await world.item(item)).cause is Cause.QUARANTINED


async def test_a_repeated_registration_of_one_process_is_no_death(world: World) -> None:
    agent = await world.agent(identity="i")
    item = await world.submit()
    await agent.claim_one()
    for _ in range(4):
        again = await world.agent(identity="i", session=agent.session)
        assert [claim.lease.item_id for claim in again.welcome.held] == [item.id]
    assert (await world.item(item)).lease_losses == 0


async def test_a_graceful_restart_is_no_death(world: World) -> None:
    item = await world.submit()
    for number in range(4):
        agent = await world.agent(identity="i")
        claim = await agent.claim_one()
        if number % 2:
            await agent.release(claim)
        await agent.beat(status="KILLED")
    await agent.beat()
    assert (await world.item(item)).lease_losses == 0
    assert (await world.item(item)).phase is Phase.QUEUED


async def test_what_a_graceful_shutdown_could_not_release_is_no_death(world: World) -> None:
    """The control plane was away while the agent shut down, for example in an upgrade of both."""
    item = await world.submit()
    agent = await world.agent(identity="i")
    await agent.claim_one()
    for _ in range(4):
        agent = await world.agent(identity="i", after_shutdown=True)
        assert [claim.lease.item_id for claim in agent.welcome.held] == [item.id]
    assert (await world.item(item)).lease_losses == 0


async def test_the_permit_ends_the_count_of_deaths(world: World) -> None:
    item = await world.submit()
    agent = await world.agent(identity="i")
    await agent.claim_one()
    for _ in range(2):
        agent = await world.agent(identity="i")
    await agent.permit(agent.welcome.held[0])
    for _ in range(4):
        agent = await world.agent(identity="i")
    assert (await world.item(item)).lease_losses == 0
    assert (await world.item(item)).phase is Phase.PERMITTED


async def test_a_stop_request_outlives_the_deaths_of_the_holder(world: World) -> None:
    item = await world.submit()
    agent = await world.agent(identity="i")
    await agent.claim_one()
    await world.plane.items.stop(world.me, item.id)
    for _ in range(4):
        agent = await world.agent(identity="i")
    (claim,) = agent.welcome.held
    assert claim.stop_requested
    assert (await world.item(item)).cause is None


async def test_an_expiry_and_a_registration_at_once_count_one_loss(world: World) -> None:
    agent = await world.agent(identity="i")
    item = await world.submit()
    await agent.claim_one()
    await world.pass_time(46, reap=False)
    await asyncio.gather(world.plane.reaper.reap_once(), world.agent(identity="i"))
    assert (await world.item(item)).lease_losses == 1
    await world.history(item)


async def test_a_returned_item_keeps_its_count_and_is_explained(world: World) -> None:
    agent = await world.agent(identity="i")
    item = await world.submit()
    await agent.claim_one()
    agent = await world.agent(identity="i")
    await agent.release(agent.welcome.held[0], "The engine does not answer.", 20)
    waiting = await world.item(item)
    assert (waiting.phase, waiting.lease_losses, waiting.retries) == (Phase.QUEUED, 1, 0)
    assert await agent.claim() == ()
    explained = await world.plane.items.explain(world.me, item.id)
    assert explained.cause is Cause.SCHEDULE_BACKOFF
    assert "It is back on its queue: The engine does not answer." in explained.details
    await world.pass_time(20)
    claim = await agent.claim_one()
    assert (claim.lease.attempt, claim.lease_losses) == (1, 1)


async def test_a_returned_item_keeps_its_place(world: World) -> None:
    agent = await world.agent()
    first, _ = await world.submit(), await world.submit()
    await agent.release(await agent.claim_one(), "no answer", 5)
    await world.pass_time(5)
    assert (await agent.claim_one()).lease.item_id == first.id
    await agent.release(await agent.claim_one(), "no answer", 1e9)
    await world.pass_time(301)
    await agent.claim_one()
