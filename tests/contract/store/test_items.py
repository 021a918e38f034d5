"""Submitting, looking, stopping, retrying, moving."""

import asyncio
from dataclasses import replace

import pytest

from agent.control.store.item_lists import ItemFilter
from agent.control.store.items import Submission
from agent.model.cause import Cause
from agent.model.errors import ConflictError, InvalidInputError, NotFoundError
from agent.model.phase import Phase
from tests.contract.store.world import IMAGE, World

GPU_QUEUE = {
    "config": {"resource_args": {"local-container": {"gpus": "{{gpus}}", "env": ["A={{gpus}}"]}}},
    "template_variables": {
        "gpus": {"schema": {"type": "integer", "minimum": 0, "maximum": 4, "default": 1}}
    },
}


async def test_a_submission_is_merged_with_its_queues_template(world: World) -> None:
    await world.queue("gpu", **GPU_QUEUE)
    item = await world.submit(
        {"resource_args": {"local-container": {"memory": "1g"}}, "name": "x"},
        queue="gpu",
        variables={"gpus": 2},
    )
    arguments = item.run_spec["resource_args"]["local-container"]
    assert arguments == {"gpus": 2, "env": ["A=2"], "memory": "1g"}
    assert (item.demand.gpus, item.demand.memory) == (2, 1024**3)
    assert (item.author, item.project, item.run_spec["entity"]) == ("ann", "default", "ann")
    assert await world.plane.projects.get(world.me, None, "default") is not None


async def test_a_claim_carries_who_set_what(world: World) -> None:
    await world.queue("gpu", **GPU_QUEUE)
    agent = await world.agent(queues=("gpu",))
    await world.submit({"name": "x", "resources": {"gpus": 0}}, queue="gpu")
    from agent.model.capacity import Capacity

    (claim,) = await agent.claim(free=Capacity(slots=1, gpus=("0",)))
    template = {"resource_args": {"local-container": {"gpus": 1, "env": ["A=1"]}}}
    assert claim.layers["queue"] == template
    assert claim.layers["submitter"] == {**IMAGE, "name": "x", "resources": {"gpus": 0}}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"gpus": 9}, r"`gpus`: 9 breaks the rule `maximum: 4`"),
        ({"gpus": "two"}, r"Template variable `gpus`: \"two\" breaks the rule `type: \"integer\"`"),
        ({"gpu": 1}, r"no template variable 'gpu'.*Did you mean `gpus`"),
    ],
)
async def test_wrong_template_variables_are_named(world: World, variables, message) -> None:
    await world.queue("gpu", **GPU_QUEUE)
    with pytest.raises(InvalidInputError, match=message):
        await world.submit(queue="gpu", variables=variables)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"timeout": "soon"}, "soon"),
        ({"retries": -1}, "retries"),
        ({"on_lost": "perhaps"}, "on_lost"),
        ({"resource": "local container"}, "cannot be the name of a resource"),
    ],
)
async def test_a_wrong_spec_is_refused_and_leaves_nothing(world: World, spec, message) -> None:
    with pytest.raises(InvalidInputError, match=message):
        await world.submit(spec)
    assert (await world.plane.items.list(world.me)).total == 0


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter2secret@git.example/r.git",
        "ssh://user:hunter2secret@git.example:2/r",
        "https://:hunter2secret@git.example/r",
        "https://ghp_hunter2secret1234567@github.com/r",
        "ftp://u:hunter2secret@h:port/r",
    ],
)
async def test_a_repositorys_address_with_a_password_is_refused_and_not_shown(
    world: World, url: str
) -> None:
    with pytest.raises(InvalidInputError, match="password or token") as refused:
        await world.submit({"docker": {}, "source": {"type": "git", "url": url}})
    assert "hunter2secret" not in str(refused.value)
    for allowed in ("https://org@dev.azure.com/r", "git@host:r.git", "ssh://git@host/r"):
        await world.submit({"docker": {}, "source": {"type": "git", "url": allowed}})


