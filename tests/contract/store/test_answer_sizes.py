"""What one request may read: refused before it is in memory."""

import asyncio

import pytest

from agent.control.services.runs import RunChange
from agent.control.store.items import Submission
from agent.control.store.tx import READ_BUDGET, AnswerTooLargeError, ReadBudget
from agent.model.errors import ConflictError, InvalidInputError
from tests.contract.store.world import IMAGE, World

MANY = 60
LARGE = {"overrides": {"run_config": {"text": "x" * 20_000}}}


async def limited(limit: int, read):
    """As the handler of a query does it: within a task of its own."""

    async def go():
        READ_BUDGET.set(ReadBudget(limit))
        return await read()

    return await asyncio.create_task(go())


async def change(world: World, name: str, **values) -> None:
    await world.plane.runs.upsert(world.me, RunChange(**values), project="demo", name=name)


async def test_a_page_of_large_documents_is_refused_with_what_to_do(world: World) -> None:
    for _ in range(MANY):
        await world.submit(LARGE)
    list_ = world.plane.items.list
    with pytest.raises(AnswerTooLargeError, match=r"smaller pages \(`first`\)"):
        await limited(500_000, lambda: list_(world.me, first=1000))
    page = await limited(500_000, lambda: list_(world.me, first=10))
    assert (len(page.rows), page.has_next, page.total) == (10, True, MANY)
    assert len((await list_(world.me, first=1000)).rows) == MANY


async def test_many_small_rows_count_as_well(world: World) -> None:
    for _ in range(MANY):
        await world.submit()
    with pytest.raises(AnswerTooLargeError):
        await limited(MANY * 200, lambda: world.plane.items.list(world.me, first=1000))


async def test_what_several_reads_of_one_request_take_is_added(world: World) -> None:
    item = await world.submit(LARGE)

    async def several():
        return [await world.plane.items.get(world.me, item.id) for _ in range(10)]

    with pytest.raises(AnswerTooLargeError):
        await limited(100_000, several)
    assert len(await limited(500_000, several)) == 10


async def test_runs_and_versions_are_measured_as_well(world: World) -> None:
    for number in range(30):
        await change(world, f"run{number}", config={"text": "x" * 20_000})
    listed = world.plane.runs.list
    with pytest.raises(AnswerTooLargeError):
        await limited(300_000, lambda: listed(world.me, None, "demo", first=100))


async def test_a_document_that_is_too_large_is_not_stored(world: World) -> None:
    with pytest.raises(InvalidInputError, match="The launch spec has"):
        await world.submit({"overrides": {"run_config": {"text": "x" * 2 * 1024**2}}})
    with pytest.raises(InvalidInputError, match="a file or an artifact"):
        await change(world, "run", config={"text": "x" * 9 * 1024**2})
    with pytest.raises(InvalidInputError, match="a file or an artifact"):
        await change(world, "run", notes="x" * 2 * 1024**2)
    assert (await world.plane.items.list(world.me)).total == 0


async def test_an_entity_has_a_limit_of_waiting_items(store_config, world: World) -> None:
    """Of its own: another entity's items do not count, nor those that have started or ended."""
    object.__setattr__(world.plane.config, "max_waiting", 3)
    first, *_ = [await world.submit(key=str(number)) for number in range(3)]
    with pytest.raises(ConflictError, match=r"3 items of 'ann' are waiting"):
        await world.submit()
    assert await world.submit(key="0") == first
    await world.plane.accounts.create_team(world.me, "team")
    other = Submission("team", None, "default", IMAGE)
    await world.plane.items.submit(world.me, other)
    agent = await world.agent()
    await agent.claim()
    await world.submit()


async def test_the_limit_of_waiting_items_holds_whoever_else_submits(
    store_config, world: World
) -> None:
    """To within one percent, and once it is reached, for every further submission."""
    object.__setattr__(world.plane.config, "max_waiting", 200)
    await world.plane.accounts.create_team(world.me, "team")
    other = Submission("team", None, "default", IMAGE)
    for _ in range(200):
        await world.submit()
    refused = 0
    for _ in range(6):
        try:
            await world.submit()
        except ConflictError:
            refused += 1
        await world.plane.items.submit(world.me, other)
    assert refused >= 4
    assert (await world.plane.items.list(world.me, "ann")).total <= 202
