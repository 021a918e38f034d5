"""The page of a project, read as text and used without scripts."""

import html
import json
import re

import aiohttp
import pytest

from agent.control.store.accounts import Role
from tests.integration.pages.runs import begin, log, send
from tests.integration.pages.scene import Scene
from tests.integration.pages.test_pages import CORPUS, page, words

PATH = "/ada/vision"


async def run_with(scene: Scene, name: str, lr: float, loss: float | None = None, **fields) -> None:
    """A run with a value of its config and one of its summary."""
    run = await begin(scene, name, config={"lr": lr}, display_name=f"run-{name}", **fields)
    if loss is not None:
        await log(scene, run, [{"loss": loss}])
        await send(scene, run, "wandb-summary.json", 0, [json.dumps({"loss": loss})])


def names(markup: str) -> list[str]:
    """The runs of the table, in its order."""
    return re.findall(r'href="/ada/vision/runs/([^"/]+)"', markup)


def data(markup: str, name: str) -> list[str]:
    """What the charts of the page are drawn from."""
    return json.loads(html.unescape(re.search(rf'data-{name}="([^"]*)"', markup).group(1)))


async def next_page(session: aiohttp.ClientSession, markup: str) -> str:
    more = html.unescape(re.search(r'href="([^"]+)" rel="next"', markup).group(1))
    return await page(session, f"{PATH}{more}")


async def test_a_project_lists_its_runs_with_values_and_charts_of_the_newest(scene, sign_in):
    for number in range(7):
        await run_with(scene, f"r{number}", lr=0.5 + number, loss=number / 4)

    markup = await page(await sign_in(scene.ada), PATH)

    assert names(markup) == ["r6", "r5", "r4", "r3", "r2", "r1", "r0"]
    assert re.search(r"run-r6 running just now \d+ s 6\.5 1\.5 ", words(markup))
    assert data(markup, "runs") == ["r6", "r5", "r4", "r3", "r2"]
    assert data(markup, "metrics") == ["loss"]
    assert 'href="/launch/jobs/ada/vision"' in markup


async def test_runs_are_sorted_by_any_value(scene, sign_in):
    for name, lr, loss in (("a", 3, 0.2), ("b", 1, None), ("c", 2, 0.1)):
        await run_with(scene, name, lr, loss)
    session = await sign_in(scene.ada)

    assert names(await page(session, f"{PATH}?order=%2Bconfig.lr")) == ["b", "c", "a"]
    assert names(await page(session, f"{PATH}?order=-summary.loss")) == ["a", "c", "b"]
    assert names(await page(session, f"{PATH}?order=-display_name")) == ["c", "b", "a"]
    marked = await page(session, f"{PATH}?order=-summary.loss")
    assert re.search(r'aria-sort="descending"><a href="([^"]*)">summary.loss', marked).group(1) == (
        "?order=%2Bsummary.loss"
    )
    async with session.get(f"{PATH}?order=-nosuch") as answer:
        assert answer.status == 400


async def test_runs_are_found_by_name_and_state_and_columns_are_chosen(scene, sign_in):
    await run_with(scene, "a1", 1, 0.5, state="finished")
    await run_with(scene, "a2", 2, 0.25)
    await begin(scene, "b", display_name="50% of it")
    session = await sign_in(scene.ada)

    assert names(await page(session, f"{PATH}?find=run-a")) == ["a2", "a1"]
    assert names(await page(session, f"{PATH}?find=%25")) == ["b"]
    assert names(await page(session, f"{PATH}?find=a&state=finished")) == ["a1"]
    assert "No run is like that." in await page(session, f"{PATH}?find=zzz")
    chosen = await page(session, f"{PATH}?column=summary.loss")
    assert "0.25" in words(chosen)
    heads = re.findall(r"<th scope=\"col\".*?</th>", chosen)
    assert not any("config.lr" in each for each in heads)


async def test_runs_are_grouped(scene, sign_in):
    for name, lr, group in (("a", 2, "x"), ("b", 1, "y"), ("c", 2, "x"), ("d", 3, None)):
        await run_with(scene, name, lr, ord(name) / 4 if name != "d" else None, group=group)
    session = await sign_in(scene.ada)

    by_group = await page(session, f"{PATH}?group=group")
    by_value = await page(session, f"{PATH}?group=config.lr")

    assert names(by_group) == ["c", "a", "b", "d"]
    assert names(by_value) == ["b", "a", "c", "d"]
    heading = r'<tr class="group-row"><th[^>]*>(\S+) '
    assert re.findall(heading, by_group) == ["x", "y", "none"]
    assert re.findall(heading, by_value) == ["1", "2", "3"]
    # Of all runs of a group, also those on other pages: number, and mean with range by column.
    assert " x 2 2 (2 to 2) 24.5 (24.25 to 24.75) run-c " in words(by_group)
    assert " none 1 3 (3 to 3) run-d " in words(by_group)
    assert " 2 2 2 (2 to 2) 24.5 (24.25 to 24.75) " in words(by_value)
    found = await page(session, f"{PATH}?group=group&find=run-a")
    assert " x 1 2 (2 to 2) 24.25 (24.25 to 24.25) " in words(found)