async def test_an_unknown_queue_is_an_error_that_offers_near_misses(world: World) -> None:
    await world.queue("training")
    with pytest.raises(
        NotFoundError, match=r"no queue 'trainig' in 'ann'. Did you mean `training`"
    ):
        await world.submit(queue="trainig")


async def test_an_unknown_entity_is_an_error(world: World) -> None:
    wanted = Submission(entity="nobody", project=None, queue="default", run_spec=IMAGE)
    with pytest.raises(NotFoundError, match="no entity 'nobody'"):
        await world.plane.items.submit(world.me, wanted)


async def test_the_queue_default_is_made_on_demand(world: World) -> None:
    item = await world.submit()
    queue = await world.plane.queues.get(world.me, None, "default")
    assert (item.queue_id, queue.resource, queue.prioritization) == (queue.id, None, "V0")
    await world.agent()
    queue = await world.plane.queues.get(world.me, None, "default")
    assert queue.resource == "local-container"


async def test_the_queues_resource_wins_and_says_so(world: World) -> None:
    await world.queue("processes", resource="local-process")
    item = await world.submit({"resource": "local-container"}, queue="processes")
    assert item.resource == "local-process"
    assert "local-container was not used" in item.warnings[0]


async def test_arguments_for_another_resource_are_told_to_have_no_effect(world: World) -> None:
    await world.queue("here", resource="local-container")
    elsewhere = {"kubernetes": {"namespace": "ml"}}
    item = await world.submit({"resource_args": elsewhere}, queue="here")
    assert item.warnings == (
        "The job runs on local-container; the submitted arguments for kubernetes were not used.",
    )
    both = {**elsewhere, "local-container": {"memory": "1g"}}
    assert (await world.submit({"resource_args": both}, queue="here")).warnings == ()
    (told,) = (await world.submit({"resource_args": {**both, "docker": {"env": ["A=1"]}}},
                                  queue="here")).warnings  # fmt: skip
    assert "the submitted arguments for docker were not used. Built in are 'local-con" in told
    await world.submit(queue="default")  # has no resource until an agent comes
    (told,) = (await world.submit({"resource_args": {"docker": {"a": 1}}})).warnings
    assert told.startswith("No built-in runner runs 'docker'")


async def test_words_that_only_a_shell_understands_are_told(world: World) -> None:
    words = ["python", "main.py", "|", "tee", "log"]
    (told,) = (await world.submit({"overrides": {"entry_point": words}})).warnings
    assert told.startswith("No shell runs the entry point: '|' is passed on as it is.")


async def test_an_idempotency_key_gives_the_same_item_back(world: World) -> None:
    one = await world.submit(key="k")
    assert await world.submit(key="k") == one
    with pytest.raises(ConflictError, match="another submission"):
        await world.submit({"name": "other"}, key="k")
    with pytest.raises(InvalidInputError):
        await world.submit(key="")
    assert (await world.plane.items.list(world.me)).total == 1


async def test_the_same_key_at_once_makes_one_item(world: World) -> None:
    await world.queue("default")
    items = await asyncio.gather(*(world.submit(key="k") for _ in range(8)))
    assert len({item.id for item in items}) == 1
    assert (await world.plane.items.list(world.me)).total == 1


async def test_a_failed_submission_does_not_use_its_key_up(world: World) -> None:
    with pytest.raises(NotFoundError):
        await world.submit(queue="later", key="k")
    await world.queue("later")
    assert (await world.submit(queue="later", key="k")).phase is Phase.QUEUED


async def test_a_priority_needs_a_queue_that_has_them(world: World) -> None:
    await world.plane.queues.create_wandb(world.me, "ann", "plain")
    with pytest.raises(InvalidInputError, match="no priorities"):
        await world.submit(queue="plain", priority=0)
    assert (await world.submit(queue="plain", priority=2)).priority == 2
    with pytest.raises(InvalidInputError, match="no priority 7"):
        await world.submit(priority=7)


