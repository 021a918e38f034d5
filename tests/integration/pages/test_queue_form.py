"""Queues made, changed, paused and deleted in the page, without scripts."""

import html
import re

import aiohttp
import pytest

from agent.control.store.accounts import Role
from agent.model.errors import NotFoundError
from tests.integration.pages.test_pages import CORPUS, page, words

NEW = "/launch/queues/ada"
EDIT = "/launch/queues/ada/gpu/edit"
GPU = {
    "name": "gpu",
    "resource": "kubernetes",
    "prioritization": "on",
    "arguments": "kind: Job\nspec: {parallelism: '{{pods}}'}\n",
    "others": "retries: 2\n",
    "variable-0-name": "pods",
    "variable-0-type": "integer",
    "variable-0-default": "1",
    "variable-0-maximum": "8",
    "variable-0-description": "How many",
    "action": "check",
}


async def send(
    session: aiohttp.ClientSession, path: str, values: dict[str, str]
) -> tuple[int, str, str]:
    """Send a form; status, path and page at the end."""
    async with session.post(path, data=values) as answer:
        return answer.status, answer.url.path, await answer.text()


def digest(markup: str) -> str:
    """What the save button sends with the shown changes."""
    found = re.search(r'name="digest" value="(\w+)"', markup)
    assert found, "no changes are shown"
    return found[1]


def diff(markup: str) -> list[str]:
    """The lines that are shown as added or removed."""
    lines = re.findall(r'<span class="(?:added|removed)">(.*?)\n</span>', markup, re.DOTALL)
    return [html.unescape(line) for line in lines]


async def make(session: aiohttp.ClientSession) -> None:
    _, _, shown = await send(session, NEW, GPU)
    await send(session, NEW, {**GPU, "action": "save", "digest": digest(shown)})


async def test_a_queue_is_shown_before_it_is_made(scene, sign_in):
    session = await sign_in(scene.ada)

    status, _, shown = await send(session, NEW, GPU)
    with pytest.raises(NotFoundError):
        await scene.plane.queues.get(scene.ada.principal, "ada", "gpu")
    saved = await send(session, NEW, {**GPU, "action": "save", "digest": digest(shown)})

    assert status == 200
    assert "+ resource: kubernetes" in diff(shown)
    assert saved[:2] == (200, "/launch/queues/ada/gpu")
    queue = await scene.plane.queues.get(scene.ada.principal, "ada", "gpu")
    arguments = {"kind": "Job", "spec": {"parallelism": "{{pods}}"}}
    assert queue.config == {"retries": 2, "resource_args": {"kubernetes": arguments}}
    schema = {"type": "integer", "default": 1, "maximum": 8}
    assert queue.template_variables == {"pods": {"schema": schema, "description": "How many"}}
    assert (queue.resource, queue.prioritization) == ("kubernetes", "V0")


async def test_a_form_that_changes_nothing_says_so(scene, sign_in):
    session = await sign_in(scene.ada)
    await make(session)
    markup = await page(session, EDIT)
    fields = re.findall(r'<input[^>]* name="([^"]+)"[^>]* value="([^"]*)"', markup)
    texts = re.findall(r'<textarea[^>]* name="([^"]+)"[^>]*>(.*?)</textarea>', markup, re.DOTALL)
    chosen = {"resource": "kubernetes", "prioritization": "on", "variable-0-type": "integer"}
    values = {name: html.unescape(text) for name, text in [*fields, *texts]} | chosen

    _, _, shown = await send(session, EDIT, {**values, "action": "check"})

    assert "Nothing would change." in shown


async def test_changes_are_shown_as_a_difference_and_saved(scene, sign_in):
    session = await sign_in(scene.ada)
    await make(session)
    changed = {**GPU, "variable-0-maximum": "4", "prioritization": "off"}

    _, _, shown = await send(session, EDIT, changed)
    await send(session, EDIT, {**changed, "action": "save", "digest": digest(shown)})

    lines = [line.replace(" ", "") for line in diff(shown)]
    assert lines == ["-prioritization:true", "+prioritization:false", "-maximum:8", "+maximum:4"]
    queue = await scene.plane.queues.get(scene.ada.principal, "ada", "gpu")
    assert queue.template_variables["pods"]["schema"]["maximum"] == 4
    assert queue.prioritization == "DISABLED"


