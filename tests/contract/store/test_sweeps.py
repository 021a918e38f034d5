"""Sweeps on both databases: who gets which combination, states, rights."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text

from agent.config.control import ControlConfig
from agent.control.services.runs import RunChange
from agent.control.services.sweep_config import SweepConfig
from agent.control.services.sweeps import SweepChange
from agent.control.store.sweeps import SweepRecord
from agent.model.errors import ConflictError, InvalidInputError, NotFoundError
from agent.model.spec import Json
from tests.contract.store.world import World, open_world

GRID = """
method: grid
metric: {name: score, goal: minimize}
parameters:
  x: {values: [1, 2]}
  y: {value: a}
"""
#: Those that wait for a lock.
WAITING = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
)
NOBODY = frozenset[str]()


async def sweep(world: World, grid: str = GRID, **more: str) -> SweepRecord:
    change = SweepChange(SweepConfig.parse(grid), **more)
    return await world.plane.sweeps.insert(world.me, None, "p", change)


async def agent(world: World, made: SweepRecord) -> str:
    return await world.plane.sweeps.add_agent(world.me, None, "p", made.name, "host")


async def beat(world: World, agent_id: str, *live: str) -> Sequence[Json]:
    return await world.plane.sweeps.heartbeat(world.me, agent_id, frozenset(live))


async def state(world: World, made: SweepRecord) -> str:
    found = await world.plane.sweeps.get(world.me, "ann", "p", made.name)
    assert found is not None
    return await world.plane.sweeps.state(found)


async def run(world: World, name: str, score: float) -> None:
    change = RunChange(summary={"score": score}, sweep=None)
    await world.plane.runs.upsert(world.me, change, project="p", name=name)
    await world.plane.runs.upsert(world.me, RunChange(state="finished"), project="p", name=name)


async def test_each_combination_is_given_once_and_the_best_is_found(world: World) -> None:
    made = await sweep(world)
    assert await state(world, made) == "PENDING"
    one, other = await agent(world, made), await agent(world, made)
    assert await state(world, made) == "RUNNING"
    (first,), (second,) = await beat(world, one), await beat(world, other)
    assert [first["args"], second["args"]] == [
        {"x": {"value": 1}, "y": {"value": "a"}},
        {"x": {"value": 2}, "y": {"value": "a"}},
    ]
    # An agent that has its run gets nothing else.
    assert await beat(world, one, first["run_id"]) == []
    pending = await world.plane.runs.get(world.me, "ann", "p", first["run_id"])
    assert pending is not None
    assert (pending.state, pending.sweep, pending.config) == ("pending", made.name, first["args"])
    assert await state(world, made) == "RUNNING"
    await run(world, first["run_id"], 0.5)
    await run(world, second["run_id"], 0.25)
    assert await beat(world, one) == [{"type": "exit"}]
    assert await beat(world, other) == [{"type": "exit"}]
    assert await state(world, made) == "FINISHED"
    (listed,) = (await world.plane.sweeps.list(world.me, "ann", "p")).rows
    assert (listed.run_count, listed.combinations) == (2, 2)
    assert await world.plane.sweeps.best(listed) == 0.25


async def test_a_run_is_offered_again_until_the_agent_has_it(world: World) -> None:
    made = await sweep(world)
    asking = await agent(world, made)
    (first,) = await beat(world, asking)
    assert await beat(world, asking) == [first]
    assert await beat(world, asking) == [first]
    # Its program ends without a run: the next combination, not the same for ever.
    (second,) = await beat(world, asking)
    assert second["run_id"] != first["run_id"]
    assert await beat(world, asking, second["run_id"]) == []
    assert await beat(world, asking) == [{"type": "exit"}]


@pytest.mark.postgres
async def test_two_heartbeats_of_an_agent_at_once_get_one_combination(
    new_postgres_database: str, tmp_path: Path
) -> None:
    """A client repeats one whose answer is slow; both wait for the sweep."""
    config = ControlConfig(data_dir=tmp_path, database_url=new_postgres_database)
    async with open_world(config) as world:
        made = await sweep(world)
        asking = await agent(world, made)
        read = world.plane.database.read
        holding = await asyncpg.connect(new_postgres_database)
        async with asyncio.timeout(60):
            async with holding.transaction():
                await holding.execute("SELECT 1 FROM sweeps FOR UPDATE")
                both = [asyncio.create_task(beat(world, asking)) for _ in range(2)]
                while await read(lambda tx: tx.run(text(WAITING)).scalar_one()) < 2:
                    await asyncio.sleep(0)
            first, second = await asyncio.gather(*both)
        await holding.close()
        assert first == second


async def test_a_sweep_is_paused_resumed_and_cancelled(world: World) -> None:
    made = await sweep(world)
    asking = await agent(world, made)
    change = world.plane.sweeps.change
    await change(world.me, made.id, SweepChange(state="PAUSED"))
    assert await beat(world, asking) == []
    await change(world.me, made.id, SweepChange(state="RUNNING"))
    (first,) = await beat(world, asking)
    await change(world.me, made.id, SweepChange(state="CANCELED"))
    assert await beat(world, asking, first["run_id"]) == [{"type": "exit"}]
    with pytest.raises(ConflictError, match="is CANCELED"):
        await change(world.me, made.id, SweepChange(state="PAUSED"))
    with pytest.raises(ConflictError, match="stays as it is"):
        await change(world.me, made.id, SweepChange(SweepConfig.parse(GRID)))
    with pytest.raises(InvalidInputError, match="cannot be 'WRONG'"):
        await change(world.me, made.id, SweepChange(state="WRONG"))


async def test_others_neither_see_a_sweep_nor_take_its_runs(world: World) -> None:
    made = await sweep(world)
    asking = await agent(world, made)
    await world.plane.accounts.create_user(world.me, "eve")
    key = await world.plane.accounts.create_key(world.me, "laptop", user="eve")
    eve = await world.plane.accounts.authenticate(key.secret)
    sweeps = world.plane.sweeps
    assert await sweeps.get(eve, "ann", "p", made.name) is None
    with pytest.raises(NotFoundError):
        await sweeps.list(eve, "ann", "p")
    with pytest.raises(NotFoundError):
        await sweeps.heartbeat(eve, asking, NOBODY)
    with pytest.raises(NotFoundError):
        await sweeps.add_agent(eve, "ann", "p", made.name, "host")
    with pytest.raises(NotFoundError):
        await sweeps.change(eve, made.id, SweepChange(state="CANCELED"))
    with pytest.raises(NotFoundError, match="no sweep 'other'"):
        await sweeps.add_agent(world.me, "ann", "p", "other", "host")