async def test_a_key_inside_a_spec_is_shown_to_agents_only(world: World) -> None:
    agent = await world.agent()
    item = await world.submit({"_wandb_api_key": "secret"})
    assert item.run_spec["_wandb_api_key"] == "***"
    assert (await agent.claim_one()).run_spec["_wandb_api_key"] == "secret"


async def test_items_are_listed_newest_first_page_by_page(world: World) -> None:
    await world.queue("other")
    items = [await world.submit() for _ in range(5)]
    await world.submit(queue="other")
    newest = [item.id for item in reversed(items)]
    first = await world.plane.items.list(world.me, queue="default", first=3)
    assert [item.id for item in first.rows] == newest[:3]
    assert (first.has_next, first.total) == (True, 5)
    rest = await world.plane.items.list(world.me, queue="default", first=3, after=first.end_cursor)
    assert ([item.id for item in rest.rows], rest.has_next) == (newest[3:], False)
    await world.plane.items.stop(world.me, items[0].id)
    stopped = await world.plane.items.list(world.me, narrow=ItemFilter(phases=[Phase.STOPPED]))
    assert [item.id for item in stopped.rows] == [items[0].id]
    assert (await world.plane.items.list(world.me, after="")).total == 6


async def test_pages_of_items_are_turned_back_to_where_they_were(world: World) -> None:
    items = [await world.submit() for _ in range(5)]
    newest = [item.id for item in reversed(items)]
    first = await world.plane.items.list(world.me, first=2)
    second = await world.plane.items.list(world.me, first=2, after=first.end_cursor)
    await world.submit()
    back = await world.plane.items.list(world.me, first=2, before=second.start_cursor)
    assert [item.id for item in back.rows] == newest[:2]
    assert (back.has_previous, back.has_next) == (True, True)
    third = await world.plane.items.list(world.me, first=2, after=second.end_cursor)
    nearest = await world.plane.items.list(world.me, first=3, before=third.start_cursor)
    assert [item.id for item in nearest.rows] == newest[1:4]


GIT = {"type": "git", "url": "https://git.example/org/repo.git", "ref": "a" * 40}
CODE = {"type": "artifact", "artifact": "wandb-artifact://ann/default/code-x:v0"}


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ({"name": "own name"}, "own name"),
        ({"source": {"type": "image", "image": "registry.example:5000/team/app:1.2"}}, "app:1.2"),
        ({"source": {"type": "image", "image": "team/app@sha256:" + "0" * 64}}, "app"),
        ({"source": None, "docker": {"docker_image": "python:3.11"}}, "python:3.11"),
        ({"source": GIT}, "repo"),
        ({"source": CODE}, "code-x"),
        ({"name": "é" * 500}, "é" * 128),
    ],
)
async def test_every_item_has_a_name_to_show(world: World, spec, name) -> None:
    item = await world.submit(spec)
    assert item.display_name == name
    found = await world.plane.items.list(world.me, narrow=ItemFilter(search=name[1:].upper()))
    assert [each.id for each in found.rows] == [item.id] or not name.isascii()


async def test_items_are_found_by_name_id_author_queue_and_phase(world: World) -> None:
    await world.queue("other")
    one = await world.submit({"name": "Train 50%_a"})
    two = await world.submit({"name": "train 50 a"}, queue="other")
    await world.plane.items.stop(world.me, two.id)

    async def ids(**how) -> set[str]:
        found = await world.plane.items.list(world.me, narrow=ItemFilter(**how))
        assert found.total == len(found.rows)
        return {item.id for item in found.rows}

    assert await ids(search="train") == {one.id, two.id}
    assert await ids(search="50%_") == {one.id}
    assert await ids(search=two.id) == {two.id}
    assert await ids(author="ann") == {one.id, two.id}
    assert await ids(author="an") == set()
    assert await ids(queue_id=two.queue_id, search="train") == {two.id}
    assert await ids(phases=[Phase.QUEUED], author="ann", search="train") == {one.id}
    assert await ids(job="nothing") == set()


