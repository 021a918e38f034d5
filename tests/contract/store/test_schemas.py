"""Schemas of users: nothing is fetched, nobody waits for a check of another one's."""

import asyncio
import socket
from typing import Any

import pytest

from agent.control.store.items import Submission
from agent.model.errors import InvalidInputError
from tests.contract.store.world import IMAGE, World

PLACEHOLDER = {"resource_args": {"local-container": {"env": ["A={{x}}"]}}}


def slow() -> dict[str, Any]:
    """A schema whose check uses all the steps there are."""
    definitions: dict[str, Any] = {"d40": {"type": "integer"}}
    for level in range(40):
        definitions[f"d{level}"] = {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2}
    return {"$defs": definitions, "$ref": "#/$defs/d0"}


async def queue(world: World, name: str, schema: dict[str, Any]) -> None:
    await world.queue(name, config=PLACEHOLDER, template_variables={"x": {"schema": schema}})


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.mark.parametrize("place", [lambda r: r, lambda r: {"properties": {"a": {"anyOf": [r]}}}])
async def test_nobody_is_called_for_a_reference(world: World, listener, place) -> None:
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/schema.json"
    for target in (url, "file:///etc/passwd"):
        with pytest.raises(InvalidInputError, match="outside of the schema"):
            await queue(world, "q", place({"$ref": target}))
        with pytest.raises(InvalidInputError, match="outside of the schema"):
            await world.plane.projects.create_resource_config(
                world.me, "ann", "local-container", PLACEHOLDER, {"x": {"schema": {"$ref": target}}}
            )
    assert await world.plane.queues.list(world.me) == ()
    with pytest.raises(BlockingIOError):
        listener.accept()


async def test_a_check_without_end_is_refused_everywhere(world: World) -> None:
    await queue(world, "slow", slow())
    await queue(world, "quick", {"type": "integer"})
    with pytest.raises(InvalidInputError, match=r"more steps than are allowed"):
        await world.submit(queue="slow", variables={"x": 1})
    wanted = Submission("ann", None, "slow", IMAGE, {"x": 1})
    with pytest.raises(InvalidInputError, match=r"more steps than are allowed"):
        await world.plane.items.dry_run(world.me, wanted)
    item = await world.submit(queue="quick", variables={"x": 1})
    with pytest.raises(InvalidInputError, match=r"more steps than are allowed"):
        await world.plane.items.move(world.me, item.id, "slow")
    assert (await world.item(item)).queue == "quick"


async def test_others_write_while_a_check_is_made(world: World) -> None:
    await queue(world, "slow", slow())
    await world.submit()
    hostile = asyncio.create_task(world.submit(queue="slow", variables={"x": 1}))
    served = 0
    while not hostile.done():
        await world.submit()
        served += 1
    with pytest.raises(InvalidInputError):
        await hostile
    assert served >= 3


async def test_a_refused_value_does_not_use_the_idempotency_key_up(world: World) -> None:
    await queue(world, "q", {"type": "integer"})
    with pytest.raises(InvalidInputError, match="breaks the rule"):
        await world.submit(queue="q", variables={"x": "a"}, key="k")
    one = await world.submit(queue="q", variables={"x": 1}, key="k")
    assert await world.submit(queue="q", variables={"x": 1}, key="k") == one
    assert (await world.plane.items.list(world.me)).total == 1


async def test_a_schema_that_changes_meanwhile_is_the_one_that_counts(world: World) -> None:
    """The check of the old schema does not let the value pass the new one."""
    await queue(world, "q", {"type": "integer"})
    checker, changed = world.plane.checker, []
    run = checker.run

    async def change_first(work: Any) -> Any:
        if not changed:
            changed.append(True)
            await queue(world, "q", {"type": "integer", "maximum": 4})
        return await run(work)

    checker.run = change_first
    with pytest.raises(InvalidInputError, match="maximum: 4"):
        await world.submit(queue="q", variables={"x": 5})
    assert (await world.plane.items.list(world.me)).total == 0
