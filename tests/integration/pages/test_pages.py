"""The pages as text, without scripts."""

import html
import json
import re

import aiohttp
import pytest

from agent.control.store.accounts import Role
from agent.model.cause import Cause
from agent.model.phase import Phase
from agent.model.protocol import Condition, ConditionKind

CORPUS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title><svg onload=alert(1)>",
    "{{ 7 * 191 }}",
    "javascript:alert(1)",
]


async def page(session: aiohttp.ClientSession, path: str) -> str:
    async with session.get(path) as answer:
        text = await answer.text()
        assert answer.status == 200, text
        assert answer.content_type == "text/html"
        return text


def words(markup: str) -> str:
    """The text of a page in one line."""
    inner = re.sub(r"<(script|style|title)\b.*?</\1>|<[^>]+>", " ", markup, flags=re.DOTALL)
    return " ".join(html.unescape(inner).split())


async def test_the_root_redirects_to_launch_and_then_to_the_sign_in_page(scene):
    async with aiohttp.ClientSession(scene.url) as session, session.get("/") as answer:
        assert answer.url.path == "/login"
        assert answer.url.query["next"] == "/launch"


async def test_a_wrong_key_gives_an_error_message(scene):
    headers = {"Origin": scene.url}
    async with (
        aiohttp.ClientSession(scene.url, headers=headers) as session,
        session.post("/login", data={"key": "launch-wrong"}) as answer,
    ):
        assert "does not know that key" in await answer.text()


async def test_signing_out_ends_the_session(scene, sign_in):
    session = await sign_in(scene.ada)
    async with session.post("/logout") as answer:
        assert answer.url.path == "/login"

    async with session.get("/launch") as answer:
        assert answer.url.path == "/login"


async def test_a_session_whose_key_was_revoked_redirects_to_the_sign_in_page(scene, sign_in):
    await scene.plane.accounts.create_team(scene.ada.principal, "vision")
    person = await scene.person("vic", "vision", Role.VIEWER)
    session = await sign_in(person)
    await scene.plane.accounts.revoke_key(scene.ada.principal, person.principal.key_id)

    async with session.get("/launch") as answer:
        assert answer.url.path == "/login"


async def test_requests_of_scripts_get_no_basic_authentication_dialog(scene):
    headers = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}
    path = "/launch/items/nosuchitem00/attempts/1/logs/job"
    async with (
        aiohttp.ClientSession(scene.url, headers=headers) as session,
        session.get(path) as answer,
    ):
        assert answer.status == 401
        assert "WWW-Authenticate" not in answer.headers


async def test_launch_lists_queues_of_all_entities_and_of_a_chosen_one(scene, sign_in):
    await scene.plane.accounts.create_team(scene.ada.principal, "vision")
    await scene.queue("gpu", "vision", prioritization="V0")
    session = await sign_in(scene.ada)

    everything = words(await page(session, "/launch"))
    chosen = words(await page(session, "/launch?entity=vision"))

    assert "All entities" in everything
    assert "default local-process" in everything
    assert "gpu local-process on" in everything
    assert "View queue" in everything
    assert "default local-process" not in chosen
    assert "gpu local-process on" in chosen


async def test_launch_shows_counts_and_agents_of_a_queue(scene, sign_in):
    await scene.submit("one")
    await scene.submit("two")
    await scene.claim(await scene.agent())

    text = words(await page(await sign_in(scene.ada), "/launch"))

    assert "1 waiting" in text
    assert "1 preparing" in text
    assert "box POLLING" in text


async def test_a_queue_without_agents_and_items_shows_commands(scene, sign_in):
    session = await sign_in(scene.ada)

    items = words(await page(session, "/launch/queues/ada/default"))
    agents = words(await page(session, "/launch/queues/ada/default?tab=agents"))

    assert "launch submit --queue default" in items
    assert "launch-agent --queue default" in items
    assert "No agent serves this queue. Start one: launch-agent --queue default" in agents


async def test_a_queue_lists_its_items_and_filters_them_by_phase(scene, sign_in):
    await scene.submit("one")
    await scene.submit("two")
    agent = await scene.agent()
    claim = await scene.claim(agent)
    session = await sign_in(scene.ada)

    everything = words(await page(session, "/launch/queues/ada/default"))
    waiting = words(await page(session, "/launch/queues/ada/default?phase=waiting"))
    running = words(await page(session, "/launch/queues/ada/default?phase=started"))

    assert claim.name == "one"
    assert re.search(r"preparing one medium ada .*? box", everything)
    assert "two" in waiting
    assert " one " not in waiting
    assert "No item is like that." in running