@pytest.mark.parametrize("how", [{"first": 0}, {"first": 5001}, {"after": "x"}, {"before": "x"}])
async def test_a_page_that_cannot_be_is_refused(world: World, how) -> None:
    with pytest.raises(InvalidInputError):
        await world.plane.items.list(world.me, **how)


async def test_a_queued_item_is_stopped_at_once_and_stopping_twice_is_legal(world: World) -> None:
    item = await world.submit()
    stopped = await world.plane.items.stop(world.me, item.id)
    assert (stopped.phase, stopped.cause) == (Phase.STOPPED, Cause.STOPPED_BY_USER)
    assert await world.plane.items.stop(world.me, item.id) == stopped
    agent = await world.agent()
    assert await agent.claim() == ()


async def test_what_ended_badly_can_be_retried(world: World) -> None:
    agent = await world.agent()
    item = await world.submit()
    with pytest.raises(ConflictError, match="waiting: only what ended badly"):
        await world.plane.items.retry(world.me, item.id)
    claim = await agent.claim_one()
    await agent.start(claim)
    await agent.finish(claim, Phase.FAILED, Cause.RUN_EXIT_CODE, "exit code 2", 2)
    again = await world.plane.items.retry(world.me, item.id)
    assert (again.phase, again.attempt, again.exit_code) == (Phase.QUEUED, 2, None)
    second = await agent.claim_one()
    assert second.lease == type(second.lease)(item.id, 2, 2)
    await agent.start(second)
    await agent.finish(second, exit_code=0)
    with pytest.raises(ConflictError, match="succeeded"):
        await world.plane.items.retry(world.me, item.id)
    attempts = await world.plane.items.attempts(world.me, item.id)
    assert [(one.number, one.exit_code) for one in attempts] == [(1, 2), (2, 0)]
    await world.history(item)


async def test_a_repeated_change_of_an_item_changes_nothing(world: World) -> None:
    """A command repeats a call whose answer was lost."""
    agent = await world.agent()
    item = await world.submit()
    for attempt in (1, 2):
        claim = await agent.claim_one()
        await agent.start(claim)
        await agent.finish(claim, Phase.FAILED, Cause.RUN_EXIT_CODE, "exit code 2", 2)
        # The second round: the attempt that was opened has ended when the repeat arrives.
        again = await world.plane.items.retry(world.me, item.id, 1)
        assert (again.phase, again.attempt) == (
            (Phase.QUEUED, 2) if attempt == 1 else (Phase.FAILED, 2)
        )
    again = await world.plane.items.retry(world.me, item.id, 2)
    assert (again.phase, again.attempt) == (Phase.QUEUED, 3)
    await world.queue("other")
    for _ in range(2):
        await world.plane.items.set_priority(world.me, item.id, 1)
        await world.plane.items.move(world.me, item.id, "other")
    texts = [event.text for event in await world.plane.items.events(world.me, item.id)]
    assert texts.count("moved from default to other") == 1
    assert texts.count("priority 2 → 1") == 1
    assert texts.count("retried") == 2


async def test_a_person_retrying_renews_the_tries_that_policy_has(world: World) -> None:
    agent = await world.agent()
    item = await world.submit({"retries": 1})
    for attempt in (1, 2):
        claim = await agent.claim_one()
        assert claim.lease.attempt == attempt
        await agent.finish(claim, Phase.ERRORED, Cause.IMAGE_UNAVAILABLE, "no")
        await world.pass_time(5)
    await world.plane.items.retry(world.me, item.id)
    claim = await agent.claim_one()
    await agent.finish(claim, Phase.ERRORED, Cause.IMAGE_UNAVAILABLE, "no")
    assert (await world.item(item)).attempt == 4


