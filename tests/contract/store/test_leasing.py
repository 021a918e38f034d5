"""Leases, epochs and the one permit."""

import asyncio

import pytest
from sqlalchemy import text

from agent.model.capacity import Allocation, Capacity
from agent.model.cause import Cause
from agent.model.errors import ConflictError, FencedError, InvalidInputError, NotFoundError
from agent.model.phase import Phase
from agent.model.protocol import LeaseStatus
from tests.contract.store.world import World


@pytest.mark.parametrize("text", ["no\0text", "half a \ud800 character"])
async def test_an_outcome_arrives_whatever_its_message_holds(world: World, text: str) -> None:
    """The agent sends it until it is taken: refusing it would be for ever."""
    agent = await world.agent()
    item = await world.submit({"name": "hello"})
    claim = await agent.claim_one()
    await agent.start(claim)
    assert await agent.advance(claim, activity=text, warning=text, facts={"a": text}) is (
        LeaseStatus.HELD
    )
    for _ in range(2):
        said = await agent.finish(claim, Phase.FAILED, Cause.RUN_EXIT_CODE, text, 1)
        assert said is LeaseStatus.HELD
    over = await world.item(item)
    assert over.phase is Phase.FAILED
    assert over.message is not None
    assert over.message.startswith(text[:2])
    with pytest.raises(NotFoundError):
        await world.item(text)


async def test_a_job_goes_from_the_queue_to_its_outcome(world: World) -> None:
    agent = await world.agent()
    item = await world.submit({"name": "hello"})
    claim = await agent.claim_one()
    assert (claim.lease.item_id, claim.lease.attempt, claim.lease.epoch) == (item.id, 1, 1)
    assert (claim.phase, claim.resource, claim.name) == (Phase.LEASED, "local-container", "hello")
    assert await agent.advance(claim, Phase.PREPARING, activity="building") is LeaseStatus.HELD
    assert (await world.item(item)).activity == "building"
    await agent.start(claim)
    status = await agent.finish(claim, exit_code=0, facts={"image": "sha256:1"})
    assert status is LeaseStatus.HELD
    done = await world.item(item)
    assert (done.phase, done.cause, done.exit_code) == (Phase.SUCCEEDED, Cause.SUCCEEDED, 0)
    assert (done.facts, done.activity) == ({"image": "sha256:1"}, None)
    assert done.started_at is not None
    assert done.finished_at is not None
    assert await world.history(item) == [
        Phase.QUEUED,
        Phase.LEASED,
        Phase.PREPARING,
        Phase.PERMITTED,
        Phase.STARTED,
        Phase.SUCCEEDED,
    ]
    (attempt,) = await world.plane.items.attempts(world.me, item.id)
    assert (attempt.phase, attempt.agent_name, attempt.exit_code) == (Phase.SUCCEEDED, "alpha", 0)


async def test_a_waiting_claim_is_woken_by_a_submission(world: World) -> None:
    agent = await world.agent()
    waiting = asyncio.create_task(agent.claim(wait=25.0))
    await world.somebody_waits()
    item = await world.submit()
    async with asyncio.timeout(4):  # less than the slow poll behind the notice
        (claim,) = await waiting
    assert claim.lease.item_id == item.id


async def test_a_waiting_claim_is_woken_by_a_queue_that_resumes(world: World) -> None:
    agent = await world.agent()
    await world.plane.queues.pause(world.me, None, "default", paused=True)
    await world.submit()
    assert await agent.claim() == ()
    waiting = asyncio.create_task(agent.claim(wait=25.0))
    await world.somebody_waits()
    await world.plane.queues.pause(world.me, None, "default", paused=False)
    async with asyncio.timeout(4):
        assert len(await waiting) == 1


async def test_a_repeated_claim_gets_the_same_leases(world: World) -> None:
    agent = await world.agent()
    for _ in range(3):
        await world.submit()
    first = await agent.claim("the-request", most=2)
    again = await agent.claim("the-request", most=2)
    assert len(first) == 2
    assert again == first
    assert again[0].run_token == first[0].run_token
    other = await agent.claim("another", most=2)
    assert len(other) == 1