@pytest.mark.parametrize("order", ["", "order=%2Bconfig.lr", "group=state"])
async def test_pages_keep_their_place_and_the_choices(scene, sign_in, order):
    """Runs that are begun meanwhile move no others, where the newest come first."""
    for number in range(55):
        await begin(scene, f"r{number:02}", config={"lr": number})
    session = await sign_in(scene.ada)

    first = await page(session, f"{PATH}?{order}&run=r03&run=r54&column=config.lr")
    if not order:
        await begin(scene, "later", config={"lr": 99})
    second = await next_page(session, first)

    assert len(names(first)) == 50
    assert sorted(names(first) + names(second)) == [f"r{number:02}" for number in range(55)]
    assert data(second, "runs") == ["r03", "r54"]
    assert "config.lr" in second


async def test_runs_for_charts_are_chosen_also_none(scene, sign_in):
    for name in ("a", "b"):
        await run_with(scene, name, 1, 0.5)
    session = await sign_in(scene.ada)

    assert data(await page(session, f"{PATH}?run=b&run=nosuch"), "runs") == ["b"]
    assert data(await page(session, f"{PATH}?run="), "runs") == []


async def test_the_url_of_a_sweep_leads_to_its_runs(scene, sign_in):
    await run_with(scene, "a", 1, sweep="s1")
    await run_with(scene, "b", 2)

    markup = await page(await sign_in(scene.ada), f"{PATH}/sweeps/s1")

    assert names(markup) == ["a"]


async def test_a_project_without_runs_says_how_to_begin_one(scene, sign_in):
    await scene.plane.projects.upsert(scene.ada.principal, "ada", "empty")
    session = await sign_in(scene.ada)

    assert 'wandb.init(entity="ada", project="empty")' in words(await page(session, "/ada/empty"))
    async with session.get("/ada/nosuch") as answer:
        assert answer.status == 404


async def test_a_project_of_another_entity_is_not_found(scene, sign_in):
    await run_with(scene, "a", 1)
    await scene.plane.accounts.create_team(scene.ada.principal, "team")
    stranger = await sign_in(await scene.person("vic", "team", Role.ADMIN))

    for path in (PATH, f"{PATH}?run=a", "/launch/events?project=ada/vision"):
        async with stranger.get(path) as answer:
            assert answer.status == 404
    async with aiohttp.ClientSession(scene.url) as nobody, nobody.get(PATH) as answer:
        assert answer.url.path == "/login"


@pytest.mark.parametrize("payload", CORPUS)
async def test_texts_of_runs_are_escaped(scene, sign_in, payload):
    run = await begin(scene, "r1", display_name=payload, group=payload, config={payload: payload})
    await send(scene, run, "wandb-summary.json", 0, [json.dumps({payload: payload, "n": 1})])
    session = await sign_in(scene.ada)

    for query in ({}, {"group": "group"}, {"find": payload}, {"column": payload}):
        async with session.get(PATH, params=query) as answer:
            markup = await answer.text()
        assert answer.status == 200
        assert payload not in markup or html.escape(payload) == payload
        assert "<script>alert" not in markup
        assert "1337" not in markup


async def test_all_projects_are_listed_also_those_without_a_job(scene, sign_in):
    await run_with(scene, "r1", 1, 0.5)
    session = await sign_in(scene.ada)

    for path in ("/launch/projects", "/ada"):
        markup = await page(session, path)
        assert 'href="/ada/vision"' in markup
        assert 'href="/launch/jobs/ada/vision"' in markup
        assert "model-registry" not in markup
        assert re.search(r'href="/launch/projects" aria-current="page"', markup)
    assert 'href="/ada"' in await page(session, PATH)


async def test_a_user_sees_no_projects_of_others(scene, sign_in):
    await run_with(scene, "r1", 1, 0.5)
    await scene.plane.accounts.create_team(scene.ada.principal, "vision")
    session = await sign_in(await scene.person("eve", "vision", Role.MEMBER))

    assert "/ada/vision" not in await page(session, "/launch/projects")
    async with session.get("/ada") as answer:
        assert answer.status in {403, 404}


@pytest.mark.parametrize("view", ["workspace", "runs", "sweeps", "table", "overview"])
async def test_wandbs_addresses_of_a_project_lead_to_it(scene, sign_in, view):
    await run_with(scene, "r1", 1, 0.5)
    session = await sign_in(scene.ada)

    async with session.get(f"{PATH}/{view}", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, PATH)


@pytest.mark.parametrize("path", ["/authorize?ref=models", "/settings"])
async def test_wandb_login_sends_its_users_to_a_page_about_keys(scene, sign_in, path):
    markup = await page(await sign_in(scene.ada), path)

    assert "launch key create" in markup
    assert "export WANDB_BASE_URL=http://" in markup


async def test_a_browser_that_is_not_signed_in_is_sent_to_sign_in_and_a_program_is_refused(scene):
    async with aiohttp.ClientSession(scene.url) as nobody:
        for accept, status in (("text/html,*/*", 303), ("*/*", 401)):
            asked = nobody.get("/ada", headers={"Accept": accept}, allow_redirects=False)
            async with asked as answer:
                assert answer.status == status