async def test_what_was_not_shown_is_not_saved(scene, sign_in):
    session = await sign_in(scene.ada)
    await make(session)
    wanted = {**GPU, "variable-0-maximum": "4"}
    _, _, shown = await send(session, EDIT, wanted)
    seen = digest(shown)

    other = await send(session, EDIT, {**wanted, "others": "", "action": "save", "digest": seen})
    await scene.queue("gpu", resource="kubernetes", prioritization="DISABLED")
    later = await send(session, EDIT, {**wanted, "action": "save", "digest": seen})
    without = await send(session, EDIT, {**wanted, "action": "save"})

    assert "- " in "".join(diff(other[2]))
    assert "+ prioritization: true" in diff(later[2])
    assert "These changes will be saved" in without[2]
    queue = await scene.plane.queues.get(scene.ada.principal, "ada", "gpu")
    assert queue.template_variables["pods"]["schema"]["maximum"] == 8


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"arguments": "a: [1"}, "Line 1: not valid YAML"),
        ({"arguments": "- a"}, "Line 1: expected"),
        ({"others": "resource_args: 5"}, "`resource_args` is no mapping."),
        ({"variable-0-default": "many"}, "Its default: "),
        ({"variable-0-further": "[1]"}, "The further rules are no JSON object"),
        ({"variable-0-further": '{"type": "nonsense"}'}, "templateVariables.pods.schema"),
        ({"variable-1-name": "pods"}, "There are two of this name."),
        ({"name": "-x"}, "'-x' cannot be the name of a queue."),
        ({"name": "default"}, "There is a queue 'default' in 'ada' already."),
        ({"plugin": "not a name"}, "'not a name' cannot be the name of a resource."),
        ({"variable-0-name": ""}, "{{pods}} is used"),
        ({"arguments": "", "variable-0-name": "unused"}, "templateVariables.unused is declared"),
    ],
)
async def test_what_is_wrong_is_said_and_the_texts_are_kept(scene, sign_in, values, message):
    session = await sign_in(scene.ada)
    status, _, shown = await send(session, NEW, GPU | values)
    assert status == 422
    assert message in words(shown)
    assert "retries: 2" in shown or "others" in values
    assert "digest" not in shown


async def test_variables_that_only_the_template_names_get_fields(scene, sign_in):
    session = await sign_in(scene.ada)
    _, _, shown = await send(session, NEW, GPU | {"variable-0-name": ""})
    assert 'name="variable-0-name" value="pods"' in shown


async def test_a_queue_is_paused_resumed_and_deleted(scene, sign_in):
    session = await sign_in(scene.ada)
    await make(session)
    item = await scene.submit("waits", "gpu")
    path = "/launch/queues/ada/gpu"

    paused = await send(session, f"{path}/pause", {"paused": "yes"})
    resumed = await send(session, f"{path}/pause", {"paused": "no"})
    refused = await send(session, f"{path}/delete", {})
    deleted = await send(session, f"{path}/delete", {"force": "yes"})

    assert "paused" in words(paused[2])
    assert "paused" not in words(resumed[2])
    assert (refused[0], deleted[:2]) == (409, (200, "/launch"))
    found = await scene.plane.items.get(scene.ada.principal, item.id)
    assert (found.queue_id, found.phase.word) == (None, "stopped")


@pytest.mark.parametrize("role", [Role.VIEWER, Role.MEMBER])
async def test_only_administrators_change_queues(scene, sign_in, role):
    await scene.plane.accounts.create_team(scene.ada.principal, "vision")
    await scene.queue("gpu", "vision")
    person = await scene.person("vic", "vision", role)
    session = await sign_in(person)
    path = "/launch/queues/vision/gpu"
    for form in ("/launch/queues/vision", f"{path}/edit", f"{path}/pause", f"{path}/delete"):
        status, _, _ = await send(session, form, GPU | {"paused": "yes", "force": "yes"})
        assert status == 403, form
    for form in ("/launch/queues/vision", f"{path}/edit"):
        async with session.get(form) as answer:
            assert answer.status == 403
    shown = await page(session, f"{path}?tab=settings")
    assert "Delete this queue" not in shown
    assert "/edit" not in shown
    assert not (await scene.plane.queues.get(scene.ada.principal, "vision", "gpu")).paused


async def test_those_outside_of_the_entity_do_not_learn_that_it_exists(scene, sign_in):
    await scene.plane.accounts.create_team(scene.ada.principal, "vision")
    session = await sign_in(await scene.person("vic", "vision", Role.ADMIN))
    for form in (NEW, "/launch/queues/ada/default/edit", "/launch/queues/nosuch"):
        status, _, _ = await send(session, form, GPU)
        assert status == 404, form


async def test_forms_of_another_site_change_no_queue(scene, sign_in):
    session = await sign_in(scene.ada)
    path = "/launch/queues/ada/default"
    for form in (NEW, f"{path}/edit", f"{path}/pause", f"{path}/delete"):
        headers = {"Origin": "http://evil.example"}
        async with session.post(form, data={"paused": "yes"}, headers=headers) as answer:
            assert answer.status == 403
    assert not (await scene.plane.queues.get(scene.ada.principal, "ada", "default")).paused


@pytest.mark.parametrize("text", CORPUS)
async def test_texts_in_the_form_stay_texts(scene, sign_in, text):
    session = await sign_in(scene.ada)
    values = {f"variable-0-{name}": text for name in ("name", "default", "enum", "description")}
    _, _, shown = await send(session, NEW, {**GPU, "name": text, "others": text, **values})
    assert html.escape(text, quote=False) in shown.replace("&#34;", '"').replace("&#39;", "'")
    assert text not in shown or html.escape(text) == text