async def test_a_claim_whose_reply_was_cut_while_it_waited_loses_nothing(world: World) -> None:
    agent = await world.agent()
    cut = asyncio.create_task(agent.claim("the-request", wait=25.0))
    await world.somebody_waits()
    repeated = asyncio.create_task(agent.claim("the-request", wait=25.0))
    await world.somebody_waits(2)
    item = await world.submit()
    async with asyncio.timeout(10):
        first, second = await asyncio.gather(cut, repeated)
    assert first == second
    assert first[0].lease.item_id == item.id
    assert (await world.item(item)).epoch == 1


async def test_items_are_handed_out_by_priority_and_then_by_age(world: World) -> None:
    agent = await world.agent()
    low = await world.submit(priority=3)
    first = await world.submit()
    critical = await world.submit(priority=0)
    second = await world.submit(priority=2)
    claims = await agent.claim(most=10)
    order = [claim.lease.item_id for claim in claims]
    assert order == [critical.id, first.id, second.id, low.id]


async def test_priorities_hold_across_the_queues_of_an_agent(world: World) -> None:
    await world.queue("b")
    agent = await world.agent(queues=("default", "b"))
    medium = await world.submit()
    high = await world.submit(queue="b", priority=1)
    order = [claim.lease.item_id for claim in await agent.claim(most=2)]
    assert order == [high.id, medium.id]


async def test_a_claim_gets_only_what_fits(world: World) -> None:
    agent = await world.agent()
    large = await world.submit({"resources": {"cpus": 8, "memory": "4GiB"}})
    small = await world.submit({"resources": {"cpus": 2, "memory": "1GiB"}})
    room = Capacity(slots=5, cpus=4.0, memory=2 * 1024**3)
    (claim,) = await agent.claim(free=room, most=5)
    assert claim.lease.item_id == small.id
    assert (claim.allocation.cpus, claim.allocation.memory) == (2.0, 1024**3)
    assert (await world.item(large)).phase is Phase.QUEUED


async def test_one_claim_does_not_hand_out_the_same_room_twice(world: World) -> None:
    agent = await world.agent()
    for _ in range(3):
        await world.submit({"resources": {"cpus": 2}})
    claims = await agent.claim(free=Capacity(slots=9, cpus=5.0), most=9)
    assert len(claims) == 2
    assert await agent.claim(free=Capacity(slots=0), most=9) == ()


async def test_gpus_are_pinned_and_never_handed_out_twice(world: World) -> None:
    agent = await world.agent()
    for _ in range(3):
        await world.submit({"resources": {"gpus": 1}})
    inventory = Capacity(slots=9, gpus=("0", "1"))
    (lost,) = await agent.claim("lost-reply", free=inventory)
    assert lost.allocation.gpus == ("0",)
    # The agent did not hear of it and still counts both as free.
    (second,) = await agent.claim("next", free=inventory, most=5)
    assert second.allocation.gpus == ("1",)


async def test_an_item_for_another_runner_is_left_alone(world: World) -> None:
    await world.queue("processes", resource="local-process")
    agent = await world.agent(queues=("processes",))
    await world.submit(queue="processes")
    assert await agent.claim() == ()


async def test_two_agents_at_once_never_get_the_same_item(world: World) -> None:
    agents = [await world.agent(f"agent-{number}") for number in range(4)]
    items = [await world.submit() for _ in range(12)]
    claims = await asyncio.gather(*(one.claim(most=3) for one in agents for _ in range(2)))
    taken = [claim.lease.item_id for batch in claims for claim in batch]
    assert len(taken) == len(set(taken))
    rest = [claim.lease.item_id for claim in await agents[0].claim(most=20)]
    assert sorted(taken + rest) == sorted(item.id for item in items)


async def test_the_permit_is_granted_again_to_the_same_epoch_only(world: World) -> None:
    old, new = await world.agent("old"), await world.agent("new")
    item = await world.submit()
    stale = await old.claim_one()
    await world.pass_time(46)
    fresh = await new.claim_one()
    assert await old.permit(stale) is LeaseStatus.FENCED
    assert await new.permit(fresh) is LeaseStatus.HELD
    assert await new.permit(fresh) is LeaseStatus.HELD
    assert await old.permit(stale) is LeaseStatus.FENCED
    await world.history(item)


async def test_there_is_no_permit_once_the_job_was_started(world: World) -> None:
    agent = await world.agent()
    await world.submit()
    claim = await agent.claim_one()
    await agent.start(claim)
    with pytest.raises(ConflictError, match="started already"):
        await agent.permit(claim)