async def test_moving_applies_the_other_queues_template(world: World) -> None:
    await world.queue("gpu", **GPU_QUEUE)
    item = await world.submit({"name": "x"})
    before = await world.submit(queue="gpu")
    moved = await world.plane.items.move(world.me, item.id, "gpu")
    assert (moved.queue, moved.demand.gpus) == ("gpu", 1)
    from agent.model.capacity import Capacity

    agent = await world.agent(queues=("gpu",))
    room = Capacity(slots=9, gpus=("0", "1"))
    order = [claim.lease.item_id for claim in await agent.claim(free=room, most=9)]
    assert order == [before.id, item.id]
    with pytest.raises(ConflictError, match="only waiting items can be moved"):
        await world.plane.items.move(world.me, item.id, "default")
    await world.history(item)


async def test_the_priority_of_a_queued_item_can_change(world: World) -> None:
    first, second = await world.submit(), await world.submit()
    await world.plane.items.set_priority(world.me, second.id, 0)
    agent = await world.agent()
    assert (await agent.claim_one()).lease.item_id == second.id
    with pytest.raises(ConflictError):
        await world.plane.items.set_priority(world.me, second.id, 3)
    with pytest.raises(InvalidInputError):
        await world.plane.items.set_priority(world.me, first.id, 4)


async def test_wandbs_deletion_stops_an_item_of_that_queue_only(world: World) -> None:
    other = await world.queue("other")
    item = await world.submit()
    assert not await world.plane.items.delete(world.me, other.id, item.id)
    assert not await world.plane.items.delete(world.me, other.id, "unknown")
    assert await world.plane.items.delete(world.me, str(item.queue_id), item.id)
    assert (await world.item(item)).phase is Phase.STOPPED


async def test_an_explanation_knows_the_queue_and_its_agents(world: World) -> None:
    async def cause(item):
        return (await world.plane.items.explain(world.me, item.id)).cause

    item = await world.submit()
    assert await cause(item) is Cause.SCHEDULE_NO_AGENT
    agent = await world.agent()
    assert await cause(item) is Cause.SCHEDULE_WAITING
    await world.plane.queues.pause(world.me, None, "default", paused=True)
    assert await cause(item) is Cause.SCHEDULE_PAUSED
    await world.plane.queues.pause(world.me, None, "default", paused=False)
    claim = await agent.claim_one()
    assert await cause(item) is Cause.RUN_IN_PROGRESS
    from agent.model.capacity import Capacity

    full = await world.agent(identity="installation-alpha", capacity=Capacity(slots=1))
    assert await cause(await world.submit()) is Cause.SCHEDULE_BUSY
    agent, claim = full, full.welcome.held[0]
    await agent.start(claim)
    await agent.finish(claim, Phase.FAILED, Cause.RUN_OUT_OF_MEMORY, "killed", 137)
    assert await cause(item) is Cause.RUN_OUT_OF_MEMORY


async def test_what_an_agent_holds_can_be_listed(world: World) -> None:
    agent = await world.agent()
    item = await world.submit()
    await world.submit()
    await agent.claim_one()
    held = await world.plane.items.held_by(world.me, agent.id)
    assert [one.id for one in held] == [item.id]
    with pytest.raises(NotFoundError):
        await world.plane.items.held_by(world.me, "nobody")


async def test_template_variables_that_cannot_be(world: World) -> None:
    variables = {"n": {"schema": {"type": "integer"}}}
    config = {"resource_args": {"local-container": {"cpus": "{{n}}"}}}
    await world.queue("q", config=config, template_variables=variables)
    with pytest.raises(InvalidInputError, match="`n` has no value and no default"):
        await world.submit(queue="q")
    with pytest.raises(InvalidInputError, match="Template variables are a list"):
        await world.submit(queue="q", variables=[1])


async def test_a_resource_without_a_built_in_runner_is_a_warning(world: World) -> None:
    item = await world.submit({"resource": "local-conainer"})
    (warning,) = item.warnings
    assert "Did you mean `local-container`" in warning


