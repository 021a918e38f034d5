"""Queues, their templates, and their removal."""

import pytest

from agent.model.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
)
from agent.model.phase import Phase
from tests.contract.store.world import World

VARIABLES = {"cores": {"schema": {"type": "number"}, "description": "how many"}}
CONFIG = {"resource_args": {"local-container": {"cpus": "{{cores}}"}}}


async def test_a_saved_queue_is_found_by_name_and_id(world: World) -> None:
    saved = await world.queue("train", config=CONFIG, template_variables=VARIABLES)
    assert await world.plane.queues.get(world.me, None, "train") == saved
    assert await world.plane.queues.by_id(world.me, saved.id) == saved
    assert (saved.prioritization, saved.template_variables) == ("V0", VARIABLES)
    assert await world.plane.queues.list(world.me) == (saved,)


async def test_saving_again_changes_what_is_given(world: World) -> None:
    first = await world.queue("train", config=CONFIG, template_variables=VARIABLES)
    links = {"links": [{"label": "docs", "url": "https://example.org"}]}
    second = await world.queue("train", external_links=links, prioritization="DISABLED")
    assert (second.id, second.config, second.external_links) == (first.id, CONFIG, links)
    with pytest.raises(AlreadyExistsError, match="queue 'train'"):
        await world.queue("train", mode="CREATE")
    with pytest.raises(NotFoundError, match="Did you mean `train`"):
        await world.queue("trian", mode="UPDATE")


async def test_switching_priorities_off_levels_what_is_queued(world: World) -> None:
    item = await world.submit(priority=0)
    await world.queue("default", prioritization="DISABLED")
    assert (await world.item(item)).priority == 2


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"name": "-"}, "cannot be the name"),
        ({"name": "x" * 65}, "cannot be the name"),
        ({"resource": "lo cal"}, "cannot be the name of a resource"),
        ({"config": []}, "`config` is a list"),
        ({"config": {"resource_args": 1}}, "`config.resource_args` is a int"),
        ({"config": {"resource_args": {"x": {}}}}, "`config.resource_args` has .x."),
        ({"config": {"resource_args": {"kubernetes": []}}}, "kubernetes` is a list"),
        ({"config": {"resource_args": {"kubernetes": {}}}}, "the queue's resource is"),
        ({"config": CONFIG}, "does not declare"),
        ({"template_variables": VARIABLES}, "no `{{cores}}` uses it"),
        ({"template_variables": []}, "`templateVariables` is a list"),
        ({"template_variables": {"cores": {}}}, "`templateVariables.cores` has no `schema`"),
        (
            {"template_variables": {"cores": {"schema": {"type": "nonsense"}}}},
            r"`templateVariables.cores.schema.type`",
        ),
    ],
)
async def test_a_queue_that_cannot_be_is_refused(world: World, how, message) -> None:
    with pytest.raises(InvalidInputError, match=message):
        await world.queue(**{"name": "train", **how})
    assert await world.plane.queues.list(world.me) == ()


async def test_wandbs_queues_have_no_priorities_unless_asked_for(world: World) -> None:
    plain = await world.plane.queues.create_wandb(world.me, "ann", "plain", access="USER")
    assert (plain.prioritization, plain.access, plain.resource) == ("DISABLED", "USER", None)
    with pytest.raises(AlreadyExistsError):
        await world.plane.queues.create_wandb(world.me, "ann", "plain")
    config = await world.plane.projects.create_resource_config(
        world.me, "ann", "local-container", CONFIG, VARIABLES
    )
    made = await world.plane.queues.create_wandb(
        world.me, "ann", "made", prioritization="V0", resource_config_id=config.id
    )
    assert (made.config, made.resource_config_id) == (CONFIG, config.id)
    assert await world.plane.projects.resource_config(world.me, "ann", config.id) == config
    assert await world.plane.projects.resource_config(world.me, "ann", "x") is None
    assert await world.plane.projects.resource_config(world.me, "ann", "y") is None
    with pytest.raises(NotFoundError, match="default resource config"):
        await world.plane.queues.create_wandb(world.me, "ann", "x", resource_config_id="x")


async def test_wandbs_upsert_complains_and_saves(world: World) -> None:
    upsert = world.plane.queues.upsert_wandb
    how = {"resource": "local-container", "config": CONFIG}
    (complaint,) = await upsert(world.me, "ann", "q", **how)
    assert "cores" in complaint
    assert await upsert(world.me, "ann", "q", template_variables=VARIABLES, **how) == ()
    saved = await world.plane.queues.get(world.me, "ann", "q")
    assert (saved.template_variables, saved.prioritization) == (VARIABLES, "DISABLED")


async def test_a_queue_with_live_items_is_deleted_by_force_only(world: World) -> None:
    agent = await world.agent()
    held, queued = await world.submit(), await world.submit()
    claim = await agent.claim_one()
    with pytest.raises(ConflictError, match="not over: 2"):
        await world.plane.queues.delete(world.me, None, "default")
    await world.plane.queues.delete(world.me, None, "default", force=True)
    assert (await world.item(queued)).phase is Phase.STOPPED
    asked = await world.item(held)
    assert (asked.stop_requested, asked.queue, asked.queue_id) == (True, "default", None)
    await agent.release(claim)
    assert (await world.item(held)).phase is Phase.STOPPED
    with pytest.raises(ConflictError, match="was deleted"):
        await world.plane.items.retry(world.me, held.id)


async def test_wandb_deletes_queues_by_id(world: World) -> None:
    one, two = await world.queue("one"), await world.queue("two")
    await world.plane.queues.delete_ids(world.me, [one.id, two.id])
    assert await world.plane.queues.list(world.me) == ()
    with pytest.raises(NotFoundError):
        await world.plane.queues.delete_ids(world.me, [one.id])


async def test_items_are_counted_by_queue_and_phase(world: World) -> None:
    agent = await world.agent()
    for _ in range(3):
        await world.submit()
    await agent.claim_one()
    queue = await world.plane.queues.get(world.me, None, "default")
    empty = await world.queue("empty")
    counts = await world.plane.queues.counts(world.me, [queue.id, empty.id])
    assert counts == {queue.id: {Phase.QUEUED: 2, Phase.LEASED: 1}}


async def test_projects_are_found_made_and_listed(world: World) -> None:
    projects = world.plane.projects
    made, inserted = await projects.upsert(world.me, None, "vision")
    again, inserted_again = await projects.upsert(world.me, "ann", "vision")
    assert (made, inserted, inserted_again) == (again, True, False)
    page = await projects.list(world.me, None, after=None, first=2)
    assert ([one.name for one in page.rows], page.total) == (["default", "model-registry"], 3)
    rest = await projects.list(world.me, None, after=page.end_cursor, first=2)
    assert ([one.name for one in rest.rows], rest.has_next) == (["vision"], False)
    assert await projects.get(world.me, "nobody", "vision") is None
    assert await projects.get(world.me, None, "unknown") is None
    with pytest.raises(InvalidInputError):
        await projects.upsert(world.me, None, "a/b")


async def test_a_resource_without_a_built_in_runner_is_a_warning(world: World) -> None:
    made = await world.queue("ours", resource="our-plugin")
    assert made.resource == "our-plugin"
    (problem,) = await world.plane.queues.upsert_wandb(
        world.me, "ann", "ours", resource="our-plugin", config={}
    )
    assert "'our-plugin'" in problem
    for resource in ("local-container", "local-process", "kubernetes"):
        assert f"'{resource}'" in problem
        upsert = world.plane.queues.upsert_wandb
        assert await upsert(world.me, "ann", resource, resource=resource, config={}) == ()
