"""Lists of items, of agents and of a job's runs."""

import html
import re

from agent.control.store.accounts import Role
from tests.integration.pages.jobs import IMAGE, stored_job
from tests.integration.pages.test_jobs import field, send
from tests.integration.pages.test_pages import page, words


def names(markup: str) -> list[str]:
    """The names of the items that are listed."""
    return re.findall(r'data-label="Name"><a href="[^"]+">([^<]+)<', markup)


def link(rel: str, markup: str) -> str:
    found = re.search(rf'href="([^"]+)"[^>]*rel="{rel}"', markup)
    assert found, f"no link '{rel}'"
    return html.unescape(found[1])


async def test_items_of_all_queues_are_found_by_name_queue_phase_job_and_author(scene, sign_in):
    await scene.queue("gpu")
    await stored_job(scene, "train", IMAGE)
    await scene.submit("resnet one")
    await scene.submit("resnet two", "gpu")
    await scene.submit("", docker={}, job="ada/default/train:latest")
    await scene.submit("")
    session = await sign_in(scene.ada)

    async def listed(query: str) -> list[str]:
        return names(await page(session, f"/launch/items{query}"))

    assert await listed("") == ["image:1", "train", "resnet two", "resnet one"]
    assert await listed("?find=RESNET") == ["resnet two", "resnet one"]
    assert await listed("?queue=gpu") == ["resnet two"]
    assert await listed("?job=train") == ["train"]
    assert await listed("?job=ada/default/train&phase=waiting&author=ada") == ["train"]
    assert await listed("?phase=running") == []
    assert await listed("?author=nobody") == []
    text = words(await page(session, "/launch/items?find=nothing"))
    assert "No item is like that." in text


async def test_a_list_keeps_its_place_and_its_filters(scene, sign_in):
    for number in range(103):
        await scene.submit(f"item-{number}")
        await scene.submit("other")
    session = await sign_in(scene.ada)
    path = "/launch/queues/ada/default"

    first = await page(session, f"{path}?find=item-&author=ada")
    second = await page(session, path + link("next", first))
    await scene.submit("item-new")
    again = await page(session, path + link("next", first))
    third = await page(session, path + link("next", second))
    back = await page(session, path + link("prev", third))

    assert names(again) == names(second) == [f"item-{n}" for n in range(52, 2, -1)]
    assert names(third) == ["item-2", "item-1", "item-0"]
    assert names(back) == names(second)
    assert 'value="item-"' in third
    assert 'rel="next"' not in third


async def test_a_hidden_entity_lists_nothing(scene, sign_in):
    await scene.plane.accounts.create_team(scene.ada.principal, "vision")
    session = await sign_in(await scene.person("vic", "vision", Role.VIEWER))
    for path in ("/launch/items?entity=ada", "/launch/agents?entity=ada"):
        async with session.get(path) as answer:
            assert answer.status == 404


async def test_agents_have_a_page_with_queues_and_jobs(scene, sign_in):
    await scene.submit("train")
    agent = await scene.agent()
    await scene.claim(agent)
    session = await sign_in(scene.ada)

    markup = await page(session, "/launch/agents")

    assert f'href="/launch/agents/{agent.id}"' in markup
    assert "box POLLING default train box.example" in words(markup)
    assert '<a href="/launch/agents" aria-current="page">' in markup


async def test_a_jobs_page_lists_the_runs_of_all_its_versions(scene, sign_in):
    await stored_job(scene, "train", IMAGE)
    await stored_job(scene, "train", IMAGE | {"runtime": "3.12"})
    await stored_job(scene, "other", IMAGE)
    for number in range(51):
        job = f"ada/default/train:v{number % 2}"
        await scene.submit(f"run-{number}", docker={}, job=job)
    await scene.submit("not-this", docker={}, job="ada/default/other:latest")
    session = await sign_in(scene.ada)
    path = "/launch/jobs/ada/default/train"

    first = await page(session, f"{path}?version=v0")
    second = await page(session, path + link("next", first))

    assert names(first) == [f"run-{n}" for n in range(50, 0, -1)]
    assert names(second) == ["run-0"]
    assert "version=v0" in link("prev", second)


async def test_variables_of_a_queue_are_fields_of_the_launch_form(scene, sign_in):
    await stored_job(scene, "train", IMAGE)
    await scene.queue(
        "gpu",
        config={"resource_args": {"local-process": {"size": "{{size}}", "count": "{{count}}"}}},
        template_variables={
            "size": {"schema": {"type": "string", "enum": ["small", "large"]}},
            "count": {"schema": {"type": "integer", "default": 2, "maximum": 4}},
        },
    )
    session = await sign_in(scene.ada)
    path = "/launch/jobs/ada/default/train"
    markup = await page(session, path)
    size, count = field("size", markup), field("count", markup)

    missing = await send(session, path, {"queue": "gpu", count: "2"})
    high = await send(session, path, {"queue": "gpu", size: '"small"', count: "9"})
    sent = await send(session, path, {"queue": "gpu", size: '"large"', count: "3"})

    assert (missing[0], high[0]) == (422, 422)
    assert "A value is required." in missing[2]
    assert "Template variable `count`: 9 breaks the rule `maximum: 4`" in html.unescape(high[2])
    item = await scene.plane.items.get(scene.ada.principal, sent[1].rpartition("/")[2])
    assert item.run_spec["resource_args"]["local-process"] == {"size": "large", "count": 3}