async def test_older_items_are_on_the_next_page(scene, sign_in):
    for number in range(53):
        await scene.submit(f"item-{number}")
    session = await sign_in(scene.ada)

    first = await page(session, "/launch/queues/ada/default")
    more = html.unescape(re.search(r'href="([^"]+)" rel="next"', first).group(1))
    second = await page(session, f"/launch/queues/ada/default{more}")

    assert len(re.findall(r">item-\d+<", first)) == 50
    assert set(re.findall(r">(item-\d+)<", second)) == {"item-0", "item-1", "item-2"}


async def test_an_unknown_phase_is_refused_with_the_known_ones(scene, sign_in):
    session = await sign_in(scene.ada)

    async with session.get("/launch/queues/ada/default?phase=flying") as answer:
        assert answer.status == 400
        assert "The phases are waiting" in await answer.text()


async def test_the_agents_tab_shows_id_status_jobs_and_heartbeat(scene, sign_in):
    item = await scene.submit("job-one")
    agent = await scene.agent()
    await scene.claim(agent)
    session = await sign_in(scene.ada)

    text = words(await page(session, "/launch/queues/ada/default?tab=agents"))

    assert f"box {agent.id} box.example POLLING job-one just now" in text
    assert item.id not in text


async def test_settings_show_the_template_and_its_variables(scene, sign_in):
    await scene.queue(
        "gpu",
        config={"resource_args": {"local-process": {"memory": "{{memory}}"}}},
        template_variables={
            "memory": {"schema": {"type": "string", "enum": ["4g"]}, "description": "How much"}
        },
    )
    session = await sign_in(scene.ada)

    text = words(await page(session, "/launch/queues/ada/gpu?tab=settings"))

    assert "resource_args: local-process: memory: '{{memory}}'" in text
    assert '"enum": ["4g"]' in text
    assert "How much" in text


async def test_an_item_shows_its_progress_its_log_and_an_explanation(scene, sign_in):
    item = await scene.submit("train")
    agent = await scene.agent()
    claim = await scene.claim(agent)
    await scene.log(claim, b"cloning\n", "setup")
    await scene.start(agent, claim)
    await scene.log(claim, b"\x1b[31mepoch 1\x1b[0m\rEpoch 2\n")
    await scene.finish(agent, claim, Phase.FAILED, Cause.RUN_EXIT_CODE, "exit code 3", exit_code=3)
    session = await sign_in(scene.ada)

    text = words(await page(session, f"/launch/items/{item.id}"))

    steps = ("waiting", "preparing", "pending", "running", "failed")
    assert re.search(" ".join(rf"{step} [\d:]+" for step in steps), text)
    assert "RUN_EXIT_CODE" in text
    assert "The job ended with an exit code other than 0." in text
    assert "Exit code 3" in text
    assert "Epoch 2" in text
    assert "epoch 1" not in text
    assert "Retry" in text
    assert "example/image:1" in text


async def test_the_setup_log_has_a_tab(scene, sign_in):
    item = await scene.submit("train")
    agent = await scene.agent()
    claim = await scene.claim(agent)
    await scene.log(claim, b"cloning the repository\n", "setup")
    await scene.start(agent, claim)
    session = await sign_in(scene.ada)

    job = words(await page(session, f"/launch/items/{item.id}"))
    setup = words(await page(session, f"/launch/items/{item.id}?channel=setup"))

    assert "cloning the repository" not in job
    assert "cloning the repository" in setup


async def test_a_queued_item_shows_why_it_waits(scene, sign_in):
    item = await scene.submit("train")

    text = words(await page(await sign_in(scene.ada), f"/launch/items/{item.id}"))

    assert "SCHEDULE_NO_AGENT" in text
    assert "launch-agent --queue default" in text


async def test_stop_and_retry_are_forms(scene, sign_in):
    item = await scene.submit("train")
    session = await sign_in(scene.ada)

    async with session.post(f"/launch/items/{item.id}/stop") as answer:
        assert answer.url.path == f"/launch/items/{item.id}"
        assert "STOPPED_BY_USER" in await answer.text()
    async with session.post(f"/launch/items/{item.id}/retry") as answer:
        assert "waiting" in await answer.text()

    record = await scene.plane.items.get(scene.ada.principal, item.id)
    assert record.phase is Phase.QUEUED


async def test_a_form_of_another_site_changes_nothing(scene, sign_in):
    item = await scene.submit("train")
    session = await sign_in(scene.ada)

    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        async with session.post(f"/launch/items/{item.id}/stop", headers=headers) as answer:
            assert answer.status == 403

    record = await scene.plane.items.get(scene.ada.principal, item.id)
    assert record.phase is Phase.QUEUED