async def test_a_stale_epoch_changes_nothing(world: World) -> None:
    old, new = await world.agent("old"), await world.agent("new")
    item = await world.submit()
    stale = await old.claim_one()
    await world.pass_time(46)
    fresh = await new.claim_one()
    assert fresh.lease.epoch == stale.lease.epoch + 1
    before = await world.item(item)
    assert await old.advance(stale, Phase.PREPARING, activity="mine") is LeaseStatus.FENCED
    assert await old.permit(stale) is LeaseStatus.FENCED
    assert await old.finish(stale) is LeaseStatus.FENCED
    assert await old.release(stale) is LeaseStatus.FENCED
    assert (await old.beat(stale)).statuses == {item.id: LeaseStatus.FENCED}
    assert await world.item(item) == before


async def test_nobody_may_write_with_the_lease_of_another_agent(world: World) -> None:
    holder, other = await world.agent("holder"), await world.agent("other")
    await world.submit()
    claim = await holder.claim_one()
    assert await other.finish(claim) is LeaseStatus.FENCED
    assert await other.permit(claim) is LeaseStatus.FENCED


async def test_the_same_outcome_twice_is_kept_and_another_one_is_fenced(world: World) -> None:
    agent = await world.agent()
    item = await world.submit()
    claim = await agent.claim_one()
    await agent.start(claim)
    failed = {"phase": Phase.FAILED, "cause": Cause.RUN_EXIT_CODE, "exit_code": 3}
    assert await agent.finish(claim, **failed) is LeaseStatus.HELD
    assert await agent.finish(claim, **failed) is LeaseStatus.HELD
    assert await agent.finish(claim) is LeaseStatus.FENCED
    assert (await world.history(item)).count(Phase.FAILED) == 1


async def test_an_outcome_repeated_after_policy_opened_a_new_attempt_is_kept(world: World) -> None:
    agent = await world.agent()
    item = await world.submit({"retries": 1})
    claim = await agent.claim_one()
    await agent.permit(claim)
    outcome = {"phase": Phase.ERRORED, "cause": Cause.START_FAILED, "message": "no"}
    assert await agent.finish(claim, **outcome) is LeaseStatus.HELD
    assert await agent.finish(claim, **outcome) is LeaseStatus.HELD
    again = await world.item(item)
    assert (again.phase, again.attempt) == (Phase.QUEUED, 2)
    await world.pass_time(5)
    second = await agent.claim_one()
    assert second.lease.attempt == 2
    assert second.run_token != claim.run_token
    assert await agent.finish(second, **outcome) is LeaseStatus.HELD
    assert (await world.item(item)).phase is Phase.ERRORED


async def test_outcomes_that_are_the_jobs_own_are_not_retried(world: World) -> None:
    agent = await world.agent()
    item = await world.submit({"retries": 5})
    claim = await agent.claim_one()
    await agent.start(claim)
    await agent.finish(claim, Phase.FAILED, Cause.RUN_EXIT_CODE, "exit code 1", 1)
    assert (await world.item(item)).phase is Phase.FAILED


@pytest.mark.parametrize(
    ("cause", "on_lost", "phase"),
    [
        (Cause.LOST_WORKLOAD, "fail", Phase.LOST),
        (Cause.LOST_WORKLOAD, "retry", Phase.QUEUED),
        # It was restarted under the job, which is nothing that the job did.
        (Cause.LOST_ENGINE, "fail", Phase.QUEUED),
    ],
)
async def test_a_lost_job_follows_on_lost_and_one_that_its_engine_lost_also_retries(
    world: World, cause: Cause, on_lost: str, phase: Phase
) -> None:
    agent = await world.agent()
    item = await world.submit({"on_lost": on_lost, "retries": 3})
    claim = await agent.claim_one()
    await agent.start(claim)
    await agent.finish(claim, Phase.LOST, cause, "vanished")
    assert (await world.item(item)).phase is phase


@pytest.mark.parametrize(("retries", "attempts"), [(0, 6), (7, 8)])
async def test_a_preempted_job_gets_new_attempts_at_once_within_bounds(
    world: World, retries: int, attempts: int
) -> None:
    agent = await world.agent()
    item = await world.submit({"retries": retries})
    for number in range(1, attempts + 1):
        claim = await agent.claim_one()
        assert claim.lease.attempt == number
        await agent.start(claim)
        await agent.finish(claim, Phase.PREEMPTED, Cause.PREEMPTED, "preempted by another job")
    assert (await world.item(item)).phase is Phase.PREEMPTED