async def test_a_dry_run_says_what_a_submission_would_queue_and_stores_nothing(
    world: World,
) -> None:
    await world.queue("gpu", **GPU_QUEUE)
    spec = {**IMAGE, "resource": "local-process", "_wandb_api_key": "secret", "project": "p"}
    wanted = Submission(None, None, "gpu", spec, {"gpus": 2}, priority=1)
    shown = await world.plane.items.dry_run(world.me, wanted)
    item = await world.plane.items.submit(world.me, wanted)
    assert shown.run_spec == item.run_spec
    assert (shown.entity, shown.project, shown.queue) == ("ann", "p", "gpu")
    assert (shown.priority, shown.resource, shown.demand) == (1, item.resource, item.demand)
    assert shown.warnings == item.warnings != ()
    assert shown.layers["submitter"]["_wandb_api_key"] == "***"
    assert (await world.plane.items.list(world.me)).total == 1


async def test_a_dry_run_makes_neither_queue_nor_project(world: World) -> None:
    before = await world.plane.projects.list(world.me, None, after=None, first=10)
    for queue in ("default", ""):
        shown = await world.plane.items.dry_run(world.me, Submission(None, "new", queue, IMAGE))
        assert (shown.queue, shown.project) == (queue, "new")
    assert await world.plane.queues.list(world.me) == ()
    assert await world.plane.projects.list(world.me, None, after=None, first=10) == before


async def test_a_dry_run_takes_a_job_that_is_not_stored(world: World) -> None:
    job = {"_version": "v0", "source_type": "image", "source": {"image": "repo/job:1"}}
    job |= {"input_types": {}, "output_types": {}, "runtime": "3.12"}
    wanted = Submission(None, None, "default", {"job": "ann/p/job-new:latest"})
    shown = await world.plane.items.dry_run(world.me, wanted, job)
    assert shown.run_spec["source"] == {"type": "image", "image": "repo/job:1"}
    assert shown.layers["job"]["job"] == "ann/p/job-new:latest"
    with pytest.raises(NotFoundError, match="job-new"):
        await world.plane.items.dry_run(world.me, wanted)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"queue": "gpu", "template_variables": {"gpus": 9}}, InvalidInputError),
        ({"queue": "gpv"}, NotFoundError),
        ({"run_spec": {**IMAGE, "retries": -1}}, InvalidInputError),
        ({"priority": 7}, InvalidInputError),
        ({"project": "a/b"}, InvalidInputError),
    ],
)
async def test_a_dry_run_is_refused_as_the_submission_is(world: World, changes, error) -> None:
    await world.queue("gpu", **GPU_QUEUE)
    wanted = replace(Submission(None, None, "default", IMAGE), **changes)
    with pytest.raises(error) as dry:
        await world.plane.items.dry_run(world.me, wanted)
    with pytest.raises(error) as real:
        await world.plane.items.submit(world.me, wanted)
    assert str(dry.value) == str(real.value)


async def test_a_permitted_item_that_is_pending_is_explained_by_its_cause(world: World) -> None:
    item = await world.submit()
    agent = await world.agent()
    claim = await agent.claim_one()
    await agent.permit(claim)
    await agent.advance(
        claim,
        activity="pending: 0 of 3 nodes have a GPU",
        facts={"pending_cause": "SCHEDULE_CAPACITY"},
    )
    assert (await world.item(item)).cause is Cause.SCHEDULE_CAPACITY
    explained = await world.plane.items.explain(world.me, item.id)
    assert explained.cause is Cause.SCHEDULE_CAPACITY
    assert "Activity: pending: 0 of 3 nodes have a GPU." in explained.details
    await agent.advance(claim, Phase.STARTED, activity="running")
    explained = await world.plane.items.explain(world.me, item.id)
    assert explained.cause is Cause.RUN_IN_PROGRESS