async def test_an_agent_has_a_page(scene, sign_in):
    await scene.submit("train")
    agent = await scene.agent()
    await scene.claim(agent)

    text = words(await page(await sign_in(scene.ada), f"/launch/agents/{agent.id}"))

    assert "box POLLING" in text
    assert "16 GiB" in text
    assert "preparing train default" in text


@pytest.mark.parametrize(("button", "mode"), [("drain", "DRAIN"), ("stop", "STOP")])
async def test_an_agent_is_told_to_shut_down_from_its_page(scene, sign_in, button, mode):
    agent = await scene.agent()
    path = f"/launch/agents/{agent.id}"
    session = await sign_in(scene.ada)
    assert f'action="{path}/{button}" data-confirm=' in await page(session, path)

    async with session.post(f"{path}/{button}") as answer:
        assert (answer.status, answer.url.path) == (200, path)
        markup = await answer.text()

    told = await scene.plane.agents.get(scene.ada.principal, agent.id)
    assert told is not None
    assert told.stop == mode
    what = "finish its jobs" if mode == "DRAIN" else "stop its jobs"
    assert f"It was asked to {what} and shut down." in words(markup)
    assert f'action="{path}/drain"' not in markup
    # A drain can be cut short.
    assert (f'action="{path}/stop"' in markup) is (mode == "DRAIN")


async def test_members_see_no_buttons_of_an_agent_and_may_not_use_them(scene, sign_in):
    agent = await scene.agent()
    path = f"/launch/agents/{agent.id}"
    session = await sign_in(await scene.person("mia", "ada", Role.MEMBER))

    assert "<form" not in (await page(session, path)).partition('id="agent"')[2]
    for button in ("drain", "stop"):
        async with session.post(f"{path}/{button}") as answer:
            assert answer.status == 403
    async with session.post("/launch/agents/nosuchagent0/stop") as answer:
        assert answer.status == 404

    told = await scene.plane.agents.get(scene.ada.principal, agent.id)
    assert told is not None
    assert told.stop is None


async def test_conditions_of_an_agent_are_on_its_page_and_explain_waiting_items(scene, sign_in):
    item = await scene.submit("train")
    agent = await scene.agent()
    message = "1.0 GiB are free on the disk, and 2.0 GiB must stay free."
    condition = Condition(ConditionKind.DISK_LOW, message)
    await scene.beat(agent, condition)
    session = await sign_in(scene.ada)

    own = words(await page(session, f"/launch/agents/{agent.id}"))
    tab = words(await page(session, "/launch/queues/ada/default?tab=agents"))
    waiting = words(await page(session, f"/launch/items/{item.id}"))

    assert "box POLLING disk low" in own
    assert f"It claims no jobs: {message}" in own
    assert "POLLING disk low" in tab
    assert "SCHEDULE_DISK" in waiting
    assert f"Agent box cannot claim it now: {message}" in waiting


@pytest.mark.parametrize(
    "path",
    ["/launch/items/nosuchitem00", "/launch/agents/nosuchagent0", "/launch/queues/ada/nosuch"],
)
async def test_missing_objects_give_an_error_page_with_a_link(scene, sign_in, path):
    session = await sign_in(scene.ada)

    async with session.get(path) as answer:
        text = await answer.text()

    assert answer.status == 404
    assert "See all queues" in text
    assert "nosuch" in text


async def test_an_unknown_path_gives_an_error_page(scene, sign_in):
    session = await sign_in(scene.ada)

    async with session.get("/launch/what/is/this") as answer:
        assert answer.status == 404
        assert "There is no page /launch/what/is/this." in await answer.text()


async def test_a_hidden_entity_is_not_found(scene, sign_in):
    await scene.plane.accounts.create_team(scene.ada.principal, "vision")
    person = await scene.person("vic", "vision", Role.VIEWER)
    session = await sign_in(person)

    async with session.get("/launch?entity=ada") as answer:
        assert answer.status == 404
    async with session.get("/launch/queues/ada/default") as answer:
        assert answer.status == 404


async def test_a_short_url_redirects_to_the_queue(scene, sign_in):
    session = await sign_in(scene.ada)

    async with session.get("/launch/ada/default") as answer:
        assert answer.status == 200
        assert answer.url.path == "/launch/queues/ada/default"


async def test_a_viewer_sees_no_buttons_and_may_not_use_them(scene, sign_in):
    await scene.plane.accounts.create_team(scene.ada.principal, "vision")
    await scene.queue("gpu", "vision")
    item = await scene.submit("train", "gpu", "vision")
    viewer = await scene.person("vic", "vision", Role.VIEWER)
    session = await sign_in(viewer)

    text = await page(session, f"/launch/items/{item.id}")
    async with session.post(f"/launch/items/{item.id}/stop") as answer:
        refused = await answer.text()

    assert "/stop" not in text
    assert answer.status == 403
    assert "vic may not" in refused
    record = await scene.plane.items.get(scene.ada.principal, item.id)
    assert record.phase is Phase.QUEUED