async def test_a_preempted_job_that_is_to_be_stopped_gets_no_new_attempt(world: World) -> None:
    agent = await world.agent()
    item = await world.submit()
    claim = await agent.claim_one()
    await agent.start(claim)
    await world.plane.items.stop(world.me, item.id)
    await agent.finish(claim, Phase.PREEMPTED, Cause.PREEMPTED, "preempted by another job")
    assert (await world.item(item)).phase is Phase.PREEMPTED


async def test_a_released_item_keeps_its_place_and_its_attempt(world: World) -> None:
    agent = await world.agent()
    first, _ = await world.submit(), await world.submit()
    claim = await agent.claim_one()
    assert await agent.release(claim) is LeaseStatus.HELD
    assert await agent.release(claim) is LeaseStatus.HELD
    again = await agent.claim_one()
    assert (again.lease.item_id, again.lease.attempt, again.lease.epoch) == (first.id, 1, 2)
    assert await agent.release(claim) is LeaseStatus.FENCED


async def test_a_permitted_item_cannot_be_handed_back(world: World) -> None:
    agent = await world.agent()
    await world.submit()
    claim = await agent.claim_one()
    await agent.permit(claim)
    with pytest.raises(ConflictError, match="start permit"):
        await agent.release(claim)


async def test_progress_that_comes_late_changes_no_phase(world: World) -> None:
    agent = await world.agent()
    item = await world.submit()
    claim = await agent.claim_one()
    await agent.permit(claim)
    assert await agent.advance(claim, Phase.PREPARING) is LeaseStatus.HELD
    assert (await world.item(item)).phase is Phase.PERMITTED


async def test_a_start_without_a_permit_is_refused(world: World) -> None:
    agent = await world.agent()
    await world.submit()
    claim = await agent.claim_one()
    with pytest.raises(ConflictError, match="preparing: it cannot become running"):
        await agent.advance(claim, Phase.STARTED)
    with pytest.raises(InvalidInputError):
        await agent.advance(claim, Phase.SUCCEEDED)
    with pytest.raises(InvalidInputError):
        await agent.finish(claim, Phase.STARTED)
    with pytest.raises(ConflictError):
        await agent.finish(claim, Phase.SUCCEEDED)


async def test_facts_are_merged_and_warnings_collected(world: World) -> None:
    agent = await world.agent()
    item = await world.submit()
    claim = await agent.claim_one()
    await agent.advance(claim, facts={"a": 1, "b": 1}, warning="careful")
    await agent.advance(claim, facts={"b": 2}, warning="careful")
    shown = await world.item(item)
    assert (shown.facts, shown.warnings) == ({"a": 1, "b": 2}, ("careful",))
    with pytest.raises(InvalidInputError, match="facts"):
        await agent.advance(claim, facts={"big": "x" * 70_000})


async def test_a_stop_request_reaches_the_holder_by_every_answer(world: World) -> None:
    agent = await world.agent()
    item = await world.submit()
    claim = await agent.claim_one()
    asked = await world.plane.items.stop(world.me, item.id)
    assert (asked.phase, asked.stop_requested) == (Phase.LEASED, True)
    assert (await agent.beat(claim)).statuses == {item.id: LeaseStatus.STOP}
    assert await agent.advance(claim, Phase.PREPARING) is LeaseStatus.STOP
    assert await agent.permit(claim) is LeaseStatus.STOP
    assert await agent.finish(claim, Phase.STOPPED, Cause.STOPPED_BY_USER, "ok") is LeaseStatus.HELD
    assert Phase.PERMITTED not in await world.history(item)


async def test_a_claim_wants_a_known_agent_queue_and_session(world: World) -> None:
    agent = await world.agent(identity="one")
    with pytest.raises(NotFoundError, match="exists: other"):
        await agent.claim(queues=("other",))
    with pytest.raises(InvalidInputError):
        await agent.claim(most=0)
    await world.agent(identity="one")
    with pytest.raises(FencedError, match="newer process"):
        await agent.claim()
    with pytest.raises(NotFoundError):
        await world.plane.leases.permit(world.me, "nobody", _any_lease())
    with pytest.raises(InvalidInputError, match="SLEEPING"):
        await agent.beat(status="SLEEPING")


