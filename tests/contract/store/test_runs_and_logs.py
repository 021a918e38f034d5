"""Minimal runs, and the bookkeeping of logs."""

import math

import pytest

from agent.control.services.runs import RunChange, storage_id
from agent.model.cause import Cause
from agent.model.errors import (
    FencedError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
)
from agent.model.phase import Phase
from agent.model.work import Lease
from tests.contract.store.world import World


async def test_a_run_is_made_once_and_then_changed(world: World) -> None:
    runs = world.plane.runs
    run, inserted = await runs.upsert(
        world.me,
        RunChange(config={"lr": {"value": math.nan}}, tags=("a",), group="g", commit="c"),
        project="vision",
        name="abc",
    )
    assert inserted
    assert (run.state, run.tags, run.group, run.commit) == ("running", ("a",), "g", "c")
    assert math.isnan(run.config["lr"]["value"])
    again, inserted = await runs.upsert(
        world.me, RunChange(notes="n", config={}), project="vision", name="abc"
    )
    assert not inserted
    assert (again.id, again.notes, again.config, again.group) == (run.id, "n", {}, "g")
    by_id, _ = await runs.upsert(world.me, RunChange(display_name="d"), run_id=run.id)
    assert by_id.display_name == "d"
    assert by_id.project_number > 0
    assert await runs.get(world.me, None, "vision", "abc") == by_id
    unnamed, _ = await runs.upsert(world.me, RunChange())
    assert (unnamed.project, len(unnamed.name)) == ("uncategorized", 8)


async def test_runs_that_cannot_be(world: World) -> None:
    runs = world.plane.runs
    with pytest.raises(InvalidInputError, match="cannot be 'dancing'"):
        await runs.upsert(world.me, RunChange(state="dancing"))
    with pytest.raises(InvalidInputError):
        await runs.upsert(world.me, RunChange(), name="a/b")
    with pytest.raises(NotFoundError):
        await runs.upsert(world.me, RunChange(), run_id="unknown")
    with pytest.raises(NotFoundError):
        await world.run_ended(world.me, "ann", "default", "unknown", 0)
    assert not await runs.stop(world.me, "unknown")
    assert not await runs.set_state(world.me, "unknown", "failed")


async def test_runs_are_listed_with_filters(world: World) -> None:
    runs = world.plane.runs
    made = [
        (await runs.upsert(world.me, RunChange(), project="p", name=f"run{number}"))[0]
        for number in range(4)
    ]
    await world.run_ended(world.me, "ann", "p", "run0", 3)
    newest = await runs.list(world.me, None, "p", first=3)
    assert [run.name for run in newest.rows] == ["run3", "run2", "run1"]
    assert (newest.has_next, newest.total) == (True, 4)
    rest = await runs.list(world.me, None, "p", first=3, after=newest.end_cursor)
    assert [(run.name, run.state, run.exit_code) for run in rest.rows] == [("run0", "failed", 3)]
    oldest = await runs.list(world.me, None, "p", order="+created_at", first=1)
    following = await runs.list(world.me, None, "p", order="+created_at", after=oldest.end_cursor)
    assert (oldest.rows[0].id, following.rows[0].id) == (made[0].id, made[1].id)
    failed = await runs.list(world.me, None, "p", filters={"state": "failed"})
    named = await runs.list(world.me, None, "p", filters={"name": {"$in": ["run1", "run2"]}})
    assert (failed.total, named.total) == (1, 2)


async def test_a_run_token_writes_only_runs_of_its_project(world: World) -> None:
    agent = await world.agent()
    item = await world.submit({"project": "vision"})
    claim = await agent.claim_one()
    job = await world.plane.accounts.authenticate(claim.run_token)
    runs = world.plane.runs
    run, _ = await runs.upsert(job, RunChange(), project="vision", name=claim.run_name)
    assert (run.item_id, run.user) == (item.id, "ann")
    with pytest.raises(PermissionDeniedError, match="the project 'vision' only"):
        await runs.upsert(job, RunChange(), project="other", name="x")
    foreign, _ = await runs.upsert(world.me, RunChange(), project="other", name="x")
    assert not await runs.set_state(job, foreign.id, "failed")
    await world.run_ended(job, "ann", "vision", claim.run_name, 0)
    assert (await world.item(item)).phase is Phase.LEASED


async def test_stopping_a_run_stops_the_item_that_launched_it(world: World) -> None:
    agent = await world.agent()
    item = await world.submit()
    claim = await agent.claim_one()
    run, _ = await world.plane.runs.upsert(
        world.me, RunChange(), project="default", name=claim.run_name
    )
    assert await world.plane.runs.stop(world.me, storage_id(run))
    assert (await world.item(item)).stop_requested
    plain, _ = await world.plane.runs.upsert(world.me, RunChange(), name="plain")
    assert await world.plane.runs.stop(world.me, plain.id)


async def test_a_log_is_written_by_the_last_holder_only(world: World) -> None:
    agent = await world.agent()
    item = await world.submit()
    logs = world.plane.logs
    with pytest.raises(FencedError):
        await logs.check_append(world.me, Lease(item.id, 1, 0), "job")
    stale = await agent.claim_one()
    await logs.check_append(world.me, stale.lease, "job")
    await world.pass_time(46)
    with pytest.raises(FencedError):
        await logs.check_append(world.me, stale.lease, "job")
    claim = await agent.claim_one()
    with pytest.raises(FencedError):
        await logs.check_append(world.me, stale.lease, "job")
    await agent.start(claim)
    await agent.finish(claim, Phase.FAILED, Cause.RUN_EXIT_CODE, "1", 1)
    await logs.check_append(world.me, claim.lease, "job")
    await world.pass_time(61)
    with pytest.raises(FencedError):
        await logs.check_append(world.me, claim.lease, "job")
    with pytest.raises(NotFoundError, match="no attempt 9"):
        await logs.check_append(world.me, Lease(item.id, 9, 1), "job")
    with pytest.raises(NotFoundError):
        await logs.check_append(world.me, Lease("unknown", 1, 1), "job")


async def test_an_agent_key_writes_logs_of_its_own_agents_only(world: World) -> None:
    accounts, logs = world.plane.accounts, world.plane.logs
    await world.queue("default")
    ann = world.me
    keys = [await accounts.create_agent_key(ann, "ann", name, None) for name in "xy"]
    first, second = [await accounts.authenticate(key.secret) for key in keys]
    await world.submit()
    world.me = first
    agent = await world.agent()
    claim = await agent.claim_one()
    await logs.check_append(first, claim.lease, "job")
    with pytest.raises(PermissionDeniedError):
        await logs.check_append(second, claim.lease, "job")
    job = await accounts.authenticate(claim.run_token)
    with pytest.raises(NotFoundError):
        await logs.check_append(job, claim.lease, "job")