@pytest.mark.parametrize("payload", CORPUS)
async def test_texts_of_users_are_escaped(scene, sign_in, payload):
    item = await scene.submit(payload, author=payload, overrides={"args": [payload]})
    agent = await scene.agent()
    claim = await scene.claim(agent)
    ada = scene.ada.principal
    await scene.plane.leases.advance(
        ada,
        agent.id,
        claim.lease,
        activity=payload,
        facts={"commit": payload, payload: payload},
        warning=payload,
    )
    await scene.log(claim, payload.encode() + b"\n", "setup")
    await scene.finish(agent, claim, Phase.ERRORED, Cause.SOURCE_INVALID, payload)
    session = await sign_in(scene.ada)

    paths = (f"/launch/items/{item.id}", "/launch/queues/ada/default", f"/launch/agents/{agent.id}")
    for path in paths:
        markup = await page(session, path)
        assert payload not in markup or html.escape(payload) == payload
        assert "<script>alert" not in markup
        assert "1337" not in markup
    assert payload in html.unescape(await page(session, paths[0]))


async def test_a_fragment_is_the_main_element_of_the_page(scene, sign_in):
    item = await scene.submit("train")
    session = await sign_in(scene.ada)

    fragment = await page(session, f"/launch/items/{item.id}?fragment=1")

    assert "<html" not in fragment
    assert {"head", "log-head", "more"} <= set(re.findall(r'id="([\w-]+)" data-region', fragment))


async def test_pages_carry_a_policy_without_exceptions_and_nothing_inline(scene, sign_in):
    session = await sign_in(scene.ada)

    async with session.get("/launch") as answer:
        policy, text = answer.headers["Content-Security-Policy"], await answer.text()

    assert "unsafe" not in policy
    assert not re.search(r"<style|<script(?![^>]* src=)| style=| on\w+=", text)


async def test_static_files_are_public_and_revalidated(scene):
    async with aiohttp.ClientSession(scene.url) as session:
        async with session.get("/launch/static/live.js") as answer:
            assert answer.content_type == "text/javascript"
            known = {"If-None-Match": answer.headers["ETag"]}
        async with session.get("/launch/static/live.js", headers=known) as again:
            assert again.status == 304
        async with session.get("/launch/static/..%2frendering.py") as outside:
            assert outside.status == 404


async def events_until(answer: aiohttp.ClientResponse, event: bytes) -> None:
    async for line in answer.content:
        if line.strip() == event:
            return
    raise AssertionError("the stream ended")


async def test_events_report_changes_of_an_item_and_end_with_the_server(scene, sign_in):
    item = await scene.submit("train")
    session = await sign_in(scene.ada)

    async with session.get("/launch/events", params={"item": item.id}) as answer:
        assert answer.content_type == "text/event-stream"
        await events_until(answer, b"event: changed")
        await scene.plane.items.stop(scene.ada.principal, item.id)
        await events_until(answer, b"event: changed")
        await scene.server.stop()
        assert await answer.content.read() is not None


async def test_events_of_an_entity_report_changes_of_its_items(scene, sign_in):
    session = await sign_in(scene.ada)

    async with session.get("/launch/events", params={"entity": "ada"}) as answer:
        await events_until(answer, b"event: changed")
        await scene.submit("train")
        await events_until(answer, b"event: changed")


async def test_events_of_hidden_objects_are_refused(scene, sign_in):
    await scene.plane.accounts.create_team(scene.ada.principal, "vision")
    item = await scene.submit("train")
    session = await sign_in(await scene.person("vic", "vision", Role.VIEWER))

    for query in ({"item": item.id}, {"entity": "ada"}):
        async with session.get("/launch/events", params=query) as answer:
            assert answer.status == 404


async def test_an_unexpected_failure_is_masked(scene, sign_in, monkeypatch):
    session = await sign_in(scene.ada)

    async def broken(*_values: object, **_named: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(type(scene.plane.items), "explain", broken)
    item = await scene.submit("train")
    async with session.get(f"/launch/items/{item.id}") as answer:
        text = await answer.text()

    assert answer.status == 500
    assert "reference" in text
    assert "secret detail" not in text


async def test_the_specification_is_shown_as_json(scene, sign_in):
    item = await scene.submit("train", overrides={"args": ["--lr", "0.1"]})

    markup = await page(await sign_in(scene.ada), f"/launch/items/{item.id}")
    shown = re.search(r"Specification</summary><pre[^>]*>(.*?)</pre>", markup, re.DOTALL).group(1)

    assert json.loads(html.unescape(shown))["overrides"]["args"] == ["--lr", "0.1"]