async def test_a_removed_queue_keeps_no_agent_from_its_others(world: World) -> None:
    await world.queue("gpu")
    agent = await world.agent(queues=("default", "gpu"))
    await world.plane.queues.delete(world.me, None, "gpu")
    item = await world.submit()
    (claim,) = await agent.claim(queues=("default", "gpu"))
    assert claim.lease.item_id == item.id


async def test_a_queue_made_anew_is_served_by_who_served_it_before(world: World) -> None:
    agent = await world.agent(queues=("default",))
    await world.plane.queues.delete(world.me, None, "default")
    with pytest.raises(NotFoundError, match="None of the queues"):
        await agent.claim(queues=("default",))
    item = await world.submit()
    (claim,) = await agent.claim(queues=("default",))
    assert claim.lease.item_id == item.id
    (shown,) = await world.plane.agents.list(world.me)
    assert shown.queue_names == ("default",)
    assert (await world.plane.queues.get(world.me, None, "default")).resource == "local-container"


async def test_an_unknown_item_is_fenced(world: World) -> None:
    agent = await world.agent()
    leases = world.plane.leases
    assert await leases.permit(world.me, agent.id, _any_lease()) is LeaseStatus.FENCED
    assert await leases.release(world.me, agent.id, _any_lease()) is LeaseStatus.FENCED
    outcome = {"phase": Phase.LOST, "cause": Cause.LOST_AGENT, "message": ""}
    assert await leases.finish(world.me, agent.id, _any_lease(), **outcome) is LeaseStatus.FENCED


def _any_lease():
    from agent.model.work import Lease

    return Lease("none", 1, 1)


BOTH_RESOURCES = ("local-container", "local-process")


async def test_a_claim_may_leave_out_what_cannot_run_at_present(world: World) -> None:
    for resource in BOTH_RESOURCES:
        await world.queue(resource, resource=resource)
    agent = await world.agent(queues=BOTH_RESOURCES, resources=BOTH_RESOURCES)
    container, process = [await world.submit(queue=resource) for resource in BOTH_RESOURCES]
    (claim,) = await agent.claim(most=10, resources=("local-process",))
    assert (claim.lease.item_id, claim.resource) == (process.id, "local-process")
    assert await agent.claim(resources=("local-process", "kubernetes")) == ()
    assert await agent.claim(resources=()) == ()
    assert (await agent.claim_one()).lease.item_id == container.id


async def test_a_job_that_names_no_resource_waits_for_what_the_agent_offers_first(
    world: World,
) -> None:
    agent = await world.agent(resources=BOTH_RESOURCES)
    item = await world.submit()
    await world.plane.database.write(lambda tx: tx.run(text("UPDATE items SET resource = NULL")))
    assert await agent.claim(resources=("local-process",)) == ()
    claim = await agent.claim_one(resources=("local-container",))
    assert (claim.lease.item_id, claim.resource) == (item.id, "local-container")


async def test_a_repeated_claim_gives_back_what_it_leaves_out_by_now(world: World) -> None:
    agent = await world.agent(resources=BOTH_RESOURCES)
    await world.submit()
    first = await agent.claim("the-request")
    assert await agent.claim("the-request", resources=("local-process",)) == first


async def test_a_backend_that_schedules_by_itself_is_limited_by_the_number_of_jobs_only(
    world: World,
) -> None:
    for resource in BOTH_RESOURCES:
        await world.queue(resource, resource=resource)
    agent = await world.agent(queues=BOTH_RESOURCES, resources=BOTH_RESOURCES)
    large = {"resources": {"cpus": 64.0, "gpus": 8}}
    await world.submit(large, queue="local-container")
    items = [await world.submit(large, queue="local-process") for _ in range(3)]
    free = Capacity(slots=2, cpus=1.0, memory=None, gpus=("0",))
    claims = await agent.claim(free=free, most=10, self_scheduled=("local-process",))
    assert [claim.lease.item_id for claim in claims] == [item.id for item in items[:2]]
    assert {claim.allocation for claim in claims} == {Allocation()}
    assert await agent.claim(free=free, most=10) == ()
